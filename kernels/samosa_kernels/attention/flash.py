"""What every flash-attention kernel shares: what it saves, under which names, and the rowwise part.

The method is that of FlashAttention-2 (arXiv:2307.08691): scores are recomputed from the saved log-sum-exp.
"""

from typing import Protocol

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from samosa_kernels.attention.ranges import KeyRanges


class FlashKernels(Protocol):
    """A forward and a backward kernel with all that is static in them; compared and hashed by value."""

    def forward(
        self, q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, ranges: KeyRanges
    ) -> tuple[jax.Array, jax.Array]:
        """out (B, T, N, H), dtype of q, and the scores' natural log-sum-exp (B, N, T), float32.

        A query without keys has output 0 and log-sum-exp -inf.
        """
        ...

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
        """dq, dk, dv in the dtypes of q, k, v, from P = exp(scores - lse), dS = P * (dout v^T - delta).

        lse is +inf where a query sees no key, so that its P is 0.
        """
        ...


def flash_attention(
    kernels: FlashKernels, q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, ranges: KeyRanges
) -> tuple[jax.Array, jax.Array]:
    """out (B, T, N, H) and log-sum-exp (B, T, N), differentiable in q, k, v through the kernels' backward."""
    return _flash(q_BTNH, k_BSKH, v_BSKH, ranges, kernels)


def _outputs(q_BTNH, k_BSKH, v_BSKH, ranges: KeyRanges, kernels: FlashKernels) -> tuple[jax.Array, jax.Array]:
    out_BTNH, lse_BNT = kernels.forward(q_BTNH, k_BSKH, v_BSKH, ranges)
    return out_BTNH, lse_BNT.swapaxes(1, 2)


def _forward(q_BTNH, k_BSKH, v_BSKH, ranges: KeyRanges, kernels: FlashKernels):
    out, lse = _outputs(q_BTNH, k_BSKH, v_BSKH, ranges, kernels)
    # Named here, where they are residuals too: a remat policy that saves both never recomputes the forward.
    out, lse = checkpoint_name(out, "attn_out"), checkpoint_name(lse, "attn_lse")
    return (out, lse), (q_BTNH, k_BSKH, v_BSKH, ranges, out, lse)


def _backward(kernels: FlashKernels, residuals, cotangents):
    q_BTNH, k_BSKH, v_BSKH, ranges, out_BTNH, lse_BTN = residuals
    dout_BTNH, dlse_BTN = cotangents
    delta_BTN = jnp.sum(out_BTNH.astype(jnp.float32) * dout_BTNH.astype(jnp.float32), axis=-1) - dlse_BTN
    lse_BTN = jnp.where(lse_BTN == -jnp.inf, jnp.inf, lse_BTN)
    gradients = kernels.backward(
        q_BTNH, k_BSKH, v_BSKH, ranges, dout_BTNH, lse_BTN.swapaxes(1, 2), delta_BTN.swapaxes(1, 2)
    )
    return (*gradients, None)


_flash = jax.custom_vjp(_outputs, nondiff_argnums=(4,))
_flash.defvjp(_forward, _backward)
