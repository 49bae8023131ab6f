"""From documents to rows: the endless token stream of one source, cut into rows with nothing left over.

Row q of a stream holds the T + 1 tokens that begin at token q * T: T inputs and, one later, T targets.
Documents are split where a row ends; no token is dropped and none is padded. Three things are permuted:
the documents of a shard before they are laid end to end, the shards of every pass but the first, and the
rows that begin in one shard, lest the consecutive rows of a book fill whole batches. Any row is found by
bisection in sums of lengths, so that a step costs the same wherever a run begins.
"""

import bisect
import functools
import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from samosa_jax.data.batch import Batch
from samosa_jax.data.manifest import ShardEntry
from samosa_jax.data.shards import ShardSet, load_document_table


class Extension(NamedTuple):
    """From pass `first_pass` of a stream on, the first `num_generations` generations are part of it."""

    first_pass: int
    num_generations: int


class Parts(NamedTuple):
    """Spans of tokens cut where items that lie end to end meet, span after span, all (num_parts,)."""

    span: np.ndarray  # index of the span
    item: np.ndarray  # index of the item
    start: np.ndarray  # first token of the item in the span
    stop: np.ndarray  # one past the last


class Pieces(NamedTuple):
    """The parts of documents that make up spans of tokens, span after span, all (num_pieces,)."""

    document: np.ndarray  # index into the ShardSet
    start: np.ndarray  # first token of the document in the span
    stop: np.ndarray  # one past the last
    visit: np.ndarray  # 0 when the stream shows the document for the first time


class Span(NamedTuple):
    """Tokens end to end, both (num_tokens,)."""

    tokens: np.ndarray  # int32
    begins_document: np.ndarray  # bool


class Pass(NamedTuple):
    """One visit to a set of shards."""

    shards: np.ndarray  # indices of shards in the order they are read
    bounds: np.ndarray  # (len(shards) + 1,) tokens of the pass before each of them
    start: int  # token of the stream where the pass begins
    visit: int


class ShardVisit(NamedTuple):
    """The stretch of a stream that one visit to one shard fills."""

    shard: int
    visit: int
    start: int  # token of the stream where it begins
    stop: int  # one past its last


def seeded_permutation(length: int, *, key: Sequence[int]) -> np.ndarray:
    """A permutation of range(length) that depends on the whole numbers in key, and on nothing else.

    NumPy promises the raw numbers of a bit generator for all versions, `Generator.permutation` it does not.
    """
    raw = np.random.Philox(np.random.SeedSequence(list(key))).random_raw(length)
    return np.argsort(raw, kind="stable")


def split_spans(bounds: np.ndarray, *, starts: np.ndarray, stops: np.ndarray) -> Parts:
    """Cuts the spans of tokens [starts[i], stops[i]) where items that lie end to end meet.

    Args:
        bounds: (num_items + 1,) tokens before each item, beginning with 0, strictly increasing.
        starts, stops: (num_spans,), no span empty.
    """
    first = np.searchsorted(bounds, starts, side="right") - 1
    num_parts = np.searchsorted(bounds, stops, side="left") - first
    span = np.repeat(np.arange(len(starts)), num_parts)
    parts_before = np.cumsum(num_parts) - num_parts
    item = np.arange(len(span)) + (first - parts_before)[span]
    begins, ends = bounds[item], bounds[item + 1]
    return Parts(
        span, item, np.maximum(begins, starts[span]) - begins, np.minimum(ends, stops[span]) - begins
    )


def bounds_of(lengths: Sequence[int] | np.ndarray) -> np.ndarray:
    """(len(lengths) + 1,) int64 running sum that begins with 0."""
    bounds = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=bounds[1:])
    return bounds


