"""Evaluation texts are found in conversations by runs of 13 words, or 8 of short ones."""

import gzip
import json
from pathlib import Path

import pytest

from samosa_jax.data.chat.conversation import Conversation, Message
from samosa_jax.data.chat.overlap import (
    LONG_GRAM,
    MAX_ROWS_PER_GRAM,
    SHORT_GRAM,
    EvaluationText,
    Overlap,
    OverlapIndex,
    read_evaluations,
    texts_of,
)
from samosa_jax.data.chat.reading import read_conversations
from samosa_jax.data.chat.word_grams import WordHasher, hash_messages, words
from samosa_jax.errors import UserError

LONG = "Janet's ducks lay sixteen eggs per day; she eats three for breakfast and bakes muffins with four."
SHORT = "How many legs do nine spiders have in all?"
SPELLED = words(LONG)


def index_of(*texts: str) -> OverlapIndex:
    return OverlapIndex(
        (EvaluationText("eval.jsonl", row, text) for row, text in enumerate(texts, 1)), WordHasher()
    )


def find(
    index: OverlapIndex, answer: str, *, role: str = "assistant", think: str | None = None
) -> Overlap | None:
    question = Message(
        role="system" if role == "system" else "user", text=answer if role != "assistant" else "Go."
    )
    said = Message(role="assistant", text=answer if role == "assistant" else "Well.", think=think)
    return index.find(hash_messages(Conversation(messages=(question, said)), WordHasher()))


def test_a_run_of_thirteen_words_overlaps_and_twelve_do_not() -> None:
    index = index_of(
        "The first row is about something else entirely, and it is longer than eight words.", LONG
    )
    for start in range(len(SPELLED) - LONG_GRAM + 1):
        run = " ".join(SPELLED[start : start + LONG_GRAM])
        assert find(index, f"Once: {run.upper()}!") == Overlap("eval.jsonl", 2, run)
        assert find(index, f"Once: {run.rpartition(' ')[0]}!") is None
    assert str(find(index, LONG)).startswith("as in eval.jsonl:2: janet s ducks")


def test_short_texts_overlap_by_eight_words() -> None:
    index = index_of(SHORT)
    assert find(index, "how many legs do nine spiders have in any case") == Overlap(
        "eval.jsonl", 1, "how many legs do nine spiders have in"
    )
    assert find(index, "how many legs do nine spiders have") is None
    assert (len(SHORT.split()), SHORT_GRAM) == (9, 8)


def test_users_and_thoughts_are_looked_at_and_system_messages_are_not() -> None:
    index = index_of(LONG)
    assert find(index, LONG, role="user") is not None
    assert find(index, "Sixteen.", think=LONG) is not None
    assert find(index, LONG, role="system") is None


def test_texts_too_short_to_decide_are_counted() -> None:
    index = index_of("What is DNA?", SHORT, "")
    assert (index.num_texts, index.num_short) == (3, 2)
    assert find(index, "What is DNA?") is None


def test_boilerplate_is_not_looked_for() -> None:
    shared = "which of the following statements about the use of the passive voice is true"
    rows = [f"{shared} number{row}" for row in range(MAX_ROWS_PER_GRAM + 1)]
    assert find(index_of(*rows), shared) is None
    assert find(index_of(*rows), rows[3]) is not None  # its last words are its own
    assert find(index_of(*rows[1:]), shared) == Overlap("eval.jsonl", 1, " ".join(shared.split()[:13]))
    assert find(index_of(f"{shared}, {shared}, " * 20), shared) is not None  # many times in one row is one


def test_no_evaluation_text_overlaps_with_nothing() -> None:
    assert find(OverlapIndex([], WordHasher()), LONG) is None


def test_evaluations_are_read_from_every_kind_of_file(tmp_path: Path) -> None:
    rows = [
        {"question": LONG, "choices": ["not a question at all, but a choice"], "answer": 1},
        {"a": [{"b": SHORT}]},
    ]
    (tmp_path / "1.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "2.json").write_text(json.dumps(rows))
    (tmp_path / "3.txt").write_text(f"{LONG}\n\n{SHORT}\n")
    with gzip.open(tmp_path / "4.jsonl.gz", "wt") as file:
        file.write(json.dumps(SHORT))
    found = [(Path(file).name, row, text) for file, row, text in read_evaluations([tmp_path])]
    assert found == [
        ("1.jsonl", 1, LONG),
        ("1.jsonl", 2, SHORT),
        ("2.json", 1, LONG),
        ("2.json", 2, SHORT),
        ("3.txt", 1, LONG),
        ("3.txt", 2, SHORT),
        ("4.jsonl.gz", 1, SHORT),
    ]
    (tmp_path / "5.jsonl").write_text("{")
    with pytest.raises(UserError, match=r"5\.jsonl: row 1: not JSON"):
        list(read_evaluations([tmp_path / "5.jsonl"]))
    with pytest.raises(UserError, match="embedded"):
        list(read_evaluations(["embedded"]))


def test_texts_of_numbers_are_none() -> None:
    assert list(texts_of({"a": 1, "b": None, "c": {"d": "text", "e": ["x", {"f": "deep"}]}})) == [
        "text",
        "deep",
    ]


def test_gsm8k_train_hardly_overlaps_with_its_test_set(test_data: Path) -> None:
    index = OverlapIndex(read_evaluations([test_data / "gsm8k" / "test.jsonl.gz"]), WordHasher())
    assert (index.num_texts, index.num_short) == (2638, 0)
    hasher = WordHasher()

    def count(name: str) -> int:
        examples = read_conversations([test_data / "gsm8k" / name], format="gsm8k")
        return sum(index.find(hash_messages(example.value, hasher)) is not None for example in examples)

    assert count("test.jsonl.gz") == 1319
    assert 1 <= count("train.jsonl.gz") <= 15
