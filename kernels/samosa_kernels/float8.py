"""Matrix products in float8: operands rounded to 8 bits under one scale per tensor, sums in float32.

The recipe of Micikevicius et al. 2022 (arXiv:2209.05433) with scales from the tensors at hand ("tensorwise,
dynamic"): what a layer reads is rounded to e4m3, 3 bits of mantissa up to 448; the gradient that comes back
to e5m2, 2 bits up to 57,344, as gradients differ more in size than they need bits. A scale is a power of two:
scaling is exact, and all that is lost is what the format cannot hold.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

VALUES, GRADIENTS = jnp.float8_e4m3fn, jnp.float8_e5m2
SCALE_NAME = "float8_scale"  # for jax.checkpoint: kept, it saves the second look for the largest number
_SMALLEST = 1e-30  # below it a tensor counts as zero: the scale and its inverse stay normal numbers
_EXPONENT = 0x7F80_0000  # bits of a float32; alone they are the power of two below the number, or infinity


class Rounded(NamedTuple):
    """A tensor in float8: `values` times `scale`."""

    values: jax.Array
    scale: jax.Array  # a float32 power of two, or infinity


def round_to_float8(x: jax.Array, dtype: Any) -> Rounded:
    """x in `dtype`, its largest magnitude in the upper half of the range.

    A NaN stays one. An infinity makes the scale infinite, and so every product with it NaN.
    """
    largest = jnp.maximum(jnp.max(jnp.abs(x)).astype(jnp.float32), _SMALLEST)
    bits = lax.bitcast_convert_type(largest / float(jnp.finfo(dtype).max), jnp.int32)
    scale = 2 * lax.bitcast_convert_type(bits & _EXPONENT, jnp.float32)
    scale = checkpoint_name(scale, SCALE_NAME)
    return Rounded((x.astype(jnp.float32) * (1 / scale)).astype(dtype), scale)


@jax.custom_vjp
def float8_product(x: jax.Array, weight: jax.Array) -> jax.Array:
    """x (M, K) times weight (K, N) -> (M, N), all three of one dtype, as are both gradients.

    cuBLAS demands multiples of 16 in every dimension. A CPU computes the same numbers, slowly.
    """
    return _forward(x, weight)[0]


def _forward(x: jax.Array, weight: jax.Array) -> tuple[jax.Array, tuple[Rounded, Rounded]]:
    left, right = round_to_float8(x, VALUES), round_to_float8(weight, VALUES)
    return _multiply(left, right, contract=(1, 0), dtype=x.dtype), (left, right)


def _backward(kept: tuple[Rounded, Rounded], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, weight = kept
    rounded = round_to_float8(gradient, GRADIENTS)
    # In its fast mode the tensor core adds up with 14 bits (DeepSeek-V3, arXiv:2412.19437, section 3.3.2).
    # Sums over tokens are the longest; the highest precision turns that mode off.
    multiply = functools.partial(_multiply, dtype=gradient.dtype, precision=lax.Precision.HIGHEST)
    return multiply(rounded, weight, contract=(1, 1)), multiply(x, rounded, contract=(0, 0))


float8_product.defvjp(_forward, _backward)


def _multiply(
    left: Rounded,
    right: Rounded,
    *,
    contract: tuple[int, int],
    dtype: jnp.dtype,
    precision: lax.Precision = lax.Precision.DEFAULT,
) -> jax.Array:
    """The scale comes after the product: scaled before it, XLA for GPUs makes a bfloat16 product of it."""
    dims = (((contract[0],), (contract[1],)), ((), ()))
    product = functools.partial(lax.dot_general, dimension_numbers=dims, precision=precision)
    unscaled = lax.platform_dependent(
        left.values,
        right.values,
        cpu=lambda left, right: product(left.astype(jnp.float32), right.astype(jnp.float32)).astype(dtype),
        default=functools.partial(product, preferred_element_type=dtype),
    )
    return unscaled * (left.scale * right.scale).astype(dtype)
