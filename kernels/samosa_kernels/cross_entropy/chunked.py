"""Cross-entropy a chunk of tokens at a time, so that not all logits exist at once.

The gradients are made in the forward pass, while the logits of a chunk are at hand (Liger Kernel,
arXiv:2410.10989): three matrix products in all, against four if the backward recomputed the logits, and a
backward that only scales by its scalar cotangent. Nothing of size tokens x V is kept between chunks, which is
the end that Cut Cross-Entropy (arXiv:2411.09009) reaches by recomputing.

The passes over a chunk's logits are written so that XLA keeps one buffer of them, which the gradient at last
overwrites. It copies a cheap operation on a buffer (a mask, the cap's factor) into every reader, and its
library of reductions on CPUs, which reads arrays alone, then makes it an array of its own beside the buffer.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from samosa_kernels.products import product_float32
from samosa_kernels.varying import varying_like


class Losses(NamedTuple):
    """Of the tokens of a chunk, or of all."""

    total: jax.Array  # sum with the z-loss
    nll: jax.Array  # sum without
    token_nll: jax.Array  # of every token by itself, without its weight; 0 where that is 0


class _Options(NamedTuple):
    """What is static: hashable, so that custom_vjp can take it as a non-differentiated argument."""

    vocab_size: int
    soft_cap: float | None
    z_loss: float
    chunk_tokens: int


def cross_entropy_chunked(
    hidden_ND: jax.Array,
    head_VD: jax.Array,
    targets_N: jax.Array,
    weights_N: jax.Array,
    *,
    vocab_size: int,
    soft_cap: float | None,
    z_loss: float,
    chunk_tokens: int,
) -> Losses:
    """The losses of softmax_cross_entropy for N tokens in a row; gradients flow from total only."""
    weights_N = weights_N.astype(jnp.float32)
    # Out-of-range targets become V, which no column matches; so do those of rows that do not count.
    in_range = (targets_N >= 0) & (targets_N < vocab_size)
    targets_N = jnp.where(in_range, targets_N, head_VD.shape[0]).astype(jnp.int32)
    # A hidden of a row that does not count may be anything, even NaN, which 0 * NaN would spread.
    hidden_ND = jnp.where((weights_N != 0)[:, None], hidden_ND, 0)
    return _cross_entropy(
        hidden_ND,
        varying_like(head_VD, hidden_ND),
        varying_like(targets_N, hidden_ND),
        varying_like(weights_N, hidden_ND),
        _Options(vocab_size, soft_cap, z_loss, chunk_tokens),
    )


def _logits_and_losses(
    hidden_CD: jax.Array, head_VD: jax.Array, targets_C: jax.Array, weights_C: jax.Array, options: _Options
) -> tuple[jax.Array, jax.Array, Losses]:
    """Logits (C, V) in units of the cap, if there is one, their log-sum-exp (C,), and the chunk's losses."""
    V, cap = head_VD.shape[0], options.soft_cap
    logits_CV = product_float32(hidden_CD, head_VD, contract=(1, 1))
    if cap is not None:
        logits_CV = jnp.tanh(logits_CV * (1 / cap))
    if options.vocab_size < V:
        nothing = jnp.full((logits_CV.shape[0], V - options.vocab_size), -jnp.inf)
        logits_CV = lax.dynamic_update_slice(logits_CV, nothing, (0, options.vocab_size))
    lse_C = _logsumexp(logits_CV, cap)
    # Computed anew rather than read from logits_CV, which the gradient then overwrites in place.
    target_head_CD = head_VD.at[targets_C].get(mode="fill", fill_value=0).astype(jnp.float32)
    target_logit_C = jnp.sum(hidden_CD.astype(jnp.float32) * target_head_CD, axis=-1)
    if cap is not None:
        target_logit_C = cap * jnp.tanh(target_logit_C * (1 / cap))
    target_logit_C = jnp.where(targets_C < options.vocab_size, target_logit_C, -jnp.inf)
    token_nll_C = jnp.where(weights_C != 0, lse_C - target_logit_C, 0.0)
    nll = jnp.sum(weights_C * token_nll_C)
    total = nll + options.z_loss * jnp.sum(weights_C * lse_C**2)
    return logits_CV, lse_C, Losses(total, nll, token_nll_C)


def _logsumexp(logits_CV: jax.Array, cap: float | None) -> jax.Array:
    """log(sum(exp(cap * logits))) of every row; NaN where its highest logit is not finite."""
    highest_C = jnp.max(logits_CV, axis=-1)
    below_CV = logits_CV - highest_C[:, None]
    if cap is None:
        return highest_C + jnp.log(jnp.sum(jnp.exp(below_CV), axis=-1))
    # A factor for each row, not a constant, which would be spread out as a second (C, V) array.
    cap_C = jnp.where(jnp.isfinite(highest_C), cap, jnp.nan)
    return cap * highest_C + jnp.log(jnp.sum(jnp.exp(below_CV * cap_C[:, None]), axis=-1))


