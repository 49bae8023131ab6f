"""Flash attention by Pallas kernels on Triton, for NVIDIA GPUs of Ampere or later."""

import jax

from samosa_kernels.attention import triton_ops
from samosa_kernels.attention.flash import TiledKernels, find_kernel_tuning, flash_attention
from samosa_kernels.attention.problem import Problem
from samosa_kernels.attention.ranges import KeyRanges, MaskShape
from samosa_kernels.attention.triton_backward import triton_dkv, triton_dq
from samosa_kernels.attention.triton_forward import triton_forward


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
    kernels = TiledKernels(
        run_forward=triton_forward,
        run_dq=triton_dq,
        run_dkv=triton_dkv,
        forward_tuning=find_kernel_tuning("triton_forward", q_BTNH),
        dq_tuning=find_kernel_tuning("triton_dq", q_BTNH),
        dkv_tuning=find_kernel_tuning("triton_dkv", q_BTNH),
        interpret=interpret,
    )
    return flash_attention(kernels, q_BTNH, k_BSKH, v_BSKH, ranges)
