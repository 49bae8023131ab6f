"""The backward flash-attention kernels in Triton: one for dq, one for dk and dv (arXiv:2307.08691).

Two kernels compute the scores twice and in exchange add up in registers, where one kernel would need atomic
additions into a float32 dq. The second sums over the query heads of a group, so that dk and dv never exist
once per query head.
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
from samosa_kernels.attention.tiles import key_tiles, pad_queries, query_tiles
from samosa_kernels.tuning import TuningConfig

LOG2_E = math.log2(math.e)


def triton_dq(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    ranges: KeyRanges,
    dout_BTNH: jax.Array,
    lse_BNT: jax.Array,
    delta_BNT: jax.Array,
    *,
    tuning: TuningConfig,
    interpret: bool,
) -> jax.Array:
    """dq (B, T, N, H) in the dtype of q, as flash.FlashKernels says; a program holds a tile of queries."""
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
    rowwise = pl.BlockSpec((None, None, tuning.queries), lambda n, x, b: (b, n, longest - x))
    (dq_BTNH,) = triton_ops.call(
        functools.partial(_dq_kernel, tuning=tuning, num_queries=T, num_keys=S),
        name="attention_dq",
        grid=(N, num_tiles, B),
        inputs=[
            (q_BTNH, queries),
            (k_BSKH, keys),
            (v_BSKH, keys),
            (dout_BTNH, queries),
            (lse_BNT, rowwise),
            (delta_BNT, rowwise),
            (lo_BT, bound),
            (hi_BT, bound),
            (bounds_BX4, pl.BlockSpec((None, None, 4), lambda n, x, b: (b, longest - x, 0))),
        ],
        outputs=[((B, T, N, H), q_BTNH.dtype, queries)],
        warps=tuning.warps,
        stages=tuning.stages,
        interpret=interpret,
    )
    return dq_BTNH


def triton_dkv(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    ranges: KeyRanges,
    dout_BTNH: jax.Array,
    lse_BNT: jax.Array,
    delta_BNT: jax.Array,
    *,
    tuning: TuningConfig,
    interpret: bool,
) -> tuple[jax.Array, jax.Array]:
    """dk, dv (B, S, K, H), dtypes of k and v, as flash.FlashKernels says; a program holds a tile of keys."""
    B, T, N, H = q_BTNH.shape
    S, K = k_BSKH.shape[1:3]
    group = N // K
    bounds_BY4 = jnp.stack(query_tiles(ranges, queries=tuning.queries, keys=tuning.keys, num_keys=S), axis=-1)
    lo_BT, hi_BT = pad_queries(ranges, tuning.queries)

    # Keys at the start of a causal row are seen most: here the order of the grid is longest first.
    keys = pl.BlockSpec((None, tuning.keys, None, H), lambda k, y, b: (b, y, k, 0))
    queries = pl.BlockSpec((None, T, group, H), lambda k, y, b: (b, 0, k, 0))
    bound = pl.BlockSpec((None, lo_BT.shape[1]), lambda k, y, b: (b, 0))
    rowwise = pl.BlockSpec((None, group, T), lambda k, y, b: (b, k, 0))
    dk_BSKH, dv_BSKH = triton_ops.call(
        functools.partial(_dkv_kernel, tuning=tuning, num_queries=T, num_keys=S, group=group),
        name="attention_dkv",
        grid=(K, bounds_BY4.shape[1], B),
        inputs=[
            (q_BTNH, queries),
            (k_BSKH, keys),
            (v_BSKH, keys),
            (dout_BTNH, queries),
            (lse_BNT, rowwise),
            (delta_BNT, rowwise),
            (lo_BT, bound),
            (hi_BT, bound),
            (bounds_BY4, pl.BlockSpec((None, None, 4), lambda k, y, b: (b, y, 0))),
        ],
        outputs=[((B, S, K, H), k_BSKH.dtype, keys), ((B, S, K, H), v_BSKH.dtype, keys)],
        warps=tuning.warps,
        stages=tuning.stages,
        interpret=interpret,
    )
    return dk_BSKH, dv_BSKH


def _dq_kernel(
    q_QH: Any,
    k_SH: Any,
    v_SH: Any,
    dout_QH: Any,
    lse_Q: Any,
    delta_Q: Any,
    lo_Q: Any,
    hi_Q: Any,
    bounds_4: Any,
    dq_QH: Any,
    *,
    tuning: TuningConfig,
    num_queries: int,
    num_keys: int,
) -> None:
    tile = pl.num_programs(1) - 1 - pl.program_id(1)
    real_queries = triton_ops.exists(tile * tuning.queries, tuning.queries, num_queries)
    q, dout = triton_ops.load(q_QH, real_queries), triton_ops.load(dout_QH, real_queries)
    lse = triton_ops.load(lse_Q, real_queries, jnp.inf) * LOG2_E
    delta = triton_ops.load(delta_Q, real_queries)
    lo, hi = lo_Q[...], hi_Q[...]
    H = q.shape[-1]
    scale = 1 / math.sqrt(H)

    def step(index, dq, *, masked):
        first = index * tuning.keys
        here = pl.ds(first, tuning.keys)
        real_keys = triton_ops.exists(first, tuning.keys, num_keys) if masked else None
        k, v = triton_ops.load(k_SH.at[here], real_keys), triton_ops.load(v_SH.at[here], real_keys)
        probs = jnp.exp2(triton_ops.product(q, k, (1, 1)) * (scale * LOG2_E) - lse[:, None])
        if masked:
            key = first + jnp.arange(tuning.keys, dtype=jnp.int32)[None, :]
            probs = jnp.where((key >= lo[:, None]) & (key < hi[:, None]), probs, 0.0)
        dscores = probs * (triton_ops.product(dout, v, (1, 1)) - delta[:, None])
        return dq + triton_ops.product(dscores.astype(k.dtype), k, (1, 0))

    dq = _three_parts(step, bounds_4, jnp.zeros((tuning.queries, H), jnp.float32))
    triton_ops.store(dq_QH, dq * scale, real_queries)


def _dkv_kernel(
    q_TGH: Any,
    k_SH: Any,
    v_SH: Any,
    dout_TGH: Any,
    lse_GT: Any,
    delta_GT: Any,
    lo_T: Any,
    hi_T: Any,
    bounds_4: Any,
    dk_SH: Any,
    dv_SH: Any,
    *,
    tuning: TuningConfig,
    num_queries: int,
    num_keys: int,
    group: int,
) -> None:
    first_key = pl.program_id(1) * tuning.keys
    real_keys = triton_ops.exists(first_key, tuning.keys, num_keys)
    k, v = triton_ops.load(k_SH, real_keys), triton_ops.load(v_SH, real_keys)
    H = k.shape[-1]
    scale = 1 / math.sqrt(H)

    def step(index, carry, *, masked):
        # One loop over tiles and heads, heads fastest: an inner loop would drain the pipeline of loads.
        dk, dv = carry
        head = lax.rem(index, group)
        first = lax.div(index, group) * tuning.queries
        here = pl.ds(first, tuning.queries)
        real_queries = triton_ops.exists(first, tuning.queries, num_queries) if masked else None
        q, dout = (triton_ops.load(ref.at[here, head], real_queries) for ref in (q_TGH, dout_TGH))
        lse = triton_ops.load(lse_GT.at[head, here], real_queries, jnp.inf) * LOG2_E
        delta = triton_ops.load(delta_GT.at[head, here], real_queries)
        # Scores stand as (keys, queries): what the sums over queries multiply is then in registers.
        probs = jnp.exp2(triton_ops.product(k, q, (1, 1)) * (scale * LOG2_E) - lse[None, :])
        if masked:
            key = first_key + jnp.arange(tuning.keys, dtype=jnp.int32)[:, None]
            probs = jnp.where((key >= lo_T[here][None, :]) & (key < hi_T[here][None, :]), probs, 0.0)
        dv = dv + triton_ops.product(probs.astype(dout.dtype), dout, (1, 0))
        dscores = probs * (triton_ops.product(v, dout, (1, 1)) - delta[None, :])
        return dk + triton_ops.product(dscores.astype(q.dtype), q, (1, 0)), dv

    zeros = jnp.zeros((tuning.keys, H), jnp.float32)
    dk, dv = _three_parts(step, bounds_4, (zeros, zeros), repeats=group)
    triton_ops.store(dk_SH, dk * scale, real_keys)
    triton_ops.store(dv_SH, dv, real_keys)


def _three_parts(step: Any, bounds_4: Any, carry: Any, repeats: int = 1) -> Any:
    """step over the masked tiles, the whole ones and the masked ones after them, `repeats` times a tile."""
    first, first_full, last_full, last = (bounds_4[i] * repeats for i in range(4))
    carry = lax.fori_loop(first, first_full, functools.partial(step, masked=True), carry)
    carry = lax.fori_loop(first_full, last_full, functools.partial(step, masked=False), carry)
    return lax.fori_loop(last_full, last, functools.partial(step, masked=True), carry)
