"""From items to tokens: examples before the question, and where the part that is scored begins.

As karpathy/nanochat's core_eval does it, on which its published CORE values rest: examples and question are
one text, tokenized as a whole behind <|bos|>, examples end with a blank line. What is scored begins

- for multiple choice ranked by the mean, where the choices' tokens begin to differ;
- for a schema, where all tokens to the end are the same again;
- otherwise, where the tokens of the context alone, without space at its end, are over.
"""

import os
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from samosa_jax.data.tokenizer import Tokenizer
from samosa_jax.evals.items import ChoiceItem, Item, SchemaItem, TextItem
from samosa_jax.evals.likelihood import Continuation

ORDER_SEED = 1337  # of the order in which items are asked, so that a limit takes some of everywhere
SHOTS_SEED = 1234  # plus an item's place in that order: of the examples shown before it

Boundary = Literal["shared", "context"]


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """The texts of one item: one for every choice."""

    whole: tuple[str, ...]
    context: tuple[str, ...]  # each a beginning of the whole text; empty for a schema
    answers: tuple[str, ...]  # what is chosen between


def in_order(items: Sequence[Item]) -> list[Item]:
    """The items in the order in which they are asked."""
    shuffled = list(items)
    random.Random(ORDER_SEED).shuffle(shuffled)
    return shuffled


def draw_examples(items: Sequence[Item], place: int, shots: int, *, seed: int = SHOTS_SEED) -> list[Item]:
    """Examples for items[place]: others of `items`, which are in order.

    They depend on the seed, the place and the number of items alone; no limit changes them.
    """
    others = [number for number in range(len(items)) if number != place]
    return [items[number] for number in random.Random(seed + place).sample(others, shots)]


def make_prompts(item: Item, examples: Iterable[Item], *, delimiter: str) -> Prompts:
    """`delimiter` stands between a question and its answer."""
    before = "".join(f"{_solved(example, delimiter)}\n\n" for example in examples)
    if isinstance(item, ChoiceItem):
        context = f"{before}{item.query}{delimiter}"
        whole = tuple(f"{context}{choice}" for choice in item.choices)
        return Prompts(whole=whole, context=(context,) * len(whole), answers=item.choices)
    if isinstance(item, SchemaItem):
        whole = tuple(f"{before}{context}{delimiter}{item.continuation}" for context in item.contexts)
        return Prompts(whole=whole, context=(), answers=item.contexts)
    context = f"{before}{item.context.strip()}{delimiter}"
    return Prompts(whole=(context + item.continuation,), context=(context,), answers=(item.continuation,))


def encode_prompts(
    prompts: Sequence[Prompts], tokenizer: Tokenizer, *, boundary: Boundary
) -> list[list[Continuation]]:
    """Tokens of every choice of every item. `boundary` says where the answers of multiple choice begin."""
    texts = [
        text
        for one in prompts
        for text in (*one.whole, *dict.fromkeys(context.strip() for context in one.context))
    ]
    distinct = list(dict.fromkeys(texts))
    encoded = tokenizer.encode_batch(distinct, num_threads=os.cpu_count() or 1)
    bos = np.array([tokenizer.bos_id], np.int32)
    ids = {text: np.concatenate([bos, one]) for text, one in zip(distinct, encoded, strict=True)}
    found = []
    for one in prompts:
        whole = [ids[text] for text in one.whole]
        if not one.context:
            starts = [len(tokens) - num_common(whole, from_end=True) for tokens in whole]
        elif len(whole) > 1 and boundary == "shared":
            starts = [num_common(whole)] * len(whole)
        else:
            contexts = [ids[context.strip()] for context in one.context]
            starts = [num_common(pair) for pair in zip(contexts, whole, strict=True)]
        found.append([_cut(tokens, start) for tokens, start in zip(whole, starts, strict=True)])
    return found


def num_common(sequences: Sequence[np.ndarray], *, from_end: bool = False) -> int:
    """Tokens that all begin with, or end with."""
    length = min(map(len, sequences))
    ends = [one[len(one) - length :][::-1] if from_end else one[:length] for one in sequences]
    differ = np.any([end != ends[0] for end in ends], axis=0)
    places = np.flatnonzero(differ)
    return int(places[0]) if len(places) else length


def _solved(item: Item, delimiter: str) -> str:
    if isinstance(item, ChoiceItem):
        return f"{item.query}{delimiter}{item.choices[item.gold]}"
    if isinstance(item, SchemaItem):
        return f"{item.contexts[item.gold]}{delimiter}{item.continuation}"
    assert isinstance(item, TextItem)
    return f"{item.context.strip()}{delimiter}{item.continuation}"


def _cut(tokens: np.ndarray, start: int) -> Continuation:
    # One choice may be the beginning of another, or the same; something is scored of each, after something.
    start = max(1, min(start, len(tokens) - 1))
    return Continuation.of_text(tokens[:start], tokens[start:])
