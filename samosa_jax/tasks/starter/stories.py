"""A story about what is asked for, a few sentences long."""

import random
import re
from collections.abc import Sequence

from samosa_jax.data.chat.conversation import Conversation, Message
from samosa_jax.tasks.scoring import mentions
from samosa_jax.tasks.starter.words import spliced
from samosa_jax.tasks.task import Example, GeneratedTask, Split, Wordings, draw_in_split, split_of

MIN_SENTENCES = 4
NO_HERO_SHARE = 0.3


class StarterStoriesTask(GeneratedTask):
    """Right if the story is about what was asked for, has some sentences and comes to its end."""

    name = "starter_stories"

    def compose(self, draw: random.Random, split: Split) -> Example:
        hero, pronoun = draw_in_split(split, lambda: _hero(draw, split), key=lambda drawn: drawn[0])
        name = draw_in_split(split, lambda: draw.choice(NAMES[pronoun]))
        possessive = {"he": "his", "she": "her", "it": "its"}[pronoun]
        text = " ".join(
            draw.choice(part).format(
                hero=hero,
                name=name,
                he=pronoun,
                He=pronoun.capitalize(),
                his=possessive,
                place=draw.choice(PLACES),
                thing=draw.choice(THINGS),
                friend=draw.choice(FRIENDS),
            )
            for part in draw.choice(PLOTS)
        )
        return Example(
            conversation=Conversation(
                messages=(
                    Message(role="user", text=with_articles(QUESTIONS.pick(draw, split).format(hero=hero))),
                    Message(role="assistant", text=with_articles(text)),
                )
            ),
            answer=hero,
            checks={"mentions": [hero], "tool": None},
        )

    def score(self, example: Example, answer_text: str, messages: Sequence[Message] = ()) -> float:
        sentences = re.findall(r"[^.!?]+[.!?]\"?", answer_text)
        return float(
            mentions(answer_text, example.answer)
            and len(sentences) >= MIN_SENTENCES
            and answer_text.rstrip().endswith((".", "!", '"'))
        )


def _hero(draw: random.Random, split: Split) -> tuple[str, str]:
    """And the pronoun. Some that are taught do not exist: heroes are to be copied, not known by heart."""
    if split == "train" and draw.random() < NO_HERO_SHARE:
        return spliced(draw, [hero for hero, _ in HEROES if split_of(hero) == split]), "it"
    return draw.choice(HEROES)


def with_articles(text: str) -> str:
    """An ant, not a ant."""
    return re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)


