"""Writing one token after another: keys and values of what was read are kept, not computed again.

    hidden, cache = prefill(network, params, tokens, lengths=lengths, turn_position=turns, capacity=512)
    hidden, cache = decode(network, params, cache, next_tokens, turn_position=turns)

`network.project(params, hidden)` turns what both return into logits. Rows are independent: each has its own
length, and padding behind it is overwritten before anything sees it.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from samosa_kernels import causal_ranges, decode_attention

from samosa_jax.model.gpt import GPT, Network
from samosa_jax.model.layers import Attend, attention_among
from samosa_jax.model.params import Params
from samosa_jax.parallel.sharding import constrain, map_shards


class Cache(NamedTuple):
    """What is kept of B rows, for S tokens at most. A pytree; donate it to `decode`."""

    keys: tuple[jax.Array, ...]  # for each layer (B, K, S, H), in the compute dtype
    values: tuple[jax.Array, ...]  # likewise
    last_embedding: jax.Array  # (B, D) of the last token: what the smear of the next one reads
    lengths: jax.Array  # int32 (B,), tokens read

    @property
    def capacity(self) -> int:
        return self.keys[0].shape[2]


def prefill(
    network: Network,
    params: Params,
    tokens: jax.Array,
    *,
    lengths: jax.Array,
    turn_position: jax.Array,
    capacity: int,
) -> tuple[jax.Array, Cache]:
    """Reads the beginnings of B dialogues at once.

    Args:
        tokens, turn_position: int32 (B, T); a row's tokens stand first, what follows them may be anything.
        lengths: int32 (B,), tokens of each row, at least 1.
        capacity: S, tokens that the cache has room for, at least T.

    Returns:
        What the head reads at the last token of each row (B, D), and the cache.
    """
    B, T = tokens.shape
    if capacity < T:
        raise ValueError(f"capacity is {capacity}; it must be at least {T}, the tokens of a row")
    model = _merged(network, params)
    keys: list[jax.Array] = []
    values: list[jax.Array] = []
    among = attention_among(causal_ranges(B, T), impl=network.config.attention)

    def attend(q: jax.Array, k: jax.Array, v: jax.Array, window: int | None) -> jax.Array:
        keys.append(_to_cache(k, capacity))
        values.append(_to_cache(v, capacity))
        return among(q, k, v, window)

    dtype = jnp.dtype(network.compute_dtype)
    position = jnp.broadcast_to(jnp.arange(T, dtype=jnp.int32), (B, T))
    hidden = model(
        tokens,
        ranges=causal_ranges(B, T),
        position=position,
        turn_position=turn_position,
        dtype=dtype,
        attend=attend,
    )
    last = (lengths - 1)[:, None]
    last_tokens = jnp.take_along_axis(tokens, last, axis=1)
    cache = Cache(tuple(keys), tuple(values), model.embed(last_tokens, dtype)[:, 0], lengths)
    return jnp.take_along_axis(hidden, last[..., None], axis=1)[:, 0], cache


def decode(
    network: Network, params: Params, cache: Cache, tokens: jax.Array, *, turn_position: jax.Array
) -> tuple[jax.Array, Cache]:
    """Reads one more token of every row, int32 (B,); returns what the head reads (B, D), and the cache.

    A row that is full (lengths == capacity) overwrites its last place: the caller stops before.
    """
    model = _merged(network, params)
    at = jnp.minimum(cache.lengths, cache.capacity - 1)
    keys, values = list(cache.keys), list(cache.values)
    dtype = jnp.dtype(network.compute_dtype)
    hidden = model(
        tokens[:, None],
        ranges=causal_ranges(len(tokens), 1),
        position=cache.lengths[:, None],
        turn_position=turn_position[:, None],
        dtype=dtype,
        attend=_attend_to_cache(keys, values, at),
        before=cache.last_embedding,
    )
    embedding = model.embed(tokens[:, None], dtype)[:, 0]
    return hidden[:, 0], Cache(tuple(keys), tuple(values), embedding, cache.lengths + 1)


def _attend_to_cache(keys: list[jax.Array], values: list[jax.Array], at: jax.Array) -> Attend:
    """Attention of one query per row; its key and value go to place `at` (B,) of the layer's cache first."""
    layers = iter(range(len(keys)))

    def attend(q: jax.Array, k: jax.Array, v: jax.Array, window: int | None) -> jax.Array:
        layer = next(layers)
        keys[layer] = _write(keys[layer], k, at)
        values[layer] = _write(values[layer], v, at)
        hi = at + 1
        lo = jnp.zeros_like(hi) if window is None else jnp.maximum(hi - window, 0)
        on_shards = map_shards(
            functools.partial(decode_attention, impl="auto"),
            inputs=("B N H", "B K S H", "B K S H", "B", "B"),
            output="B N H",
        )
        return on_shards(q[:, 0], keys[layer], values[layer], lo, hi)[:, None]

    return attend


def _to_cache(x_BTKH: jax.Array, capacity: int) -> jax.Array:
    """(B, K, S, H), zeros behind the T tokens."""
    heads_first = x_BTKH.swapaxes(1, 2)
    room = ((0, 0), (0, 0), (0, capacity - heads_first.shape[2]), (0, 0))
    return constrain(jnp.pad(heads_first, room), "B K S H")


def _write(cache_BKSH: jax.Array, x_B1KH: jax.Array, at: jax.Array) -> jax.Array:
    def write_row(row_KSH: jax.Array, x_1KH: jax.Array, place: jax.Array) -> jax.Array:
        return lax.dynamic_update_slice(row_KSH, x_1KH.swapaxes(0, 1), (0, place, 0))

    return jax.vmap(write_row)(cache_BKSH, x_B1KH.astype(cache_BKSH.dtype), at)


def _merged(network: Network, params: Params) -> GPT:
    """The modules without rematerialisation: nothing here is differentiated."""
    model = nnx.merge(network.graph, params)
    model.blocks.remat = "none"
    return model
