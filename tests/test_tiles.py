"""Which tiles a kernel visits, against the scores themselves: every pair of a query and a key."""

import functools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samosa_kernels import KeyRanges
from samosa_kernels.attention.ranges import MaskShape, effective_ranges
from samosa_kernels.attention.tiles import TileBounds, key_tiles, pad_queries, query_tiles


class Sizes(NamedTuple):
    """Compiled for once each: what varies in an example are the ranges."""

    T: int
    S: int
    queries: int
    keys: int


SQUARE = (
    Sizes(1, 1, 2, 4),  # a single token, tiles larger than the row
    Sizes(7, 7, 4, 4),  # the last tile is not full
    Sizes(16, 16, 4, 4),
    Sizes(33, 33, 16, 4),
    Sizes(33, 33, 4, 16),
)
SIZES = (*SQUARE, Sizes(13, 21, 8, 4), Sizes(21, 13, 4, 8), Sizes(1, 19, 2, 3))
MANY = settings(max_examples=100, deadline=None, derandomize=True)

jitted_key_tiles = jax.jit(key_tiles, static_argnames=("queries", "keys", "num_keys"))
jitted_query_tiles = jax.jit(query_tiles, static_argnames=("queries", "keys", "num_keys"))


@st.composite
def any_ranges(draw) -> tuple[KeyRanges, Sizes]:
    """Two rows of ranges in any order, empty and reversed ones among them."""
    sizes = draw(st.sampled_from(SIZES))
    bounds = st.lists(st.integers(0, sizes.S), min_size=2 * sizes.T, max_size=2 * sizes.T)
    lo, hi = (np.array(draw(bounds), np.int32).reshape(2, sizes.T) for _ in range(2))
    return KeyRanges(jnp.asarray(lo), jnp.asarray(hi)), sizes


@functools.partial(jax.jit, static_argnums=2)
def windowed(ranges: KeyRanges, window: jax.Array, num_keys: int) -> KeyRanges:
    """As effective_ranges does, with a window that need not be static."""
    causal = effective_ranges(ranges, MaskShape(causal=True, window=None, plain=False), num_keys)
    return causal._replace(lo=jnp.maximum(causal.lo, jnp.arange(num_keys) + 1 - window))


@st.composite
def document_ranges(draw, *, padded: bool) -> tuple[KeyRanges, Sizes]:
    """Two rows of packed documents, causal, perhaps windowed, perhaps with padding anywhere."""
    sizes = draw(st.sampled_from(SQUARE))
    T = sizes.T
    starts = np.zeros((2, T), np.int32)
    for row in range(2):
        for start in sorted(draw(st.sets(st.integers(0, T - 1), max_size=4))):
            starts[row, start:] = start
    hi = np.tile(np.arange(1, T + 1, dtype=np.int32), (2, 1))
    if padded:
        hi[np.array(draw(st.lists(st.booleans(), min_size=2 * T, max_size=2 * T))).reshape(2, T)] = 0
    ranges = KeyRanges(jnp.asarray(starts), jnp.asarray(hi))
    return windowed(ranges, draw(st.integers(1, T)), T), sizes


class Walk(NamedTuple):
    """Of every tile of one side and every tile of the other: (B, tiles, tiles of the other side)."""

    visited: np.ndarray
    unmasked: np.ndarray  # visited without a mask
    touched: np.ndarray  # some query sees some key
    whole: np.ndarray  # every query sees every key, and all of them exist


