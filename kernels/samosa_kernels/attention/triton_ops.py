"""What the Triton kernels share: products in full precision, rows past the end, who can run them.

Pallas sends a kernel to Triton if it is given `pallas.triton.CompilerParams`; each call here gives them.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as pltriton

from samosa_kernels.device import Device

HEAD_DIMS = (16, 32, 64, 128, 256)  # a tile's sides are powers of two, products have sides of 16 or more
DTYPES = ("float32", "bfloat16")
BEFORE_AMPERE = ("Tesla", "V100", "GTX", "TITAN", "Quadro", "RTX 2060", "RTX 2070", "RTX 2080")


def refusal(device: Device, *, dtype: str, head_dim: int, interpret: bool) -> str | None:
    """Why a Triton kernel cannot run, in one line, or None."""
    if not interpret and not device.is_nvidia:
        return f"Triton needs an NVIDIA GPU, not {device.kind}; interpret=True runs it anywhere, slowly"
    if not interpret and any(name in device.kind for name in BEFORE_AMPERE):
        return f"Triton kernels need an Ampere GPU or a later one, not {device.kind}"
    if head_dim not in HEAD_DIMS:
        return f"Triton needs a head width of {', '.join(map(str, HEAD_DIMS))}, not {head_dim}"
    if dtype not in DTYPES:
        return f"Triton kernels take {' or '.join(DTYPES)}, not {dtype}"
    return None


def product(left: jax.Array, right: jax.Array, contract: tuple[int, int]) -> jax.Array:
    """The float32 product of two matrices over one dimension of each, without rounding float32 to TF32."""
    return lax.dot_general(
        left,
        right,
        dimension_numbers=(((contract[0],), (contract[1],)), ((), ())),
        precision=lax.Precision.HIGHEST,  # which bfloat16 operands have anyway
        preferred_element_type=jnp.float32,
    )


def exists(start: jax.Array | int, size: int, length: int) -> jax.Array | None:
    """Which of the positions start .. start + size - 1 lie before `length`; None if tiles never pass it."""
    return start + jnp.arange(size, dtype=jnp.int32) < length if length % size else None


def load(ref: Any, mask: jax.Array | None, other: float = 0.0) -> jax.Array:
    """A tile whose leading positions are there only where the mask says so; `other` elsewhere."""
    if mask is None:
        return pltriton.load(ref)
    column = mask.reshape(mask.shape + (1,) * (len(ref.shape) - 1))
    return pltriton.load(ref, mask=jnp.broadcast_to(column, ref.shape), other=other)


def store(ref: Any, value: jax.Array, mask: jax.Array | None) -> None:
    """Writes a tile, but for the leading positions that the mask excludes."""
    if mask is None:
        pltriton.store(ref, value.astype(ref.dtype))
        return
    column = mask.reshape(mask.shape + (1,) * (len(ref.shape) - 1))
    pltriton.store(ref, value.astype(ref.dtype), mask=jnp.broadcast_to(column, ref.shape))


def call(
    kernel: Any,
    *,
    name: str,
    grid: tuple[int, ...],
    inputs: Sequence[tuple[jax.Array, pl.BlockSpec]],
    outputs: Sequence[tuple[tuple[int, ...], Any, pl.BlockSpec]],  # shape, dtype, block
    warps: int,
    stages: int,
    interpret: bool,
) -> tuple[jax.Array, ...]:
    """Runs a kernel over a grid by Triton. Its outputs vary over the mesh axes that its first input does."""
    varies = jax.typeof(inputs[0][0]).manual_axis_type
    run = pl.pallas_call(
        kernel,
        grid=grid,
        in_specs=[block for _, block in inputs],
        out_specs=[block for _, _, block in outputs],
        out_shape=[
            jax.ShapeDtypeStruct(shape, dtype, manual_axis_type=varies) for shape, dtype, _ in outputs
        ],
        compiler_params=pltriton.CompilerParams(num_warps=warps, num_stages=stages),
        interpret=interpret,
        name=name,
    )
    return tuple(run(*(array for array, _ in inputs)))
