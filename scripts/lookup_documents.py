"""Writes documents in which something is said and later said again: practice for retrieval from a long text.

    python scripts/lookup_documents.py --count 40000 --chars 330 --filler 0.15 --repeats 0.7 --out short.jsonl

A document is sentences of stories with statements between them, "The secret word of Sam is river.";
`--repeats` of the statements say an earlier one again, so that its word can be known from before. Half of the
words and two fifths of the names are coined of syllables: there is nothing to learn by heart, and every token
of a word is worth copying. Names and words are none that `samosa evaluate --tasks=needle` asks about; the
wording is the same.
"""

import argparse
import json
import random
import re
from collections import Counter
from pathlib import Path

from samosa_jax.data.stories import tell_story
from samosa_jax.evals.needle import NAMES, WORDS

OTHER_NAMES = (
    *("Adam", "Anton", "Bella", "Carl", "Cora", "Dora", "Edgar", "Elsa", "Ethan", "Fiona", "Frank", "George"),
    *("Hanna", "Hugo", "Ida", "Ivan", "Jonas", "Julia", "Kevin", "Laura", "Leo", "Lucy", "Mark", "Martin"),
    *(
        "Nina",
        "Noah",
        "Olga",
        "Otto",
        "Peter",
        "Rita",
        "Ruth",
        "Sam",
        "Sarah",
        "Simon",
        "Tina",
        "Tom",
        "Ursula",
    ),
    *("Vera", "Walter", "Wendy"),
)
NUM_WORDS = 400
ONSETS = (*"bcdfghjklmnprstvw", "br", "ch", "dr", "fl", "gr", "pl", "sh", "st", "tr")
VOWELS = (*"aeiou", "ai", "ea", "oo")
CODAS = ("", "n", "r", "l", "s", "m", "t", "ck")
FEWEST_NAMES, MOST_NAMES = 2, 7  # that one document says a word of
ASKED_ABOUT = {word.lower() for word in (*NAMES, *WORDS)}


def words() -> list[str]:
    """The commonest words of the stories, of four letters and more."""
    rng = random.Random(0)
    text = " ".join(tell_story(rng) for _ in range(2_000))
    counts = Counter(re.findall(r"(?<=[a-z] )[a-z]{4,}\b", text))
    return [word for word, _ in counts.most_common() if word not in WORDS][:NUM_WORDS]


def coin(rng: random.Random) -> str:
    """A word of two syllables that nobody asks about."""
    word = (
        rng.choice(ONSETS) + rng.choice(VOWELS) + rng.choice(ONSETS) + rng.choice(VOWELS) + rng.choice(CODAS)
    )
    return coin(rng) if word in ASKED_ABOUT else word


def make_document(
    rng: random.Random, choices: list[str], *, chars: int, filler: float, repeats: float
) -> str:
    """At least `chars` long; `filler` of the sentences are of stories, the others statements."""
    sentences: list[str] = []
    said: dict[str, str] = {}
    stories: list[str] = []
    num_names = rng.randint(FEWEST_NAMES, MOST_NAMES)
    while sum(len(sentence) + 1 for sentence in sentences) < chars:
        if rng.random() < filler:
            if not stories:
                stories = re.split(r"(?<=[.!?])\s+", tell_story(rng).strip())
            sentences.append(stories.pop(0))
            continue
        if said and (rng.random() < repeats or len(said) >= num_names):
            name = rng.choice(list(said))
        else:
            name = (rng.choice(OTHER_NAMES) if rng.random() < 0.6 else coin(rng)).capitalize()
            word = rng.choice(choices) if rng.random() < 0.5 else coin(rng)
            said.setdefault(name, word)
        sentences.append(f"The secret word of {name} is {said[name]}.")
    return " ".join(sentences)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--chars", type=int, required=True)
    parser.add_argument(
        "--filler", type=float, required=True, help="share of the sentences that are of stories"
    )
    parser.add_argument(
        "--repeats", type=float, required=True, help="share of the statements that repeat one"
    )
    parser.add_argument("--seed", default="0", help="any text")
    parser.add_argument("--out", type=Path, required=True)
    flags = parser.parse_args()
    choices = words()
    with flags.out.open("w", encoding="utf-8") as file:
        for number in range(flags.count):
            rng = random.Random(f"{flags.seed}/{number}")
            text = make_document(rng, choices, chars=flags.chars, filler=flags.filler, repeats=flags.repeats)
            file.write(json.dumps({"text": text}) + "\n")


if __name__ == "__main__":
    main()
