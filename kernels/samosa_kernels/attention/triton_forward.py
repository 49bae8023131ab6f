"""The forward flash-attention kernel in Triton.

A program holds a tile of queries of one head and walks over the tiles of keys that some of them see, keeping
the running maximum, sum and output (FlashAttention-2, arXiv:2307.08691). Only tiles at the ends of the walk,
which not every query sees whole, are masked.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from samosa_kernels.attention import triton_ops
from samosa_kernels.attention.ranges import KeyRanges
from samosa_kernels.attention.tiles import key_tiles, pad_queries
from samosa_kernels.tuning import TuningConfig

LOG2_E = math.log2(math.e)


def triton_forward(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    ranges: KeyRanges,
    *,
    tuning: TuningConfig,
    interpret: bool,
) -> tuple[jax.Array, jax.Array]:
    """out (B, T, N, H), dtype of q, and log-sum-exp (B, N, T), float32, as flash.FlashKernels says."""
    B, T, N, H = q_BTNH.shape
    S, K = k_BSKH.shape[1:3]
    group = N // K
    bounds_BX4 = jnp.stack(key_tiles(ranges, queries=tuning.queries, keys=tuning.keys, num_keys=S), axis=-1)
    lo_BT, hi_BT = pad_queries(ranges, tuning.queries)
    num_tiles = bounds_BX4.shape[1]
    longest = num_tiles - 1  # of a causal row the last; it starts first, so that short ones fill the end

    queries = pl.BlockSpec((None, tuning.queries, None, H), lambda n, x, b: (b, longest - x, n, 0))
    keys = pl.BlockSpec((None, S, None, H), lambda n, x, b: (b, 0, lax.div(n, group), 0))
    bound = pl.BlockSpec((None, tuning.queries), lambda n, x, b: (b, longest - x))
    out_BTNH, lse_BNT = triton_ops.call(
        functools.partial(_kernel, tuning=tuning, num_queries=T, num_keys=S),
        name="attention_forward",
        grid=(N, num_tiles, B),  # heads first: those of a group read the same keys at the same time
        inputs=[
            (q_BTNH, queries),
            (k_BSKH, keys),
            (v_BSKH, keys),
            (lo_BT, bound),
            (hi_BT, bound),
            (bounds_BX4, pl.BlockSpec((None, None, 4), lambda n, x, b: (b, longest - x, 0))),
        ],
        outputs=[
            ((B, T, N, H), q_BTNH.dtype, queries),
            (
                (B, N, T),
                jnp.float32,
                pl.BlockSpec((None, None, tuning.queries), lambda n, x, b: (b, n, longest - x)),
            ),
        ],
        warps=tuning.warps,
        stages=tuning.stages,
        interpret=interpret,
    )
    return out_BTNH, lse_BNT


def _kernel(
    q_QH: Any,
    k_SH: Any,
    v_SH: Any,
    lo_Q: Any,
    hi_Q: Any,
    bounds_4: Any,
    out_QH: Any,
    lse_Q: Any,
    *,
    tuning: TuningConfig,
    num_queries: int,
    num_keys: int,
) -> None:
    tile = pl.num_programs(1) - 1 - pl.program_id(1)
    real_queries = triton_ops.exists(tile * tuning.queries, tuning.queries, num_queries)
    q = triton_ops.load(q_QH, real_queries)
    lo, hi = lo_Q[...], hi_Q[...]
    H = q.shape[-1]
    scale = LOG2_E / math.sqrt(H)  # exp2 is what the hardware has

    def step(index, carry, *, masked):
        out, highest, total = carry
        first = index * tuning.keys
        here = pl.ds(first, tuning.keys)
        real_keys = triton_ops.exists(first, tuning.keys, num_keys) if masked else None
        scores = triton_ops.product(q, triton_ops.load(k_SH.at[here], real_keys), (1, 1))
        if masked:
            key = first + jnp.arange(tuning.keys, dtype=jnp.int32)[None, :]
            scores = jnp.where((key >= lo[:, None]) & (key < hi[:, None]), scores, -jnp.inf)
        # The scale is left to the subtraction below, where it costs no instruction of its own.
        new_highest = jnp.maximum(highest, scores.max(axis=1) * scale)
        shift = jnp.where(new_highest == -jnp.inf, 0.0, new_highest) if masked else new_highest
        probs = jnp.exp2(scores * scale - shift[:, None])
        shrink = jnp.exp2(highest - shift)
        v = triton_ops.load(v_SH.at[here], real_keys)
        out = out * shrink[:, None] + triton_ops.product(probs.astype(v.dtype), v, (1, 0))
        return out, new_highest, total * shrink + probs.sum(axis=1)

    carry = (
        jnp.zeros((tuning.queries, H), jnp.float32),
        jnp.full(tuning.queries, -jnp.inf, jnp.float32),
        jnp.zeros(tuning.queries, jnp.float32),
    )
    first, first_full, last_full, last = (bounds_4[i] for i in range(4))
    carry = lax.fori_loop(first, first_full, functools.partial(step, masked=True), carry)
    carry = lax.fori_loop(first_full, last_full, functools.partial(step, masked=False), carry)
    out, highest, total = lax.fori_loop(last_full, last, functools.partial(step, masked=True), carry)
    sees = total > 0
    total = jnp.where(sees, total, 1.0)
    triton_ops.store(out_QH, out / total[:, None], real_queries)
    triton_ops.store(lse_Q, jnp.where(sees, highest / LOG2_E + jnp.log(total), -jnp.inf), real_queries)
