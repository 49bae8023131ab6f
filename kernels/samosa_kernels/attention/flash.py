"""What every flash-attention kernel shares: what it saves, under which names, and the rowwise part.

The method is that of FlashAttention-2 (arXiv:2307.08691): scores are recomputed from the saved log-sum-exp.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from samosa_kernels.attention.ranges import KeyRanges
from samosa_kernels.device import current_device
from samosa_kernels.tuning import TuningConfig, find_tuning


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


@dataclass(frozen=True, kw_only=True)
class TiledKernels:
    """FlashKernels of one family: a forward, a kernel for dq and one for dk and dv, each with its tiles."""

    run_forward: Callable[..., tuple[jax.Array, jax.Array]]
    run_dq: Callable[..., jax.Array]
    run_dkv: Callable[..., tuple[jax.Array, jax.Array]]
    forward_tuning: TuningConfig
    dq_tuning: TuningConfig
    dkv_tuning: TuningConfig
    interpret: bool

    def forward(
        self, q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, ranges: KeyRanges
    ) -> tuple[jax.Array, jax.Array]:
        operands = (q_BTNH, k_BSKH, v_BSKH, ranges)
        return self.run_forward(*operands, tuning=self.forward_tuning, interpret=self.interpret)

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
        dq = self.run_dq(*operands, tuning=self.dq_tuning, interpret=self.interpret)
        dk, dv = self.run_dkv(*operands, tuning=self.dkv_tuning, interpret=self.interpret)
        return dq, dk, dv


def find_kernel_tuning(kernel: str, q_BTNH: jax.Array) -> TuningConfig:
    """The tiles of a kernel for these queries on the device at hand; see `tuning.find_tuning`."""
    _, T, _, H = q_BTNH.shape
    kind = current_device().kind
    return find_tuning(kernel, device_kind=kind, dtype=q_BTNH.dtype.name, head_dim=H, length=T)


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
