"""Keeps `jax.shard_map` content when it counts which values vary over which mesh axes (check_vma=True)."""

import jax
import jax.numpy as jnp
from jax import lax


def varying_like(array: jax.Array, other: jax.Array) -> jax.Array:
    """`array`, varying over the mesh axes that `other` varies over; `array` itself outside jax.shard_map.

    Loop carries need it, and operands that are the same on all devices: their gradient then is the sum over
    devices, as it should be. XLA drops the select, whose condition is constant.
    """
    return jnp.where(True, array, lax.stop_gradient(other).reshape(-1)[0].astype(array.dtype))
