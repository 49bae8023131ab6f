"""The one mask of attention: for every query the half-open range of keys it sees."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class KeyRanges(NamedTuple):
    """The query at position i of a row sees the keys [lo, hi) of its row. A pytree of two int32 (B, T).

    Causal attention is hi = i + 1; a packed document sets lo to its start; padding is an empty range
    (hi <= lo), whose output is 0. Keys after the query are never seen, whatever hi says.
    """

    lo: jax.Array
    hi: jax.Array


def causal_ranges(batch: int, length: int) -> KeyRanges:
    """Every query sees itself and all keys before it: KeyRanges of shape (batch, length)."""
    hi = jnp.broadcast_to(jnp.arange(1, length + 1, dtype=jnp.int32), (batch, length))
    return KeyRanges(lo=jnp.zeros_like(hi), hi=hi)


def effective_ranges(ranges: KeyRanges, window: int | None) -> KeyRanges:
    """The ranges with causality and the sliding window folded in, so that one comparison masks all."""
    position = jnp.arange(ranges.hi.shape[-1], dtype=jnp.int32)
    hi = jnp.minimum(ranges.hi, position + 1)
    lo = ranges.lo if window is None else jnp.maximum(ranges.lo, position + 1 - window)
    return KeyRanges(lo=lo, hi=hi)
