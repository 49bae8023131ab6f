"""Conversations that give an evaluation set away.

The rule: a message overlaps with an evaluation text when they share a run of 13 words; with a text of 8 to
12 words, when they share a run of 8 (as in Brown et al. 2020, https://arxiv.org/abs/2005.14165, appendix C,
whose runs are 8 to 13 words by the lengths of a set). Texts of fewer words decide nothing and are counted. A
run that more than ten rows of the evaluation sets share is boilerplate ("which of the following statements
is true about"), and is not looked for. System messages are not looked at.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from samosa_jax.data.chat.word_grams import HashedMessage, WordHasher, gram_hashes, words
from samosa_jax.data.readers import ReadOptions, UnreadableRow, file_format, read_objects, read_rows
from samosa_jax.data.sources import list_inputs
from samosa_jax.errors import UserError

LONG_GRAM, SHORT_GRAM = 13, 8
MAX_ROWS_PER_GRAM = 10
FILTER_BITS = 22
_FILTER_MASK = np.uint64((1 << FILTER_BITS) - 1)


class EvaluationText(NamedTuple):
    """One text of an evaluation set: a row may have several, such as a question and its answer."""

    file: str
    row: int
    text: str


class Overlap(NamedTuple):
    """Where a conversation and an evaluation set say the same."""

    file: str
    row: int
    excerpt: str  # the shared words

    def __str__(self) -> str:
        return f"as in {self.file}:{self.row}: {self.excerpt}"


class _Grams(NamedTuple):
    """The runs of one length."""

    hashes: np.ndarray  # (G,) uint64, sorted, each once
    rows: np.ndarray  # (G,) int64, the first evaluation row that has it
    may_hold: np.ndarray  # (1 << FILTER_BITS,) bool, by the low bits of a hash: spares most searches


class OverlapIndex:
    """Evaluation texts, ready to be looked for in conversations."""

    def __init__(self, texts: Iterable[EvaluationText], hasher: WordHasher) -> None:
        self._rows: list[tuple[str, int]] = []
        self.num_texts = 0
        self.num_short = 0  # texts of too few words to be looked for
        numbers: dict[tuple[str, int], int] = {}
        found: dict[int, list[tuple[np.ndarray, int]]] = {LONG_GRAM: [], SHORT_GRAM: []}
        for file, row, text in texts:
            word_hashes = hasher.hashes(text)
            self.num_texts += 1
            if len(word_hashes) < SHORT_GRAM:
                self.num_short += 1
                continue
            if (file, row) not in numbers:
                numbers[file, row] = len(self._rows)
                self._rows.append((file, row))
            length = LONG_GRAM if len(word_hashes) >= LONG_GRAM else SHORT_GRAM
            found[length].append((gram_hashes(word_hashes, length), numbers[file, row]))
        self._grams = {length: _collect(pairs) for length, pairs in found.items() if pairs}

    def find(self, messages: Sequence[HashedMessage]) -> Overlap | None:
        """The first run of words that a message shares with an evaluation text."""
        for message in messages:
            for length, known in self._grams.items():
                grams = gram_hashes(message.hashes, length)
                starts = np.flatnonzero(known.may_hold[grams & _FILTER_MASK])
                if not len(starts):
                    continue
                places = np.minimum(np.searchsorted(known.hashes, grams[starts]), len(known.hashes) - 1)
                shared = np.flatnonzero(known.hashes[places] == grams[starts])
                if len(shared):
                    start = int(starts[shared[0]])
                    file, row = self._rows[int(known.rows[places[shared[0]]])]
                    return Overlap(file, row, " ".join(words(message.text)[start : start + length]))
        return None


def _collect(pairs: list[tuple[np.ndarray, int]]) -> _Grams:
    hashes = np.concatenate([grams for grams, _ in pairs])
    rows = np.repeat([row for _, row in pairs], [len(grams) for grams, _ in pairs])
    order = np.lexsort((rows, hashes))
    hashes, rows = hashes[order], rows[order]
    is_first = np.ones(len(hashes), bool)
    is_first[1:] = (hashes[1:] != hashes[:-1]) | (rows[1:] != rows[:-1])  # a run counts once a row
    hashes, first, counts = np.unique(hashes[is_first], return_index=True, return_counts=True)
    is_telling = counts <= MAX_ROWS_PER_GRAM
    may_hold = np.zeros(1 << FILTER_BITS, bool)
    may_hold[hashes[is_telling] & _FILTER_MASK] = True
    return _Grams(hashes[is_telling], rows[is_first][first][is_telling], may_hold)


def texts_of(value: Any) -> Iterator[str]:
    """The texts inside a JSON value: a question, its answer, whatever they are called.

    Lists of texts are left out: they hold choices and aliases, which give no question away.
    """
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from texts_of(part)
    elif isinstance(value, list | tuple):
        for part in value:
            if not isinstance(part, str):
                yield from texts_of(part)


def read_evaluations(paths: Sequence[str | Path]) -> Iterator[EvaluationText]:
    """The texts of evaluation files: of every row of .jsonl, .json and .parquet, every line of .txt.

    Args:
      paths: as `sources.list_inputs` takes them, hub data sets left out.

    Raises:
      UserError: what cannot be read, by file and row.
    """
    for file in list_inputs(paths).files:
        if file.path is None:
            raise UserError(f"{file.name}: evaluation sets are read from files here; fetch it first")
        kind = file_format(file.path)
        if kind is not None and kind[0] == ".txt":
            lines = read_rows(file.path, ReadOptions(split_on="lines"), name=file.name)
            yield from (EvaluationText(file.name, row, text or "") for row, text in enumerate(lines, start=1))
            continue
        for row, value in read_objects(file.path, name=file.name):
            if isinstance(value, UnreadableRow):
                raise UserError(f"{file.name}: row {row}: {value.problem}; mend the row")
            yield from (EvaluationText(file.name, row, text) for text in texts_of(value))
