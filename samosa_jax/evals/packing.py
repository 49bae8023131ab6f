"""Puts many short texts into few rows of few lengths, so that little is padding and little is compiled.

A row holds several texts, each of which sees itself alone. What ends differently by one token only, as
questions answered by a letter do, is one text whose last position is asked about several tokens.
"""

import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

SHORTEST_ROW = 128
LENGTH_FACTOR = 2  # between the lengths of rows
MIN_ROWS = 4  # so that the questions to a batch are at least as many as one row can ask
QUESTIONS_MULTIPLE = 64  # their number divides by it, for logits in chunks


@dataclass(frozen=True, kw_only=True, eq=False)
class Text:
    """What is read, and what is asked of it: the log-probability of targets[i] after position at[i]."""

    tokens: np.ndarray  # int32 (L,)
    turn_position: np.ndarray  # int32 (L,)
    at: list[int]
    targets: list[int]
    answers: list[int] = field(default_factory=list)  # where the answer to each question goes

    @property
    def size(self) -> int:
        """Of the room that it takes in a row: a row answers at most as many questions as it has tokens."""
        return max(len(self.tokens), len(self.at))


class Rows(NamedTuple):
    """What one program reads. B rows of T tokens in G groups, Q questions to each group; int32."""

    tokens: np.ndarray  # (B, T)
    k_lo: np.ndarray
    k_hi: np.ndarray
    position: np.ndarray
    turn_position: np.ndarray
    at: np.ndarray  # (G, Q), into the tokens of the group's rows one after another
    targets: np.ndarray  # (G, Q)


class PackedBatch(NamedTuple):
    rows: Rows
    answers: np.ndarray  # int64 (G, Q): the number of the question, -1 for none
    num_tokens: int  # that are no padding


def row_lengths(context_len: int) -> list[int]:
    """The few lengths of rows, rising; every text fits the last."""
    lengths = [min(SHORTEST_ROW, context_len)]
    while lengths[-1] < context_len:
        lengths.append(min(lengths[-1] * LENGTH_FACTOR, context_len))
    return lengths


def pack(
    texts: Sequence[Text], *, context_len: int, num_groups: int, tokens_per_group: int
) -> Iterator[PackedBatch]:
    """Batches of all texts, the longest first; batches of rows of the same length have the same shape.

    Args:
        context_len: no text is longer.
        num_groups: devices that rows go over; each answers the questions to its own rows.
        tokens_per_group: about so many are read at once by each.
    """
    rows = _fill_rows(texts, row_lengths(context_len))
    for length in reversed(row_lengths(context_len)):
        num_rows = max(MIN_ROWS, tokens_per_group // length)
        # Most of what is read is context, so that one question to four tokens is enough.
        num_questions = -(-num_rows * length // (4 * QUESTIONS_MULTIPLE)) * QUESTIONS_MULTIPLE
        groups = _fill_groups(rows[length], max_rows=num_rows, max_questions=num_questions)
        for start in range(0, len(groups), num_groups):
            shape = (num_groups * num_rows, length)
            yield _lay_out(groups[start : start + num_groups], shape=shape, asked=(num_groups, num_questions))


def _fill_rows(texts: Sequence[Text], lengths: Sequence[int]) -> dict[int, list[list[Text]]]:
    """Rows by length. Best fit, the largest text first; it opens the shortest row that it fits."""
    rows: list[tuple[int, list[Text]]] = []
    room: list[tuple[int, int]] = []  # (left, row), rising
    for text in sorted(texts, key=lambda text: text.size, reverse=True):
        found = bisect.bisect_left(room, (text.size, 0))
        if found == len(room):
            length = lengths[bisect.bisect_left(lengths, text.size)]
            rows.append((length, []))
            left, row = length, len(rows) - 1
        else:
            left, row = room.pop(found)
        rows[row][1].append(text)
        bisect.insort(room, (left - text.size, row))
    return {length: [row for own, row in rows if own == length] for length in lengths}


def _fill_groups(rows: Sequence[list[Text]], *, max_rows: int, max_questions: int) -> list[list[list[Text]]]:
    groups: list[list[list[Text]]] = []
    questions = 0
    for row in rows:
        asked = sum(len(text.at) for text in row)
        if not groups or len(groups[-1]) == max_rows or questions + asked > max_questions:
            groups.append([])
            questions = 0
        groups[-1].append(row)
        questions += asked
    return groups


def _lay_out(
    groups: Sequence[list[list[Text]]], *, shape: tuple[int, int], asked: tuple[int, int]
) -> PackedBatch:
    num_rows, length = shape[0] // asked[0], shape[1]
    tokens, k_lo, position, turn_position = (np.zeros(shape, np.int32) for _ in range(4))
    # What pads a row sees itself alone; it is never asked about.
    k_lo[:] = np.arange(length, dtype=np.int32)
    k_hi = k_lo + 1
    at, targets, answers = np.zeros(asked, np.int32), np.zeros(asked, np.int32), np.full(asked, -1, np.int64)
    num_tokens = 0
    for group, rows in enumerate(groups):
        question = 0
        for number, row in enumerate(rows):
            start = 0
            for text in row:
                size = len(text.tokens)
                here = group * num_rows + number, slice(start, start + size)
                tokens[here] = text.tokens
                k_lo[here] = start
                position[here] = np.arange(size)
                turn_position[here] = text.turn_position
                these = group, slice(question, question + len(text.at))
                at[these] = np.asarray(text.at) + (number * length + start)
                targets[these] = text.targets
                answers[these] = text.answers
                question += len(text.at)
                start += size
            num_tokens += start
    return PackedBatch(Rows(tokens, k_lo, k_hi, position, turn_position, at, targets), answers, num_tokens)
