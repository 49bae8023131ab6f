"""A needle in a haystack: a word that is said once in a long text, and asked for at its end.

    The secret word of Maria is copper. ... The secret word of Maria is ->  copper

Base models answer it too: of eight words, which gains most likelihood by the text over the question alone? So
what a model thinks of a word anyway is taken out (Holtzman et al. 2021, arXiv:2104.08315). Words differ in
their first token, and that is what is scored, so that a text is read once. The haystack is stories made by
`data.stories`; everything follows from the seed. After Kamradt 2023,
https://github.com/gkamradt/LLMTest_NeedleInAHaystack.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from samosa_jax.data.stories import tell_story
from samosa_jax.data.tokenizer import Tokenizer
from samosa_jax.errors import UserError
from samosa_jax.evals.likelihood import Continuation, Score, Scorer

NEEDLE = "needle"
DEFINITION = 1  # goes up when the same model would give another number
DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)  # share of the haystack before the needle
ITEMS_PER_CELL = 10  # of a length and a depth, where no limit is given
NUM_CHOICES = 8
SHORTEST = 64  # tokens; a shorter text has no room for a haystack
# Each begins with another letter, so that their first tokens differ.
WORDS = (
    *("anchor", "basket", "copper", "dragon", "engine", "forest", "garden", "hammer", "island", "jacket"),
    *("kettle", "ladder", "marble", "nickel", "orange", "pepper", "quartz", "ribbon", "saddle", "temple"),
    *("umbrella", "velvet", "walnut", "yellow", "zipper"),
)
NAMES = (
    *(
        "Alice",
        "Boris",
        "Clara",
        "David",
        "Emma",
        "Felix",
        "Greta",
        "Henry",
        "Irene",
        "Jacob",
        "Karen",
        "Louis",
    ),
    *("Maria", "Nora", "Oscar", "Paula", "Robert", "Sofia", "Thomas", "Victor"),
)


@dataclass(frozen=True, kw_only=True)
class NeedleItem:
    """One text.

    Attributes:
        tokens: int32, beginning with <|bos|>, of just `length` tokens, ending with the question.
        question: the tokens of `tokens` that ask, alone behind <|bos|>.
        depth: share of the haystack that stands before the needle.
        choices: words, the right one among them.
        targets: the token that each begins with.
    """

    name: str
    tokens: np.ndarray
    question: np.ndarray
    length: int
    depth: float
    choices: tuple[str, ...]
    targets: tuple[int, ...]
    gold: int


def lengths_for(context_len: int) -> tuple[int, ...]:
    """An eighth, a quarter, a half and the whole, where there is room. Raises UserError for too little."""
    if context_len < SHORTEST:
        raise UserError(
            f"{NEEDLE} needs a context of at least {SHORTEST} tokens, here it is {context_len}; a longer one "
            "may be tried with --context_len"
        )
    return tuple(context_len // part for part in (8, 4, 2, 1) if context_len // part >= SHORTEST)


def make_items(
    tokenizer: Tokenizer, *, lengths: Sequence[int], per_cell: int, seed: int
) -> Iterator[NeedleItem]:
    """Items of every length and depth; an item depends on the seed, its cell and its number alone.

    Raises UserError for a tokenizer that does not tell enough words apart by one token.
    """
    opening, first_tokens = _first_tokens(tokenizer)
    if len(first_tokens) < NUM_CHOICES:
        raise UserError(
            f"the tokenizer begins all but {len(first_tokens)} of the words of {NEEDLE} alike, which needs "
            f"{NUM_CHOICES}; it cannot be evaluated with it"
        )
    for length in lengths:
        for depth in DEPTHS:
            for number in range(per_cell):
                name = f"{length}/{depth:g}/{number}"
                yield _make_item(tokenizer, name, length, depth, opening, first_tokens, seed=seed)


def score_items(
    items: Sequence[NeedleItem],
    scorer: Scorer,
    *,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[dict[str, Any]]:
    """A record for each item, with item, score (1 or 0), length, depth, the right word and the chosen one."""
    asked = [
        Continuation.of_text(context, [target])
        for item in items
        for context in (item.tokens, item.question)
        for target in item.targets
    ]
    scores: Iterator[Score] = iter(
        scorer.score(
            asked, on_progress=lambda done, total: on_progress(done * len(items) // total, len(items))
        )
    )
    records = []
    for item in items:
        after_text = np.array([next(scores).logprob for _ in item.choices])
        alone = np.array([next(scores).logprob for _ in item.choices])
        gains = after_text - alone
        is_number = bool(np.isfinite(gains).all())
        chosen = int(gains.argmax()) if is_number else -1
        records.append(
            {
                "item": item.name,
                "score": float(chosen == item.gold),
                "length": item.length,
                "depth": item.depth,
                "gold": item.choices[item.gold],
                "chosen": item.choices[chosen] if is_number else None,
                "gains": [round(float(gain), 4) for gain in gains] if is_number else None,
            }
        )
    return records


def right_by_depth(records: Sequence[dict[str, Any]]) -> dict[str, int]:
    """How many are right at every depth, in per cent of the haystack."""
    return {
        f"right_at_{100 * depth:.0f}": sum(int(one["score"]) for one in records if one["depth"] == depth)
        for depth in DEPTHS
    }


def _make_item(
    tokenizer: Tokenizer,
    name: str,
    length: int,
    depth: float,
    opening: list[int],
    first_tokens: dict[int, str],
    *,
    seed: int,
) -> NeedleItem:
    rng = random.Random(f"{seed}/{name}")
    targets = sorted(first_tokens, key=lambda _: rng.random())[:NUM_CHOICES]
    gold = int(rng.random() * NUM_CHOICES)
    who = NAMES[int(rng.random() * len(NAMES))]
    needle = tokenizer.encode(f" The secret word of {who} is {first_tokens[targets[gold]]}.")
    question = [*tokenizer.encode(f" The secret word of {who} is"), *opening]
    room = length - 1 - len(needle) - len(question)
    before = _haystack(tokenizer, round(depth * room), rng)
    after = _haystack(tokenizer, room - len(before), rng)
    return NeedleItem(
        name=name,
        tokens=np.array([tokenizer.bos_id, *before, *needle, *after, *question], np.int32),
        question=np.array([tokenizer.bos_id, *question], np.int32),
        length=length,
        depth=depth,
        choices=tuple(first_tokens[target] for target in targets),
        targets=tuple(targets),
        gold=gold,
    )


def _haystack(tokenizer: Tokenizer, size: int, rng: random.Random) -> list[int]:
    """So many tokens of stories, the last of which may be cut."""
    tokens: list[int] = []
    while len(tokens) < size:
        tokens += tokenizer.encode(f" {tell_story(rng).rstrip()}")
    return tokens[:size]


def _first_tokens(tokenizer: Tokenizer) -> tuple[list[int], dict[int, str]]:
    """Tokens that all words begin with (a space, if it is one of its own), and words by the token after."""
    encoded = {word: tokenizer.encode(f" {word}") for word in WORDS}
    shared = 0
    while len({tuple(tokens[: shared + 1]) for tokens in encoded.values()}) == 1:
        shared += 1
    opening = next(iter(encoded.values()))[:shared]
    found: dict[int, str] = {}
    for word, tokens in encoded.items():
        found.setdefault(tokens[shared], word)
    return opening, found
