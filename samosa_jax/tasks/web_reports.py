"""What the web reports in made-up search results: weather, prices, scores, people in office, news."""

from collections.abc import Mapping
from dataclasses import dataclass

from samosa_jax.tasks.task import Wordings


@dataclass(frozen=True, kw_only=True)
class Report:
    """Braces take the facts: a list of WORDS each, or a number (low, high, divisor)."""

    kind: str
    subject: str  # the fact that pages beside the right one are about
    facts: Mapping[str, str | tuple[int, int, int]]
    found: tuple[str, ...]  # the facts that only the search gives
    questions: Wordings
    reasons: tuple[str, ...]
    query: str
    title: str
    content: str
    answer: str


def _pairs(first: str, second: str, between: str = " ") -> tuple[str, ...]:
    return tuple(f"{one}{between}{other}" for one in first.split() for other in second.split())


SITES = Wordings(
    train=(
        "news.example.com",
        "daily.example.org",
        "www.example.net",
        "reports.example.com",
        "herald.example.org",
    ),
    heldout=("gazette.example.net", "bulletin.example.com", "wire.example.org"),
)
WORDS: Mapping[str, Wordings] = {
    "city": Wordings(
        train=(
            *(
                "Seoul",
                "Mumbai",
                "Lagos",
                "Lisbon",
                "Toronto",
                "Nairobi",
                "Oslo",
                "Lima",
                "Dublin",
                "Hanoi",
                "Kyoto",
            ),
            *("Prague", "Madrid", "Jaipur", "Denver", "Perth", "Krakow", "Quito", "Tunis", "Bergen"),
        ),
        heldout=("Helsinki", "Bogota", "Chennai", "Porto", "Accra", "Sapporo"),
    ),
    "sky": Wordings(
        train=(
            "light rain",
            "clear skies",
            "thick fog",
            "snow showers",
            "scattered clouds",
            "strong wind",
            "haze",
        ),
        heldout=("drizzle", "hail", "broken clouds"),
    ),
    "company": Wordings(
        train=_pairs(
            "Bright Tess Norvane Quill Pellora Halcyon Mirabeau Kestrel Oakhaven Solvantis Ferro Lumenary",
            "Foods Rail Motors Dynamics Textiles Optics Shipping Energy",
        ),
        heldout=_pairs("Varnholt Zephyrine Cobalt Arbutus Tamsin", "Labs Airways Timber Software"),
    ),
    "person": Wordings(
        train=_pairs(
            "Anita Gregor Paulina Samuel Mei Iris Tariq Dana Rafael Kirsten Noel Lucy",
            "Deshmukh Lindqvist Ferro Okafor Tran Holm Benali Whitlock Montes Dahl Achebe Marwood",
        ),
        heldout=_pairs("Bertil Odette Farah Milo Runa", "Strand Rousse Qureshi Castellan Ivers"),
    ),
    "town": Wordings(
        train=_pairs(
            "Elms Oak Kala Wren Lake Dune Cal Maple Storr Ober",
            "worth moor field ford stead",
            "",
        ),
        heldout=_pairs("Ash Tarn Briar Hazel", "bourne wick holm", ""),
    ),
    "team": Wordings(
        train=_pairs(
            "Elmsworth Calder Duneford Kalafield Lakemoor Verano Harbor",
            "Rovers United Tigers Athletic City Stars",
        ),
        heldout=_pairs("Tarnwick Ribera Ashbourne Northside", "Albion Owls Wanderers"),
    ),
    "goods": Wordings(
        train=("gold", "copper", "coffee beans", "wheat", "natural gas", "crude oil", "cocoa", "silver"),
        heldout=("nickel", "soybeans", "cotton", "platinum"),
    ),
    "measure": Wordings(
        train=(
            "a new tram line",
            "a ban on wood stoves",
            "free museum entry",
            "a second bridge",
            "a night bus",
        ),
        heldout=("a car-free centre", "an open-air pool", "lower parking fees"),
    ),
}
OPENINGS = Wordings(
    train=(
        "",
        "",
        "",
        "Hi!",
        "I am writing a report.",
        "Please check this for me.",
        "My boss wants to know.",
        "One thing.",
    ),
    heldout=("", "We are having an argument here.", "Between two meetings:", "For the noticeboard."),
)
DISTRACTORS = (
    (
        "{subject}: an overview",
        "Background on {subject}, with history, pictures and links to older articles.",
    ),
    (
        "Ten things to know about {subject}",
        "Our readers' favourite facts about {subject}, collected last year.",
    ),
    (
        "Archive: {subject}",
        "Earlier coverage of {subject}. Figures on this page are no longer kept up to date.",
    ),
    ("Discussion: {subject}", "Opinions of readers about {subject}. Posts are not checked by the editors."),
)

