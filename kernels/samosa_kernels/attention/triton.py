"""Flash attention by Pallas kernels on Triton, for NVIDIA GPUs of Ampere or later."""

from dataclasses import dataclass

import jax

from samosa_kernels.attention import triton_ops
from samosa_kernels.attention.flash import flash_attention
from samosa_kernels.attention.problem import Problem
from samosa_kernels.attention.ranges import KeyRanges, MaskShape
from samosa_kernels.attention.triton_backward import triton_dkv, triton_dq
from samosa_kernels.attention.triton_forward import triton_forward
from samosa_kernels.device import current_device
from samosa_kernels.tuning import TuningConfig, find_tuning


@dataclass(frozen=True, kw_only=True)
class TritonKernels:
    """The kernels with their tiles: a flash.FlashKernels."""

    forward_tuning: TuningConfig
    dq_tuning: TuningConfig
    dkv_tuning: TuningConfig
    interpret: bool

    def forward(
        self, q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, ranges: KeyRanges
    ) -> tuple[jax.Array, jax.Array]:
        return triton_forward(
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
        dq = triton_dq(*operands, tuning=self.dq_tuning, interpret=self.interpret)
        dk, dv = triton_dkv(*operands, tuning=self.dkv_tuning, interpret=self.interpret)
        return dq, dk, dv


def refusal(problem: Problem) -> str | None:
    return triton_ops.refusal(
        problem.device, dtype=problem.dtype, head_dim=problem.head_dim, interpret=problem.interpret
    )


def attention_triton(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    ranges: KeyRanges,
    *,
    mask: MaskShape,
    interpret: bool,
) -> tuple[jax.Array, jax.Array]:
    """softmax(q k^T / sqrt(H)) v over the keys in range, in O(T + S) memory; differentiable in q, k and v.

    Returns out (B, T, N, H) in the dtype of q and the log-sum-exp of the scores, float32 (B, T, N). Products
    take the inputs' dtype and accumulate in float32; float32 inputs are not rounded to TF32.
    """
    del mask  # the ranges say it all
    _, T, _, H = q_BTNH.shape

    def tuning(kernel: str) -> TuningConfig:
        kind = current_device().kind
        return find_tuning(kernel, device_kind=kind, dtype=q_BTNH.dtype.name, head_dim=H, length=T)

    kernels = TritonKernels(
        forward_tuning=tuning("triton_forward"),
        dq_tuning=tuning("triton_dq"),
        dkv_tuning=tuning("triton_dkv"),
        interpret=interpret,
    )
    return flash_attention(kernels, q_BTNH, k_BSKH, v_BSKH, ranges)