def _chunk_gradients(
    hidden_CD: jax.Array, head_VD: jax.Array, targets_C: jax.Array, weights_C: jax.Array, options: _Options
) -> tuple[Losses, jax.Array, jax.Array]:
    """The chunk's losses, the gradient of its total in hidden (C, D), and in the transposed head (D, V)."""
    logits_CV, lse_C, losses = _logits_and_losses(hidden_CD, head_VD, targets_C, weights_C, options)
    cap = 1.0 if options.soft_cap is None else options.soft_cap
    probs_CV = jnp.exp(cap * logits_CV - lse_C[:, None])
    if options.z_loss:
        probs_CV *= (1 + 2 * options.z_loss * lse_C)[:, None]
    # A comparison fuses into the pass over the logits; a scatter would cost a copy of them.
    dlogits_CV = probs_CV - (jnp.arange(head_VD.shape[0]) == targets_C[:, None])
    if options.soft_cap is not None:
        slope_CV = 1 - logits_CV**2
        dlogits_CV *= jnp.where(jnp.isfinite(slope_CV), slope_CV, 0.0)  # padding columns are at -inf
    dlogits_CV = (dlogits_CV * weights_C[:, None]).astype(hidden_CD.dtype)
    dhidden_CD = product_float32(dlogits_CV, head_VD, contract=(1, 0))
    # (D, V), because a matrix product that walks down the columns of dlogits is much slower on CPU.
    dhead_DV = product_float32(hidden_CD, dlogits_CV, contract=(0, 0))
    return losses, dhidden_CD.astype(hidden_CD.dtype), dhead_DV


def _in_chunks(array: jax.Array, chunk_tokens: int) -> jax.Array:
    """(N, ...) -> (chunks, C, ...) with C <= chunk_tokens as even as can be, padded with zeros at the end."""
    num_tokens = array.shape[0]
    num_chunks = max(1, -(-num_tokens // chunk_tokens))
    chunk = -(-num_tokens // num_chunks)
    padding = [(0, num_chunks * chunk - num_tokens)] + [(0, 0)] * (array.ndim - 1)
    return jnp.pad(array, padding).reshape(num_chunks, chunk, *array.shape[1:])


def _joined(losses: Losses, num_tokens: int) -> Losses:
    """Of all chunks, whose losses are stacked."""
    total, nll, token_nll_XC = losses
    return Losses(jnp.sum(total), jnp.sum(nll), token_nll_XC.reshape(-1)[:num_tokens])


def _losses_without_gradients(
    hidden_ND: jax.Array, head_VD: jax.Array, targets_N: jax.Array, weights_N: jax.Array, options: _Options
) -> Losses:
    head_VD = head_VD.astype(hidden_ND.dtype)
    chunks = tuple(_in_chunks(array, options.chunk_tokens) for array in (hidden_ND, targets_N, weights_N))

    def of_chunk(chunk):
        hidden_CD, targets_C, weights_C = chunk
        return _logits_and_losses(hidden_CD, head_VD, targets_C, weights_C, options)[2]

    return _joined(lax.map(of_chunk, chunks), hidden_ND.shape[0])


def _cross_entropy_forward(
    hidden_ND: jax.Array, head_VD: jax.Array, targets_N: jax.Array, weights_N: jax.Array, options: _Options
) -> tuple[Losses, tuple[jax.Array, jax.Array]]:
    compute_head_VD = head_VD.astype(hidden_ND.dtype)

    def add_chunk(dhead_DV, chunk):
        hidden_CD, targets_C, weights_C = chunk
        losses, dhidden_CD, chunk_dhead_DV = _chunk_gradients(
            hidden_CD, compute_head_VD, targets_C, weights_C, options
        )
        return dhead_DV + chunk_dhead_DV, (losses, dhidden_CD)

    chunks = tuple(_in_chunks(array, options.chunk_tokens) for array in (hidden_ND, targets_N, weights_N))
    no_gradient_DV = varying_like(jnp.zeros(head_VD.T.shape, jnp.float32), head_VD)
    dhead_DV, (losses, dhidden_XCD) = lax.scan(add_chunk, no_gradient_DV, chunks)
    dhidden_ND = dhidden_XCD.reshape(-1, hidden_ND.shape[1])[: hidden_ND.shape[0]]
    return _joined(losses, hidden_ND.shape[0]), (dhidden_ND, dhead_DV.T.astype(head_VD.dtype))


def _cross_entropy_backward(
    options: _Options, gradients: tuple[jax.Array, jax.Array], cotangents: Losses
) -> tuple[jax.Array, jax.Array, None, None]:
    scale = cotangents.total
    dhidden_ND, dhead_VD = ((gradient * scale).astype(gradient.dtype) for gradient in gradients)
    return dhidden_ND, dhead_VD, None, None


_cross_entropy = jax.custom_vjp(_losses_without_gradients, nondiff_argnums=(4,))
_cross_entropy.defvjp(_cross_entropy_forward, _cross_entropy_backward)
