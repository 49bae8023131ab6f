"""The stories of word problems: ranges of numbers, the expression behind them, and ways to tell each."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field

from samosa_jax.tasks.task import Wordings


@dataclass(frozen=True)
class Span:
    """Numbers from low to high; in hundredths where they are an amount of money."""

    low: int
    high: int
    in_cents: bool = False

    def draw(self, draw: random.Random) -> str:
        number = draw.randint(self.low, self.high)
        return f"{number / 100:.2f}" if self.in_cents else str(number)


@dataclass(frozen=True, kw_only=True)
class Story:
    """Braces take {name}, {other}, {things} and the story's numbers; the answer ends with {result}."""

    kind: str
    steps: int
    numbers: Mapping[str, Span]
    derived: Mapping[str, str] = field(default_factory=dict)  # numbers that follow from others
    expression: str
    plan: tuple[str, ...]  # the thought, sentence by sentence
    wordings: Wordings
    answer: str
    is_money: bool = False


NAMES = Wordings(
    train=(
        *(
            "Asha",
            "Daniel",
            "Mei",
            "Omar",
            "Sofia",
            "Luca",
            "Zainab",
            "Peter",
            "Chloe",
            "Arjun",
            "Hana",
            "Victor",
        ),
        *(
            "Elena",
            "Samuel",
            "Fatima",
            "Noah",
            "Bianca",
            "Kenji",
            "Olga",
            "Rahul",
            "Lucia",
            "Adam",
            "Signe",
            "Theo",
        ),
    ),
    heldout=("Imani", "Stefan", "Yara", "Callum", "Dilys", "Rohan", "Marta", "Axel", "Nilufar", "Gwen"),
)
THINGS = Wordings(
    train=(
        *("pencils", "marbles", "apples", "stickers", "samosas", "books", "shells", "buttons", "postcards"),
        *("candles", "beads", "stamps", "oranges", "badges", "cookies"),
    ),
    heldout=("lemons", "coins", "ribbons", "plums", "magnets", "acorns"),
)

