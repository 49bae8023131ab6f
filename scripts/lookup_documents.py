"""Writes documents in which something is said and later said again: practice for retrieval from a long text.

    python scripts/lookup_documents.py --count 8000 --chars 300 --out lookups.jsonl

A document is sentences of stories with statements between them, "The secret word of Sam is river."; half of
the statements repeat an earlier one, so that its last word can be known from far before. Names and words are
none that `samosa evaluate --tasks=needle` asks about; the wording is the same.
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


def words() -> list[str]:
    """The commonest words of the stories, of four letters and more."""
    rng = random.Random(0)
    text = " ".join(tell_story(rng) for _ in range(2_000))
    counts = Counter(re.findall(r"(?<=[a-z] )[a-z]{4,}\b", text))
    return [word for word, _ in counts.most_common() if word not in WORDS][:NUM_WORDS]


def make_document(rng: random.Random, choices: list[str], *, chars: int, filler: float) -> str:
    """At least `chars` long; `filler` of the sentences are of stories, the others statements."""
    sentences: list[str] = []
    said: dict[str, str] = {}
    stories: list[str] = []
    while sum(map(len, sentences)) < chars:
        if rng.random() < filler:
            if not stories:
                stories = re.split(r"(?<=[.!?])\s+", tell_story(rng).strip())
            sentences.append(stories.pop(0))
            continue
        repeats = bool(said) and (rng.random() < 0.5 or len(said) == len(OTHER_NAMES))
        names = list(said) if repeats else [name for name in OTHER_NAMES if name not in said]
        name = names[int(rng.random() * len(names))]
        said.setdefault(name, choices[int(rng.random() * len(choices))])
        sentences.append(f"The secret word of {name} is {said[name]}.")
    return " ".join(sentences)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--chars", type=int, required=True)
    parser.add_argument("--filler", type=float, default=0.4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    flags = parser.parse_args()
    assert not set(OTHER_NAMES) & set(NAMES)
    choices = words()
    with flags.out.open("w", encoding="utf-8") as file:
        for number in range(flags.count):
            rng = random.Random(f"{flags.seed}/{number}")
            text = make_document(rng, choices, chars=flags.chars, filler=flags.filler)
            file.write(json.dumps({"text": text}) + "\n")


if __name__ == "__main__":
    main()