def read_pieces(shards: ShardSet, documents: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> Span:
    """The tokens of parts of documents, end to end."""
    bounds = bounds_of(stops - starts)
    tokens = np.empty(bounds[-1], np.int32)
    at = 0
    for document, start, stop in zip(documents.tolist(), starts.tolist(), stops.tolist(), strict=True):
        tokens[at : at + stop - start] = shards.tokens(document, start, stop)
        at += stop - start
    begins_document = np.zeros(len(tokens), bool)
    begins_document[bounds[:-1][starts == 0]] = True
    return Span(tokens, begins_document)


@dataclass(frozen=True)
class KnownShards:
    """What a manifest said at one moment about the generations that a stream reads."""

    entries: tuple[ShardEntry, ...]
    first_document: np.ndarray  # (num_shards + 1,)
    first_token: np.ndarray  # (num_shards + 1,) in the order of writing
    complete: bool  # no further shard of these generations will come

    @classmethod
    def of(cls, shards: ShardSet, *, num_generations: int) -> "KnownShards":
        manifest = shards.manifest  # read once: another thread may refresh it
        entries = manifest.select(shards.split, generations=tuple(range(num_generations)))
        return cls(
            entries=entries,
            first_document=bounds_of([entry.num_documents for entry in entries]),
            first_token=bounds_of([entry.num_tokens for entry in entries]),
            complete=all(generation.complete for generation in manifest.generations[:num_generations]),
        )

    def num_shards(self, num_generations: int) -> int:
        """How many of the shards belong to the first num_generations generations."""
        return bisect.bisect_left(self.entries, num_generations, key=lambda entry: entry.generation)

    def fingerprint(self, num_shards: int) -> str:
        """Hex SHA-256 of the contents of the first num_shards shards."""
        digest = hashlib.sha256()
        for entry in self.entries[:num_shards]:
            digest.update(f"{entry.tokens.sha256} {entry.documents.sha256}\n".encode())
        return digest.hexdigest()


class _Stage(NamedTuple):
    """The passes that one extension governs: one over its new shards, then repetitions of all."""

    first_pass: int
    start: int  # token of the stream where first_pass begins
    first_shard: int  # the new shards are [first_shard, num_shards)
    num_shards: int
    num_new_tokens: int
    num_tokens: int  # new and old


def _make_stages(extensions: Sequence[Extension], known: KnownShards) -> list[_Stage]:
    stages: list[_Stage] = []
    for first_pass, num_generations in extensions:
        before = stages[-1] if stages else _Stage(0, 0, 0, 0, 0, 0)
        repeats = max(first_pass - before.first_pass - 1, 0)
        num_shards = known.num_shards(num_generations)
        num_tokens = int(known.first_token[num_shards])
        stages.append(
            _Stage(
                first_pass=first_pass,
                start=before.start + before.num_new_tokens + repeats * before.num_tokens,
                first_shard=before.num_shards,
                num_shards=num_shards,
                num_new_tokens=num_tokens - before.num_tokens,
                num_tokens=num_tokens,
            )
        )
    return stages


class TokenStream:
    """The tokens of one source, pass after pass without end, read at any position.

    **Order of tokens.** Pass 0 reads the shards in the order they were written, the documents of each in a
    seeded permutation: what a position means does not depend on later shards, so a run may begin before
    they exist. Every further pass reads all shards in a seeded order, documents permuted anew.

    **Order of rows.** The rows that begin in one visit to a shard are read in a seeded permutation too
    (`row_order`), so that a long document is spread over many steps. A shard is the largest thing that is
    ever permuted or held as an order, which bounds memory.

    **Appending.** A stream holds a list of extensions, the first of them (0, generations known at the
    start). When a run goes on and finds more generations, they are read, in the order they were written,
    as a pass of their own behind the pass in which the run stands; later passes read everything. So
    nothing a run has read, nor the rest of its current pass, changes its meaning, and new text is seen
    before old text is repeated. In pass 0 this is the same stream as if all had been there at the start.
    """

    def __init__(self, shards: ShardSet, *, seed: int, extensions: Sequence[Extension]) -> None:
        """Reads what `shards` holds now; make another stream after `shards.refresh()`."""
        self.shards = shards
        self.seed = seed
        self.extensions = tuple(extensions)
        self.known = KnownShards.of(shards, num_generations=self.extensions[-1].num_generations)
        self._stages = _make_stages(self.extensions, self.known)
        # Adjacent rows read the same few shards, from several threads.
        self._shard_order = functools.lru_cache(maxsize=8)(self._make_shard_order)
        self._row_order = functools.lru_cache(maxsize=8)(self._make_row_order)
        self._repeat_order = functools.lru_cache(maxsize=4)(self._make_repeat_order)

    @property
    def num_tokens(self) -> int:
        """Tokens of one pass over everything known."""
        return int(self.known.first_token[-1])

    @property
    def num_readable(self) -> int | None:
        """Tokens that can be read now; None: without end, for no further shard will come."""
        last = self._stages[-1]
        return None if self.known.complete else last.start + last.num_new_tokens

    def pass_at(self, position: int) -> int:
        """The number of the pass that holds the token at `position`."""
        stage = self._stages[bisect.bisect_right(self._stages, position, key=lambda stage: stage.start) - 1]
        offset = position - stage.start - stage.num_new_tokens
        return stage.first_pass + (0 if offset < 0 else 1 + offset // stage.num_tokens)

    def extended(self, num_generations: int, *, position: int) -> tuple[Extension, ...]:
        """The extensions of a run that has read the token at `position` and now finds num_generations."""
        if num_generations <= self.extensions[-1].num_generations:
            return self.extensions
        standing = self.pass_at(position)
        reached = [extension for extension in self.extensions if extension.first_pass <= standing]
        return (*reached, Extension(standing + 1, num_generations))

    def get_pass(self, number: int) -> Pass:
        """The shards of a pass; none where new generations hold no text of this split."""
        which = bisect.bisect_right(self._stages, number, key=lambda stage: stage.first_pass) - 1
        stage = self._stages[which]
        repeats = number - stage.first_pass
        if repeats == 0:
            bounds = self.known.first_token[stage.first_shard : stage.num_shards + 1]
            return Pass(
                np.arange(stage.first_shard, stage.num_shards), bounds - bounds[0], stage.start, visit=0
            )
        start = stage.start + stage.num_new_tokens + (repeats - 1) * stage.num_tokens
        visit = number - which  # a pass that brings new shards is no repetition
        return Pass(*self._repeat_order(visit, stage.num_shards), start, visit)

    def shard_visits(self, start: int, stop: int) -> Iterator[ShardVisit]:
        """The visits to shards that hold the tokens [start, stop) of the stream, in order."""
        number = self.pass_at(start)
        while start < stop:
            current = self.get_pass(number)
            bounds = current.bounds
            first = int(np.searchsorted(bounds, start - current.start, side="right")) - 1
            last = int(np.searchsorted(bounds, stop - current.start, side="left"))
            ends = itertools.pairwise((current.start + bounds[first : last + 1]).tolist())
            for shard, (begin, end) in zip(current.shards[first:last].tolist(), ends, strict=True):
                yield ShardVisit(shard, current.visit, begin, end)
            start = current.start + int(bounds[-1])
            number += 1

    def row_order(self, start: int, stop: int, *, context_len: int) -> np.ndarray:
        """The rows of the stream that are read as rows [start, stop): int64, (stop - start,).

        The rows whose first token lies in one visit to a shard are permuted among themselves, but the last
        of them stays the last: it always needs tokens from beyond the shard, if only its last target. All
        others lie within the shard. As shards appear whole, a row that is read as row r can be read when
        the first (r + 1) * context_len + 1 tokens of the stream can, as if nothing were permuted.
        """
        found = []
        for visit in self.shard_visits(start * context_len, (stop - 1) * context_len + 1):
            first, last = -(-visit.start // context_len), -(-visit.stop // context_len)
            if first < last:
                order = self._row_order(visit.shard, visit.visit, last - first)
                found.append(first + order[max(start - first, 0) : stop - first])
        return np.concatenate(found)

    def pieces(self, starts: ArrayLike, stops: ArrayLike) -> Pieces:
        """The parts of documents that hold the tokens [starts[i], stops[i]) of the stream, for every i.

        Args:
            starts, stops: int, (num_spans,), or two numbers for a single span; no span empty.
        """
        starts, stops = np.atleast_1d(starts), np.atleast_1d(stops)
        found: list[tuple[np.ndarray, ...]] = []
        for visit in self.shard_visits(int(starts.min()), int(stops.max())):
            here = np.flatnonzero((starts < visit.stop) & (stops > visit.start))
            if len(here) == 0:
                continue
            order, bounds = self._shard_order(visit.shard, visit.visit)
            parts = split_spans(
                bounds,
                starts=np.maximum(starts[here], visit.start) - visit.start,
                stops=np.minimum(stops[here], visit.stop) - visit.start,
            )
            visits = np.full(len(parts.span), visit.visit)
            found.append((here[parts.span], order[parts.item], parts.start, parts.stop, visits))
        span, *columns = (np.concatenate(column) for column in zip(*found, strict=True))
        by_span = np.argsort(span, kind="stable")
        return Pieces(*(column[by_span] for column in columns))

    def read(self, starts: ArrayLike, stops: ArrayLike) -> Span:
        """The tokens [starts[i], stops[i]) of the stream, for every i, end to end; as for `pieces`."""
        pieces = self.pieces(starts, stops)
        return read_pieces(self.shards, pieces.document, pieces.start, pieces.stop)

    def shard_of(self, document: int) -> int:
        """The index of the shard that holds a document."""
        return bisect.bisect_right(self.known.first_document, document) - 1

    def _make_shard_order(self, shard: int, visit: int) -> tuple[np.ndarray, np.ndarray]:
        """The documents of a shard as one visit reads them, and the bounds of their tokens."""
        entry = self.known.entries[shard]
        offsets = load_document_table(self.shards.folder, entry)["offset"].astype(np.int64)
        lengths = np.diff(offsets, append=entry.num_tokens)
        order = seeded_permutation(entry.num_documents, key=(self.seed, 0, visit, shard))
        return order + self.known.first_document[shard], bounds_of(lengths[order])

    def _make_row_order(self, shard: int, visit: int, num_rows: int) -> np.ndarray:
        """The rows that begin in one visit to a shard, counted from the first of them, as they are read."""
        permuted = seeded_permutation(num_rows - 1, key=(self.seed, 2, visit, shard))
        return np.append(permuted, num_rows - 1)

    def _make_repeat_order(self, visit: int, num_shards: int) -> tuple[np.ndarray, np.ndarray]:
        """The shards as a repeating pass reads them, and the bounds of their tokens."""
        order = seeded_permutation(num_shards, key=(self.seed, 1, visit))
        return order, bounds_of(np.diff(self.known.first_token[: num_shards + 1])[order])


def make_batch(
    tokens: np.ndarray,
    targets: np.ndarray,
    begins_document: np.ndarray,
    *,
    weights: np.ndarray | None = None,
    document_masking: bool,
) -> Batch:
    """Full rows as a Batch.

    Every token is trained on, the `<|bos|>` that begins the next document too: it is how a model learns
    that a text ends. (Bits per byte leave it out: it stands for no bytes.)

    With document_masking, attention and `position` restart at each document; a row that begins inside a
    document begins at position 0. Without, both run through the whole row: positions that restarted
    among visible keys would give two keys the same distance.

    Args:
        tokens: int32 (B, T).
        targets: int32 (B, T).
        begins_document: bool (B, T).
        weights: float32 (B, T); None: 1 everywhere.
    """
    column = np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), tokens.shape)
    k_lo = np.zeros(tokens.shape, np.int32)
    if document_masking:
        np.copyto(k_lo, column, where=begins_document)
        np.maximum.accumulate(k_lo, axis=1, out=k_lo)
    position = column - k_lo
    return Batch(
        tokens=tokens,
        targets=targets,
        weights=np.ones(tokens.shape, np.float32) if weights is None else weights,
        k_lo=k_lo,
        k_hi=column + np.int32(1),
        position=position,
        turn_position=position,
    )
