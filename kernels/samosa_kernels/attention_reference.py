"""Attention as its definition reads, in float32 and with every score in memory: the oracle of the others."""

import math

import jax
import jax.numpy as jnp

from samosa_kernels.key_ranges import KeyRanges, effective_ranges


def attention_reference(
    q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, ranges: KeyRanges, *, window: int | None
) -> tuple[jax.Array, jax.Array]:
    """softmax(q k^T / sqrt(H)) v over the keys in range. O(B N T S) memory; differentiated by JAX.

    Returns out (B, T, N, H) in the dtype of q and the log-sum-exp of the scores, float32 (B, T, N).
    """
    B, T, N, H = q_BTNH.shape
    K = k_BSKH.shape[2]
    q, k, v = (x.astype(jnp.float32) for x in (q_BTNH, k_BSKH, v_BSKH))
    scores_BTKGS = jnp.einsum("btkgh,bskh->btkgs", q.reshape(B, T, K, N // K, H), k) / math.sqrt(H)
    lo, hi = effective_ranges(ranges, window)
    key = jnp.arange(T, dtype=jnp.int32)
    seen_BTS = (key >= lo[:, :, None]) & (key < hi[:, :, None])
    seen = seen_BTS[:, :, None, None, :]
    row_sees = seen.any(-1)
    # A row without keys is sent through the softmax with all of them, then dropped: no NaN in its gradient.
    scores = jnp.where(seen | ~row_sees[..., None], scores_BTKGS, -jnp.inf)
    lse = jax.nn.logsumexp(scores, axis=-1)
    probs = jnp.where(seen, jnp.exp(scores - lse[..., None]), 0.0)
    out = jnp.einsum("btkgs,bskh->btkgh", probs, v).reshape(B, T, N, H)
    lse = jnp.where(row_sees, lse, -jnp.inf).reshape(B, T, N)
    return out.astype(q_BTNH.dtype), lse
