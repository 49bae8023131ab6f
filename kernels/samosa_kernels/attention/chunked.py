"""Attention a block of queries at a time against only the keys it can see: the fast path on CPU.

Rows of the batch are taken in turn and a block's scores are small enough to stay in cache, so no (T, S) array
ever exists. The backward recomputes a block's probabilities from the saved log-sum-exp, as FlashAttention
does (arXiv:2205.14135, arXiv:2307.08691). Blocks above the diagonal or left of the window are skipped
statically: with a window of W keys the cost is proportional to T * (W + block).

Suffixes: Q is a block's queries times the G query heads of a key head, S the keys that the block can see.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from samosa_kernels.attention.problem import Problem
from samosa_kernels.attention.ranges import KeyRanges, MaskShape
from samosa_kernels.attention.tiles import pad_length, pad_queries
from samosa_kernels.device import current_device
from samosa_kernels.products import product_float32
from samosa_kernels.varying import varying_like

MAX_BLOCK = 128  # queries; larger blocks compute more that is masked, smaller ones multiply at half the rate
MIN_BLOCK = 64
CPU_SCORE_BYTES = 8 * 2**20  # what a block's float32 scores should fit in: a share of the last-level cache
ACCELERATOR_SCORE_BYTES = 512 * 2**20  # no cache to stay in, and many rows at once to be busy with
MAX_SEGMENTS = 8  # code size: a segment is unrolled, the blocks inside it are a loop


class _Segment(NamedTuple):
    """Consecutive blocks that read the same number of keys."""

    first_block: int
    num_blocks: int
    num_keys: int


class _Tiling(NamedTuple):
    """How T queries are cut up; all static."""

    block: int  # queries in a block
    num_blocks: int
    segments: tuple[_Segment, ...]
    rows: int  # of the batch, worked on together
    causal: bool  # a block reads the keys that end with its last query, else all


def _make_tiling(batch: int, num_queries: int, num_keys: int, num_heads: int, mask: MaskShape) -> _Tiling:
    widest = num_keys if mask.window is None else min(num_keys, mask.window + MAX_BLOCK)
    score_bytes = CPU_SCORE_BYTES if current_device().platform == "cpu" else ACCELERATOR_SCORE_BYTES
    fits = score_bytes // (4 * num_heads * widest)
    block = max(MIN_BLOCK, min(MAX_BLOCK, fits // 64 * 64))
    num_blocks = -(-num_queries // block)
    block = -(-num_queries // num_blocks)  # even blocks waste the fewest padding rows
    if num_blocks > 1:
        block = -(-block // 16) * 16
        num_blocks = -(-num_queries // block)
    segments = [_Segment(0, num_blocks, num_keys)]
    if mask.causal:
        per_segment = -(-num_blocks // MAX_SEGMENTS)
        segments = []
        for first in range(0, num_blocks, per_segment):
            count = min(per_segment, num_blocks - first)
            keys = (first + count) * block
            if mask.window is not None:
                keys = min(keys, block + mask.window - 1)
            segments.append(_Segment(first, count, keys))
    # Short rows are taken several at a time, or the overhead of every operation would outweigh its work.
    most = max(1, score_bytes // 4 // (4 * num_heads * block * segments[-1].num_keys))
    rows = max(divisor for divisor in range(1, batch + 1) if batch % divisor == 0 and divisor <= most)
    return _Tiling(block, num_blocks, tuple(segments), rows, mask.causal)


def refusal(problem: Problem) -> str | None:
    return "it is no Pallas kernel: there is nothing to interpret" if problem.interpret else None


def attention_chunked(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    ranges: KeyRanges,
    *,
    mask: MaskShape,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """softmax(q k^T / sqrt(H)) v over the keys in range, in O(T * block) memory.

    Returns out (B, T, N, H) in the dtype of q and the log-sum-exp of the scores, float32 (B, T, N).
    Softmax in float32; the products take the inputs' dtype and accumulate in float32.
    """
    del interpret  # refused
    B, T, N, _ = q_BTNH.shape
    tiling = _make_tiling(B, T, k_BSKH.shape[1], N, mask)
    block = tiling.block
    if mask.causal:
        k_BSKH, v_BSKH = pad_length(k_BSKH, block), pad_length(v_BSKH, block)
    lo_BT, hi_BT = pad_queries(ranges, block)
    out, lse = _attention(pad_length(q_BTNH, block), k_BSKH, v_BSKH, lo_BT, hi_BT, tiling)
    return out[:, :T], lse[:, :T]


def _dot(left: jax.Array, right: jax.Array, contract: tuple[int, int]) -> jax.Array:
    """Product for every key head, which is dimension 0 of both operands."""
    return product_float32(left, right, contract=contract, batch=(0,))


def _heads_first(x_TNH: jax.Array, num_kv_heads: int) -> jax.Array:
    """(T, N, H) -> (K, T * G, H): the heads of a group side by side under each position."""
    T, N, H = x_TNH.shape
    return x_TNH.reshape(T, num_kv_heads, N // num_kv_heads, H).swapaxes(0, 1).reshape(num_kv_heads, -1, H)


def _heads_last(x_KQH: jax.Array, length: int) -> jax.Array:
    """The inverse of _heads_first."""
    K, _, H = x_KQH.shape
    return x_KQH.reshape(K, length, -1, H).swapaxes(0, 1).reshape(length, -1, H)


def _keys_start(first_query: jax.Array | int, num_keys: int, tiling: _Tiling) -> jax.Array | int:
    """First of the num_keys keys that a block reads: they end with its last query, unless it reads all."""
    if not tiling.causal:
        return 0
    if isinstance(first_query, int):
        return max(0, first_query + tiling.block - num_keys)
    return jnp.maximum(0, first_query + tiling.block - num_keys)


def _for_blocks(body, carry, tiling: _Tiling):
    """Runs body(carry, first_query, num_keys) -> (carry, block_results) over all blocks, in order.

    Returns the last carry and the results of the blocks, concatenated along dimension 1.
    """
    results = []
    for segment in tiling.segments:
        if segment.num_blocks == 1:
            carry, result = body(carry, segment.first_block * tiling.block, segment.num_keys)
            results.append(result)
            continue
        firsts = (segment.first_block + jnp.arange(segment.num_blocks)) * tiling.block
        step = functools.partial(body, num_keys=segment.num_keys)
        carry, stacked = lax.scan(step, carry, firsts)
        results.append(
            jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(x.shape[1], -1, *x.shape[3:]), stacked)
        )
    return carry, jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=1), *results)


def _row_forward(q_TNH, k_SKH, v_SKH, lo_T, hi_T, tiling: _Tiling) -> tuple[jax.Array, jax.Array]:
    """One row of the batch: out (T, N, H) in the dtype of q, lse (T, N)."""
    T, N, H = q_TNH.shape
    K = k_SKH.shape[1]
    G = N // K
    q_KQH = _heads_first(q_TNH * (1 / math.sqrt(H)), K)
    k_KSH, v_KSH = _heads_first(k_SKH, K), _heads_first(v_SKH, K)
    lo_Q, hi_Q = jnp.repeat(lo_T, G), jnp.repeat(hi_T, G)
    num_rows = tiling.block * G

    def block(carry, first_query, num_keys):
        start = _keys_start(first_query, num_keys, tiling)
        q, lo, hi = (
            lax.dynamic_slice_in_dim(x, first_query * G, num_rows, axis)
            for x, axis in ((q_KQH, 1), (lo_Q, 0), (hi_Q, 0))
        )
        k, v = (lax.dynamic_slice_in_dim(x, start, num_keys, 1) for x in (k_KSH, v_KSH))
        key = start + jnp.arange(num_keys, dtype=jnp.int32)
        seen_QS = (key >= lo[:, None]) & (key < hi[:, None])
        scores_KQS = jnp.where(seen_QS, _dot(q, k, (2, 2)), -jnp.inf)
        highest = jnp.max(scores_KQS, axis=-1)
        highest = jnp.where(highest == -jnp.inf, 0.0, highest)  # of a row without keys: no inf - inf
        weights_KQS = jnp.exp(scores_KQS - highest[..., None])
        total = jnp.sum(weights_KQS, axis=-1)
        out_KQH = _dot(weights_KQS.astype(v.dtype), v, (2, 1)) / jnp.where(total == 0, 1.0, total)[..., None]
        return carry, (out_KQH.astype(q.dtype), highest + jnp.log(total))

    _, (out_KQH, lse_KQ) = _for_blocks(block, None, tiling)
    return _heads_last(out_KQH, T), _heads_last(lse_KQ[..., None], T)[..., 0]


def _row_backward(
    q_TNH, k_SKH, v_SKH, lo_T, hi_T, out_TNH, lse_TN, dout_TNH, dlse_TN, tiling: _Tiling
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Gradients of one row of the batch in q, k and v.

    Scores are held as (keys, queries) here: the products for dk and dv then walk along the rows of their
    operands, where the other order makes XLA's CPU matmul half as fast.
    """
    T, N, H = q_TNH.shape
    S, K = k_SKH.shape[:2]
    G = N // K
    scale = 1 / math.sqrt(H)
    q_KQH, dout_KQH = _heads_first(q_TNH * scale, K), _heads_first(dout_TNH, K)
    k_KSH, v_KSH = _heads_first(k_SKH, K), _heads_first(v_SKH, K)
    k_KHS = k_KSH.swapaxes(1, 2)
    lo_Q, hi_Q = jnp.repeat(lo_T, G), jnp.repeat(hi_T, G)
    delta_TN = jnp.sum(out_TNH.astype(jnp.float32) * dout_TNH.astype(jnp.float32), axis=-1) - dlse_TN
    lse_TN = jnp.where(lse_TN == -jnp.inf, jnp.inf, lse_TN)  # a row without keys: exp(-inf - inf) is 0
    delta_KQ, lse_KQ = (_heads_first(x[..., None], K)[..., 0] for x in (delta_TN, lse_TN))
    num_rows = tiling.block * G

    def block(carry, first_query, num_keys):
        dk_KSH, dv_KSH = carry
        start = _keys_start(first_query, num_keys, tiling)
        q, dout, delta, lse, lo, hi = (
            lax.dynamic_slice_in_dim(x, first_query * G, num_rows, axis)
            for x, axis in ((q_KQH, 1), (dout_KQH, 1), (delta_KQ, 1), (lse_KQ, 1), (lo_Q, 0), (hi_Q, 0))
        )
        k, v = (lax.dynamic_slice_in_dim(x, start, num_keys, 1) for x in (k_KSH, v_KSH))
        key = start + jnp.arange(num_keys, dtype=jnp.int32)[:, None]
        scores_KSQ = jnp.where((key >= lo) & (key < hi), _dot(k, q, (2, 2)), -jnp.inf)
        probs_KSQ = jnp.exp(scores_KSQ - lse[:, None])
        dscores_KSQ = (probs_KSQ * (_dot(v, dout, (2, 2)) - delta[:, None])).astype(q.dtype)
        dq_KHQ = _dot(lax.dynamic_slice_in_dim(k_KHS, start, num_keys, 2), dscores_KSQ, (2, 1))

        def add(total_KSH, part):
            part = part + lax.dynamic_slice_in_dim(total_KSH, start, num_keys, 1)
            return lax.dynamic_update_slice_in_dim(total_KSH, part, start, 1)

        dk_KSH = add(dk_KSH, _dot(dscores_KSQ, q, (2, 1)))
        dv_KSH = add(dv_KSH, _dot(probs_KSQ.astype(dout.dtype), dout, (2, 1)))
        return (dk_KSH, dv_KSH), dq_KHQ.swapaxes(1, 2) * scale

    zeros = varying_like(jnp.zeros(k_KSH.shape, jnp.float32), k_KSH)
    (dk_KSH, dv_KSH), dq_KQH = _for_blocks(block, (zeros, zeros), tiling)
    gradients = (_heads_last(dq_KQH, T), _heads_last(dk_KSH, S), _heads_last(dv_KSH, S))
    dq, dk, dv = (g.astype(x.dtype) for g, x in zip(gradients, (q_TNH, k_SKH, v_SKH), strict=True))
    return dq, dk, dv


