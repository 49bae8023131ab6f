"""The layers: attention, feed-forward, value embeddings, smear, and the block that joins them.

Modules hold their weights stacked over layers; `nnx.split` and `nnx.merge` make single layers of a stack, and
it is a single layer whose methods compute. Activations are (B, T, D) in the compute dtype; weights are cast
to it where they are used, norms and rotations happen in float32.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from samosa_kernels import KeyRanges, attention
from samosa_kernels.float8 import SCALE_NAME

from samosa_jax.config import SMEAR_GATE_CHANNELS, VALUE_GATE_CHANNELS, ModelConfig
from samosa_jax.model.params import Initializers, Params, weight
from samosa_jax.model.rope import Rotation, rotate
from samosa_jax.parallel.sharding import constrain, map_shards

Sizes = Mapping[str, int]  # of the dimension letters


# The product of matrices (M, K) and (K, N) of one dtype -> (M, N).
Product = Callable[[jax.Array, jax.Array], jax.Array]

# Attention of queries (B, T, N, H) over keys and values (B, T, K, H) with a layer's window -> (B, T, N, H).
Attend = Callable[[jax.Array, jax.Array, jax.Array, int | None], jax.Array]


class LayerInputs(NamedTuple):
    """What every layer reads beside the residual stream."""

    x0: jax.Array  # (B, T, D), the first residual
    rotation: Rotation
    ranges: KeyRanges
    attend: Attend | None = None  # instead of attention among the tokens at hand; called by layer after layer
    product: Product = jnp.matmul  # of activations and the matrices of attention and MLP


def linear(x: jax.Array, weight: jax.Array, *, product: Product = jnp.matmul) -> jax.Array:
    """x (B, T, *in) times weight (*in, *out), cast to x's dtype -> (B, T, *out).

    As one product of two matrices: with three dimensions, XLA for CPU takes twice as long for the gradient
    of the weight, and one more copy.
    """
    fan_in = math.prod(x.shape[2:])
    out_shape = weight.shape[x.ndim - 2 :]
    rows = product(x.reshape(-1, fan_in), weight.astype(x.dtype).reshape(fan_in, -1))
    return rows.reshape(*x.shape[:2], *out_shape)


def look_up(table: jax.Array, tokens: jax.Array, *, axis: int) -> jax.Array:
    """The rows of `table` along `axis`, 0 or 1, that `tokens` (B, T) name; B and T stand in the place of V.

    The gradient is summed in float32 whatever the table's dtype, and rounded once: added up in bfloat16, a
    token that comes often would lose all but its first few hundred occurrences.
    """
    return _look_up(table, tokens, axis)


def _rows(table: jax.Array, tokens: jax.Array, axis: int) -> jax.Array:
    return table.at[(slice(None),) * axis + (tokens,)].get(mode="clip")


def _look_up_forward(
    table: jax.Array, tokens: jax.Array, axis: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _rows(table, tokens, axis), (table, tokens)


def _look_up_backward(
    axis: int, kept: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, None]:
    table, tokens = kept
    like = jax.ShapeDtypeStruct(table.shape, jnp.float32)
    scatter = jax.linear_transpose(lambda table: _rows(table, tokens, axis), like)
    return scatter(gradient.astype(jnp.float32))[0].astype(table.dtype), None


_look_up = jax.custom_vjp(_rows, nondiff_argnums=(2,))
_look_up.defvjp(_look_up_forward, _look_up_backward)


def rms_norm(x: jax.Array, scale: jax.Array | None = None, *, eps: float) -> jax.Array:
    """RMSNorm over the last dimension (Zhang and Sennrich 2019, arXiv:1910.07467), in float32."""
    x32 = x.astype(jnp.float32)
    normed = x32 * jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + eps)
    return (normed if scale is None else normed * scale).astype(x.dtype)


class Norm(nnx.Module):
    """RMSNorm over D; its scale, if it has one, of dimensions `dims`."""

    def __init__(self, config: ModelConfig, dims: str, *, sizes: Sizes, init: Initializers) -> None:
        self.eps = config.norm_eps
        self.scale = weight(dims, sizes=sizes, group="scalar", init=init.norm) if config.norm_scale else None

    def __call__(self, x: jax.Array) -> jax.Array:
        return rms_norm(x, None if self.scale is None else self.scale[...], eps=self.eps)


class Attention(nnx.Module):
    """Grouped-query attention (Ainslie et al. 2023, arXiv:2305.13245) over key ranges, with rotary positions.

    With qk_norm, queries and keys are normed over H (Henry et al. 2020, arXiv:2010.04245) before the
    rotation, as in Qwen3; without a scale the order makes no difference.
    """

    def __init__(self, config: ModelConfig, *, sizes: Sizes, init: Initializers) -> None:
        self.config = config
        make = functools.partial(weight, sizes=sizes, group="matrix")
        self.query = make("L D -> N H", init=init.attention_in)
        self.key = make("L D -> K H", init=init.attention_in)
        self.value = make("L D -> K H", init=init.attention_in)
        self.output = make("L N H -> D", init=init.attention_out)
        scale = functools.partial(weight, "L H", sizes=sizes, group="scalar", init=init.norm)
        self.query_scale = scale() if config.qk_norm_scale else None
        self.key_scale = scale() if config.qk_norm_scale else None

    def __call__(
        self, x: jax.Array, *, inputs: LayerInputs, window: int | None, added_value: jax.Array | None
    ) -> jax.Array:
        """x (B, T, D) -> (B, T, D); `added_value` (B, T, K, H) joins the values."""
        q, k, v = self._project(x, product=inputs.product)
        q = self._norm_and_rotate(q, self.query_scale, inputs.rotation)
        k = self._norm_and_rotate(k, self.key_scale, inputs.rotation)
        if added_value is not None:
            v = v + added_value
        attend = inputs.attend or attention_among(inputs.ranges, impl=self.config.attention)
        out = attend(q, k, v, window)
        return constrain(linear(out, self.output[...], product=inputs.product), "B T D")

    def _project(self, x: jax.Array, *, product: Product) -> list[jax.Array]:
        """Queries, keys and values; by one product if their weights were joined (`join_inputs`)."""
        N, K = self.config.num_heads, self.config.num_kv_heads
        if self.query.shape[-2] == N + 2 * K:
            return jnp.split(linear(x, self.query[...], product=product), [N, N + K], axis=2)
        return [linear(x, weight[...], product=product) for weight in (self.query, self.key, self.value)]

    def _norm_and_rotate(
        self, x: jax.Array, scale: nnx.Param[jax.Array] | None, rotation: Rotation
    ) -> jax.Array:
        normed = x.astype(jnp.float32)
        if self.config.qk_norm:
            normed = rms_norm(normed, None if scale is None else scale[...], eps=self.config.norm_eps)
            normed *= self.config.qk_gain
        return rotate(normed, rotation).astype(x.dtype)


def join_inputs(attention: Params) -> Params:
    """The weights of an attention with those of queries, keys and values as one, in the place of the first.

    XLA for CPU gives a product of one row and a small matrix to a single core.
    """
    query, key, value = (attention[name] for name in ("query", "key", "value"))
    joined = jnp.concatenate([query, key, value], axis=-2)
    return {**attention, "query": joined, "key": key[..., :0, :], "value": value[..., :0, :]}


def attention_among(ranges: KeyRanges, *, impl: str) -> Attend:
    """Attention of tokens over each other, every device on its own rows and heads."""

    def attend(q: jax.Array, k: jax.Array, v: jax.Array, window: int | None) -> jax.Array:
        on_shards = map_shards(
            functools.partial(_attend, window=window, impl=impl),
            inputs=("B T N H", "B T K H", "B T K H", "B T", "B T"),
            output="B T N H",
        )
        return on_shards(q, k, v, ranges.lo, ranges.hi)

    return attend


def _attend(
    q: jax.Array, k: jax.Array, v: jax.Array, lo: jax.Array, hi: jax.Array, *, window: int | None, impl: str
) -> jax.Array:
    return attention(q, k, v, KeyRanges(lo=lo, hi=hi), window=window, impl=impl).out


class FeedForward(nnx.Module):
    """SwiGLU (Shazeer 2020, arXiv:2002.05202) or ReLU squared (So et al. 2021, arXiv:2109.08668)."""

    def __init__(self, config: ModelConfig, *, sizes: Sizes, init: Initializers) -> None:
        make = functools.partial(weight, sizes=sizes, group="matrix")
        self.gate = make("L D -> F", init=init.mlp_in) if config.mlp == "swiglu" else None
        self.up = make("L D -> F", init=init.mlp_in)
        self.down = make("L F -> D", init=init.mlp_out)

    def __call__(self, x: jax.Array, *, product: Product) -> jax.Array:
        up = linear(x, self.up[...], product=product)
        if self.gate is None:
            hidden = jnp.square(jax.nn.relu(up))
        else:
            hidden = jax.nn.silu(linear(x, self.gate[...], product=product)) * up
        return constrain(linear(constrain(hidden, "B T F"), self.down[...], product=product), "B T D")


class ValueEmbeddings(nnx.Module):
    """Per-token values of some layers, gated per key head (after Zhou et al. 2024, arXiv:2410.17897)."""

    def __init__(self, *, sizes: Sizes, init: Initializers) -> None:
        self.table = weight("L V -> K H", sizes=sizes, group="value_embedding", init=init.value_embedding)
        self.gate = weight(f"L {VALUE_GATE_CHANNELS} -> K", sizes=sizes, group="scalar", init=init.gate)

    def look_up(self, tokens: jax.Array, dtype: jnp.dtype) -> jax.Array:
        """(L, B, T, K, H) for all of its layers by one gather, whose gradient is one scatter."""
        table = constrain(self.table[...], "L rows K H")  # as in GPT.embed
        values = look_up(table, tokens, axis=1).astype(dtype)
        return constrain(values, "L B T K H")


class ValueEmbedding(NamedTuple):
    """What one layer adds to its values."""

    gate: jax.Array  # (channels, K)
    values: jax.Array  # (B, T, K, H)

    def gated(self, x: jax.Array) -> jax.Array:
        """Opened between 0 and 3 by the first channels of the layer's normed input (B, T, D)."""
        logits = x[..., : self.gate.shape[0]] @ self.gate.astype(x.dtype)
        opening = 3 * jax.nn.sigmoid(logits.astype(jnp.float32))
        return self.values * opening.astype(x.dtype)[..., None]


