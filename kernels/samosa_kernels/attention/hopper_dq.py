"""The flash-attention kernel for Hopper that makes the gradient of the queries.

Built like the forward (hopper_forward.py): a block of threads holds a tile of queries of one head, here with
their output gradients, and the producer streams the keys and values that they see. Probabilities are made
again from the log-sum-exp (FlashAttention-2, arXiv:2307.08691), under the product that gives their gradients.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from samosa_kernels.attention.hopper_ops import (
    LOG2_E,
    MAX_REGISTERS,
    OPERAND_TRANSFORMS,
    ROWS_PER_WARPGROUP,
    HopperOps,
    call,
    over_columns,
    over_tiles,
    stream_keys,
)
from samosa_kernels.attention.ranges import KeyRanges
from samosa_kernels.attention.tiles import key_tiles, pad_length, pad_queries
from samosa_kernels.tuning import TuningConfig


def hopper_dq(
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
    """dq (B, T, N, H) in bfloat16: `flash.FlashKernels.backward`."""
    B, T, N, H = q_BTNH.shape
    S, K = k_BSKH.shape[1:3]
    tile = tuning.queries
    bounds = jnp.stack(key_tiles(ranges, queries=tile, keys=tuning.keys, num_keys=S), axis=-1)
    lo_BT, hi_BT = pad_queries(ranges, tile)
    # Whole tiles, as in the forward.
    q_BTNH, dout_BTNH = pad_length(q_BTNH, tile), pad_length(dout_BTNH, tile)
    k_BSKH, v_BSKH = pad_length(k_BSKH, tuning.keys), pad_length(v_BSKH, tuning.keys)
    lse_BNT, delta_BNT = pad_length(lse_BNT, tile, axis=2), pad_length(delta_BNT, tile, axis=2)
    unscaled_lse_BNT = lse_BNT * math.sqrt(H)  # as the scores are before they are scaled
    consumers = tuning.warps // 4
    operand = functools.partial(plgpu.SMEM, dtype=q_BTNH.dtype, transforms=OPERAND_TRANSFORMS)
    (dq_BTNH,) = call(
        functools.partial(_kernel, group=N // K, tuning=tuning, ops=HopperOps(interpret)),
        (q_BTNH, k_BSKH, v_BSKH, lo_BT, hi_BT, bounds, dout_BTNH, -unscaled_lse_BNT, -delta_BNT),
        name="attention_dq",
        grid={"head": N, "tile": q_BTNH.shape[1] // tile, "row": B},
        outputs=((q_BTNH.shape, q_BTNH.dtype),),
        scratch={
            "q_ref": operand((consumers, ROWS_PER_WARPGROUP, H)),
            "dout_ref": operand((consumers, ROWS_PER_WARPGROUP, H)),
            "k_ring": operand((tuning.stages, tuning.keys, H)),
            "v_ring": operand((tuning.stages, tuning.keys, H)),
            "held_ready": plgpu.Barrier(num_arrivals=2, num_barriers=consumers),
            "k_ready": plgpu.Barrier(num_barriers=tuning.stages),
            "v_ready": plgpu.Barrier(num_barriers=tuning.stages),
            "k_free": plgpu.Barrier(num_arrivals=consumers, num_barriers=tuning.stages),
            "v_free": plgpu.Barrier(num_arrivals=consumers, num_barriers=tuning.stages),
        },
        consumers=consumers,
        interpret=interpret,
    )
    return dq_BTNH[:, :T]


def _kernel(
    q_BTNH: Any,
    k_BSKH: Any,
    v_BSKH: Any,
    lo_BT: Any,
    hi_BT: Any,
    bounds_BX4: Any,
    dout_BTNH: Any,
    minus_lse_BNT: Any,
    minus_delta_BNT: Any,
    dq_BTNH: Any,
    *,
    q_ref: Any,
    dout_ref: Any,
    k_ring: Any,
    v_ring: Any,
    held_ready: Any,
    k_ready: Any,
    v_ready: Any,
    k_free: Any,
    v_free: Any,
    group: int,
    tuning: TuningConfig,
    ops: HopperOps,
) -> None:
    head, row = lax.axis_index("head"), lax.axis_index("row")
    # As in the forward the tiles that see the most keys come first.
    tile = lax.axis_size("tile") - 1 - lax.axis_index("tile")
    warpgroup = lax.axis_index("warpgroup")
    consumers = tuning.warps // 4
    bounds = [bounds_BX4[row, tile, bound] for bound in range(4)]
    first, count = bounds[0], bounds[3] - bounds[0]
    H = q_ref.shape[-1]
    shape = (ROWS_PER_WARPGROUP, tuning.keys)

    @pl.when(warpgroup < consumers)
    def consume():
        plgpu.set_max_registers(MAX_REGISTERS[consumers], action="increase")
        rows = pl.ds(tile * tuning.queries + warpgroup * ROWS_PER_WARPGROUP, ROWS_PER_WARPGROUP)
        for source, held in ((q_BTNH, q_ref), (dout_BTNH, dout_ref)):
            plgpu.copy_gmem_to_smem(source.at[row, rows, head], held.at[warpgroup], held_ready.at[warpgroup])
        lo, hi = (ops.load_row_vector(bound.at[row, rows]) for bound in (lo_BT, hi_BT))
        minus_lse, minus_delta = (
            over_columns(ops.load_row_vector(vector.at[row, head, rows]), shape)
            for vector in (minus_lse_BNT, minus_delta_BNT)
        )
        plgpu.barrier_wait(held_ready.at[warpgroup])

        def step(index, dq, *, masked):
            slot = lax.rem(index, jnp.int32(tuning.stages))

            def probabilities(scores):
                probs = jnp.exp2(scores * (LOG2_E / math.sqrt(H)))
                if not masked:
                    return probs
                key = ops.index(shape, 1) + (first + index) * tuning.keys
                seen = (key >= over_columns(lo, shape)) & (key < over_columns(hi, shape))
                return jnp.where(seen, probs, 0.0)

            plgpu.barrier_wait(k_ready.at[slot])
            plgpu.barrier_wait(v_ready.at[slot])
            # Both products start from what is subtracted from them.
            probs, dprobs = ops.add_products_transposed(
                (minus_lse, q_ref.at[warpgroup], k_ring.at[slot]),
                (minus_delta, dout_ref.at[warpgroup], v_ring.at[slot]),
                between=probabilities,
            )
            ops.release(v_free.at[slot])
            dq = ops.add_product(dq, (probs * dprobs).astype(q_BTNH.dtype), k_ring.at[slot])
            ops.release(k_free.at[slot])
            return dq

        dq = over_tiles(bounds, step, ops.zeros((ROWS_PER_WARPGROUP, H)))
        q_ref.at[warpgroup][...] = (dq * (1 / math.sqrt(H))).astype(q_BTNH.dtype)
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(q_ref.at[warpgroup], dq_BTNH.at[row, rows, head])
        plgpu.wait_smem_to_gmem(0)

    @pl.when(warpgroup == consumers)
    def produce():
        kv_head = lax.div(head, jnp.int32(group))
        stream_keys(
            ((k_BSKH, k_ring, k_ready, k_free), (v_BSKH, v_ring, v_ready, v_free)),
            row=row,
            kv_head=kv_head,
            first=first,
            count=count,
            tuning=tuning,
        )
