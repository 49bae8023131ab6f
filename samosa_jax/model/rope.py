"""Rotary positions: RoPE (Su et al. 2021, arXiv:2104.09864) and HiRoPE (Zhang et al. 2024, arXiv:2403.19115).

A head's channels form pairs; a pair at position p is turned by the angle p * base^(-i / num_pairs), so that
the product of a query and a key depends on the distance between them alone. HiRoPE gives each half of the
head a clock of its own: the local half counts inside the turn, the global half inside the dialogue.

A model trained with a short context has never seen a slow pair far on its way round. `rope_scaling_type`
slows such pairs down: their angles in the new context are those of the old one. `kept_share` says which.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from samosa_jax.config import ModelConfig

# Turns within the old context: a pair with at most the first is slowed down by the whole factor, one with at
# least the second not at all.
YARN_TURNS = (1, 32)
LLAMA3_TURNS = (1, 4)


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
    frequencies = [base**-fraction for _, base in clocks]
    if config.rope_scaling_type != "none":
        frequencies[-1] *= slowdown(config, base=clocks[-1][1], num_pairs=num_pairs)
    angles = jnp.stack(
        [
            count[..., None].astype(jnp.float32) * frequency
            for (count, _), frequency in zip(clocks, frequencies, strict=True)
        ]
    )
    # XLA for CPU would fuse the cosines into every use and compute them again for each head of each layer;
    # it does not fuse across a loop.
    cos, sin = jax.lax.map(lambda part: jnp.where(part == 0, jnp.cos(angles), jnp.sin(angles)), jnp.arange(2))
    gain = attention_gain(config)
    return Rotation(cos=cos, sin=sin) if gain == 1 else Rotation(cos=gain * cos, sin=gain * sin)


def slowdown(config: ModelConfig, *, base: float, num_pairs: int) -> np.ndarray:
    """What the frequency of every pair of a clock is multiplied by, float32 (num_pairs,), 1/factor to 1."""
    kept = kept_share(config, base=base, num_pairs=num_pairs)
    return (kept + (1 - kept) / config.rope_scaling_factor).astype(np.float32)


def kept_share(config: ModelConfig, *, base: float, num_pairs: int) -> np.ndarray:
    """How much of its frequency every pair keeps, float64 (num_pairs,); the rest is divided by the factor.

    - `linear` (Chen et al. 2023, arXiv:2306.15595): nothing, which is dividing positions.
    - `yarn` (Peng et al. 2023, arXiv:2309.00071, "NTK-by-parts"): all where a pair goes round 32 times within
      the old context, nothing where it does not once, and straight in the number of the pair between, as the
      authors' code and transformers have it (the paper's text: in the number of turns).
    - `llama3` (Llama 3.1): from 4 turns all, up to 1 nothing, straight in the number of turns between.
    """
    length = config.original_context_len
    if config.rope_scaling_type == "linear" or length is None:
        return np.zeros(num_pairs)
    pair = np.arange(num_pairs)
    if config.rope_scaling_type == "llama3":
        turns = length / (2 * math.pi) * base ** (-pair / num_pairs)
        least, most = LLAMA3_TURNS
        return np.clip((turns - least) / (most - least), 0, 1)

    def pair_with(turns: int) -> float:
        return num_pairs * math.log(length / (turns * 2 * math.pi)) / math.log(base)

    least, most = YARN_TURNS
    first = max(math.floor(pair_with(most)), 0)
    last = min(math.ceil(pair_with(least)), 2 * num_pairs - 1)
    return 1 - np.clip((pair - first) / max(last - first, 0.001), 0, 1)


def attention_gain(config: ModelConfig) -> float:
    """What queries and keys are both multiplied by: YaRN sharpens attention over many more keys."""
    return 0.1 * math.log(config.rope_scaling_factor) + 1 if config.rope_scaling_type == "yarn" else 1.0


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
