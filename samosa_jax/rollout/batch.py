"""The rows that are decoded together: who has which, what the device is told of them, and their cache."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import numpy as np

from samosa_jax.model.cache import Cache
from samosa_jax.model.decoding import Weights
from samosa_jax.rollout.buckets import Buckets
from samosa_jax.rollout.programs import Block, Programs, Rows, Tables
from samosa_jax.rollout.request import Generation, Sampling
from samosa_jax.rollout.sampling import Rules

MAX_STOP_IDS = 8
# Blocks that a batch must have been too large for before it shrinks: about what moving the rest takes.
PATIENCE = 1


@dataclass(eq=False)
class Row:
    """An answer that has a place in the batch."""

    generation: Generation
    pending: int  # token said but not read
    length: int  # tokens read
    turn_position: int  # of the pending token
    key: np.ndarray  # uint32 (2,), of its random numbers
    stop_ids: np.ndarray  # int32 (8,), -1 for none
    rules: Rules  # of numbers
    tokens_left: int = 0  # that it may still draw
    num_drawn: int = 0
    forced: list[int] = field(default_factory=list)  # to be read before it goes on
    in_prompt: np.ndarray | None = None  # bool (vocab_size,), of rows with penalties

    @property
    def is_running(self) -> bool:
        return self.generation.state == "running"

    def last_read(self) -> int:
        """The token before the pending one."""
        prompt, said = self.generation.prompt.tokens, self.generation.tokens
        at = self.length - 1
        return int(prompt[at]) if at < len(prompt) else said[at - len(prompt)]


class Drawn(NamedTuple):
    """What a row drew in a block."""

    tokens: list[int]
    logprobs: list[float]
    top_logprobs: list[tuple[tuple[int, float], ...]]  # of every token the likeliest, as in `Generation`


class Batch:
    """Rows come and go between blocks; the arrays grow and shrink from size to size."""

    def __init__(self, programs: Programs, buckets: Buckets, *, block_tokens: int, vocab_size: int) -> None:
        self._programs = programs
        self._buckets = buckets
        self._block_tokens = block_tokens
        self._vocab_size = vocab_size
        self._slots: list[Row | None] = []
        self._cache: Cache | None = None
        self._num_too_large = 0

    def __iter__(self) -> Iterator[Row]:
        return (row for row in self._slots if row is not None)

    def __len__(self) -> int:
        return sum(row is not None for row in self._slots)

    def row_of(self, generation: Generation) -> Row | None:
        return next((row for row in self if row.generation is generation), None)

    def add(self, rows: Sequence[Row], cache: Cache) -> None:
        """Gives places to rows with the same prompt; `cache`, of one row, has what was read of it."""
        while len(self) + len(rows) > len(self._slots):  # size by size, as warm_up compiles it
            self._set_size(self._buckets.batch_for(len(self._slots) + 1))
        free = [slot for slot, row in enumerate(self._slots) if row is None][: len(rows)]
        self._put(cache, free, num_tokens=rows[0].length)
        for slot, row in zip(free, rows, strict=True):
            self._slots[slot] = row

    def remove(self, row: Row) -> None:
        self._slots[self._slots.index(row)] = None

    def copy_of(self, row: Row, *, capacity: int | None = None) -> Cache:
        """What was read of a row, as a cache of its own."""
        taken = self._programs.take(self._held(), one(self._slots.index(row)))
        return self._programs.resize(taken, capacity or taken.capacity)

    def put_back(self, row: Row, cache: Cache) -> None:
        """Replaces what was read of a row."""
        self._put(cache, [self._slots.index(row)], num_tokens=row.length)

    def write(self, weights: Weights, *, meanwhile: Callable[[], None]) -> list[tuple[Row, Drawn]]:
        """One block: what each row drew that runs. What it is forced to say comes first, and is not in it.

        `meanwhile` is called while the device is at work.
        """
        running = [row if row and row.is_running else None for row in self._slots]
        self._make_room(max(row.length for row in running if row))
        samplings = [row.generation.sampling for row in running if row]
        has_tables = any(sampling.needs_tables for sampling in samplings)
        block, self._cache = self._programs.decode(
            weights,
            self._held(),
            self._describe(running),
            self._tables(running) if has_tables else None,
            num_steps=self._block_tokens,
            filters=has_tables or any(sampling.filters for sampling in samplings),
        )
        meanwhile()
        said = jax.device_get(block)
        # As lists at once: there are thousands of rows and blocks, and numpy takes its time with each.
        tokens, logprobs = said.tokens.T.tolist(), said.logprobs.T.tolist()
        drawn = []
        for slot, row in enumerate(running):
            if row is None:
                continue
            steps = [step for step, token in enumerate(tokens[slot]) if token >= 0]
            first, last = (steps[0], steps[-1] + 1) if steps else (0, 0)
            here = slice(first, last)
            tops = _likeliest(said, slot, here, count=row.generation.sampling.top_logprobs)
            drawn.append((row, Drawn(tokens[slot][here], logprobs[slot][here], tops)))
        return drawn

    def shrink(self) -> None:
        """Gives up places that nobody has needed for a while, one size at a time."""
        num_busy, size = len(self), len(self._slots)
        if num_busy == 0:
            self._cache, self._slots, self._num_too_large = None, [], 0
            return
        too_large = self._buckets.batch_for(num_busy) < size
        self._num_too_large = self._num_too_large + 1 if too_large else 0
        if self._num_too_large > PATIENCE:
            self._set_size(self._buckets.batches[self._buckets.batches.index(size) - 1])
            self._num_too_large = 0

    def warm_up(self, weights: Weights, capacity: int) -> Iterator[str]:
        """Compiles what it can need at one capacity; names each program before it is compiled."""
        programs, sizes = self._programs, self._buckets.batches
        single = programs.empty(1, capacity)
        for position, size in enumerate(sizes):
            yield f"{size} rows of {capacity} tokens"
            cache = programs.empty(size, capacity)
            cache = programs.place(cache, single, [0])
            for near in {1, *sizes[max(0, position - 1) : position + 2]}:
                programs.take(cache, np.zeros(near, np.int32))
            if capacity != self._buckets.capacities[-1]:
                programs.resize(cache, self._buckets.capacity_for(capacity + 1))
            nobody = [None] * size
            for filters, tables in ((False, None), (True, None), (True, self._tables(nobody))):
                yield f"decoding {size} rows of {capacity} tokens"
                _, cache = programs.decode(
                    weights,
                    cache,
                    self._describe(nobody),
                    tables,
                    num_steps=self._block_tokens,
                    filters=filters,
                )

    def _held(self) -> Cache:
        assert self._cache is not None
        return self._cache

    def _put(self, cache: Cache, slots: Sequence[int], *, num_tokens: int) -> None:
        self._make_room(num_tokens)
        self._grow(cache.capacity)
        fitting = self._programs.resize(cache, self._held().capacity)
        self._cache = self._programs.place(self._held(), fitting, slots)

    def _make_room(self, num_tokens: int) -> None:
        """Room for rows of so many tokens, and for the block that is written next."""
        self._grow(self._buckets.capacity_for(num_tokens + self._block_tokens))

    def _grow(self, capacity: int) -> None:
        while self._held().capacity < capacity:
            larger = self._buckets.capacity_for(self._held().capacity + 1)
            self._cache = self._programs.resize(self._held(), larger)

    def _set_size(self, num_rows: int) -> None:
        """Goes over to another number of places; the rows move to the front."""
        if self._cache is None:
            self._cache = self._programs.empty(num_rows, self._buckets.capacities[0])
            self._slots = [None] * num_rows
            return
        busy = [slot for slot, row in enumerate(self._slots) if row is not None]
        order = np.zeros(num_rows, np.int32)
        order[: len(busy)] = busy
        self._cache = self._programs.take(self._cache, order)
        self._slots = [self._slots[slot] for slot in busy] + [None] * (num_rows - len(busy))

    def _describe(self, running: Sequence[Row | None]) -> Rows:
        rows = _idle_rows(len(running), block_tokens=self._block_tokens)
        for slot, resting in enumerate(self._slots):  # it may have been read: its tokens stay
            rows.lengths[slot] = resting.length if resting else 0
        slots = [slot for slot, row in enumerate(running) if row]
        busy = [row for row in running if row]
        if not busy:
            return rows
        rows.pending[slots] = [row.pending for row in busy]
        rows.turn_position[slots] = [row.turn_position for row in busy]
        rows.remaining[slots] = [row.tokens_left for row in busy]
        rows.stop_ids[slots] = [row.stop_ids for row in busy]
        rows.key[slots] = [row.key for row in busy]
        rows.num_drawn[slots] = [row.num_drawn for row in busy]
        for slot, row in zip(slots, busy, strict=True):
            rows.forced[slot, : len(row.forced)] = row.forced[: self._block_tokens]
        for column, values in zip(rows.rules, zip(*(row.rules for row in busy), strict=True), strict=True):
            column[slots] = values
        return rows

    def _tables(self, running: Sequence[Row | None]) -> Tables:
        shape = (len(running), self._vocab_size)
        tables = Tables(said=np.zeros(shape, np.int16), in_prompt=np.zeros(shape, bool))
        for slot, row in enumerate(running):
            if row is not None and row.in_prompt is not None:
                tables.in_prompt[slot] = row.in_prompt
                np.add.at(tables.said[slot], row.generation.tokens, 1)
        return tables


def _likeliest(said: Block, slot: int, steps: slice, *, count: int) -> list[tuple[tuple[int, float], ...]]:
    if not count:
        return [()] * (steps.stop - steps.start)
    ids = said.top_ids[steps, slot, :count].tolist()
    values = said.top_logprobs[steps, slot, :count].tolist()
    return [tuple(zip(*pair, strict=True)) for pair in zip(ids, values, strict=True)]


def _idle_rows(num_rows: int, *, block_tokens: int) -> Rows:
    def full(value: float, dtype: type = np.float32) -> np.ndarray:
        return np.full(num_rows, value, dtype)

    rules = Rules(
        temperature=full(0),
        top_k=full(0, np.int32),
        top_p=full(1),
        min_p=full(0),
        repetition_penalty=full(1),
        presence_penalty=full(0),
        frequency_penalty=full(0),
    )
    return Rows(
        pending=full(0, np.int32),
        lengths=full(0, np.int32),
        turn_position=full(0, np.int32),
        remaining=full(0, np.int32),
        stop_ids=np.full((num_rows, MAX_STOP_IDS), -1, np.int32),
        key=np.zeros((num_rows, 2), np.uint32),
        num_drawn=full(0, np.int32),
        forced=np.full((num_rows, block_tokens), -1, np.int32),
        rules=rules,
    )


def stop_array(ids: Collection[int]) -> np.ndarray:
    """Tokens to stop after, as a row has them."""
    padded = np.full(MAX_STOP_IDS, -1, np.int32)
    padded[: len(ids)] = sorted(ids)
    return padded


def rules_of(sampling: Sampling) -> Rules:
    """How tokens are drawn, as a row has it."""
    return Rules(*(min(getattr(sampling, name), 2**31 - 1) for name in Rules._fields))


def one(value: int) -> np.ndarray:
    """A number for the only row there is."""
    return np.array([value], np.int32)
