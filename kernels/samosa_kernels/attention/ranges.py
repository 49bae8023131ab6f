"""The one mask of attention: for every query the half-open range of keys it sees."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


class KeyRanges(NamedTuple):
    """The query at position i of a row sees the keys [lo, hi) of its row. A pytree of two int32 (B, T).

    Causal attention is hi = i + 1; a packed document sets lo to its start; padding is an empty range
    (hi <= lo), whose output is 0. Over the queries that see something neither bound decreases.
    """

    lo: jax.Array
    hi: jax.Array


class MaskShape(NamedTuple):
    """What is known of the ranges before they have values. Static: it selects code, they select keys."""

    causal: bool  # as many queries as keys, and the query at i sees no key after i
    window: int | None  # nor, with a window, keys before i - window + 1
    plain: bool  # and all the others: no documents, no padding


def causal_ranges(batch: int, length: int) -> KeyRanges:
    """Every query sees itself and all keys before it: KeyRanges of shape (batch, length)."""
    hi = jnp.broadcast_to(jnp.arange(1, length + 1, dtype=jnp.int32), (batch, length))
    return KeyRanges(lo=jnp.zeros_like(hi), hi=hi)


def effective_ranges(ranges: KeyRanges, mask: MaskShape, num_keys: int) -> KeyRanges:
    """The ranges with causality and the window folded in, inside 0..num_keys: one comparison masks all."""
    position = jnp.arange(ranges.hi.shape[-1], dtype=jnp.int32)
    lo, hi = jnp.maximum(ranges.lo, 0), jnp.minimum(ranges.hi, num_keys)
    if mask.causal:
        hi = jnp.minimum(hi, position + 1)
    if mask.window is not None:
        lo = jnp.maximum(lo, position + 1 - mask.window)
    return KeyRanges(lo=lo, hi=hi)


def check_ranges(ranges: KeyRanges, num_keys: int) -> None:
    """ValueError, naming the first offender, if a range leaves 0..num_keys or a bound decreases along a row.

    Ranges that are being traced have no values to check; every implementation is right for any of them.
    """
    if isinstance(ranges.lo, Tracer) or isinstance(ranges.hi, Tracer):
        return
    lo_BT, hi_BT = np.asarray(ranges.lo), np.asarray(ranges.hi)
    sees_BT = hi_BT > lo_BT
    outside = np.argwhere(sees_BT & ((lo_BT < 0) | (hi_BT > num_keys)))
    if outside.size:
        row, query = outside[0]
        raise ValueError(
            f"attention ranges row {row} query {query}: [{lo_BT[row, query]}, {hi_BT[row, query]}) is "
            f"outside the keys 0..{num_keys}"
        )
    for name, bound_BT in (("lo", lo_BT), ("hi", hi_BT)):
        for row in range(len(bound_BT)):
            queries = np.flatnonzero(sees_BT[row])
            falls = np.flatnonzero(np.diff(bound_BT[row, queries]) < 0)
            if falls.size:
                before, after = queries[falls[0]], queries[falls[0] + 1]
                raise ValueError(
                    f"attention ranges row {row}: {name} decreases from {bound_BT[row, before]} at query "
                    f"{before} to {bound_BT[row, after]} at query {after}; sort a row's documents"
                )
