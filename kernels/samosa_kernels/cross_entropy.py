"""Softmax cross-entropy of a linear head, a chunk of tokens at a time, so that not all logits exist at once.

The gradients are made in the forward pass, while the logits of a chunk are at hand (Liger Kernel,
arXiv:2410.10989): three matrix products in all, against four if the backward recomputed the logits, and a
backward that only scales by its scalar cotangent. Nothing of size tokens x V is kept between chunks, which is
the end that Cut Cross-Entropy (arXiv:2411.09009) reaches by recomputing.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from samosa_kernels.products import product_float32
from samosa_kernels.varying import varying_like


class CrossEntropy(NamedTuple):
    """Sums over tokens, float32 scalars."""

    total: jax.Array  # sum of weight * (nll + z_loss * logsumexp^2): the one to differentiate
    nll: jax.Array  # sum of weight * nll, for reading: no gradient flows through it


class _Options(NamedTuple):
    """What is static: hashable, so that custom_vjp can take it as a non-differentiated argument."""

    vocab_size: int
    soft_cap: float | None
    z_loss: float
    chunk_tokens: int


def softmax_cross_entropy(
    hidden: jax.Array,
    head_VD: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
    *,
    vocab_size: int,
    soft_cap: float | None,
    z_loss: float,
    chunk_tokens: int,
) -> CrossEntropy:
    """Weighted sums of -log softmax(cap * tanh(hidden @ head^T / cap))[target] over vocab_size columns.

    hidden is (..., D), targets (integers) and weights have its leading shape. The logits are computed in the
    dtype of hidden with float32 accumulation; softmax, loss and the head's gradient are float32. A token of
    weight 0 contributes exactly 0 to values and gradients, whatever its hidden and target are; elsewhere a
    target outside 0..vocab_size-1 makes the loss infinite rather than quietly wrong. Gradients flow to hidden
    and head_VD, from `total` only; without differentiation none are computed.

    At most chunk_tokens rows of logits exist at the same time; chunks are of equal size, at most one padding
    row each. Knows no mesh: inside jax.shard_map it works on the rows of its device, and so do its sums.
    Raises ValueError on shapes that do not fit together.
    """
    *leading, D = hidden.shape
    V = head_VD.shape[0]
    if head_VD.shape != (V, D) or targets.shape != tuple(leading) or weights.shape != tuple(leading):
        raise ValueError(
            f"hidden {hidden.shape}, head_VD {head_VD.shape}, targets {targets.shape} and weights "
            f"{weights.shape} do not fit: expected (..., D), (V, D), (...) and (...)"
        )
    if not 1 <= vocab_size <= V:
        raise ValueError(f"vocab_size is {vocab_size}; it must lie in 1..{V}, the rows of head_VD")
    if chunk_tokens < 1:
        raise ValueError(f"chunk_tokens is {chunk_tokens}; it must be at least 1")
    weights_N = weights.reshape(-1).astype(jnp.float32)
    counts_N = weights_N != 0
    # Out-of-range targets become V, which no column matches; so do those of rows that do not count.
    targets_N = targets.reshape(-1)
    in_range = (targets_N >= 0) & (targets_N < vocab_size)
    targets_N = jnp.where(in_range, targets_N, V).astype(jnp.int32)
    # A hidden of a row that does not count may be anything, even NaN, which 0 * NaN would spread.
    hidden_ND = jnp.where(counts_N[:, None], hidden.reshape(-1, D), 0)
    total, nll = _cross_entropy(
        hidden_ND,
        varying_like(head_VD, hidden_ND),
        varying_like(targets_N, hidden_ND),
        varying_like(weights_N, hidden_ND),
        _Options(vocab_size, soft_cap, z_loss, chunk_tokens),
    )
    return CrossEntropy(total=total, nll=lax.stop_gradient(nll))


def _logits_and_losses(
    hidden_CD: jax.Array, head_VD: jax.Array, targets_C: jax.Array, weights_C: jax.Array, options: _Options
) -> tuple[jax.Array, jax.Array, CrossEntropy]:
    """Capped logits (C, V), their log-sum-exp (C,), and the chunk's sums."""
    V = head_VD.shape[0]
    logits_CV = product_float32(hidden_CD, head_VD, contract=(1, 1))
    if options.soft_cap is not None:
        logits_CV = options.soft_cap * jnp.tanh(logits_CV * (1 / options.soft_cap))
    if options.vocab_size < V:
        logits_CV = jnp.where(jnp.arange(V) < options.vocab_size, logits_CV, -jnp.inf)
    lse_C = jax.nn.logsumexp(logits_CV, axis=-1)
    # Computed anew rather than read from logits_CV, which the gradient then overwrites in place.
    target_head_CD = head_VD.at[targets_C].get(mode="fill", fill_value=0).astype(jnp.float32)
    target_logit_C = jnp.sum(hidden_CD.astype(jnp.float32) * target_head_CD, axis=-1)
    if options.soft_cap is not None:
        target_logit_C = options.soft_cap * jnp.tanh(target_logit_C * (1 / options.soft_cap))
    target_logit_C = jnp.where(targets_C < options.vocab_size, target_logit_C, -jnp.inf)
    nll = jnp.sum(jnp.where(weights_C != 0, weights_C * (lse_C - target_logit_C), 0.0))
    total = nll + options.z_loss * jnp.sum(weights_C * lse_C**2)
    return logits_CV, lse_C, CrossEntropy(total=total, nll=nll)


