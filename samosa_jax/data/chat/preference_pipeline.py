"""Prepared preference pairs in, batches out: both answers of a pair in one row, pairs packed whole."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from samosa_jax.config import SourceConfig
from samosa_jax.data.chat.epoch_pipeline import EpochPipeline, EpochSource, Rows, open_items
from samosa_jax.data.chat.packing import EpochRow, pack
from samosa_jax.data.chat.preference_batch import PreferenceBatch
from samosa_jax.data.chat.role_bytes import SPOKEN, from_bytes
from samosa_jax.data.shards import ShardSet

POSITIONS_PER_PAIR = 64  # a row has room for a pair of this size at least
MOST_PAIRS = 32


def pairs_per_row(context_len: int) -> int:
    """P: how many pairs a row of that many positions holds at most."""
    return max(1, min(MOST_PAIRS, context_len // POSITIONS_PER_PAIR))


class PreferencePipeline(EpochPipeline[PreferenceBatch]):
    """Batches of packed pairs from several sources.

    `reference`, where it is set, has for each source the (num_pairs, 2) log-probabilities of chosen and
    rejected answers under the model that the run began with, pair p of the shards in row p.
    """

    reference: Sequence[np.ndarray] | None = None

    def __init__(self, sources: Sequence[EpochSource], *, context_len: int, **options: Any) -> None:
        """options: those of EpochPipeline."""
        self.pairs_per_row = pairs_per_row(context_len)
        super().__init__(sources, context_len=context_len, max_items=self.pairs_per_row, **options)

    def documents_of(self, item: int) -> Sequence[int]:
        return (2 * item, 2 * item + 1)

    def assemble(self, rows: Sequence[EpochRow], *, step: int) -> PreferenceBatch:
        filled = PairRows(len(rows), self.context_len, self.pairs_per_row)
        for number, row in enumerate(rows):
            for slot, (index, item) in enumerate(zip(row.source.tolist(), row.item.tolist(), strict=True)):
                source = self.sources[index]
                pair = int(source.items[item])
                filled.place(number, slot, source.shards, pair)
                if self.reference is not None:
                    filled.reference[number, slot] = self.reference[index][pair]
        return filled.batch(with_reference=self.reference is not None)


class PairRows:
    """The arrays of a PreferenceBatch while they are filled."""

    def __init__(self, num_rows: int, context_len: int, num_pairs: int) -> None:
        self.reference = np.zeros((num_rows, num_pairs, 2), np.float32)
        self._rows = Rows(num_rows, context_len)
        self._sequence = np.full((num_rows, context_len), -1, np.int32)
        self._pairs = np.zeros((num_rows, num_pairs), np.float32)
        self._filled = [0] * num_rows

    def place(self, row: int, slot: int, shards: ShardSet, pair: int) -> None:
        """Puts a pair behind those that the row has; `slot` counts them."""
        for side in (0, 1):
            document = 2 * pair + side
            role_bytes = shards.roles(document)
            here = self._rows.place(row, self._filled[row], shards.document(document), role_bytes)
            self._filled[row] = here.stop
            self._sequence[row, here] = 2 * slot + side
            self._rows.batch.weights[row, here] = in_answer(role_bytes)[1:]
        self._pairs[row, slot] = 1.0

    def batch(self, *, with_reference: bool) -> PreferenceBatch:
        return PreferenceBatch(
            batch=self._rows.batch,
            sequence=self._sequence,
            pairs=self._pairs,
            reference=self.reference if with_reference else None,
        )


def in_answer(role_bytes: np.ndarray) -> np.ndarray:
    """bool, (L,): what the assistant writes in the last turn; all before it both answers share."""
    role, begins_turn = from_bytes(role_bytes)
    last_turn = np.flatnonzero(begins_turn)[-1]
    return np.isin(role, SPOKEN) & (np.arange(len(role)) >= last_turn)


def open_pairs(source: SourceConfig, *, context_len: int) -> EpochSource:
    """The pairs of a folder that fit a row; longer ones are left out, as cutting an answer would change it.

    Raises UserError if the folder holds no preference pairs.
    """
    shards = open_items(source.path, "preferences")
    lengths = shards.document_lengths.reshape(-1, 2)
    sizes = (lengths - 1).sum(1)
    items = np.flatnonzero(sizes <= context_len)
    return EpochSource(
        path=source.path,
        shards=shards,
        repeats=source.weight,
        items=items,
        lengths=lengths[items].sum(1),
        sizes=sizes[items],
        num_dropped=len(sizes) - len(items),
        num_cropped_tokens=int(lengths[sizes > context_len].sum()),
    )


def every_pair(
    shards: ShardSet, *, batch_rows: int, context_len: int
) -> Iterator[tuple[PreferenceBatch, np.ndarray]]:
    """All pairs that fit, each once, in batches; with their numbers: int64 (rows, P), -1 where none is."""
    sizes = (shards.document_lengths.reshape(-1, 2) - 1).sum(1)
    pairs = np.flatnonzero(sizes <= context_len)
    most = pairs_per_row(context_len)
    plan = pack(sizes[pairs], capacity=context_len, max_items=most)
    for start in range(0, plan.num_rows, batch_rows):
        filled = PairRows(batch_rows, context_len, most)
        numbers = np.full((batch_rows, most), -1, np.int64)
        for number in range(min(batch_rows, plan.num_rows - start)):
            first, last = plan.bounds[start + number], plan.bounds[start + number + 1]
            for slot, pair in enumerate(pairs[plan.items[first:last]].tolist()):
                filled.place(number, slot, shards, pair)
                numbers[number, slot] = pair
        yield filled.batch(with_reference=False), numbers