def _all_rows(q_BTNH, k_BSKH, v_BSKH, lo_BT, hi_BT, tiling: _Tiling) -> tuple[jax.Array, jax.Array]:
    row = functools.partial(_row_forward, tiling=tiling)
    return lax.map(lambda xs: row(*xs), (q_BTNH, k_BSKH, v_BSKH, lo_BT, hi_BT), batch_size=tiling.rows)


def _attention_forward(q_BTNH, k_BSKH, v_BSKH, lo_BT, hi_BT, tiling: _Tiling):
    out, lse = _all_rows(q_BTNH, k_BSKH, v_BSKH, lo_BT, hi_BT, tiling)
    # Named here, where they are residuals too: a remat policy that saves both never recomputes the forward.
    out, lse = checkpoint_name(out, "attn_out"), checkpoint_name(lse, "attn_lse")
    return (out, lse), (q_BTNH, k_BSKH, v_BSKH, lo_BT, hi_BT, out, lse)


def _attention_backward(tiling: _Tiling, residuals, cotangents):
    row = functools.partial(_row_backward, tiling=tiling)
    gradients = lax.map(lambda xs: row(*xs), (*residuals, *cotangents), batch_size=tiling.rows)
    return (*gradients, None, None)


_attention = jax.custom_vjp(_all_rows, nondiff_argnums=(5,))
_attention.defvjp(_attention_forward, _attention_backward)
