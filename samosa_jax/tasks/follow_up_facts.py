"""People and places that conversations come back to, with well-established facts about each."""

from collections.abc import Mapping
from dataclasses import dataclass

from samosa_jax.tasks.task import Wordings


@dataclass(frozen=True)
class Entity:
    name: str
    subject: str  # he, she or it
    possessive: str
    introduction: str
    facts: Mapping[str, tuple[str, str]]  # question -> (what an answer must name, the answer)


def _person(name: str, subject: str, known_for: str, born: str, where: str, died: str, work: str) -> Entity:
    last = name.split()[-1]
    possessive = "his" if subject == "he" else "her"
    return Entity(
        name,
        subject,
        possessive,
        f"{name} was {known_for}. Shall I tell you more about {possessive} life?",
        {
            "born_when": (born, f"{last} was born in the year {born}, in {where}."),
            "born_where": (where, f"{last} came into the world in {where}, in {born}."),
            "died_when": (died, f"{last} died in {died}, having been born in {born}."),
            "famous_work": (work, f"Above all, {last} is remembered for {work}."),
        },
    )


def _place(name: str, what: str, continent: str, capital: str, language: str) -> Entity:
    return Entity(
        name,
        "it",
        "its",
        f"{name} is {what}. What else would you like to know about the country?",
        {
            "continent": (
                continent,
                f"{name} lies on the continent of {continent}, as far as its mainland goes.",
            ),
            "capital": (capital, f"The capital of {name}, where its government sits, is {capital}."),
            "language": (language, f"The language spoken most widely in {name} is {language}."),
        },
    )


ENTITIES = (
    _person(
        "Marie Curie",
        "she",
        "a physicist and chemist who won two Nobel Prizes",
        "1867",
        "Warsaw",
        "1934",
        "the discovery of radium",
    ),
    _person(
        "Isaac Newton",
        "he",
        "an English mathematician and physicist",
        "1643",
        "Woolsthorpe",
        "1727",
        "the law of gravitation",
    ),
    _person(
        "Albert Einstein",
        "he",
        "a physicist who changed how we see space and time",
        "1879",
        "Ulm",
        "1955",
        "the theory of relativity",
    ),
    _person(
        "Charles Darwin",
        "he",
        "an English naturalist",
        "1809",
        "Shrewsbury",
        "1882",
        "On the Origin of Species",
    ),
    _person(
        "Ada Lovelace",
        "she",
        "an English mathematician",
        "1815",
        "London",
        "1852",
        "the first published program",
    ),
    _person(
        "Alan Turing",
        "he",
        "a British mathematician and founder of computer science",
        "1912",
        "London",
        "1954",
        "the Turing machine",
    ),
    _person("Jane Austen", "she", "an English novelist", "1775", "Steventon", "1817", "Pride and Prejudice"),
    _person(
        "Johann Sebastian Bach",
        "he",
        "a German composer and organist",
        "1685",
        "Eisenach",
        "1750",
        "the Brandenburg Concertos",
    ),
    _person(
        "Wolfgang Amadeus Mozart",
        "he",
        "a composer of the classical era",
        "1756",
        "Salzburg",
        "1791",
        "The Magic Flute",
    ),
    _person(
        "Rabindranath Tagore",
        "he",
        "a Bengali poet who won the Nobel Prize in Literature",
        "1861",
        "Calcutta",
        "1941",
        "Gitanjali",
    ),
    _person(
        "Srinivasa Ramanujan",
        "he",
        "an Indian mathematician",
        "1887",
        "Erode",
        "1920",
        "the theory of partitions",
    ),
    _person("Frida Kahlo", "she", "a Mexican painter", "1907", "Coyoacán", "1954", "The Two Fridas"),
    _person("Claude Monet", "he", "a French painter", "1840", "Paris", "1926", "Impression, Sunrise"),
    _person(
        "Florence Nightingale",
        "she",
        "a reformer of nursing and a statistician",
        "1820",
        "Florence",
        "1910",
        "modern nursing",
    ),
    _person("Leo Tolstoy", "he", "a Russian novelist", "1828", "Yasnaya Polyana", "1910", "War and Peace"),
    _person(
        "Miguel de Cervantes", "he", "a Spanish writer", "1547", "Alcalá de Henares", "1616", "Don Quixote"
    ),
    _person(
        "Emmy Noether",
        "she",
        "a German mathematician",
        "1882",
        "Erlangen",
        "1935",
        "the theorem on symmetries",
    ),
    _person(
        "Grace Hopper",
        "she",
        "an American computer scientist and naval officer",
        "1906",
        "New York",
        "1992",
        "one of the first compilers",
    ),
    _person(
        "Louis Pasteur", "he", "a French chemist and microbiologist", "1822", "Dole", "1895", "pasteurization"
    ),
    _person("Mary Shelley", "she", "an English novelist", "1797", "London", "1851", "Frankenstein"),
    _place("Japan", "an island country with some 120 million people", "Asia", "Tokyo", "Japanese"),
    _place("Kenya", "a country on the equator known for its wildlife", "Africa", "Nairobi", "Swahili"),
    _place("Brazil", "the largest country of its continent", "South America", "Brasília", "Portuguese"),
    _place("Portugal", "a country on the Atlantic coast", "Europe", "Lisbon", "Portuguese"),
    _place("Egypt", "a country along the river Nile", "Africa", "Cairo", "Arabic"),
    _place("Thailand", "a kingdom known for its temples and beaches", "Asia", "Bangkok", "Thai"),
    _place(
        "Argentina",
        "a country that reaches from the tropics to the far south",
        "South America",
        "Buenos Aires",
        "Spanish",
    ),
    _place("Poland", "a country between the Baltic Sea and the mountains", "Europe", "Warsaw", "Polish"),
    _place("Vietnam", "a long country on the South China Sea", "Asia", "Hanoi", "Vietnamese"),
    _place("Greece", "a country of mountains and thousands of islands", "Europe", "Athens", "Greek"),
    _place("Peru", "a country of coast, mountains and rainforest", "South America", "Lima", "Spanish"),
    _place("Hungary", "a country on the river Danube", "Europe", "Budapest", "Hungarian"),
    _place("Mongolia", "a country of wide grassland with few people", "Asia", "Ulaanbaatar", "Mongolian"),
    _place("Sweden", "a country of forests and lakes", "Europe", "Stockholm", "Swedish"),
)

