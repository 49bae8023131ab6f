"""Batches of whole conversations or preference pairs: what both pipelines share.

The order is a function of (seed, step) and the prepared data, as in `pipeline`; but here every item stays
whole, and an epoch shows each as often as its source's `repeats` says.
"""

import threading
from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from samosa_jax.data.batch import Batch
from samosa_jax.data.chat.packing import EpochRow, EpochRows, num_shown
from samosa_jax.data.chat.role_bytes import from_bytes, turn_positions
from samosa_jax.data.manifest import Content, Split
from samosa_jax.data.pipeline import (
    FIRST_TOKENS,
    DocumentPart,
    RowDescription,
    StepDescription,
    check_same_tokenizer,
    rows_per_process,
)
from samosa_jax.data.read_ahead import read_ahead
from samosa_jax.data.shards import ShardSet
from samosa_jax.errors import UserError

STATE_VERSION = 1

SomeBatch = TypeVar("SomeBatch")


@dataclass(frozen=True, kw_only=True)
class EpochSource:
    """The items of one prepared folder that fit a row."""

    path: str
    shards: ShardSet
    repeats: float
    items: np.ndarray  # int64, (n,): what the items are, in the shards' own numbers
    lengths: np.ndarray  # int64, (n,): tokens of each that are used
    sizes: np.ndarray  # int64, (n,): positions of a row that each takes
    num_truncated: int = 0  # of the n
    num_dropped: int = 0  # beside the n: too long for a row
    num_cropped_tokens: int = 0  # cut away by truncation, or lost with what was dropped

    def summary(self) -> str:
        """What is used and what is not, in a line."""
        lost = [
            f"{count:,} {what}"
            for count, what in ((self.num_truncated, "truncated"), (self.num_dropped, "too long and dropped"))
            if count
        ]
        with_lost = f" ({', '.join(lost)}, {self.num_cropped_tokens:,} tokens)" if lost else ""
        content = self.shards.manifest.content
        return f"{len(self.items):,} {content}{with_lost}, {self.repeats:g} times an epoch"


def open_items(path: str, content: Content, *, split: Split = "train") -> ShardSet:
    """The shards of a folder written by `prepare chat`. Raises UserError if it holds something else."""
    shards = ShardSet.open(path, split=split)
    found = shards.manifest.content
    if found != content:
        raise UserError(
            f"{path} holds {found}, and this stage trains on {content}; name a folder written by "
            + ("`prepare`" if content == "text" else "`prepare chat`")
        )
    return shards


