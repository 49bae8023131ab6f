"""Flash attention by Pallas kernels on Mosaic GPU: for Hopper GPUs, and for any CPU in the interpreter."""

import jax

from samosa_kernels.attention.flash import TiledKernels, find_kernel_tuning, flash_attention
from samosa_kernels.attention.hopper_dkv import hopper_dkv
from samosa_kernels.attention.hopper_dq import hopper_dq
from samosa_kernels.attention.hopper_forward import hopper_forward
from samosa_kernels.attention.problem import Problem
from samosa_kernels.attention.ranges import KeyRanges, MaskShape

HEAD_DIMS = (64, 128)  # a row of a tile is one or two swizzled rows of 128 bytes; wider ones spill


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
    kernels = TiledKernels(
        run_forward=hopper_forward,
        run_dq=hopper_dq,
        run_dkv=hopper_dkv,
        forward_tuning=find_kernel_tuning("hopper_forward", q_BTNH),
        dq_tuning=find_kernel_tuning("hopper_dq", q_BTNH),
        dkv_tuning=find_kernel_tuning("hopper_dkv", q_BTNH),
        interpret=interpret,
    )
    return flash_attention(kernels, q_BTNH, k_BSKH, v_BSKH, ranges)
