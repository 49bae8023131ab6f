"""Which source every row comes from: exact shares, spread evenly, with random access by row.

A schedule of one period is built once. Every later row is a division away, so a step can be built
without the steps before it.
"""

import heapq
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from samosa_jax.errors import UserError

MAX_PERIOD = 65_536  # rows; shares that need a longer period are rounded to multiples of 1 / MAX_PERIOD


class MixedRows(NamedTuple):
    """Where a range of rows comes from, both (num_rows,)."""

    source: np.ndarray  # int64, index of the source
    row: np.ndarray  # int64, index of the row within its source


class Mixture:
    """Interleaves sources so that every prefix of rows holds each source's share to within one row.

    Row t of a period must go to one source. The row number c (from 0) of a source with share w can
    only sit at t in [floor(c / w), ceil((c + 1) / w)) if its count is to stay within one row of w * t;
    taking the earliest deadline among the sources whose window is open always meets every deadline
    (the pfair windows of Baruah, Cohen, Plaxton and Varvel, "Proportionate progress", 1996, on one
    processor).
    """

    def __init__(self, weights: Sequence[float]):
        """weights: positive, of any sum; 83 and 17 are the same as 0.83 and 0.17.

        Raises:
            UserError: no weights, one that is not a positive number, or one too small beside the others.
        """
        self.parts = _integer_parts(weights)
        self.period = sum(self.parts)
        self._source = _schedule(self.parts)
        one_hot = self._source[:, None] == np.arange(len(self.parts))
        self._counts_before = np.zeros((self.period + 1, len(self.parts)), np.int64)
        np.cumsum(one_hot, axis=0, out=self._counts_before[1:])

    @property
    def shares(self) -> list[float]:
        """Long-run share of rows per source, exact up to the division."""
        return [part / self.period for part in self.parts]

    def counts(self, row: int) -> np.ndarray:
        """How many of the first `row` rows each source gives: int64, (num_sources,)."""
        periods, rest = divmod(row, self.period)
        return periods * np.array(self.parts, np.int64) + self._counts_before[rest]

    def rows(self, start: int, stop: int) -> MixedRows:
        """The sources of the rows [start, stop) of the mixture."""
        periods, rest = np.divmod(np.arange(start, stop, dtype=np.int64), self.period)
        source = self._source[rest]
        return MixedRows(
            source, periods * np.array(self.parts, np.int64)[source] + self._counts_before[rest, source]
        )


def _integer_parts(weights: Sequence[float]) -> tuple[int, ...]:
    """The weights as whole numbers without a common divisor, of a sum of at most MAX_PERIOD."""
    if not weights:
        raise UserError("data.sources is empty; name at least one folder written by `prepare`")
    for weight in weights:
        if not (math.isfinite(weight) and weight > 0):
            raise UserError(f"data.sources has the weight {weight}; a weight must be a positive number")
    # Through the decimal text: 0.1 means one tenth, not the binary fraction beside it.
    exact = [Fraction(str(weight)) for weight in weights]
    denominator = math.lcm(*(fraction.denominator for fraction in exact))
    parts = [int(fraction * denominator) for fraction in exact]
    divisor = math.gcd(*parts)
    parts = [part // divisor for part in parts]
    total = sum(parts)
    if total <= MAX_PERIOD:
        return tuple(parts)
    floors = [part * MAX_PERIOD // total for part in parts]
    by_remainder = sorted(range(len(parts)), key=lambda i: floors[i] * total - parts[i] * MAX_PERIOD)
    for i in by_remainder[: MAX_PERIOD - sum(floors)]:
        floors[i] += 1
    if 0 in floors:
        raise UserError(
            f"data.sources has the weight {weights[floors.index(0)]} in a sum of {math.fsum(weights):g}; "
            f"a source must be at least 1/{MAX_PERIOD} of the mixture, or be left out"
        )
    return tuple(floors)


def _schedule(parts: Sequence[int]) -> np.ndarray:
    """The source of every row of one period, (sum(parts),), by earliest deadline first."""
    period = sum(parts)
    counts = [0] * len(parts)
    opening = [(0, source) for source in range(len(parts))]  # heap of (window opens, source)
    open_windows: list[tuple[int, int]] = []  # heap of (window closes, source)
    schedule = np.empty(period, np.int64)
    for row in range(period):
        while opening and opening[0][0] <= row:
            _, source = heapq.heappop(opening)
            closes = -(-(counts[source] + 1) * period // parts[source])
            heapq.heappush(open_windows, (closes, source))
        _, source = heapq.heappop(open_windows)
        schedule[row] = source
        counts[source] += 1
        heapq.heappush(opening, (counts[source] * period // parts[source], source))
    return schedule