class EpochPipeline(ABC, Generic[SomeBatch]):
    """Row j of step s is row s * batch_rows + j of the epochs laid end to end.

    Process h of P holds the h-th of P equal blocks of the rows of every step.
    """

    def __init__(
        self,
        sources: Sequence[EpochSource],
        *,
        batch_rows: int,
        context_len: int,
        seed: int,
        max_items: int | None = None,
        num_threads: int = 1,
        prefetch_batches: int = 4,
        process_index: int = 0,
        process_count: int = 1,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        """`state` is what `data_state` gave; None: a new run. Raises UserError, as TrainPipeline does."""
        host_rows = rows_per_process(batch_rows, context_len=context_len, process_count=process_count)
        _check_sources(sources, context_len)
        self.sources = sources
        self.batch_rows = batch_rows
        self.context_len = context_len
        self.seed = seed
        self._num_threads = num_threads
        self._prefetch_batches = prefetch_batches
        self._host_rows = host_rows
        self._host_offset = process_index * self._host_rows
        if state is not None:
            self._check_state(state)
        self.rows = EpochRows(
            [source.sizes for source in sources],
            [source.repeats for source in sources],
            capacity=context_len,
            seed=seed,
            max_items=max_items,
        )

    @property
    def tokenizer_fingerprint(self) -> str:
        return self.sources[0].shards.tokenizer_fingerprint

    def batch(self, step: int) -> SomeBatch:
        """This process's rows of a step, built in the caller's thread."""
        start = step * self.batch_rows + self._host_offset
        return self.assemble([self.rows.row(start + index) for index in range(self._host_rows)], step=step)

    def batches(self, start_step: int = 0) -> Generator[SomeBatch, None, None]:
        """This process's rows of start_step and of all later steps, read ahead; `close()` it."""

        def build(step: int, closed: threading.Event) -> SomeBatch:
            return self.batch(step)

        return read_ahead(
            build, start_step=start_step, num_threads=self._num_threads, prefetch=self._prefetch_batches
        )

    def steps_in(self, epochs: float) -> int:
        """Steps that show so many epochs; the last may begin the next one."""
        return -(-self.rows.rows_in(epochs) // self.batch_rows)

    def describe(self, step: int) -> StepDescription:
        """Which documents a step holds, row by row, over all processes."""
        rows = [self.rows.row(step * self.batch_rows + index) for index in range(self.batch_rows)]
        described = tuple(self._describe_row(row, step * self.batch_rows + i) for i, row in enumerate(rows))
        positions = self.batch_rows * self.context_len
        used = sum(
            int(self.sources[index].sizes[item])
            for row in rows
            for index, item in zip(row.source.tolist(), row.item.tolist(), strict=True)
        )
        return StepDescription(
            step=step,
            rows=described,
            used_frac=used / positions,
            padded_frac=(positions - used) / positions,
            cropped_frac=0.0,  # what is too long was cut or left out when the folder was opened
            split_documents=sum(part.stop < part.length for row in described for part in row.parts),
        )

    def _describe_row(self, row: EpochRow, number: int) -> RowDescription:
        parts = []
        for index, item in zip(row.source.tolist(), row.item.tolist(), strict=True):
            source = self.sources[index]
            for document in self.documents_of(int(source.items[item])):
                tokens = source.shards.document(document)
                whole = len(tokens)
                used = min(whole, int(source.lengths[item]))
                parts.append(
                    DocumentPart(
                        document=document,
                        generation=0,
                        visit=row.epoch,
                        start=0,
                        stop=used,
                        length=whole,
                        first_tokens=tuple(tokens[:FIRST_TOKENS].tolist()),
                    )
                )
        return RowDescription(
            source=", ".join(self.sources[index].path for index in np.unique(row.source)),
            source_row=number,
            stream_row=number,
            parts=tuple(parts),
            num_cropped=0,
        )

    def documents_of(self, item: int) -> Sequence[int]:
        """The documents of the shards that an item consists of."""
        return (item,)

    @abstractmethod
    def assemble(self, rows: Sequence[EpochRow], *, step: int) -> SomeBatch:
        """The batch of these rows."""

    def data_state(self, step: int) -> dict[str, Any]:
        """What a checkpoint after `step` steps must hold for the run to go on in the same order; JSON."""
        return {
            "version": STATE_VERSION,
            "step": step,
            **self._order_keys(),
            "sources": self._source_states(),
        }

    def _order_keys(self) -> dict[str, Any]:
        return {"seed": self.seed, "batch_rows": self.batch_rows, "context_len": self.context_len}

    def _source_states(self) -> list[dict[str, Any]]:
        return [
            {"path": source.path, "repeats": source.repeats, "fingerprint": source.shards.fingerprint}
            for source in self.sources
        ]

    def _check_state(self, state: Mapping[str, Any]) -> None:
        mend = "give it the old value, or start a new run under another name"
        for key, value in {"version": STATE_VERSION, **self._order_keys()}.items():
            if state.get(key) != value:
                raise UserError(
                    f"{key} is {value}, the checkpoint was written with {state.get(key)}, and the order of "
                    f"data depends on it; {mend}"
                )
        now = [(entry["repeats"], entry["fingerprint"]) for entry in self._source_states()]
        before = [(entry["repeats"], entry["fingerprint"]) for entry in state["sources"]]
        if now != before:
            raise UserError(
                "data.sources: other conversations, or other weights, than the checkpoint was written with; "
                "restore them, or start a new run under another name"
            )


def _check_sources(sources: Sequence[EpochSource], context_len: int) -> None:
    if not sources:
        raise UserError("data.sources is empty; name a folder written by `prepare chat`")
    check_same_tokenizer([(source.path, source.shards.tokenizer_fingerprint) for source in sources])
    for source in sources:
        if not len(source.items):
            raise UserError(
                f"{source.path}: none of its {source.num_dropped} items fits a row of {context_len} tokens; "
                "raise model.context_len, or prepare shorter ones"
            )
        if num_shown(len(source.items), source.repeats) == 0:
            raise UserError(
                f"{source.path}: an epoch shows none of its {len(source.items)} items, as data.sources gives "
                f"it the weight {source.repeats:g}; raise the weight (1: each once an epoch), or leave it out"
            )


class Rows:
    """The arrays of a Batch while they are filled: at first all padding, which sees and counts nothing."""

    def __init__(self, num_rows: int, context_len: int) -> None:
        shape = (num_rows, context_len)
        self.roles = np.zeros(shape, np.uint8)  # of the targets
        self.batch = Batch(
            tokens=np.zeros(shape, np.int32),
            targets=np.zeros(shape, np.int32),
            weights=np.zeros(shape, np.float32),
            k_lo=np.zeros(shape, np.int32),
            k_hi=np.zeros(shape, np.int32),
            position=np.zeros(shape, np.int32),
            turn_position=np.zeros(shape, np.int32),
        )

    def place(self, row: int, at: int, tokens: np.ndarray, role_bytes: np.ndarray) -> slice:
        """Writes one conversation (L,) from position `at` on; returns where it is. It sees itself only."""
        stop = at + len(tokens) - 1
        here = slice(at, stop)
        role, begins_turn = from_bytes(role_bytes)
        batch = self.batch
        batch.tokens[row, here] = tokens[:-1]
        batch.targets[row, here] = tokens[1:]
        batch.k_lo[row, here] = at
        batch.k_hi[row, here] = np.arange(at + 1, stop + 1)
        batch.position[row, here] = np.arange(stop - at)
        batch.turn_position[row, here] = turn_positions(begins_turn)[:-1]
        self.roles[row, here] = role[1:]
        return here
