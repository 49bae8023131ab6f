"""Needles: texts of the wanted length with the word in its place, and scores that follow from likelihood."""

import random
import re
from collections.abc import Callable, Sequence
from typing import Any

import exported_models
import numpy as np
import pytest

from samosa_jax.data.tokenizer import Tokenizer
from samosa_jax.errors import UserError
from samosa_jax.evals import needle
from samosa_jax.evals.likelihood import Continuation, Score
from scripts import lookup_documents


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return exported_models.train_tokenizer()


@pytest.fixture(scope="module")
def items(tokenizer: Tokenizer) -> list[needle.NeedleItem]:
    return list(needle.make_items(tokenizer, lengths=(128, 512), per_cell=2, seed=0))


def test_texts_have_their_length_and_the_needle_its_depth(
    items: list[needle.NeedleItem], tokenizer: Tokenizer
):
    assert len(items) == 2 * len(needle.DEPTHS) * 2
    assert len({item.name for item in items}) == len(items)
    for item in items:
        assert len(item.tokens) == item.length
        assert item.tokens[0] == item.question[0] == tokenizer.bos_id
        text, question = (tokenizer.decode(part[1:].tolist()) for part in (item.tokens, item.question))
        assert text.endswith(question)
        word = item.choices[item.gold]
        said = f"{question.rstrip()} {word}."
        assert text.count(said) == 1
        assert question.startswith(" The secret word of")
        share = len(tokenizer.encode(text[: text.index(said)])) / item.length
        assert share <= item.depth + 0.02
        assert share >= item.depth - 0.35 * 128 / item.length  # the question takes its part of the text
        assert len(set(item.targets)) == len(set(item.choices)) == needle.NUM_CHOICES
        assert not {choice for choice in item.choices if f" {choice}." in question}


def test_items_depend_on_seed_and_name_alone(items: list[needle.NeedleItem], tokenizer: Tokenizer):
    again = {item.name: item for item in needle.make_items(tokenizer, lengths=(512,), per_cell=3, seed=0)}
    other = {item.name: item for item in needle.make_items(tokenizer, lengths=(512,), per_cell=2, seed=1)}
    for item in items[len(items) // 2 :]:
        np.testing.assert_array_equal(item.tokens, again[item.name].tokens)
        assert not np.array_equal(item.tokens, other[item.name].tokens)
    golds = [item.gold for item in again.values()]
    assert len(set(golds)) > 3


class Reader:
    """A scorer that finds likely what `finds` says of (text, what is asked after it)."""

    def __init__(self, finds: Callable[[np.ndarray, int], float]) -> None:
        self.finds = finds

    def score(self, continuations: Sequence[Continuation], *, on_progress: Any) -> list[Score]:
        on_progress(len(continuations), len(continuations))
        return [
            Score(
                logprob=self.finds(one.context, int(one.continuation[0])),
                num_tokens=1,
                num_bytes=1,
                is_greedy=False,
                num_cut=0,
            )
            for one in continuations
        ]


def share_right(items: list[needle.NeedleItem], finds: Callable[[np.ndarray, int], float]) -> float:
    reader: Any = Reader(finds)
    records = needle.score_items(items, reader)
    assert [record["item"] for record in records] == [item.name for item in items]
    assert sum(needle.right_by_depth(records).values()) == sum(record["score"] for record in records)
    return sum(record["score"] for record in records) / len(items)


def test_who_reads_finds_it_and_who_only_likes_words_does_not(items: list[needle.NeedleItem]):
    def remembers(context: np.ndarray, target: int) -> float:
        prior = -float(target % 7)
        right = {one.targets[one.gold] for one in items if np.array_equal(one.tokens, context)}
        return prior + float(target in right)

    assert share_right(items, remembers) == 1
    # A taste for some words is no reading: what they gain is the same.
    assert share_right(items, lambda context, target: -float(target % 7)) < 0.5
    assert share_right(items, lambda context, target: float("nan")) == 0


def test_what_cannot_be_asked_is_refused(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch):
    assert needle.lengths_for(1_024) == (128, 256, 512, 1_024)
    assert needle.lengths_for(100) == (100,)
    with pytest.raises(UserError, match=r"needle needs a context of at least 64 tokens, here it is 32"):
        needle.lengths_for(32)
    monkeypatch.setattr(needle, "WORDS", ("copper", "kettle", "zipper"))
    with pytest.raises(UserError, match=r"all but 3 of the words of needle alike, which needs 8"):
        next(needle.make_items(tokenizer, lengths=(128,), per_cell=1, seed=0))


def test_practice_documents_repeat_themselves_and_ask_for_nothing_that_is_evaluated():
    """Of scripts/lookup_documents.py: a name keeps its word, and neither is one of this evaluation."""
    choices = lookup_documents.words()
    repeated = 0
    for number in range(200):
        document = lookup_documents.make_document(
            random.Random(number), choices, chars=600, filler=0.2, repeats=0.7
        )
        said = re.findall(r"The secret word of (\w+) is (\w+)\.", document)
        assert len(dict(said)) == len(set(said)) <= lookup_documents.MOST_NAMES
        assert not {word for pair in said for word in pair} & {*needle.NAMES, *needle.WORDS}
        repeated += len(said) - len(set(said))
    assert repeated > 1000


def test_a_coined_word_is_never_one_that_is_evaluated(monkeypatch: pytest.MonkeyPatch):
    first = lookup_documents.coin(random.Random(0))
    monkeypatch.setattr(lookup_documents, "ASKED_ABOUT", {first})
    assert lookup_documents.coin(random.Random(0)) != first
