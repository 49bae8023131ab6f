"""Attention as its definition reads, in float32 and with every score in memory: the oracle of the others."""

import math

import jax
import jax.numpy as jnp

from samosa_kernels.attention.problem import Problem
from samosa_kernels.attention.ranges import KeyRanges, MaskShape


def refusal(problem: Problem) -> str | None:
    return "it is no Pallas kernel: there is nothing to interpret" if problem.interpret else None


def attention_reference(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    ranges: KeyRanges,
    *,
    mask: MaskShape | None = None,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """softmax(q k^T / sqrt(H)) v over the keys in range. O(B N T S) memory; differentiated by JAX.

    Returns out (B, T, N, H) in the dtype of q and the log-sum-exp of the scores, float32 (B, T, N).
    """
    del mask, interpret  # the ranges say it all
    B, T, N, H = q_BTNH.shape
    S, K = k_BSKH.shape[1:3]
    q, k, v = (x.astype(jnp.float32) for x in (q_BTNH, k_BSKH, v_BSKH))
    scores_BTKGS = jnp.einsum("btkgh,bskh->btkgs", q.reshape(B, T, K, N // K, H), k) / math.sqrt(H)
    key = jnp.arange(S, dtype=jnp.int32)
    seen_BTS = (key >= ranges.lo[:, :, None]) & (key < ranges.hi[:, :, None])
    seen = seen_BTS[:, :, None, None, :]
    row_sees = seen.any(-1)
    # A row without keys is sent through the softmax with all of them, then dropped: no NaN in its gradient.
    scores = jnp.where(seen | ~row_sees[..., None], scores_BTKGS, -jnp.inf)
    lse = jax.nn.logsumexp(scores, axis=-1)
    probs = jnp.where(seen, jnp.exp(scores - lse[..., None]), 0.0)
    out = jnp.einsum("btkgs,bskh->btkgh", probs, v).reshape(B, T, N, H)
    lse = jnp.where(row_sees, lse, -jnp.inf).reshape(B, T, N)
    return out.astype(q_BTNH.dtype), lse
