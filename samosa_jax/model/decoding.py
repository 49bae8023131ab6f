"""Writing one token after another, with a cache of what was read.

    weights = lay_out(network, params)
    cache = prefill(network, weights, tokens, lengths=lengths, turn_position=turns, capacity=512)
    cache = extend(network, weights, cache, more_tokens, counts=counts, turn_position=more_turns)
    logits, cache = decode(network, weights, cache, next_tokens, turn_position=turns)

Rows are independent: each has its own length, and padding behind it is overwritten before anything sees it.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.sharding import PartitionSpec
from samosa_kernels import KeyRanges, attention, causal_ranges, decode_attention

from samosa_jax.model import cache as kept
from samosa_jax.model.cache import Cache, num_places
from samosa_jax.model.gpt import GPT, Network, unstack
from samosa_jax.model.layers import Attend, attention_among, join_inputs
from samosa_jax.model.params import ParamInfo, Params, in_compute_dtype
from samosa_jax.parallel.sharding import ambient_mesh, decoding_spec, map_shards


class Weights(NamedTuple):
    """Parameters as decoding reads them best. A pytree.

    Every layer stands for itself: out of a stack XLA would copy it for each token. Where no mesh splits
    heads, the weights of queries, keys and values are one, which saves a sixth of a token's time on CPU. The
    head's columns are tokens: with one row, that product takes two thirds of the time on CPU. What is used
    in the compute dtype is in it already, so that of bfloat16 half as much has to be read.
    """

    layers: tuple[Params, ...]
    head: jax.Array  # (D, V)
    others: Params


def lay_out(network: Network, params: Params) -> Weights:
    """Weights for `decode` and the others; a copy. Jit it, so that nothing is there twice meanwhile.

    On a mesh, what training spreads over `fsdp` is gathered: one token is too little work to wait for it.
    """
    cast = jax.tree.map(_place, network.info, in_compute_dtype(params, network.info, network.compute_dtype))
    head = cast["embedding" if network.config.tie_embeddings else "head"].T
    others = {name: part for name, part in cast.items() if name not in ("blocks", "head")}
    blocks = cast["blocks"]
    mesh = ambient_mesh()
    if mesh is None or mesh.shape["tensor"] == 1:  # otherwise the heads of the three lie across devices
        blocks = {**blocks, "attention": join_inputs(blocks["attention"])}
    return Weights(layers=tuple(unstack(blocks)), head=head, others=others)


def _place(info: ParamInfo, x: jax.Array) -> jax.Array:
    mesh = ambient_mesh()
    spec = PartitionSpec() if mesh is None else decoding_spec(info, mesh)
    return x if mesh is None else lax.with_sharding_constraint(x, spec)


def prefill(
    network: Network,
    weights: Weights,
    tokens: jax.Array,
    *,
    lengths: jax.Array,
    turn_position: jax.Array,
    capacity: int,
) -> Cache:
    """Reads the beginnings of B dialogues at once.

    Args:
        tokens, turn_position: int32 (B, T); a row's tokens stand first, what follows them may be anything.
        lengths: int32 (B,), tokens of each row, 0 for none.
        capacity: S, tokens that the cache has room for, at least T.
    """
    B, T = tokens.shape
    if capacity < T:
        raise ValueError(f"capacity is {capacity}; it must be at least {T}, the tokens of a row")
    keys: list[jax.Array] = []
    values: list[jax.Array] = []
    among = attention_among(causal_ranges(B, T), impl=network.config.attention)

    def attend(q: jax.Array, k: jax.Array, v: jax.Array, window: int | None) -> jax.Array:
        places = num_places(window, capacity)
        keys.append(kept.keep(k, lengths, places))
        values.append(kept.keep(v, lengths, places))
        return among(q, k, v, window)

    position = jnp.broadcast_to(jnp.arange(T, dtype=jnp.int32), (B, T))
    model = _merge(network, weights)
    _read(model, network, weights, tokens, position=position, turn_position=turn_position, attend=attend)
    nothing = jnp.zeros((B, network.config.model_dim), network.compute_dtype)
    last = _last_embedding(model, network, tokens, lengths, before=nothing)
    return Cache(tuple(keys), tuple(values), last, lengths)


def extend(
    network: Network,
    weights: Weights,
    cache: Cache,
    tokens: jax.Array,
    *,
    counts: jax.Array,
    turn_position: jax.Array,
) -> Cache:
    """Reads the first counts (B,) of C more tokens of every row: tokens, turn_position int32 (B, C).

    No row may have more tokens afterwards than the cache has room for.
    """
    B, C = tokens.shape
    keys, values = list(cache.keys), list(cache.values)
    layers = iter(range(len(keys)))
    step = jnp.arange(C, dtype=jnp.int32)

    def attend(q: jax.Array, k: jax.Array, v: jax.Array, window: int | None) -> jax.Array:
        layer = next(layers)
        places = keys[layer].shape[2]
        # The kept tokens, oldest first, then those at hand: every query sees one range of them.
        hi = jnp.broadcast_to(places + step + 1, (B, C))
        oldest = jnp.maximum(places - cache.lengths, 0)[:, None]
        lo = jnp.broadcast_to(oldest, hi.shape) if window is None else jnp.maximum(hi - window, oldest)

        def run(q: jax.Array, *others: jax.Array) -> jax.Array:
            old_k, old_v, k, v, lo, hi, lengths = others
            all_k = jnp.concatenate([kept.in_order(old_k, lengths), k.astype(old_k.dtype)], axis=1)
            all_v = jnp.concatenate([kept.in_order(old_v, lengths), v.astype(old_v.dtype)], axis=1)
            ranges = KeyRanges(lo=lo, hi=hi)
            return attention(q, all_k, all_v, ranges, window=None, impl=network.config.attention).out

        on_shards = map_shards(
            run,
            inputs=("B T N H", "B K S H", "B K S H", "B T K H", "B T K H", "B T", "B T", "B"),
            output="B T N H",
        )
        out = on_shards(q, keys[layer], values[layer], k, v, lo, hi, cache.lengths)
        keys[layer] = kept.append(keys[layer], k, cache.lengths, counts)
        values[layer] = kept.append(values[layer], v, cache.lengths, counts)
        return out

    model = _merge(network, weights)
    _read(
        model,
        network,
        weights,
        tokens,
        position=cache.lengths[:, None] + step,
        turn_position=turn_position,
        attend=attend,
        before=cache.last_embedding,
    )
    last = _last_embedding(model, network, tokens, counts, before=cache.last_embedding)
    return Cache(tuple(keys), tuple(values), last, cache.lengths + counts)


def rewind(
    network: Network, weights: Weights, cache: Cache, *, lengths: jax.Array, last_tokens: jax.Array
) -> Cache:
    """Rows as they were after their first lengths (B,) tokens, the last of which is last_tokens (B,).

    `cache.can_go_back` says of which rows that is still known.
    """
    model = _merge(network, weights)
    last = _last_embedding(model, network, last_tokens[:, None], lengths > 0, before=cache.last_embedding)
    return cache._replace(last_embedding=last, lengths=lengths)


def decode(
    network: Network,
    weights: Weights,
    cache: Cache,
    tokens: jax.Array,
    *,
    turn_position: jax.Array,
    active: jax.Array | None = None,
) -> tuple[jax.Array, Cache]:
    """Reads one more token of every row, int32 (B,); returns the logits of the next, float32
    (B, vocab_size), and the cache.

    Rows that are not `active`, bool (B,), stay as they are, and their logits mean nothing: their token goes
    where their next one will. No row may be full (lengths == capacity).
    """
    if active is None:
        active = jnp.ones(tokens.shape, bool)
    keys, values = list(cache.keys), list(cache.values)
    layers = iter(range(len(keys)))

    def attend(q: jax.Array, k: jax.Array, v: jax.Array, window: int | None) -> jax.Array:
        del window  # no more than it holds is kept
        layer = next(layers)
        keys[layer] = kept.write(keys[layer], k, cache.lengths)
        values[layer] = kept.write(values[layer], v, cache.lengths)
        hi = jnp.minimum(cache.lengths + 1, keys[layer].shape[2])
        on_shards = map_shards(
            decode_attention, inputs=("B N H", "B K S H", "B K S H", "B", "B"), output="B N H"
        )
        return on_shards(q[:, 0], keys[layer], values[layer], jnp.zeros_like(hi), hi)[:, None]

    model = _merge(network, weights)
    hidden = _read(
        model,
        network,
        weights,
        tokens[:, None],
        position=cache.lengths[:, None],
        turn_position=turn_position[:, None],
        attend=attend,
        before=cache.last_embedding,
    )
    last = _last_embedding(model, network, tokens[:, None], active, before=cache.last_embedding)
    logits = network.cap(jnp.matmul(hidden[:, 0], weights.head, preferred_element_type=jnp.float32))
    return logits, Cache(tuple(keys), tuple(values), last, cache.lengths + active)


def _read(
    model: GPT,
    network: Network,
    weights: Weights,
    tokens: jax.Array,
    *,
    position: jax.Array,
    turn_position: jax.Array,
    attend: Attend,
    before: jax.Array | None = None,
) -> jax.Array:
    """What the head reads of tokens (B, T), as (B, T, D)."""
    return model(
        tokens,
        ranges=causal_ranges(*tokens.shape),
        position=position,
        turn_position=turn_position,
        dtype=jnp.dtype(network.compute_dtype),
        attend=attend,
        before=before,
        layers=weights.layers,
    )


def _last_embedding(
    model: GPT, network: Network, tokens: jax.Array, counts: jax.Array, *, before: jax.Array
) -> jax.Array:
    """Of the last of each row's first counts (B,) tokens (B, T); `before` (B, D) where there is none."""
    at = jnp.maximum(counts.astype(jnp.int32) - 1, 0)[:, None]
    token = jnp.take_along_axis(tokens, at, axis=1)
    embedding = model.embed(token, jnp.dtype(network.compute_dtype))[:, 0]
    return jnp.where((counts > 0)[:, None], embedding, before.astype(embedding.dtype))


def _merge(network: Network, weights: Weights) -> GPT:
    """The modules, without what `weights` holds in another form; nothing here is differentiated."""
    nowhere: Mapping[str, Any] = jax.tree.map(lambda _: jnp.zeros(()), network.info)
    model = nnx.merge(network.graph, {**nowhere, **weights.others})
    model.blocks.remat = "none"
    return model