REPORTS = (
    Report(
        kind="weather",
        subject="city",
        facts={"city": "city", "degrees": (-8, 38, 1), "sky": "sky", "humidity": (25, 95, 1)},
        found=("degrees", "sky"),
        questions=Wordings(
            train=(
                "What's the weather in {city}?",
                "What is the weather like in {city} right now?",
                "Do I need a jacket in {city} today?",
                "How warm is it in {city} at the moment?",
            ),
            heldout=(
                "I land in {city} in an hour. What is it like outside?",
                "Current conditions for {city}, please.",
            ),
        ),
        reasons=(
            "The weather in {city} changes from hour to hour and I cannot know it.",
            "This asks for the present weather in {city}, which only a live report has.",
        ),
        query="current weather {city}",
        title="Weather in {city} now",
        content="{city}: {degrees} degrees Celsius with {sky}, humidity {humidity} percent. Updated a few "
        "minutes ago.",
        answer="In {city} it is {degrees} degrees Celsius at the moment, with {sky}.",
    ),
    Report(
        kind="share-price",
        subject="company",
        facts={"company": "company", "price": (500, 48000, 100), "percent": (11, 79, 10)},
        found=("price",),
        questions=Wordings(
            train=(
                "What is the share price of {company}?",
                "How is {company} stock doing today?",
                "What does one share of {company} cost now?",
            ),
            heldout=(
                "At what price did {company} trade last?",
                "My uncle owns {company} shares. Their value today?",
            ),
        ),
        reasons=(
            "Share prices move all day long, so what {company} costs now is not in my memory.",
            "For the price of {company} I need the latest quote.",
        ),
        query="{company} share price today",
        title="{company} shares today",
        content="Shares of {company} last traded at {price} dollars, up {percent} percent since the morning.",
        answer="Shares of {company} last traded at {price} dollars, up {percent} percent since the morning.",
    ),
    Report(
        kind="chief-executive",
        subject="company",
        facts={"company": "company", "person": "person", "former": "person"},
        found=("person",),
        questions=Wordings(
            train=(
                "Who is the CEO of {company}?",
                "Who runs {company} these days?",
                "Who leads {company} now?",
            ),
            heldout=(
                "Whose signature is under the letters of {company}'s chief?",
                "{company} has a new boss, who is it?",
            ),
        ),
        reasons=(
            "People at the top of a company change, and I am not sure who leads {company} today.",
            "The head of {company} may have been replaced since I was trained.",
        ),
        query="{company} current chief executive",
        title="{company} names new head",
        content="{person} is chief executive of {company}, having taken over from {former} this spring.",
        answer="The present chief executive of {company} is {person}, who took over from {former} this "
        "spring.",
    ),
    Report(
        kind="match-result",
        subject="home",
        facts={
            "home": "team",
            "away": "team",
            "goals": (3, 6, 1),
            "against": (0, 2, 1),
            "crowd": (2100, 48000, 1),
        },
        found=("goals", "against"),
        questions=Wordings(
            train=(
                "What was the score between {home} and {away}?",
                "Who won the last match of {home} against {away}?",
                "Did {home} beat {away} yesterday?",
            ),
            heldout=(
                "I missed {home} versus {away}. How did it finish?",
                "Result of {home} at home to {away}, please.",
            ),
        ),
        reasons=(
            "This match is recent news, and I have no results of recent games.",
            "Only a sports page can say how {home} against {away} ended.",
        ),
        query="{home} vs {away} result",
        title="{home} against {away}: full time",
        content="Full time: {home} won {goals} to {against} against {away}, before {crowd} spectators.",
        answer="It ended {goals} to {against}: {home} won against {away}, before {crowd} spectators.",
    ),
    Report(
        kind="election",
        subject="town",
        facts={"town": "town", "person": "person", "rival": "person", "percent": (505, 640, 10)},
        found=("person",),
        questions=Wordings(
            train=(
                "Who won the election for mayor of {town}?",
                "Who is the mayor of {town} now?",
                "How did the vote in {town} end?",
            ),
            heldout=(
                "{town} went to the polls. Who came out ahead?",
                "Which candidate runs the town hall of {town}?",
            ),
        ),
        reasons=(
            "An election is news; whoever holds the office in {town} may have changed.",
            "I do not know the latest result from {town}.",
        ),
        query="{town} mayor election result",
        title="{town} has voted",
        content="{person} won the election for mayor of {town} with {percent} percent, ahead of {rival}.",
        answer="The election in {town} was won by {person} with {percent} percent, ahead of {rival}.",
    ),
    Report(
        kind="commodity",
        subject="goods",
        facts={"goods": "goods", "price": (1200, 99000, 100), "percent": (11, 59, 10)},
        found=("price",),
        questions=Wordings(
            train=(
                "What is the price of {goods} today?",
                "How much does {goods} cost on the market now?",
                "Has the price of {goods} gone up this week?",
            ),
            heldout=("Where does {goods} stand on the exchange?", "Latest quote for {goods}?"),
        ),
        reasons=(
            "The market price of {goods} is different every day.",
            "For {goods} I would only know old figures.",
        ),
        query="{goods} market price today",
        title="Markets: {goods}",
        content="The price of {goods} stands at {price} dollars per unit, {percent} percent above last week.",
        answer="On the market, {goods} now stands at {price} dollars per unit, {percent} percent above last "
        "week.",
    ),
    Report(
        kind="council",
        subject="town",
        facts={"town": "town", "measure": "measure", "votes": (12, 40, 1), "against": (2, 11, 1)},
        found=("measure",),
        questions=Wordings(
            train=(
                "What did the council of {town} decide?",
                "What is the latest news from {town}?",
                "Is there any news about {town} this week?",
            ),
            heldout=(
                "Anything happening in {town} that I should know?",
                "What are people in {town} talking about?",
            ),
        ),
        reasons=(
            "News from {town} is by nature newer than what I was trained on.",
            "I have no recent reports about {town} in memory.",
        ),
        query="{town} council news",
        title="{town}: the council has decided",
        content="By {votes} votes to {against}, the council of {town} decided on {measure} this week.",
        answer="The council of {town} decided on {measure} this week, by {votes} votes to {against}.",
    ),
)