class Smear(nnx.Module):
    """Adds a gated share of the previous token's embedding, if that belongs to the same document.

    `before` (B, D) is the embedding before the first token at hand, where that does not begin a document.
    """

    def __init__(self, *, sizes: Sizes, init: Initializers) -> None:
        self.gate = weight(f"{SMEAR_GATE_CHANNELS} ->", sizes=sizes, group="scalar", init=init.gate)
        self.scale = weight("", sizes=sizes, group="scalar", init=init.smear)

    def __call__(self, x: jax.Array, position: jax.Array, before: jax.Array | None = None) -> jax.Array:
        logits = x[..., : self.gate.shape[0]] @ self.gate[...].astype(x.dtype)
        share = self.scale[...] * jax.nn.sigmoid(logits.astype(jnp.float32))
        share = jnp.where(position > 0, share, 0.0).astype(x.dtype)
        first = jnp.zeros_like(x[:, 0]) if before is None else before.astype(x.dtype)
        previous = jnp.concatenate([first[:, None], x[:, :-1]], axis=1)
        return x + share[..., None] * previous


class Block(nnx.Module):
    """One layer: attention and feed-forward, each on the normed residual stream and added to it."""

    def __init__(self, config: ModelConfig, *, sizes: Sizes, init: Initializers) -> None:
        self.remat = config.remat
        self.attention_norm = Norm(config, "L D", sizes=sizes, init=init)
        self.attention = Attention(config, sizes=sizes, init=init)
        self.mlp_norm = Norm(config, "L D", sizes=sizes, init=init)
        self.mlp = FeedForward(config, sizes=sizes, init=init)
        scalar = functools.partial(weight, "L", sizes=sizes)
        self.residual_scale = (
            scalar(group="residual", init=init.residual) if config.residual_scalars else None
        )
        self.x0_scale = scalar(group="scalar", init=init.x0) if config.x0_scalars else None

    def __call__(
        self,
        x: jax.Array,
        *,
        inputs: LayerInputs,
        window: int | None,
        value_embedding: ValueEmbedding | None,
    ) -> jax.Array:
        def layer(x: jax.Array) -> jax.Array:
            x = self._blend(x, inputs.x0)
            x = x + recompute(attend, self.remat == "attention")(x)
            return x + recompute(feed_forward, self.remat == "mlp")(x)

        def attend(x: jax.Array) -> jax.Array:
            normed = self.attention_norm(x)
            added = None if value_embedding is None else value_embedding.gated(normed)
            return self.attention(normed, inputs=inputs, window=window, added_value=added)

        def feed_forward(x: jax.Array) -> jax.Array:
            return self.mlp(self.mlp_norm(x), product=inputs.product)

        return recompute(layer, self.remat == "full")(x)

    def _blend(self, x: jax.Array, x0: jax.Array) -> jax.Array:
        if self.residual_scale is None and self.x0_scale is None:
            return x
        blended = x.astype(jnp.float32)
        if self.residual_scale is not None:
            blended = self.residual_scale[...] * blended
        if self.x0_scale is not None:
            blended = blended + self.x0_scale[...] * x0.astype(jnp.float32)
        return blended.astype(x.dtype)


def recompute(function: Callable[[jax.Array], jax.Array], when: bool) -> Callable[[jax.Array], jax.Array]:
    """With `when`, keeps nothing of `function` for the backward but what attention returned and scales.

    XLA for CPU sees that unrolled layers compute the same thing twice, and keeps it after all: there it takes
    unroll_layers=False to save memory.
    """
    if not when:
        return function
    kept = jax.checkpoint_policies.save_only_these_names("attn_out", "attn_lse", SCALE_NAME)
    return jax.checkpoint(function, policy=kept)
