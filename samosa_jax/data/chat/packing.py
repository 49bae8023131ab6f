"""Which conversations share a row: each whole, every one once an epoch, in rows with little left over.

A row takes the conversation that has waited longest, then again and again the longest waiting one that still
fits (best fit, of `LOOKAHEAD` waiting). So every row holds at least one, nothing waits for ever, and packing
always comes to an end. What an epoch holds is a function of its seed and number alone.
"""

import bisect
import functools
import math
import threading
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from samosa_jax.data.packing import bounds_of, seeded_permutation

LOOKAHEAD = 1024


class RowPlan(NamedTuple):
    """Row r holds the items items[bounds[r] : bounds[r + 1]], in this order."""

    items: np.ndarray  # int64, (num_items,)
    bounds: np.ndarray  # int64, (num_rows + 1,)

    @property
    def num_rows(self) -> int:
        return len(self.bounds) - 1


def pack(
    sizes: np.ndarray, *, capacity: int, max_items: int | None = None, lookahead: int = LOOKAHEAD
) -> RowPlan:
    """Packs items, waiting in the order given, into rows of `capacity` positions and at most `max_items`.

    ValueError on an item that is empty or fits no row: the caller must have left it out.
    """
    if len(sizes) and not 0 < sizes.min() <= sizes.max() <= capacity:
        raise ValueError(f"sizes lie in {sizes.min()}..{sizes.max()}; a row holds 1..{capacity}")
    waiting: list[tuple[int, int]] = []  # (size, -item), sorted: of equal sizes the oldest comes last
    oldest: deque[int] = deque()
    is_packed = np.zeros(len(sizes), bool)
    arriving = iter(enumerate(sizes.tolist()))
    items: list[int] = []
    bounds = [0]

    def take(place: int) -> int:
        size, minus_item = waiting.pop(place)
        items.append(-minus_item)
        is_packed[-minus_item] = True
        for item, arrived in arriving:
            bisect.insort(waiting, (arrived, -item))
            oldest.append(item)
            break
        return size

    for _, (item, size) in zip(range(lookahead), arriving, strict=False):
        bisect.insort(waiting, (size, -item))
        oldest.append(item)
    while waiting:
        while is_packed[oldest[0]]:
            oldest.popleft()
        first = oldest[0]
        space = capacity - take(bisect.bisect_left(waiting, (int(sizes[first]), -first)))
        while space and waiting and (max_items is None or len(items) - bounds[-1] < max_items):
            place = bisect.bisect_right(waiting, (space, 0)) - 1
            if place < 0:
                break
            space -= take(place)
        bounds.append(len(items))
    return RowPlan(np.array(items, np.int64), np.array(bounds, np.int64))


def num_shown(count: int, times: float) -> int:
    """How many items of a source an epoch shows, repeats included: it has `count`, shown `times` each."""
    whole = math.floor(times)
    return whole * count + round((times - whole) * count)


def epoch_order(
    counts: Sequence[int], repeats: Sequence[float], *, seed: int, epoch: int
) -> tuple[np.ndarray, np.ndarray]:
    """(source, item) of everything one epoch shows, in a seeded order, both int64.

    A source of `count` items with 2.5 repeats shows each twice and half of them, other ones in every epoch, a
    third time.
    """
    sources: list[np.ndarray] = []
    items: list[np.ndarray] = []
    for index, (count, times) in enumerate(zip(counts, repeats, strict=True)):
        whole = math.floor(times)
        extra = num_shown(count, times) - whole * count
        more = seeded_permutation(count, key=(seed, epoch, index, 1))[:extra]
        items.append(np.concatenate([np.tile(np.arange(count, dtype=np.int64), whole), more]))
        sources.append(np.full(len(items[-1]), index, np.int64))
    source, item = np.concatenate(sources), np.concatenate(items)
    order = seeded_permutation(len(item), key=(seed, epoch))
    return source[order], item[order]


class EpochRow(NamedTuple):
    """The n items of one row."""

    source: np.ndarray  # (n,) index of each item's source
    item: np.ndarray  # (n,) index of the item within its source
    epoch: int


class _Epoch(NamedTuple):
    """What one epoch shows: N items, in the order in which they wait to be packed, and their rows."""

    source: np.ndarray  # int64, (N,)
    item: np.ndarray  # int64, (N,)
    plan: RowPlan
    row_order: np.ndarray  # int64, (num_rows,): the rows of the plan as they are read


class EpochRows:
    """The rows of a mixture that goes on epoch after epoch; any row is found without reading those before it.

    Attributes:
        num_items: items that an epoch shows, repeats included.
    """

    def __init__(
        self,
        sizes: Sequence[np.ndarray],
        repeats: Sequence[float],
        *,
        capacity: int,
        seed: int,
        max_items: int | None = None,
    ) -> None:
        """sizes: for each source the positions that each item takes, within 1..capacity."""
        self._sizes = sizes
        self._repeats = repeats
        self._capacity = capacity
        self._seed = seed
        self._max_items = max_items
        self._starts = [0]  # row at which each epoch known so far begins
        # Two: where one ends, reading threads ask for rows of both in turn.
        self._epoch = functools.lru_cache(maxsize=2)(self._make_epoch)
        self._loading = threading.Lock()  # rows are asked for by reading threads
        self.num_items = sum(num_shown(len(size), times) for size, times in zip(sizes, repeats, strict=True))
        if self.num_items == 0:
            raise ValueError("an epoch without a single item has no rows")

    def row(self, index: int) -> EpochRow:
        """The items of row `index`, counted from the start of the first epoch."""
        with self._loading:
            while self._starts[-1] <= index:
                self._begin_next()
            number = bisect.bisect_right(self._starts, index) - 1
            epoch = self._epoch(number)
            row = epoch.row_order[index - self._starts[number]]
            places = epoch.plan.items[epoch.plan.bounds[row] : epoch.plan.bounds[row + 1]]
            return EpochRow(epoch.source[places], epoch.item[places], number)

    def rows_in(self, epochs: float) -> int:
        """Rows of so many epochs, rounded up."""
        whole = math.floor(epochs)
        with self._loading:
            while len(self._starts) <= whole + 1:
                self._begin_next()
        part = (epochs - whole) * (self._starts[whole + 1] - self._starts[whole])
        return self._starts[whole] + math.ceil(part)

    def filled(self, epoch: int = 0) -> float:
        """Share of an epoch's positions that hold a token."""
        with self._loading:
            source, item, plan, _ = self._epoch(epoch)
        used = sum(int(sizes[item[source == index]].sum()) for index, sizes in enumerate(self._sizes))
        return used / (plan.num_rows * self._capacity)

    def _begin_next(self) -> None:
        """Finds out where the first epoch begins of which that is not known."""
        last = len(self._starts) - 1
        self._starts.append(self._starts[-1] + self._epoch(last).plan.num_rows)

    def _make_epoch(self, epoch: int) -> _Epoch:
        counts = [len(size) for size in self._sizes]
        source, item = epoch_order(counts, self._repeats, seed=self._seed, epoch=epoch)
        first = bounds_of(counts)
        sizes = np.concatenate(self._sizes)[first[source] + item]
        plan = pack(sizes, capacity=self._capacity, max_items=self._max_items)
        # Rows that pack well come early: their order is a seeded one too.
        row_order = seeded_permutation(plan.num_rows, key=(self._seed, epoch, 2))
        return _Epoch(source, item, plan, row_order)