INTRODUCTIONS: Mapping[str, Wordings] = {
    "person": Wordings(
        train=(
            "Who was {name}?",
            "Tell me about {name}.",
            "What do you know about {name}?",
            "I read about {name} today. Who is that?",
        ),
        heldout=("The name {name} came up at dinner. Fill me in?", "Give me one line on {name}."),
    ),
    "place": Wordings(
        train=(
            "What is {name}?",
            "Tell me about {name}.",
            "What can you tell me about {name}?",
            "I may travel to {name}. What is it like?",
        ),
        heldout=("My neighbour moved to {name}. Fill me in?", "Give me one line on {name}."),
    ),
}
LEAD_INS = Wordings(
    train=("", "", "And", "Interesting,", "Thanks, and"), heldout=("", "Right, so", "One more thing,")
)
QUESTIONS: Mapping[str, Wordings] = {
    "born_when": Wordings(
        train=(
            "When was {subject} born?",
            "In which year was {subject} born?",
            "What is {possessive} year of birth?",
        ),
        heldout=("Since when had {subject} been alive?", "What year does {possessive} life begin with?"),
    ),
    "born_where": Wordings(
        train=(
            "Where was {subject} born?",
            "What is {possessive} birthplace?",
            "Which town was {subject} born in?",
        ),
        heldout=("From what place did {subject} come?", "Where did {possessive} cradle stand?"),
    ),
    "died_when": Wordings(
        train=(
            "When did {subject} die?",
            "In which year did {subject} die?",
            "What is the year of {possessive} death?",
        ),
        heldout=("Until when did {subject} live?", "How late did {possessive} life end?"),
    ),
    "famous_work": Wordings(
        train=(
            "What is {subject} famous for?",
            "What is {possessive} best-known work?",
            "Why is {subject} so well known?",
        ),
        heldout=(
            "What did {subject} do that we still remember?",
            "Which achievement made {possessive} name?",
        ),
    ),
    "continent": Wordings(
        train=(
            "Which continent is {subject} on?",
            "What is {possessive} continent?",
            "Where in the world does {subject} lie?",
        ),
        heldout=(
            "On what part of the globe would I find {subject}?",
            "And {possessive} place on the map, by continent?",
        ),
    ),
    "capital": Wordings(
        train=(
            "What is {possessive} capital?",
            "Which city is {possessive} capital?",
            "Does {subject} have a famous capital city?",
        ),
        heldout=("Where does {possessive} government sit?", "Name the capital that {subject} has."),
    ),
    "language": Wordings(
        train=(
            "What is {possessive} main language?",
            "Which language does {subject} mostly speak?",
            "What do people speak there, in {possessive} cities?",
        ),
        heldout=(
            "What would I hear in the streets if {subject} were my home?",
            "Name {possessive} most common language.",
        ),
    ),
}
