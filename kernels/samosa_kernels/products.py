"""Matrix products of bfloat16 or float32 operands that come out in float32, on every platform."""

import functools

import jax
import jax.numpy as jnp
from jax import lax


def product_float32(
    left: jax.Array, right: jax.Array, *, contract: tuple[int, int], batch: tuple[int, ...] = ()
) -> jax.Array:
    """Float32 product over one dimension of each operand, `batch` dimensions being leading ones of both."""
    dims = (((contract[0],), (contract[1],)), (batch, batch))
    product = functools.partial(lax.dot_general, dimension_numbers=dims, preferred_element_type=jnp.float32)
    if left.dtype == right.dtype == jnp.float32:
        return product(left, right)
    # XLA's CPU runtime refuses some bfloat16 products with a float32 result; the widened operands are the
    # same numbers. Chosen at lowering: compiling for another platform on a CPU keeps its bfloat16 units.
    return lax.platform_dependent(
        left,
        right,
        cpu=lambda left, right: product(left.astype(jnp.float32), right.astype(jnp.float32)),
        default=product,
    )
