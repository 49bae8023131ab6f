"""cuDNN's flash attention through `jax.nn.dot_product_attention`: causal, with or without a window.

Two things that JAX leaves open are closed here. Its derivative drops the cotangent of the log-sum-exp; here
that part is computed, by a second call, only where such a cotangent exists. And what its backward reads is
saved under this library's names, so that a rematerialised layer runs no forward again.
"""

import functools
import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.custom_derivatives import SymbolicZero

from samosa_kernels.attention.problem import Problem
from samosa_kernels.attention.ranges import KeyRanges, MaskShape
from samosa_kernels.varying import varying_like

MAX_HEAD_DIM = 128

Backend = Literal["cudnn", "xla"]


class _Options(NamedTuple):
    """What is static: hashable, so that custom_vjp can take it as a non-differentiated argument."""

    window: int | None
    backend: Backend


def refusal(problem: Problem) -> str | None:
    if problem.interpret:
        return "it is no Pallas kernel: there is nothing to interpret"
    if not problem.device.is_nvidia:
        return f"cuDNN runs on NVIDIA GPUs, not on {problem.device.kind}"
    if problem.dtype != "bfloat16":
        return f"it needs bfloat16, not {problem.dtype}"
    if problem.head_dim > MAX_HEAD_DIM or problem.head_dim % 8:
        return f"it needs a head width of at most {MAX_HEAD_DIM} that 8 divides, not {problem.head_dim}"
    if not problem.mask.causal:
        return "it needs as many keys as queries"
    if not problem.mask.plain:
        return "it knows no documents or padding: pass ranges=None, or use another implementation"
    return None


def attention_cudnn(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    ranges: KeyRanges,
    *,
    mask: MaskShape,
    interpret: bool = False,
    backend: Backend = "cudnn",
) -> tuple[jax.Array, jax.Array]:
    """softmax(q k^T / sqrt(H)) v over the keys before each query, the last mask.window of them.

    Returns out (B, T, N, H) in the dtype of q and the log-sum-exp of the scores, float32 (B, T, N), but with
    bfloat16's eight bits of precision: JAX rounds it so (an error up to 0.016 at values between 4 and 8). The
    backward uses cuDNN's own, unrounded. A cotangent of it costs a second forward and backward.

    `backend` "xla" computes the same call with all scores in memory, on any device and in any dtype: it shows
    what is asked of cuDNN where there is none. On a machine without cuDNN, JAX raises RuntimeError.
    """
    del ranges, interpret  # plain: the mask says it all
    return _attention(q_BTNH, k_BSKH, v_BSKH, _Options(mask.window, backend))


def _call(q_BTNH, k_BSKH, v_BSKH, options: _Options) -> tuple[jax.Array, jax.Array]:
    """out, and the log-sum-exp rounded to its dtype, through which no gradient flows."""
    # Always causal: JAX's window alone lets cuDNN see the future (github.com/jax-ml/jax/issues/39576).
    out_BTNH, lse_BTN = jax.nn.dot_product_attention(
        q_BTNH,
        k_BSKH,
        v_BSKH,
        is_causal=True,
        local_window_size=None if options.window is None else (options.window - 1, 0),
        implementation=options.backend,
        return_residual=True,
    )
    return out_BTNH, lse_BTN


def _outputs(q_BTNH, k_BSKH, v_BSKH, options: _Options) -> tuple[jax.Array, jax.Array]:
    out_BTNH, lse_BTN = _call(q_BTNH, k_BSKH, v_BSKH, options)
    return out_BTNH, lse_BTN.astype(jnp.float32)


def _forward(q: Any, k: Any, v: Any, options: _Options):
    inputs = (q.value, k.value, v.value)
    (out_BTNH, lse_BTN), pull = jax.vjp(functools.partial(_call, options=options), *inputs)
    named_out = checkpoint_name(out_BTNH, "attn_out")

    def named(residual: jax.Array) -> jax.Array:
        """cuDNN's backward reads its inputs, its output, and statistics of its own."""
        if any(residual is array for array in inputs):
            return residual
        return named_out if residual is out_BTNH else checkpoint_name(residual, "attn_lse")

    lse_BTN = checkpoint_name(lse_BTN.astype(jnp.float32), "attn_lse")
    return (named_out, lse_BTN), (jax.tree.map(named, pull), inputs[:2])


def _backward(options: _Options, residuals, cotangents):
    pull, (q_BTNH, k_BSKH) = residuals
    dout_BTNH, dlse_BTN = cotangents
    no_dlse = varying_like(jnp.zeros(q_BTNH.shape[:-1], q_BTNH.dtype), q_BTNH)
    if isinstance(dout_BTNH, SymbolicZero):
        dout_BTNH = varying_like(jnp.zeros_like(q_BTNH), q_BTNH)
    dq_BTNH, dk_BSKH, dv_BSKH = pull((dout_BTNH, no_dlse))
    if isinstance(dlse_BTN, SymbolicZero):
        return dq_BTNH, dk_BSKH, dv_BSKH
    # The log-sum-exp of query i grows by sum_s P_is (dq_i . k_s + q_i . dk_s) / sqrt(H): with the keys as
    # values, attention's output has the first sum, and the gradient of its values the second.
    dscores_BTN1 = (dlse_BTN / math.sqrt(q_BTNH.shape[-1]))[..., None]
    mean_key_BTNH, pull_values = jax.vjp(lambda values: _call(q_BTNH, k_BSKH, values, options)[0], k_BSKH)
    (dk_lse_BSKH,) = pull_values((dscores_BTN1 * q_BTNH).astype(q_BTNH.dtype))
    dq_lse_BTNH = (dscores_BTN1 * mean_key_BTNH).astype(q_BTNH.dtype)
    return dq_BTNH + dq_lse_BTNH, dk_BSKH + dk_lse_BSKH, dv_BSKH


_attention = jax.custom_vjp(_outputs, nondiff_argnums=(3,))
_attention.defvjp(_forward, _backward, symbolic_zeros=True)
