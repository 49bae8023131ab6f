"""Simple English stories for the embedded corpus, generated from a small grammar written for this project.

`tell_story(rng)` draws a plot, a cast and every choice from `rng` alone. In a plot, `[a|b]` is one of its
alternatives (they nest, and may be empty), `#name#` a fragment several plots share, `{hero.he}` a slot
(`{hero.He}` the same, capitalised); an empty line begins a paragraph. The idea of training small models on
such stories is that of TinyStories (https://arxiv.org/abs/2305.07759); plots, words and sentences are ours.
"""

import random
import re
from collections.abc import Mapping, Sequence
from typing import TypeVar

from samosa_jax.data.stories import words
from samosa_jax.data.stories.fragments import FRAGMENTS
from samosa_jax.data.stories.plots_animals import ANIMAL_PLOTS
from samosa_jax.data.stories.plots_children import CHILDREN_PLOTS
from samosa_jax.data.stories.plots_days import DAY_PLOTS
from samosa_jax.data.stories.plots_lessons import LESSON_PLOTS
from samosa_jax.data.stories.words import Counted, Person, Pet, Place

T = TypeVar("T")
PLOTS = CHILDREN_PLOTS + DAY_PLOTS + ANIMAL_PLOTS + LESSON_PLOTS

_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_FRAGMENT = re.compile(r"#(\w+)#")
_SLOT = re.compile(r"\{(\w+)(?:\.(\w+))?\}")
_SPACES = re.compile(r"[ \n]+")
_SENTENCE_START = re.compile(r"((?:^|[.!?] )\"?)([a-z])")
_A_BEFORE_VOWEL = re.compile(r"\b([Aa]) (?=[aeiouAEIO])(?!one\b|uni|use)")


def tell_story(rng: random.Random) -> str:
    """One story, some 100 to 250 words in several paragraphs, ending with a newline."""
    plot = _pick(rng, PLOTS)
    slots = _cast(rng) | {name: _expand(_pick(rng, values), rng) for name, values in plot.slots.items()}
    text = _expand(plot.text, rng)
    # A slot of the plot may hold slots of the cast, hence twice.
    for _ in range(2):
        text = _SLOT.sub(lambda match: _fill(match, slots), text)
    paragraphs = (_polish(paragraph) for paragraph in text.split("\n\n"))
    return "\n\n".join(paragraph for paragraph in paragraphs if paragraph) + "\n"


def _pick(rng: random.Random, options: Sequence[T]) -> T:
    # Python keeps the sequence of random() between versions, but not that of choice().
    return options[int(rng.random() * len(options))]


def _expand(text: str, rng: random.Random) -> str:
    """Decides choices from the inside out and unfolds fragments, until neither is left."""
    while True:
        text, num_choices = _CHOICE.subn(lambda match: _pick(rng, match[1].split("|")).strip(), text)
        if num_choices == 0:
            text, num_fragments = _FRAGMENT.subn(lambda match: FRAGMENTS[match[1]], text)
            if num_fragments == 0:
                return text


def _fill(match: re.Match[str], slots: Mapping[str, object]) -> str:
    name, attribute = match.groups()
    if attribute is None:
        return str(slots[name])
    value = str(getattr(slots[name], attribute.lower()))
    return value.capitalize() if attribute[0].isupper() else value


def _polish(paragraph: str) -> str:
    text = _SPACES.sub(" ", paragraph).strip()
    text = _A_BEFORE_VOWEL.sub(r"\1n ", text)
    return _SENTENCE_START.sub(lambda match: match[1] + match[2].upper(), text)


def _cast(rng: random.Random) -> dict[str, object]:
    """Who and what a story is about: people with different names, things, places and a sum that is right."""
    hero, friend = _children(rng)
    beast, beast2 = _beasts(rng)
    elder = _pick(rng, list(words.ELDERS))
    giant_he = _pick(rng, ("he", "she"))
    title, neighbor_he = _pick(rng, (("Mr.", "he"), ("Mrs.", "she"), ("Miss", "she")))
    pet_kind = _pick(rng, list(words.PETS))
    sound, is_glad, bed = words.PETS[pet_kind]
    pet_he = _pick(rng, ("he", "she"))
    one = _pick(rng, list(words.COUNTED))
    treasure = Counted(one, words.COUNTED[one])
    place = _pick(rng, list(words.PLACES))
    total = 3 + int(rng.random() * 10)
    given = 1 + int(rng.random() * (total - 2))
    number_of = dict(enumerate(words.NUMBERS))
    return {
        "hero": hero,
        "friend": friend,
        "beast": beast,
        "beast2": beast2,
        "elder": elder,
        "elder_he": words.ELDERS[elder],
        "neighbor": Person(f"{title} {_pick(rng, words.SURNAMES)}", neighbor_he, "neighbor"),
        "giant": _pick(rng, words.BIG_ANIMALS),
        "giant_he": giant_he,
        "giant_his": words.PRONOUNS[giant_he][1],
        "pet": Pet(
            _pick(rng, words.PET_NAMES),
            pet_he,
            pet_kind,
            sound,
            is_glad.format(words.PRONOUNS[pet_he][1]),
            bed,
        ),
        "toy": _pick(rng, words.TOYS),
        "color": _pick(rng, words.COLORS),
        "vegetable": _pick(rng, words.VEGETABLES),
        "small_kind": _pick(rng, ("girl", "boy")),
        "place": Place(place, words.PLACES[place]),
        "treasure": treasure,
        "fruit": _pick(rng, words.FRUITS),
        "total": number_of[total],
        "given": number_of[given],
        "rest": number_of[total - given],
        "given_treasure": treasure.one if given == 1 else treasure.many,
        "number": number_of[2 + int(rng.random() * 6)],
        "number2": number_of[3 + int(rng.random() * 6)],
    }


def _children(rng: random.Random) -> tuple[Person, Person]:
    while True:
        pair = []
        for _ in range(2):
            kind, he, names = _pick(rng, (("girl", "she", words.GIRLS), ("boy", "he", words.BOYS)))
            pair.append(Person(_pick(rng, names), he, kind))
        if pair[0].name != pair[1].name:
            return pair[0], pair[1]


def _beasts(rng: random.Random) -> tuple[Person, Person]:
    while True:
        first, second = (
            Person(_pick(rng, words.ANIMAL_NAMES), _pick(rng, ("he", "she")), _pick(rng, words.SMALL_ANIMALS))
            for _ in range(2)
        )
        if first.name != second.name and first.kind != second.kind:
            return first, second
