"""Rotary positions: RoPE (Su et al. 2021, arXiv:2104.09864) and HiRoPE (Zhang et al. 2024, arXiv:2403.19115).

A head's channels form pairs; a pair at position p is turned by the angle p * base^(-i / num_pairs), so that
the product of a query and a key depends on the distance between them alone. HiRoPE gives each half of the
head a clock of its own: the local half counts inside the turn, the global half inside the dialogue.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from samosa_jax.config import ModelConfig


class Rotation(NamedTuple):
    """Cosine and sine of every angle, float32 (clocks, B, T, pairs of a clock)."""

    cos: jax.Array
    sin: jax.Array


def make_rotation(config: ModelConfig, *, position: jax.Array, turn_position: jax.Array) -> Rotation:
    """The angles of a batch from its int32 (B, T) positions; made once, used by every layer."""
    if config.position == "hirope":
        clocks = [(turn_position, config.hirope_local_base), (position, config.hirope_global_base)]
    else:
        clocks = [(position, config.rope_base)]
    num_pairs = config.head_dim // (2 * len(clocks))
    fraction = jnp.arange(num_pairs, dtype=jnp.float32) / num_pairs
    angles = jnp.stack([count[..., None].astype(jnp.float32) * base**-fraction for count, base in clocks])
    # XLA for CPU would fuse the cosines into every use and compute them again for each head of each layer;
    # it does not fuse across a loop.
    cos, sin = jax.lax.map(lambda part: jnp.where(part == 0, jnp.cos(angles), jnp.sin(angles)), jnp.arange(2))
    return Rotation(cos=cos, sin=sin)


def rotate(x: jax.Array, rotation: Rotation) -> jax.Array:
    """Turns the heads (B, T, heads, H) by their angles; float32.

    A pair (a, b) becomes (a cos - b sin, a sin + b cos). In a clock's share of the channels, channel i of the
    first half pairs with channel i of the second, as in Llama checkpoints.

    A checkpoint that turns the other way (nanochat's) is imported exactly by swapping the two halves of every
    query and key head: turning (a, b) by -angle is turning (b, a) by +angle, and neither the norm over H nor
    the product of query and key sees the order of channels.
    """
    num_clocks = rotation.cos.shape[0]
    halves = jnp.split(x.astype(jnp.float32), 2 * num_clocks, axis=-1)
    turned = []
    for clock in range(num_clocks):
        a, b = halves[2 * clock : 2 * clock + 2]
        cos, sin = rotation.cos[clock, :, :, None], rotation.sin[clock, :, :, None]
        turned += [a * cos - b * sin, a * sin + b * cos]
    return jnp.concatenate(turned, axis=-1)