def _chunk_gradients(
    hidden_CD: jax.Array, head_VD: jax.Array, targets_C: jax.Array, weights_C: jax.Array, options: _Options
) -> tuple[CrossEntropy, jax.Array, jax.Array]:
    """The chunk's sums, the gradient of its total in hidden (C, D), and in the transposed head (D, V)."""
    logits_CV, lse_C, sums = _logits_and_losses(hidden_CD, head_VD, targets_C, weights_C, options)
    probs_CV = jnp.exp(logits_CV - lse_C[:, None])
    if options.z_loss:
        probs_CV *= (1 + 2 * options.z_loss * lse_C)[:, None]
    # A comparison fuses into the pass over the logits; a scatter would cost a copy of them.
    dlogits_CV = probs_CV - (jnp.arange(head_VD.shape[0]) == targets_C[:, None])
    if options.soft_cap is not None:
        slope_CV = 1 - (logits_CV * (1 / options.soft_cap)) ** 2
        dlogits_CV *= jnp.where(jnp.isfinite(slope_CV), slope_CV, 0.0)  # padding columns are at -inf
    dlogits_CV = (dlogits_CV * weights_C[:, None]).astype(hidden_CD.dtype)
    dhidden_CD = product_float32(dlogits_CV, head_VD, contract=(1, 0))
    # (D, V), because a matrix product that walks down the columns of dlogits is much slower on CPU.
    dhead_DV = product_float32(hidden_CD, dlogits_CV, contract=(0, 0))
    return sums, dhidden_CD.astype(hidden_CD.dtype), dhead_DV


def _in_chunks(array: jax.Array, chunk_tokens: int) -> jax.Array:
    """(N, ...) -> (chunks, C, ...) with C <= chunk_tokens as even as can be, padded with zeros at the end."""
    num_tokens = array.shape[0]
    num_chunks = max(1, -(-num_tokens // chunk_tokens))
    chunk = -(-num_tokens // num_chunks)
    padding = [(0, num_chunks * chunk - num_tokens)] + [(0, 0)] * (array.ndim - 1)
    return jnp.pad(array, padding).reshape(num_chunks, chunk, *array.shape[1:])


def _sums_without_gradients(
    hidden_ND: jax.Array, head_VD: jax.Array, targets_N: jax.Array, weights_N: jax.Array, options: _Options
) -> CrossEntropy:
    head_VD = head_VD.astype(hidden_ND.dtype)
    chunks = tuple(_in_chunks(array, options.chunk_tokens) for array in (hidden_ND, targets_N, weights_N))

    def chunk_sums(chunk):
        hidden_CD, targets_C, weights_C = chunk
        return _logits_and_losses(hidden_CD, head_VD, targets_C, weights_C, options)[2]

    return jax.tree.map(jnp.sum, lax.map(chunk_sums, chunks))


def _cross_entropy_forward(
    hidden_ND: jax.Array, head_VD: jax.Array, targets_N: jax.Array, weights_N: jax.Array, options: _Options
) -> tuple[CrossEntropy, tuple[jax.Array, jax.Array]]:
    compute_head_VD = head_VD.astype(hidden_ND.dtype)

    def add_chunk(dhead_DV, chunk):
        hidden_CD, targets_C, weights_C = chunk
        sums, dhidden_CD, chunk_dhead_DV = _chunk_gradients(
            hidden_CD, compute_head_VD, targets_C, weights_C, options
        )
        return dhead_DV + chunk_dhead_DV, (sums, dhidden_CD)

    chunks = tuple(_in_chunks(array, options.chunk_tokens) for array in (hidden_ND, targets_N, weights_N))
    no_gradient_DV = varying_like(jnp.zeros(head_VD.T.shape, jnp.float32), head_VD)
    dhead_DV, (sums, dhidden_XCD) = lax.scan(add_chunk, no_gradient_DV, chunks)
    dhidden_ND = dhidden_XCD.reshape(-1, hidden_ND.shape[1])[: hidden_ND.shape[0]]
    return jax.tree.map(jnp.sum, sums), (dhidden_ND, dhead_DV.T.astype(head_VD.dtype))


def _cross_entropy_backward(
    options: _Options, gradients: tuple[jax.Array, jax.Array], cotangents: CrossEntropy
) -> tuple[jax.Array, jax.Array, None, None]:
    scale = cotangents.total
    dhidden_ND, dhead_VD = ((gradient * scale).astype(gradient.dtype) for gradient in gradients)
    return dhidden_ND, dhead_VD, None, None


_cross_entropy = jax.custom_vjp(_sums_without_gradients, nondiff_argnums=(4,))
_cross_entropy.defvjp(_cross_entropy_forward, _cross_entropy_backward)
