"""Prompts on their way into the cache: those of like length together, long ones piece by piece."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from samosa_jax.model.cache import Cache
from samosa_jax.model.decoding import Weights
from samosa_jax.rollout.batch import one
from samosa_jax.rollout.buckets import Buckets
from samosa_jax.rollout.prefix_store import PrefixStore
from samosa_jax.rollout.programs import Programs
from samosa_jax.rollout.request import Generation


@dataclass(eq=False)
class Reading:
    """A prompt, all but its last token, and the answers that wait for it to be read."""

    tokens: np.ndarray
    turn_position: np.ndarray
    waiting: deque[Generation]
    cache: Cache | None = None  # of one row
    num_read: int = 0
    looked_up: bool = False
    num_cached: int = 0  # tokens that an earlier answer had left

    @property
    def is_read(self) -> bool:
        return self.num_read == len(self.tokens)


class PromptReader:
    """A queue of prompts, read in the order they came."""

    def __init__(self, programs: Programs, buckets: Buckets, store: PrefixStore, *, max_tokens: int) -> None:
        self._programs = programs
        self._buckets = buckets
        self._store = store
        self._max_tokens = max_tokens
        self._queue: deque[Reading] = deque()

    def __bool__(self) -> bool:
        return bool(self._queue)

    @property
    def num_waiting(self) -> int:
        """Answers that no place was found for yet."""
        return sum(len(reading.waiting) for reading in self._queue)

    def add(self, reading: Reading) -> None:
        self._queue.append(reading)

    def drop(self, generation: Generation) -> None:
        """Forgets an answer, and its prompt if nobody else waits for it."""
        for reading in self._queue:
            if generation in reading.waiting:
                reading.waiting.remove(generation)
        self._queue = deque(reading for reading in self._queue if reading.waiting)

    def read(self, weights: Weights, *, num_places: int) -> Iterator[tuple[list[Generation], Reading]]:
        """Reads about max_tokens of prompts; gives the answers that can begin, at most num_places."""
        budget = self._max_tokens
        while self._queue and num_places > 0 and budget > 0:
            first = self._queue[0]
            self._look_up(first, weights)
            if not first.is_read:
                group = self._group_of(first, weights, num_places)
                many = len(group) > 1
                budget -= self._read_group(group, weights) if many else self._read_piece(first, weights)
            if not first.is_read:
                continue
            if first.cache is None:  # a prompt of one token
                first.cache = self._programs.empty(1, self._buckets.capacities[0])
            beginning = [first.waiting.popleft() for _ in range(min(num_places, len(first.waiting)))]
            num_places -= len(beginning)
            yield beginning, first
            if not first.waiting:
                self._queue.popleft()

    def extended(
        self, weights: Weights, cache: Cache, tokens: np.ndarray, turn_position: np.ndarray, *, length: int
    ) -> Cache:
        """A row of `length` tokens, which stays as it is, and the same with more of them."""
        longest = self._buckets.pieces[-1]
        for start in range(0, len(tokens), longest):
            part = tokens[start : start + longest]
            width = self._buckets.piece_for(len(part))
            padded = np.zeros((2, 1, width), np.int32)
            padded[0, 0, : len(part)] = part
            padded[1, 0, : len(part)] = turn_position[start : start + longest]
            length += len(part)
            capacity = max(cache.capacity, self._buckets.capacity_for(length + 1))
            cache = self._programs.extend(
                weights,
                self._programs.resize(cache, capacity),
                padded[0],
                counts=one(len(part)),
                turn_position=padded[1],
            )
        return cache

    def warm_up(self, weights: Weights, capacity: int) -> Iterator[str]:
        """Compiles what it can need at one capacity; names each program before it is compiled."""
        programs = self._programs
        single = programs.empty(1, capacity)
        programs.rewind(weights, single, lengths=one(1), last_tokens=one(0))
        for other in self._buckets.capacities:
            programs.resize(single, other)
        for width in self._buckets.pieces_within(capacity):
            yield f"reading {width} tokens after others, of {capacity}"
            tokens = np.zeros((1, width), np.int32)
            programs.extend(weights, single, tokens, counts=one(1), turn_position=tokens)
        for width in self._buckets.prompts:
            for size in self._buckets.batches if self._buckets.capacity_for(width + 1) == capacity else ():
                yield f"reading {size} prompts of {width} tokens"
                tokens = np.zeros((size, width), np.int32)
                lengths = np.ones(size, np.int32)
                read = programs.prefill(
                    weights, tokens, lengths=lengths, turn_position=tokens, capacity=capacity
                )
                programs.take(read, one(0))

    def _look_up(self, reading: Reading, weights: Weights) -> None:
        """Begins with what is kept of an earlier answer."""
        if reading.looked_up:
            return
        reading.looked_up = True
        kept, shared = self._store.find(reading.tokens, reading.turn_position)
        if kept is None:
            return
        reading.num_read = reading.num_cached = shared
        rewound = self._programs.rewind(
            weights, kept.cache, lengths=one(shared), last_tokens=one(int(kept.tokens[shared - 1]))
        )
        # The earlier answer may have been far longer, and a row with much room makes all others as wide.
        reading.cache = self._programs.resize(rewound, self._buckets.capacity_for(shared + 1))

    def _group_of(self, first: Reading, weights: Weights, num_places: int) -> list[Reading]:
        """Prompts that can be read in one go with the first of the queue, it among them."""
        if first.num_read or len(first.tokens) > self._buckets.prompts[-1]:
            return [first]
        width = self._buckets.prompt_for(len(first.tokens))
        limit = min(num_places, max(1, self._max_tokens // width), self._buckets.batches[-1])
        group: list[Reading] = []
        for reading in self._queue:
            if len(group) == limit:
                break
            self._look_up(reading, weights)
            is_alike = len(reading.tokens) <= width and self._buckets.prompt_for(len(reading.tokens)) == width
            if reading.num_read == 0 and not reading.is_read and is_alike:
                group.append(reading)
        return group

    def _read_group(self, group: list[Reading], weights: Weights) -> int:
        """Reads whole prompts at once; returns the tokens it took."""
        num_rows = self._buckets.batch_for(len(group))
        width = self._buckets.prompt_for(max(len(reading.tokens) for reading in group))
        tokens, turns = np.zeros((2, num_rows, width), np.int32)
        lengths = np.zeros(num_rows, np.int32)
        for row, reading in enumerate(group):
            lengths[row] = len(reading.tokens)
            tokens[row, : lengths[row]] = reading.tokens
            turns[row, : lengths[row]] = reading.turn_position
        cache = self._programs.prefill(
            weights,
            tokens,
            lengths=lengths,
            turn_position=turns,
            capacity=self._buckets.capacity_for(width + 1),
        )
        for row, reading in enumerate(group):
            reading.cache = cache if num_rows == 1 else self._programs.take(cache, one(row))
            reading.num_read = len(reading.tokens)
        return int(lengths.sum())

    def _read_piece(self, reading: Reading, weights: Weights) -> int:
        """Reads more of one prompt; returns the tokens it took."""
        if reading.cache is None and len(reading.tokens) <= self._buckets.prompts[-1]:
            return self._read_group([reading], weights)
        if reading.cache is None:
            reading.cache = self._programs.empty(1, self._buckets.capacities[0])
        start = reading.num_read
        stop = min(start + self._buckets.pieces[-1], len(reading.tokens))
        reading.cache = self.extended(
            weights,
            reading.cache,
            reading.tokens[start:stop],
            reading.turn_position[start:stop],
            length=start,
        )
        reading.num_read = stop
        return stop - start
