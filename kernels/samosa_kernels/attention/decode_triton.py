"""The decode-attention kernel in Triton: the cache is split over the grid, the parts are merged afterwards.

One query per row leaves nothing to share out but the keys, so each key head's part of [lo, hi) is cut into
splits of equal length (FlashDecoding). The query heads of a group are the rows of one matrix product, so that
the cache is read once for all of them.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from samosa_kernels.attention import triton_ops
from samosa_kernels.tuning import TuningConfig

LOG2_E = math.log2(math.e)
MIN_ROWS = 16  # of a matrix product on tensor cores
TARGET_PROGRAMS = 264  # two for each processor of an H100: what keeps its memory busy


def num_splits(num_groups: int, num_tiles: int) -> int:
    """Into how many parts to cut a row's keys when there are `num_groups` pairs of row and key head."""
    return max(1, min(-(-TARGET_PROGRAMS // num_groups), num_tiles))


def decode_triton(
    q_BNH: jax.Array,
    k_BKSH: jax.Array,
    v_BKSH: jax.Array,
    lo_B: jax.Array,
    hi_B: jax.Array,
    *,
    tuning: TuningConfig,
    interpret: bool,
) -> jax.Array:
    """out (B, N, H) in the dtype of q, for ranges inside 0..S; reads no keys outside [lo, hi)."""
    B, N, H = q_BNH.shape
    K, S = k_BKSH.shape[1:3]
    group = N // K
    rows = max(MIN_ROWS, pl.next_power_of_2(group))
    splits = num_splits(B * K, pl.cdiv(S, tuning.keys))
    q_BKRH = jnp.pad(q_BNH.reshape(B, K, group, H), ((0, 0), (0, 0), (0, rows - group), (0, 0)))
    ranges_B2 = jnp.stack([lo_B, hi_B], axis=-1).astype(jnp.int32)

    cache = pl.BlockSpec((None, None, S, H), lambda x, k, b: (b, k, 0, 0))
    out_BKXRH, lse_BKXR = triton_ops.call(
        functools.partial(_kernel, num_keys=tuning.keys),
        name="decode_attention",
        grid=(splits, K, B),
        inputs=[
            (q_BKRH, pl.BlockSpec((None, None, rows, H), lambda x, k, b: (b, k, 0, 0))),
            (k_BKSH, cache),
            (v_BKSH, cache),
            (ranges_B2, pl.BlockSpec((None, 2), lambda x, k, b: (b, 0))),
        ],
        outputs=[
            (
                (B, K, splits, rows, H),
                jnp.float32,
                pl.BlockSpec((None, None, None, rows, H), lambda x, k, b: (b, k, x, 0, 0)),
            ),
            (
                (B, K, splits, rows),
                jnp.float32,
                pl.BlockSpec((None, None, None, rows), lambda x, k, b: (b, k, x, 0)),
            ),
        ],
        warps=tuning.warps,
        stages=tuning.stages,
        interpret=interpret,
    )
    return _merge(out_BKXRH[..., :group, :], lse_BKXR[..., :group]).reshape(B, N, H).astype(q_BNH.dtype)


def _merge(out_BKXGH: jax.Array, lse_BKXG: jax.Array) -> jax.Array:
    """Attention (B, K, G, H) over all splits from each one's and its log-sum-exp, -inf if it saw nothing."""
    highest = lse_BKXG.max(axis=2, keepdims=True)
    weights = jnp.exp(lse_BKXG - jnp.where(highest == -jnp.inf, 0.0, highest))
    total = weights.sum(axis=2)
    out = jnp.sum(weights[..., None] * out_BKXGH, axis=2)
    return out / jnp.where(total == 0, 1.0, total)[..., None]


def _kernel(q_RH: Any, k_SH: Any, v_SH: Any, range_2: Any, out_RH: Any, lse_R: Any, *, num_keys: int) -> None:
    lo, hi = range_2[0], range_2[1]
    q = triton_ops.load(q_RH, None)
    rows, H = q.shape
    scale = LOG2_E / math.sqrt(H)

    # Splits share what is seen, not the cache: early in a generation most of the cache is empty.
    first_tile = lax.div(lo, num_keys)
    last_tile = jnp.where(hi > lo, lax.div(hi + num_keys - 1, num_keys), first_tile)
    share = lax.div(last_tile - first_tile + pl.num_programs(0) - 1, pl.num_programs(0))
    first = first_tile + pl.program_id(0) * share
    last = jnp.minimum(first + share, last_tile)

    def step(index, carry):
        out, highest, total = carry
        here = pl.ds(index * num_keys, num_keys)
        key = index * num_keys + jnp.arange(num_keys, dtype=jnp.int32)
        seen = (key >= lo) & (key < hi)
        scores = triton_ops.product(q, triton_ops.load(k_SH.at[here], seen), (1, 1)) * scale
        scores = jnp.where(seen[None, :], scores, -jnp.inf)
        # Finite: every tile that is visited holds a key in range.
        new_highest = jnp.maximum(highest, scores.max(axis=1))
        probs = jnp.exp2(scores - new_highest[:, None])
        shrink = jnp.exp2(highest - new_highest)
        v = triton_ops.load(v_SH.at[here], seen)
        out = out * shrink[:, None] + triton_ops.product(probs.astype(v.dtype), v, (1, 0))
        return out, new_highest, total * shrink + probs.sum(axis=1)

    carry = (
        jnp.zeros((rows, H), jnp.float32),
        jnp.full(rows, -jnp.inf, jnp.float32),
        jnp.zeros(rows, jnp.float32),
    )
    out, highest, total = lax.fori_loop(first, last, step, carry)
    sees = total > 0
    total = jnp.where(sees, total, 1.0)
    triton_ops.store(out_RH, out / total[:, None], None)
    triton_ops.store(lse_R, jnp.where(sees, highest / LOG2_E + jnp.log(total), -jnp.inf), None)