def walks(ranges: KeyRanges, sizes: Sizes) -> Iterator[Walk]:
    """Of a kernel that walks over keys, then of one that walks over queries."""
    lo, hi = (np.asarray(bound)[..., None] for bound in ranges)
    seen = (np.arange(sizes.S) >= lo) & (np.arange(sizes.S) < hi)
    seen = np.pad(seen, ((0, 0), (0, -sizes.T % sizes.queries), (0, -sizes.S % sizes.keys)))
    seen = seen.reshape(2, -1, sizes.queries, seen.shape[2] // sizes.keys, sizes.keys)
    touched, whole = np.asarray(seen.any((2, 4))), np.asarray(seen.all((2, 4)))
    static = {"queries": sizes.queries, "keys": sizes.keys, "num_keys": sizes.S}
    yield Walk(*as_sets(jitted_key_tiles(ranges, **static), touched.shape[2]), touched, whole)
    touched, whole = (x.swapaxes(1, 2) for x in (touched, whole))
    yield Walk(*as_sets(jitted_query_tiles(ranges, **static), touched.shape[2]), touched, whole)


def as_sets(bounds: TileBounds, num_tiles: int) -> tuple[np.ndarray, np.ndarray]:
    """(visited, unmasked) of Walk; the bounds lie in order, inside the tiles there are."""
    first, first_full, last_full, last = (np.asarray(bound)[..., None] for bound in bounds)
    in_order = np.concatenate([np.zeros_like(first), first, first_full, last_full, last], axis=-1)
    assert (np.diff(in_order) >= 0).all()
    assert (last <= num_tiles).all()
    tile = np.arange(num_tiles)
    return (first <= tile) & (tile < last), (first_full <= tile) & (tile < last_full)


def hull(touched: np.ndarray) -> np.ndarray:
    """From the first touched tile to the last."""
    from_the_left = np.logical_or.accumulate(touched, axis=-1)
    from_the_right = np.logical_or.accumulate(touched[..., ::-1], axis=-1)[..., ::-1]
    return from_the_left & from_the_right


@MANY
@given(any_ranges())
def test_whatever_the_ranges_every_seen_tile_is_visited_and_what_is_unmasked_is_whole(problem):
    for walk in walks(*problem):
        assert not (walk.touched & ~walk.visited).any(), "a tile that some query sees is not visited"
        assert not (walk.unmasked & ~walk.whole).any(), "a tile that is not seen whole is not masked"


@MANY
@given(document_ranges(padded=True))
def test_of_padded_documents_only_gaps_between_touched_tiles_are_visited_for_nothing(problem):
    over_keys, over_queries = walks(*problem)
    along_keys = hull(over_keys.touched)
    np.testing.assert_array_equal(over_keys.visited, along_keys)
    # A tile of queries visits its gaps, so a tile of keys in such a gap is visited by it too.
    np.testing.assert_array_equal(over_queries.visited, hull(along_keys.swapaxes(1, 2)))


@MANY
@given(document_ranges(padded=False))
def test_of_documents_exactly_the_touched_tiles_are_visited_and_the_whole_ones_not_masked(problem):
    for walk in walks(*problem):
        np.testing.assert_array_equal(walk.visited, walk.touched)
        np.testing.assert_array_equal(walk.unmasked, walk.whole)


def test_not_every_range_is_a_document():
    """The exactness above is the documents': of two queries far apart, what lies between is visited too."""
    ranges = KeyRanges(jnp.tile(jnp.asarray([0, 6]), (2, 1)), jnp.tile(jnp.asarray([1, 7]), (2, 1)))
    walk = next(walks(ranges, Sizes(2, 7, 2, 1)))
    assert walk.touched.sum() < walk.visited.sum()


@pytest.mark.parametrize("tiles", [key_tiles, query_tiles])
def test_rows_that_see_nothing_visit_nothing(tiles):
    at = jnp.full((2, 5), 3, jnp.int32)
    for hi in (at, at - 3):
        bounds = tiles(KeyRanges(at, hi), queries=2, keys=2, num_keys=6)
        np.testing.assert_array_equal(bounds.first, bounds.last)


def test_added_queries_see_nothing():
    lo, hi = pad_queries(KeyRanges(jnp.zeros((1, 5), jnp.int32), jnp.ones((1, 5), jnp.int32)), 4)
    np.testing.assert_array_equal(hi > lo, [[True] * 5 + [False] * 3])
