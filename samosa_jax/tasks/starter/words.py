"""Names, and the words that stories are told with."""

import random
import re
from collections.abc import Sequence
from functools import cache

from samosa_jax.data.stories import tell_story

STORIES_READ = 1000  # as many as it takes until hardly a new word comes
_NAMES = """
    Ada Alan Alba Ali Alma Amir Ana Andy Anna Anton Arjun Asha Ava Ben Bella Bill Bo Bruno Carla Carlos Cora
    Dan Dana David Dina Dora Eddy Ella Elsa Emil Emma Eric Eva Farah Felix Finn Flora Frank Fred Gina Grace
    Greta Gus Hana Hannah Hans Hugo Ida Igor Ines Iris Ivan Jack Jana Jasper Jill Jim Joan Joe John Jonas
    Joy Jude Kai Karen Kate Ken Kim Kira Lara Lars Lea Lena Leo Liam Lila Lily Lina Lisa Liz Lola Lou Luca
    Lucy Luis Luna Maja Mara Marc Maria Mark Marta Mary Mateo Max Maya Mia Mila Milo Mina Mira Mona Nadia
    Nina Noah Nora Olaf Olga Oli Omar Oscar Otto Pablo Pam Paul Peter Pia Priya Quinn Ralf Ravi Ray Rita Rob
    Rosa Rose Ruby Ruth Sam Sara Sofia Sonia Stella Sue Tara Ted Theo Tim Tina Toby Tom Tony Uma Ursula Vera
    Victor Vik Will Yara Yusuf Zara Zoe
"""
NAMES: tuple[str, ...] = tuple(_NAMES.split())


@cache
def story_words() -> tuple[str, ...]:
    """The lower-case words of three to ten letters in the embedded stories, in the order of the alphabet."""
    words: set[str] = set()
    for number in range(STORIES_READ):
        words |= set(
            re.findall(r"(?<![\w'])[a-z]{3,10}(?![\w'])", tell_story(random.Random(f"words/{number}")))
        )
    return tuple(sorted(words))


def made_up_name(draw: random.Random) -> str:
    """As Tolu, Mirin or Besaka: two or three syllables, so that names are copied and not known by heart."""
    syllables = [draw.choice(_CONSONANTS) + draw.choice("aeiou") for _ in range(draw.choice((2, 2, 3)))]
    return "".join(syllables).capitalize() + draw.choice(("", "", "n", "s", "r", "l", "m"))


def spliced(draw: random.Random, words: Sequence[str]) -> str:
    """The beginning of one word and the end of another, as in appate: pieces are learnt, not words."""
    one, other = draw.choice(words), draw.choice(words)
    return one[: draw.randint(1, len(one) - 1)] + other[draw.randint(1, len(other) - 1) :]


_CONSONANTS = (*"bcdfghjklmnprstvwz", "ch", "sh", "th", "br", "dr", "gr", "kr", "tr", "st", "pl", "fl")
