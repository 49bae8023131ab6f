"""Flash attention by Pallas kernels on Mosaic GPU: for Hopper GPUs, and for any CPU in the interpreter."""

from dataclasses import dataclass

import jax

from samosa_kernels.attention.flash import flash_attention
from samosa_kernels.attention.hopper_dkv import hopper_dkv
from samosa_kernels.attention.hopper_dq import hopper_dq
from samosa_kernels.attention.hopper_forward import hopper_forward
from samosa_kernels.attention.problem import Problem
from samosa_kernels.attention.ranges import KeyRanges, MaskShape
from samosa_kernels.device import current_device
from samosa_kernels.tuning import TuningConfig, find_tuning

HEAD_DIMS = (64, 128)  # a row of a tile is one or two swizzled rows of 128 bytes; wider ones spill


@dataclass(frozen=True, kw_only=True)
class HopperKernels:
    """The kernels with their tiles: a flash.FlashKernels."""

    forward_tuning: TuningConfig
    dq_tuning: TuningConfig
    dkv_tuning: TuningConfig
    interpret: bool

    def forward(
        self, q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, ranges: KeyRanges
    ) -> tuple[jax.Array, jax.Array]:
        return hopper_forward(
            q_BTNH, k_BSKH, v_BSKH, ranges, tuning=self.forward_tuning, interpret=self.interpret
        )

    def backward(
        self,
        q_BTNH: jax.Array,
        k_BSKH: jax.Array,
        v_BSKH: jax.Array,
        ranges: KeyRanges,
        dout_BTNH: jax.Array,
        lse_BNT: jax.Array,
        delta_BNT: jax.Array,
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        operands = (q_BTNH, k_BSKH, v_BSKH, ranges, dout_BTNH, lse_BNT, delta_BNT)
        dq = hopper_dq(*operands, tuning=self.dq_tuning, interpret=self.interpret)
        dk, dv = hopper_dkv(*operands, tuning=self.dkv_tuning, interpret=self.interpret)
        return dq, dk, dv


def refusal(problem: Problem) -> str | None:
    if not problem.interpret and not problem.device.is_hopper:
        return f"it needs a Hopper GPU (H100, H200), and this is {problem.device.kind}"
    if problem.dtype != "bfloat16":
        return f"its products take bfloat16, not {problem.dtype}"
    if problem.head_dim not in HEAD_DIMS:
        return f"it needs a head width of {' or '.join(map(str, HEAD_DIMS))}, not {problem.head_dim}"
    return None


def attention_hopper(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    ranges: KeyRanges,
    *,
    mask: MaskShape,
    interpret: bool,
) -> tuple[jax.Array, jax.Array]:
    """softmax(q k^T / sqrt(H)) v over the keys in range, in O(T + S) memory; differentiable in q, k and v.

    Returns out (B, T, N, H) in bfloat16 and the log-sum-exp of the scores, float32 (B, T, N). Products take
    bfloat16 and accumulate in float32; probabilities and their gradients are rounded to bfloat16 between two.
    `interpret` runs the kernels in Pallas's interpreter for Mosaic GPU, which looks for races between threads
    and copies and says on standard output which it found.
    """
    del mask  # the ranges say it all
    _, T, _, H = q_BTNH.shape

    def tuning(kernel: str) -> TuningConfig:
        kind = current_device().kind
        return find_tuning(kernel, device_kind=kind, dtype=q_BTNH.dtype.name, head_dim=H, length=T)

    kernels = HopperKernels(
        forward_tuning=tuning("hopper_forward"),
        dq_tuning=tuning("hopper_dq"),
        dkv_tuning=tuning("hopper_dkv"),
        interpret=interpret,
    )
    return flash_attention(kernels, q_BTNH, k_BSKH, v_BSKH, ranges)