STORIES = (
    Story(
        kind="boxes_given",
        steps=2,
        numbers={"boxes": Span(3, 25), "each": Span(4, 36), "given": Span(5, 60)},
        expression="{boxes} * {each} - {given}",
        plan=("There are {boxes} boxes with {each} in each, a product.", "Then {given} are taken away."),
        wordings=Wordings(
            train=(
                "{name} has {boxes} boxes with {each} {things} in each. {name} gives {given} {things} to "
                "{other}. "
                "How many {things} does {name} have left?",
                "There are {each} {things} in a box and {name} owns {boxes} boxes. After {other} gets "
                "{given} of them, "
                "how many {things} remain?",
                "{name} bought {boxes} boxes of {things}, {each} to a box, and then lost {given} {things}. "
                "How many are left?",
            ),
            heldout=(
                "On a shelf of {name}'s stand {boxes} cartons, each holding {each} {things}; {other} walks "
                "off with "
                "{given}. What number of {things} stays on the shelf?",
            ),
        ),
        answer="After that, the number of {things} that {name} still has is {result}.",
    ),
    Story(
        kind="share_equally",
        steps=2,
        numbers={"people": Span(3, 15), "share": Span(4, 40), "kept": Span(2, 30)},
        derived={"total": "{people} * {share} + {kept}"},
        expression="({total} - {kept}) / {people}",
        plan=("From {total}, {kept} are put aside first.", "What is left is divided among {people}."),
        wordings=Wordings(
            train=(
                "{name} has {total} {things}, keeps {kept} and shares the rest equally among {people} "
                "friends. "
                "How many {things} does each friend get?",
                "Out of {total} {things}, {kept} are put aside and the others are divided evenly between "
                "{people} "
                "children. How many does each child receive?",
            ),
            heldout=(
                "{people} neighbours of {name} split {total} {things} fairly once {kept} have been set "
                "apart for "
                "{other}. What is one neighbour's part?",
            ),
        ),
        answer="Shared out evenly, the number of {things} for each one is {result}.",
    ),
    Story(
        kind="more_than",
        steps=2,
        numbers={"first": Span(12, 150), "times": Span(2, 9), "extra": Span(3, 50)},
        expression="{first} + {first} * {times} + {extra}",
        plan=(
            "{name} has {first}.",
            "{other} has {times} times that, and {extra} more are found by both together.",
        ),
        wordings=Wordings(
            train=(
                "{name} collected {first} {things} and {other} collected {times} times as many. Later they "
                "found "
                "{extra} more. How many {things} do they have together?",
                "{other} owns {times} times as many {things} as {name}, who owns {first}. They receive "
                "{extra} more "
                "as a present. What is the total?",
            ),
            heldout=(
                "Where {name} counts {first} {things}, {other} counts {times} times that number; a parcel "
                "adds {extra}. "
                "How big is everything put together?",
            ),
        ),
        answer="All together, {name} and {other} have this many {things}: {result}.",
    ),
    Story(
        kind="savings",
        steps=3,
        numbers={"start": Span(20, 300), "weekly": Span(5, 45), "weeks": Span(4, 30), "spent": Span(10, 150)},
        expression="{start} + {weekly} * {weeks} - {spent}",
        plan=("The start is ${start}.", "{weeks} weeks of ${weekly} are added, and ${spent} go out again."),
        wordings=Wordings(
            train=(
                "{name} has ${start} and saves ${weekly} every week for {weeks} weeks, then spends ${spent}. "
                "How much money does {name} have?",
                "Starting from ${start}, {name} puts away ${weekly} a week. After {weeks} weeks {name} buys "
                "a present "
                "for ${spent}. How much is left?",
            ),
            heldout=(
                "A jar of {name}'s held ${start}. Each of the next {weeks} weeks brought ${weekly} in, and "
                "one day "
                "${spent} went out for shoes. What does the jar hold?",
            ),
        ),
        answer="When all is added and taken off, {name} is left with ${result}.",
        is_money=True,
    ),
    Story(
        kind="tip",
        steps=2,
        numbers={"bill": Span(1200, 18000, in_cents=True), "percent": Span(8, 25)},
        expression="{bill} * {percent} / 100",
        plan=("A tip of {percent} percent is that many hundredths of the bill of ${bill}.",),
        wordings=Wordings(
            train=(
                "Calculate a {percent}% tip on ${bill}.",
                "What is a {percent}% tip on a bill of ${bill}?",
                "{name}'s dinner cost ${bill}. How much is a tip of {percent} percent?",
                "How much should I leave if the bill is ${bill} and I tip {percent}%?",
            ),
            heldout=(
                "We paid ${bill} at the restaurant and want to add {percent} percent for the waiter. What "
                "amount is it?",
                "Tipping {percent}% when the receipt says ${bill}: how many dollars?",
            ),
        ),
        answer="A {percent}% tip on a bill of ${bill} comes to ${result}.",
        is_money=True,
    ),
    Story(
        kind="discount_and_tax",
        steps=3,
        numbers={"price": Span(15, 400), "off": Span(5, 60), "tax": Span(4, 20)},
        expression="{price} * (100 - {off}) / 100 * (100 + {tax}) / 100",
        plan=(
            "The discount leaves {off} percent less than ${price}.",
            "Tax of {tax} percent then comes on top.",
        ),
        wordings=Wordings(
            train=(
                "A coat costs ${price} and is {off}% off. With {tax}% sales tax on the reduced price, what "
                "do I pay?",
                "{name} buys a ${price} lamp at a discount of {off}%, and {tax}% tax is added afterwards. "
                "What is "
                "the final price?",
            ),
            heldout=(
                "The label reads ${price}, the shop takes {off} percent off, and the till adds {tax} "
                "percent tax to "
                "that. How much leaves {name}'s wallet?",
            ),
        ),
        answer="With the discount and then the tax, the price to pay is ${result}.",
        is_money=True,
    ),
    Story(
        kind="compound_interest",
        steps=3,
        numbers={"amount": Span(200, 9000), "rate": Span(1, 9), "years": Span(2, 15)},
        expression="{amount} * (1 + {rate} / 100)**{years}",
        plan=(
            "Every year the balance is multiplied by 1 plus {rate} hundredths.",
            "Over {years} years that factor is raised to the power of {years}.",
        ),
        wordings=Wordings(
            train=(
                "{name} invests ${amount} at {rate}% interest, compounded once a year. What is it worth "
                "after {years} "
                "years?",
                "How much do ${amount} become in {years} years with {rate} percent compound interest per "
                "year?",
            ),
            heldout=(
                "A deposit of ${amount} earns {rate}% annually and the interest stays in the account. Which "
                "balance "
                "will {name} see {years} years on?",
            ),
        ),
        answer="After {years} years of compound interest, rounded to the cent, the balance is ${result}.",
        is_money=True,
    ),
    Story(
        kind="shopping_change",
        steps=4,
        numbers={
            "count": Span(2, 9),
            "price": Span(80, 950, in_cents=True),
            "count2": Span(2, 9),
            "price2": Span(60, 700, in_cents=True),
        },
        derived={"paid": "(({count} * {price} + {count2} * {price2}) // 10 + 1) * 10"},
        expression="{paid} - {count} * {price} - {count2} * {price2}",
        plan=(
            "The first purchase is {count} times ${price}, the second {count2} times ${price2}.",
            "Both come off the ${paid} that were handed over.",
        ),
        wordings=Wordings(
            train=(
                "{name} buys {count} notebooks at ${price} each and {count2} pens at ${price2} each, paying "
                "with "
                "${paid}. How much change is due?",
                "At the market {name} takes {count} melons for ${price} apiece and {count2} mangoes for "
                "${price2} "
                "apiece. What change comes back from ${paid}?",
            ),
            heldout=(
                "The cashier gets ${paid} from {name} for {count} tickets costing ${price} and {count2} "
                "drinks costing "
                "${price2}. What must be handed back?",
            ),
        ),
        answer="From the ${paid} handed over, the change that {name} gets back is ${result}.",
        is_money=True,
    ),
    Story(
        kind="two_workers",
        steps=4,
        numbers={
            "rate": Span(4, 30),
            "rate2": Span(4, 30),
            "hours": Span(2, 9),
            "hours2": Span(2, 9),
            "broken": Span(1, 25),
        },
        expression="{rate} * {hours} + {rate2} * {hours2} - {broken}",
        plan=(
            "{name} makes {rate} times {hours}, {other} makes {rate2} times {hours2}.",
            "Of the sum, {broken} do not count.",
        ),
        wordings=Wordings(
            train=(
                "{name} makes {rate} bowls an hour for {hours} hours and {other} makes {rate2} an hour for "
                "{hours2} "
                "hours. {broken} bowls break. How many bowls are whole?",
                "In {hours} hours {name} paints {rate} tiles per hour; {other} paints {rate2} per hour "
                "during {hours2} "
                "hours. If {broken} tiles are spoiled, how many good ones are there?",
            ),
            heldout=(
                "A bakery has two ovens: one gives {rate} loaves hourly and ran {hours} hours, the other "
                "gives {rate2} "
                "and ran {hours2} hours. {broken} loaves burnt. What can {name} sell?",
            ),
        ),
        answer="Taking off what was lost, the number of good pieces is {result}.",
    ),
    Story(
        kind="garden_rows",
        steps=5,
        numbers={
            "rows": Span(4, 24),
            "plants": Span(5, 30),
            "rows2": Span(3, 18),
            "plants2": Span(4, 25),
            "eaten": Span(3, 40),
            "each": Span(2, 6),
        },
        expression="({rows} * {plants} + {rows2} * {plants2} - {eaten}) * {each}",
        plan=(
            "There are {rows} rows of {plants} and {rows2} rows of {plants2}.",
            "{eaten} plants are gone before each of the rest gives {each}.",
        ),
        wordings=Wordings(
            train=(
                "{name} plants {rows} rows of {plants} peppers and {rows2} rows of {plants2} tomatoes. "
                "Snails eat "
                "{eaten} plants, and every other plant bears {each} fruits. How many fruits are there?",
                "A field has {rows} rows with {plants} plants and {rows2} rows with {plants2} plants. "
                "{eaten} plants "
                "die; each survivor gives {each} fruits. How many fruits does {name} pick?",
            ),
            heldout=(
                "Two plots belong to {name}, one of {rows} by {plants} bushes, one of {rows2} by {plants2}. "
                "Frost takes "
                "{eaten} bushes and those that live carry {each} pods apiece. What is the harvest in pods?",
            ),
        ),
        answer="Counting only the plants that lived, the number picked is {result}.",
    ),
    Story(
        kind="single_total",
        steps=1,
        numbers={"count": Span(3, 40), "each": Span(3, 60)},
        expression="{count} * {each}",
        plan=("The same amount, {each}, comes {count} times, so I multiply.",),
        wordings=Wordings(
            train=(
                "Each of {count} baskets holds {each} {things}. How many {things} are there?",
                "{name} packs {each} {things} into every bag and fills {count} bags. How many {things} is "
                "that?",
                "A page has room for {each} {things}. How many fit on {count} pages?",
            ),
            heldout=("If {count} trays carry {each} {things} apiece, what is the whole count for {name}?",),
        ),
        answer="Counted over all of them, the number of {things} is {result}.",
    ),
    Story(
        kind="average",
        steps=3,
        numbers={"a": Span(20, 100), "b": Span(20, 100), "c": Span(20, 100), "d": Span(20, 100)},
        expression="({a} + {b} + {c} + {d}) / 4",
        plan=("An average is the sum of the four scores over their number, which is four.",),
        wordings=Wordings(
            train=(
                "{name} scored {a}, {b}, {c} and {d} points in four games. What is the average?",
                "Find the mean of {a}, {b}, {c} and {d}.",
                "Four parcels of {name}'s weigh {a}, {b}, {c} and {d} grams. What do they weigh on average?",
            ),
            heldout=(
                "Over four days {name} counted {a}, {b}, {c} and {d} birds. How many was it on a typical "
                "day?",
            ),
        ),
        answer="Adding the four values and dividing by 4, the average is {result}.",
    ),
)
