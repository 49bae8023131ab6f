"""Which tiles of scores a kernel visits, and which of them need no mask: key ranges, rounded to tiles.

A kernel that holds a tile of queries walks over tiles of keys (`key_tiles`); one that holds a tile of keys
walks over tiles of queries (`query_tiles`). Either way four numbers say where: masked tiles in
[first, first_full), tiles that are seen whole in [first_full, last_full), masked ones in [last_full, last).

Masking more than needed is always right, so ranges that are not monotonic cost time, never correctness.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from samosa_kernels.attention.ranges import KeyRanges


class TileBounds(NamedTuple):
    """int32 arrays (B, tiles): first <= first_full <= last_full <= last, in tiles of the other side."""

    first: jax.Array
    first_full: jax.Array
    last_full: jax.Array
    last: jax.Array


def pad_length(x: jax.Array, multiple: int, *, axis: int = 1, value: float = 0) -> jax.Array:
    """x with `value` added at the end of one axis until `multiple` divides its length."""
    padding = -x.shape[axis] % multiple
    widths = [(0, padding if dim == axis else 0) for dim in range(x.ndim)]
    return jnp.pad(x, widths, constant_values=value) if padding else x


def pad_queries(ranges: KeyRanges, multiple: int) -> KeyRanges:
    """Ranges of a number of queries that `multiple` divides; the new ones see nothing."""
    return KeyRanges(*(pad_length(bound, multiple) for bound in ranges))


def key_tiles(ranges: KeyRanges, *, queries: int, keys: int, num_keys: int) -> TileBounds:
    """For every tile of `queries` queries the tiles of `keys` keys it sees: (B, ceil(T / queries)) each."""
    lo, hi = pad_queries(ranges, queries)
    B = lo.shape[0]
    sees = hi > lo
    lo_BXQ = jnp.where(sees, lo, num_keys).reshape(B, -1, queries)
    hi_BXQ = jnp.where(sees, hi, 0).reshape(B, -1, queries)
    last = -(-hi_BXQ.max(-1) // keys)
    first = jnp.minimum(lo_BXQ.min(-1) // keys, last)
    # A query that sees nothing has lo = num_keys here, so that no tile of its counts as seen whole.
    first_full = jnp.clip(-(-lo_BXQ.max(-1) // keys), first, last)
    last_full = jnp.clip(hi_BXQ.min(-1) // keys, first_full, last)
    return TileBounds(*(bound.astype(jnp.int32) for bound in (first, first_full, last_full, last)))


def query_tiles(ranges: KeyRanges, *, queries: int, keys: int, num_keys: int) -> TileBounds:
    """For every tile of `keys` keys the tiles of `queries` queries seeing it: (B, ceil(num_keys / keys))."""
    along_keys = key_tiles(ranges, queries=queries, keys=keys, num_keys=num_keys)
    tile_Y = jnp.arange(-(-num_keys // keys), dtype=jnp.int32)[:, None]
    first, first_full, last_full, last = (bound[:, None, :] for bound in along_keys)
    seen_BYX = (first <= tile_Y) & (tile_Y < last)
    whole_BYX = (first_full <= tile_Y) & (tile_Y < last_full)
    if num_keys % keys:  # the last tile has keys that do not exist
        whole_BYX &= tile_Y < num_keys // keys
    num_tiles = seen_BYX.shape[-1]
    tile_X = jnp.arange(num_tiles, dtype=jnp.int32)
    last_BY = jnp.where(seen_BYX, tile_X + 1, 0).max(-1)
    first_BY = jnp.minimum(jnp.where(seen_BYX, tile_X, num_tiles).min(-1), last_BY)
    first_full_BY = jnp.clip(jnp.where(whole_BYX, tile_X, num_tiles).min(-1), first_BY, last_BY)
    # The run of whole tiles ends at the first one after its start that is not.
    ends_BYX = ~whole_BYX & (tile_X >= first_full_BY[..., None])
    last_full_BY = jnp.clip(jnp.where(ends_BYX, tile_X, num_tiles).min(-1), first_full_BY, last_BY)
    return TileBounds(
        *(bound.astype(jnp.int32) for bound in (first_BY, first_full_BY, last_full_BY, last_BY))
    )
