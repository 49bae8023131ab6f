"""The flash-attention kernel for Hopper that makes the gradients of the keys and values.

A block of threads holds a tile of keys and values of one head, 64 to a consumer warpgroup. The producer
streams the queries that see them, with their output gradients, of every query head in the group, so that the
sum over the group stays in registers. Scores are transposed, keys along the rows: wgmma takes a left operand
from registers, and so probabilities and their gradients must be left ones. The rest is as in hopper_dq.py.
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
    PRODUCER_REGISTERS,
    ROWS_PER_WARPGROUP,
    HopperOps,
    call,
    over_rows,
)
from samosa_kernels.attention.ranges import KeyRanges
from samosa_kernels.attention.tiles import pad_length, pad_queries, query_tiles
from samosa_kernels.tuning import TuningConfig


def hopper_dkv(
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
    """dk and dv (B, S, K, H) in bfloat16: `flash.FlashKernels.backward`."""
    N, H = q_BTNH.shape[2:]
    S, K = k_BSKH.shape[1:3]
    queries, stages = tuning.queries, tuning.stages
    bounds = jnp.stack(query_tiles(ranges, queries=queries, keys=tuning.keys, num_keys=S), axis=-1)
    lo_BT, hi_BT = pad_queries(ranges, queries)
    # Whole tiles, as in the forward; and copies of the vectors below must start at multiples of 16 bytes.
    q_BTNH, dout_BTNH = pad_length(q_BTNH, queries), pad_length(dout_BTNH, queries)
    k_BSKH, v_BSKH = pad_length(k_BSKH, tuning.keys), pad_length(v_BSKH, tuning.keys)
    delta_BNT = pad_length(delta_BNT, queries, axis=2)
    # No added query sees a key, and no probability of it is more than 0.
    lse_BNT = pad_length(lse_BNT, queries, axis=2, value=jnp.inf)
    unscaled_lse_BNT = lse_BNT * math.sqrt(H)  # as the scores are before they are scaled
    consumers = tuning.warps // 4
    operand = functools.partial(plgpu.SMEM, dtype=q_BTNH.dtype, transforms=OPERAND_TRANSFORMS)
    dk_BSKH, dv_BSKH = call(
        functools.partial(_kernel, group=N // K, tuning=tuning, ops=HopperOps(interpret)),
        (q_BTNH, k_BSKH, v_BSKH, lo_BT, hi_BT, bounds, dout_BTNH, -unscaled_lse_BNT, -delta_BNT),
        name="attention_dkv",
        grid={"head": K, "tile": k_BSKH.shape[1] // tuning.keys, "row": k_BSKH.shape[0]},
        outputs=((k_BSKH.shape, k_BSKH.dtype),) * 2,
        scratch={
            "k_ref": operand((consumers, ROWS_PER_WARPGROUP, H)),
            "v_ref": operand((consumers, ROWS_PER_WARPGROUP, H)),
            "q_ring": operand((stages, queries, H)),
            "dout_ring": operand((stages, queries, H)),
            "minus_lse_ring": plgpu.SMEM((stages, queries), jnp.float32),
            "minus_delta_ring": plgpu.SMEM((stages, queries), jnp.float32),
            "lo_ring": plgpu.SMEM((stages, queries), jnp.int32),
            "hi_ring": plgpu.SMEM((stages, queries), jnp.int32),
            "held_ready": plgpu.Barrier(num_arrivals=2, num_barriers=consumers),
            "ready": plgpu.Barrier(num_arrivals=6, num_barriers=stages),
            "free": plgpu.Barrier(num_arrivals=consumers, num_barriers=stages),
        },
        consumers=consumers,
        interpret=interpret,
    )
    return dk_BSKH[:, :S], dv_BSKH[:, :S]


def _kernel(
    q_BTNH: Any,
    k_BSKH: Any,
    v_BSKH: Any,
    lo_BT: Any,
    hi_BT: Any,
    bounds_BY4: Any,
    dout_BTNH: Any,
    minus_lse_BNT: Any,
    minus_delta_BNT: Any,
    dk_BSKH: Any,
    dv_BSKH: Any,
    *,
    k_ref: Any,
    v_ref: Any,
    q_ring: Any,
    dout_ring: Any,
    minus_lse_ring: Any,
    minus_delta_ring: Any,
    lo_ring: Any,
    hi_ring: Any,
    held_ready: Any,
    ready: Any,
    free: Any,
    group: int,
    tuning: TuningConfig,
    ops: HopperOps,
) -> None:
    # The first keys of a causal row are seen by the most queries: the longest tiles come first as they are.
    kv_head, tile, row = lax.axis_index("head"), lax.axis_index("tile"), lax.axis_index("row")
    warpgroup = lax.axis_index("warpgroup")
    consumers = tuning.warps // 4
    first, first_full, last_full, last = (bounds_BY4[row, tile, bound] for bound in range(4))
    # One loop over the tiles of every query head of the group: nested ones, or one for the tiles that are
    # masked and another for those that are not, take registers that the gradients need.
    count = last - first
    total = group * count
    H = k_ref.shape[-1]
    dtype = k_BSKH.dtype
    shape = (ROWS_PER_WARPGROUP, tuning.queries)

    @pl.when(warpgroup < consumers)
    def consume():
        plgpu.set_max_registers(MAX_REGISTERS[consumers], action="increase")
        start = tile * tuning.keys + warpgroup * ROWS_PER_WARPGROUP
        rows = pl.ds(start, ROWS_PER_WARPGROUP)
        for source, held in ((k_BSKH, k_ref), (v_BSKH, v_ref)):
            plgpu.copy_gmem_to_smem(
                source.at[row, rows, kv_head], held.at[warpgroup], held_ready.at[warpgroup]
            )
        plgpu.barrier_wait(held_ready.at[warpgroup])

        def step(index, carry):
            dk, dv = carry
            slot = lax.rem(index, jnp.int32(tuning.stages))
            query_tile = first + lax.rem(index, count)

            def mask(scores):
                key = ops.index(shape, 0) + start
                # One bound after the other: each takes half as many registers as the scores.
                lo = ops.load_column_vector(lo_ring.at[slot])
                scores = jnp.where(key >= over_rows(lo, shape), scores, -jnp.inf)
                hi = ops.load_column_vector(hi_ring.at[slot])
                return jnp.where(key < over_rows(hi, shape), scores, -jnp.inf)

            def probabilities(scores):
                whole = (query_tile >= first_full) & (query_tile < last_full)
                scores = lax.cond(whole, lambda scores: scores, mask, scores)
                return jnp.exp2(scores * (LOG2_E / math.sqrt(H)))

            plgpu.barrier_wait(ready.at[slot])
            minus_lse, minus_delta = (
                over_rows(ops.load_column_vector(ring.at[slot]), shape)
                for ring in (minus_lse_ring, minus_delta_ring)
            )
            # Both products start from what is subtracted from them.
            probs, dprobs = ops.add_products_transposed(
                (minus_lse, k_ref.at[warpgroup], q_ring.at[slot]),
                (minus_delta, v_ref.at[warpgroup], dout_ring.at[slot]),
                between=probabilities,
            )
            dv, dk = ops.add_products(
                (dv, lambda: probs.astype(dtype), dout_ring.at[slot]),
                (dk, lambda: (probs * dprobs).astype(dtype), q_ring.at[slot]),
            )
            ops.release(free.at[slot], loaded=True)
            return dk, dv

        zeros = ops.zeros((ROWS_PER_WARPGROUP, H))
        dk, dv = lax.fori_loop(0, total, step, (zeros, zeros))
        k_ref.at[warpgroup][...] = (dk * (1 / math.sqrt(H))).astype(dtype)
        v_ref.at[warpgroup][...] = dv.astype(dtype)
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(k_ref.at[warpgroup], dk_BSKH.at[row, rows, kv_head])
        plgpu.copy_smem_to_gmem(v_ref.at[warpgroup], dv_BSKH.at[row, rows, kv_head])
        plgpu.wait_smem_to_gmem(0)

    @pl.when(warpgroup == consumers)
    def produce():
        plgpu.set_max_registers(PRODUCER_REGISTERS, action="decrease")

        def copy(index, _):
            slot = lax.rem(index, jnp.int32(tuning.stages))
            head = kv_head * group + lax.div(index, count)
            rows = pl.ds((first + lax.rem(index, count)) * tuning.queries, tuning.queries)

            @pl.when(index >= tuning.stages)
            def wait_until_read():
                plgpu.barrier_wait(free.at[slot])

            for source, ring in (
                (q_BTNH.at[row, rows, head], q_ring),
                (dout_BTNH.at[row, rows, head], dout_ring),
                (minus_lse_BNT.at[row, head, rows], minus_lse_ring),
                (minus_delta_BNT.at[row, head, rows], minus_delta_ring),
                (lo_BT.at[row, rows], lo_ring),
                (hi_BT.at[row, rows], hi_ring),
            ):
                plgpu.copy_gmem_to_smem(source, ring.at[slot], ready.at[slot])

        lax.fori_loop(0, total, copy, None)

        def drain(index, _):
            slot = lax.rem(index, jnp.int32(tuning.stages))
            plgpu.barrier_wait(free.at[slot])

        # Every arrival is waited for before the kernel ends: no barrier may be left in the middle of a phase.
        lax.fori_loop(jnp.maximum(0, total - tuning.stages), total, drain, None)
