"""The forward flash-attention kernel for Hopper: one producer and two or three consumer warpgroups.

A block of threads holds a tile of queries of one head, 64 to a consumer warpgroup. The producer warpgroup
copies tiles of keys and values into a ring in shared memory by TMA, ahead of the consumers, which multiply on
the tensor cores (wgmma) and keep the running maximum, sum and output in registers (FlashAttention-3,
arXiv:2407.08608). While one consumer is in its softmax the other has the tensor cores. Only tiles that some
query sees are copied, and only those that some query does not see whole are masked.
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

# Of a key out of range: finite, because -inf minus a maximum of -inf is NaN; scaled scores stay far above it.
MASKED = -1e30


def hopper_forward(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    ranges: KeyRanges,
    *,
    tuning: TuningConfig,
    interpret: bool,
) -> tuple[jax.Array, jax.Array]:
    """out (B, T, N, H) in bfloat16 and log-sum-exp (B, N, T) in float32: `flash.FlashKernels.forward`."""
    B, T, N, H = q_BTNH.shape
    S, K = k_BSKH.shape[1:3]
    tile = tuning.queries
    bounds = jnp.stack(key_tiles(ranges, queries=tile, keys=tuning.keys, num_keys=S), axis=-1)
    lo_BT, hi_BT = pad_queries(ranges, tile)
    # Whole tiles, the surplus cut off below: stores do not stop at the end of a row, copies need lengths that
    # 8 divides, and the interpreter's do not fill with zeros what is out of bounds.
    q_BTNH = pad_length(q_BTNH, tile)
    k_BSKH, v_BSKH = pad_length(k_BSKH, tuning.keys), pad_length(v_BSKH, tuning.keys)
    padded_T = q_BTNH.shape[1]
    consumers = tuning.warps // 4
    operand = functools.partial(plgpu.SMEM, dtype=q_BTNH.dtype, transforms=OPERAND_TRANSFORMS)
    out_BTNH, lse_BNT = call(
        functools.partial(_kernel, group=N // K, tuning=tuning, ops=HopperOps(interpret)),
        (q_BTNH, k_BSKH, v_BSKH, lo_BT, hi_BT, bounds),
        name="attention_forward",
        grid={"head": N, "tile": padded_T // tile, "row": B},
        outputs=((q_BTNH.shape, q_BTNH.dtype), ((B, N, padded_T), jnp.float32)),
        scratch={
            "q_ref": operand((consumers, ROWS_PER_WARPGROUP, H)),
            "k_ring": operand((tuning.stages, tuning.keys, H)),
            "v_ring": operand((tuning.stages, tuning.keys, H)),
            "lse_ref": plgpu.SMEM((consumers, ROWS_PER_WARPGROUP), jnp.float32),
            "q_ready": plgpu.Barrier(num_barriers=consumers),
            "k_ready": plgpu.Barrier(num_barriers=tuning.stages),
            "v_ready": plgpu.Barrier(num_barriers=tuning.stages),
            "k_free": plgpu.Barrier(num_arrivals=consumers, num_barriers=tuning.stages),
            "v_free": plgpu.Barrier(num_arrivals=consumers, num_barriers=tuning.stages),
        },
        consumers=consumers,
        interpret=interpret,
    )
    return out_BTNH[:, :T], lse_BNT[:, :, :T]


def _kernel(
    q_BTNH: Any,
    k_BSKH: Any,
    v_BSKH: Any,
    lo_BT: Any,
    hi_BT: Any,
    bounds_BX4: Any,
    out_BTNH: Any,
    lse_BNT: Any,
    *,
    q_ref: Any,
    k_ring: Any,
    v_ring: Any,
    lse_ref: Any,
    q_ready: Any,
    k_ready: Any,
    v_ready: Any,
    k_free: Any,
    v_free: Any,
    group: int,
    tuning: TuningConfig,
    ops: HopperOps,
) -> None:
    head, row = lax.axis_index("head"), lax.axis_index("row")
    # The last tiles of a causal row see the most keys. The longest come first, the short ones fill the end.
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
        plgpu.copy_gmem_to_smem(q_BTNH.at[row, rows, head], q_ref.at[warpgroup], q_ready.at[warpgroup])
        lo, hi = (ops.load_row_vector(bound.at[row, rows]) for bound in (lo_BT, hi_BT))
        plgpu.barrier_wait(q_ready.at[warpgroup])
        scale = LOG2_E / math.sqrt(H)

        def step(index, carry, *, masked):
            out, highest, total = carry
            slot = lax.rem(index, jnp.int32(tuning.stages))
            plgpu.barrier_wait(k_ready.at[slot])
            scores = ops.product_transposed(q_ref.at[warpgroup], k_ring.at[slot])
            ops.release(k_free.at[slot])
            if masked:
                key = ops.index(shape, 1) + (first + index) * tuning.keys
                seen = (key >= over_columns(lo, shape)) & (key < over_columns(hi, shape))
                # Scaled before it is masked: fused into one multiply-add with the maximum below, the scale
                # of MASKED would leave a residue.
                scores = jnp.where(seen, scores * scale, MASKED)
                new_highest = jnp.maximum(highest, scores.max(axis=1))
                probs = jnp.exp2(scores - over_columns(new_highest, shape))
            else:
                new_highest = jnp.maximum(highest, scores.max(axis=1) * scale)
                probs = jnp.exp2(scores * scale - over_columns(new_highest, shape))
            shrink = jnp.exp2(highest - new_highest)
            total = total * shrink + probs.sum(axis=1)
            out = out * over_columns(shrink, out.shape)
            plgpu.barrier_wait(v_ready.at[slot])
            out = ops.add_product(out, probs.astype(q_BTNH.dtype), v_ring.at[slot])
            ops.release(v_free.at[slot])
            return out, new_highest, total

        carry = (
            ops.zeros((ROWS_PER_WARPGROUP, H)),
            ops.full_row_vector(ROWS_PER_WARPGROUP, MASKED),
            ops.full_row_vector(ROWS_PER_WARPGROUP, 0.0),
        )
        out, highest, total = over_tiles(bounds, step, carry)
        # A row that sees no key but had tiles has summed masked scores: its range says so, not its sum.
        sees = hi > lo
        total = jnp.where(sees, total, 1.0)
        out = out * over_columns(jnp.where(sees, 1.0 / total, 0.0), out.shape)
        q_ref.at[warpgroup][...] = out.astype(q_BTNH.dtype)
        lse_ref.at[warpgroup][...] = jnp.where(sees, jnp.log(total) + highest * (1 / LOG2_E), -jnp.inf)
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(q_ref.at[warpgroup], out_BTNH.at[row, rows, head])
        plgpu.copy_smem_to_gmem(lse_ref.at[warpgroup], lse_BNT.at[row, head, rows])
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