QUESTIONS = Wordings(
    train=(
        *(
            "Tell me a story about a {hero}.",
            "Tell a story about a {hero}.",
            "A story about a {hero}, please.",
        ),
        *("Write a story about a {hero}.", "Write me a short story about a {hero}.", "Story: a {hero}."),
        *(
            "I want a story about a {hero}.",
            "Please tell me about a little {hero}.",
            "Can you write about a {hero}?",
        ),
        *("Tell me a short story with a {hero} in it.", "I would like a story about a {hero}."),
        *(
            "Please write about a {hero}.",
            "Can you tell a story about a little {hero}?",
            "A {hero} story, please.",
        ),
        *("I want to hear about a {hero}.", "Make up a story about a {hero}.", "Tell me about a {hero}."),
    ),
    heldout=(
        *("Can you tell me a story about a {hero}?", "Please write a story about a little {hero}."),
        *("I want a short story with a {hero} in it.", "Tell me a little story about a {hero}."),
    ),
)
# By the pronoun of those who are called so.
NAMES = {
    "he": (
        "Max",
        "Tom",
        "Ben",
        "Leo",
        "Sam",
        "Tim",
        "Otto",
        "Hugo",
        "Finn",
        "Paul",
        "Gus",
        "Ravi",
        "Omar",
        "Bruno",
    ),
    "she": (
        "Mia",
        "Lily",
        "Ana",
        "Lucy",
        "Rosa",
        "Ida",
        "Nora",
        "Zoe",
        "Ruby",
        "Ella",
        "Priya",
        "Maya",
        "Sara",
        "Lou",
    ),
    "it": ("Pip", "Dot", "Bo", "Zip", "Kiki", "Momo", "Nini", "Tiki", "Lulu", "Coco"),
}
_HE = """
    bear frog horse rabbit boy king fox turtle wolf lion farmer giant pig baker tiger dog prince pirate
    donkey hedgehog monkey camel cook doctor painter driver hunter beaver badger raccoon eagle shepherd
    tailor miller postman grandfather father brother uncle wizard knight thief elephant crocodile
    kangaroo leopard cheetah panther buffalo gorilla hamster carpenter plumber mechanic librarian
    firefighter gardener drummer emperor dwarf rooster bull rat mole moose puppy captain soldier clown
    bishop butcher barber robber hermit
"""
_SHE = """
    cat bird mouse duck girl queen sheep goat cow princess hen sailor owl squirrel dancer teacher witch
    singer nurse butterfly swan goose ladybird zebra giraffe lioness mother sister aunt grandmother
    fairy pilot dolphin kitten parrot otter seal whale penguin flamingo sparrow pelican ostrich tortoise
    llama violinist astronaut engineer professor mermaid duchess neighbour raven robin stork crow hare
    doe gazelle koala panda sparrowhawk cousin gymnast judge lawyer writer runner swimmer
"""
_IT = """
    fish bee snail robot dragon train boat star tree cloud spider crab worm ant beetle snowman balloon
    car ship bus tractor kite flower leaf stone lamp ghost shadow teapot clock lobster mosquito
    caterpillar scorpion jellyfish octopus bicycle helicopter umbrella piano violin trumpet lantern
    candle mirror bucket basket pumpkin potato carrot river mountain rainbow volcano pebble feather
    button bell bridge tower castle island planet comet wagon sledge
"""
HEROES: tuple[tuple[str, str], ...] = tuple(
    (hero, pronoun)
    for pronoun, heroes in (("he", _HE), ("she", _SHE), ("it", _IT))
    for hero in heroes.split()
)
PLACES = (
    "by the sea",
    "in the forest",
    "near a river",
    "on a hill",
    "in a big garden",
    "behind the old mill",
)
THINGS = (
    "a red ball",
    "a shiny stone",
    "a small box",
    "a yellow hat",
    "a silver key",
    "a warm cake",
    "a blue kite",
)
FRIENDS = ("a bird", "an old man", "a small girl", "a mouse", "a kind woman", "a frog", "the neighbour")
PLOTS: tuple[tuple[tuple[str, ...], ...], ...] = (
    (
        (
            "Once upon a time there was a {hero} called {name}.",
            "There once was a little {hero} called {name}.",
        ),
        ("{name} lived {place}.", "{He} lived {place}."),
        ("One day {he} found {thing}.", "One morning {he} saw {thing} on the ground."),
        ('"Whose is this?" {he} asked {friend}.', '"Is this yours?" {he} asked {friend}.'),
        ('"Oh yes, I lost it yesterday!" was the answer.', '"Yes! I have looked for it all day!"'),
        ("{name} gave it back and was happy.", "So {name} gave it back, and they became friends."),
    ),
    (
        (
            "There was a {hero} called {name} who was afraid of the dark.",
            "A {hero} called {name} feared the dark.",
        ),
        ("One night {he} heard a noise {place}.", "Late one night there was a noise {place}."),
        ("{He} took a lamp and went to look.", "{name} took a deep breath and went to look."),
        ("It was only {friend}, who had lost the way.", "There sat {friend}, tired and lost."),
        ("{name} showed the way home.", "Together they found the way home."),
        ("From then on {he} was not afraid of the dark.", "Since that night the dark is {his} friend."),
    ),
    (
        (
            "A {hero} called {name} wanted to see the world.",
            "Once a {hero} called {name} went on a long walk.",
        ),
        (
            "{He} walked for three days and came to a house {place}.",
            "After three days {he} came to a house {place}.",
        ),
        ("There {he} met {friend}.", "In front of it stood {friend}."),
        ("They ate soup and told stories all night.", "They shared some bread and laughed a lot."),
        (
            "In the morning {name} got {thing} as a gift.",
            'In the morning {name} said, "Come and see me soon!"',
        ),
        ("Then {he} went home, glad and tired.", "{name} went home and told everybody about it."),
    ),
    (
        (
            "It was a cold winter, and a {hero} called {name} was hungry.",
            "One cold winter a {hero} called {name} had no food.",
        ),
        ("{He} looked for food {place}, but there was none.", "There was nothing to eat {place}."),
        ("Then {friend} came by.", "Then {he} met {friend}."),
        ('"You may eat with me," said the friend.', '"I have enough for two. Come in!"'),
        ("They ate until they were full.", "Soon {name} was warm and full."),
        (
            "In spring {name} brought {thing} to say thank you.",
            "When spring came, {name} said thank you with {thing}.",
        ),
    ),
    (
        (
            "There once was a {hero} called {name} who could not sleep.",
            "A {hero} called {name} could not sleep.",
        ),
        ("{He} counted the stars, but it did not help.", "So {he} went outside and looked at the moon."),
        ("{name} asked {friend} for help.", '"What shall I do?" {he} asked {friend}.'),
        ('"Think of a place you love," was the answer.', '"Close your eyes and think of the sea."'),
        ("So {name} thought of a house {place}.", "{name} thought of a warm bed {place}."),
        ("Soon {he} was asleep and had a good dream.", "And then {he} slept until the sun came up."),
    ),
)
