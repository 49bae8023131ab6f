"""Keys and values of what was read, kept so that they are not computed again.

A layer that sees all keys keeps each token in the place of its position. One that sees a window keeps as many
tokens as the window holds, token p in place p modulo that number: a ring, in which the newest token takes
the place of the one that has just left the window.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from samosa_jax.config import ModelConfig
from samosa_jax.parallel.sharding import constrain


class Cache(NamedTuple):
    """What is kept of B rows, for S tokens at most. A pytree; donate it to what returns the next one."""

    keys: tuple[jax.Array, ...]  # for each layer (B, K, places, H), in the compute dtype
    values: tuple[jax.Array, ...]  # likewise
    last_embedding: jax.Array  # (B, D) of the last token: what the smear of the next one reads
    lengths: jax.Array  # int32 (B,), tokens read

    @property
    def capacity(self) -> int:
        return self.keys[-1].shape[2]  # the last layer sees all

    @property
    def num_rows(self) -> int:
        return self.keys[0].shape[0]


def num_places(window: int | None, capacity: int) -> int:
    """Tokens that a layer keeps."""
    return capacity if window is None else min(window, capacity)


def empty_cache(config: ModelConfig, *, num_rows: int, capacity: int, dtype: jnp.dtype) -> Cache:
    """Room for rows of which nothing was read."""
    shape = (num_rows, config.num_kv_heads, 0, config.head_dim)
    places = [num_places(window, capacity) for window in config.layer_windows]
    layers = [constrain(jnp.zeros((*shape[:2], number, shape[3]), dtype), "B K S H") for number in places]
    return Cache(
        keys=tuple(layers),
        values=tuple(jnp.zeros_like(layer) for layer in layers),
        last_embedding=constrain(jnp.zeros((num_rows, config.model_dim), dtype), "B D"),
        lengths=jnp.zeros(num_rows, jnp.int32),
    )


def cache_bytes(config: ModelConfig, *, num_rows: int, capacity: int, dtype: jnp.dtype) -> int:
    """Bytes of such a cache, on all devices together."""
    places = sum(num_places(window, capacity) for window in config.layer_windows)
    numbers = 2 * places * config.num_kv_heads * config.head_dim + config.model_dim
    return num_rows * (numbers * jnp.dtype(dtype).itemsize + 4)


def keep(x_BTKH: jax.Array, lengths: jax.Array, places: int) -> jax.Array:
    """What a layer keeps, (B, K, places, H), of rows whose first lengths (B,) tokens were read."""
    heads_first = x_BTKH.swapaxes(1, 2)
    T = heads_first.shape[2]
    if places < T:
        heads_first = _take(heads_first, _newest(lengths, places))
    room = ((0, 0), (0, 0), (0, max(0, places - T)), (0, 0))
    return constrain(jnp.pad(heads_first, room), "B K S H")


def write(kept_BKSH: jax.Array, x_B1KH: jax.Array, lengths: jax.Array) -> jax.Array:
    """With one more token in every row, in a place that no query from position lengths (B,) on needs."""
    B, K, S, _ = kept_BKSH.shape
    # Head by head: as one slice of a single row, XLA for CPU would copy the cache four times.
    row, head = jnp.arange(B)[:, None], jnp.arange(K)
    x_BKH = x_B1KH[:, 0].astype(kept_BKSH.dtype)
    return kept_BKSH.at[row, head, (lengths % S)[:, None]].set(x_BKH, mode="promise_in_bounds")


def append(kept_BKSH: jax.Array, x_BCKH: jax.Array, lengths: jax.Array, counts: jax.Array) -> jax.Array:
    """With the first counts (B,) of C more tokens in every row."""
    places, C = kept_BKSH.shape[2], x_BCKH.shape[1]
    from_chunk = _newest(lengths + counts, places) - lengths[:, None]  # (B, S), negative: kept
    chunk = _take(x_BCKH.swapaxes(1, 2).astype(kept_BKSH.dtype), jnp.clip(from_chunk, 0, C - 1))
    return jnp.where((from_chunk >= 0)[:, None, :, None], chunk, kept_BKSH)


def in_order(kept_BKSH: jax.Array, lengths: jax.Array) -> jax.Array:
    """(B, places, K, H), oldest first: the last of them is the token before position lengths (B,)."""
    places = kept_BKSH.shape[2]
    order = (lengths[:, None] + jnp.arange(places)) % places
    return _take(kept_BKSH, order).swapaxes(1, 2)


def resize(cache: Cache, config: ModelConfig, capacity: int) -> Cache:
    """The same rows with room for more tokens, or for fewer, but at least as many as any row has.

    No ring has come round before it has its full size, so its tokens stand in the order of their positions.
    """

    def fit(kept_BKSH: jax.Array, window: int | None) -> jax.Array:
        places = num_places(window, capacity)
        more = max(0, places - kept_BKSH.shape[2])
        padded = jnp.pad(kept_BKSH, ((0, 0), (0, 0), (0, more), (0, 0)))
        return constrain(padded[:, :, :places], "B K S H")

    windows = config.layer_windows
    return cache._replace(
        keys=tuple(fit(kept, window) for kept, window in zip(cache.keys, windows, strict=True)),
        values=tuple(fit(kept, window) for kept, window in zip(cache.values, windows, strict=True)),
    )


def take_rows(cache: Cache, rows: jax.Array) -> Cache:
    """A cache of some rows, int32 (rows,), in their order; a row may be taken several times."""

    def take(x: jax.Array) -> jax.Array:
        taken = x.at[rows].get(mode="clip")
        return constrain(taken, "B K S H" if x.ndim == 4 else "B D") if x.ndim > 1 else taken

    return jax.tree.map(take, cache)


def place_row(cache: Cache, single: Cache, *, rows: jax.Array, count: jax.Array) -> Cache:
    """`cache` with the first `count` of `rows` replaced by the only row of a cache of the same capacity.

    One after another, because a scatter would also rewrite what the rest of `rows` stands for.
    """

    def place(i: jax.Array, cache: Cache) -> Cache:
        return jax.tree.map(
            lambda x, y: lax.dynamic_update_slice_in_dim(x, y, rows[i], axis=0), cache, single
        )

    return lax.fori_loop(0, count, place, cache)


def can_go_back(config: ModelConfig, *, length: int, to: int, capacity: int) -> bool:
    """Whether a row of `length` tokens still holds all that token `to` sees."""
    rings = [window for window in config.layer_windows if window is not None and window < capacity]
    return to >= length - 1 or all(length <= window for window in rings)


def _newest(lengths: jax.Array, places: int) -> jax.Array:
    """Of every place (B, places) the newest position that it keeps; negative where none was read."""
    place = jnp.arange(places, dtype=jnp.int32)
    last = (lengths - 1)[:, None]
    return last - (last - place) % places


def _take(x_BKSH: jax.Array, index_BS: jax.Array) -> jax.Array:
    return jnp.take_along_axis(x_BKSH, index_BS[:, None, :, None], axis=2, mode="clip")
