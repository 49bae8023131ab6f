"""From logits to tokens, on the device, each row by rules of its own.

Nothing is sorted where that is slow. A token is drawn by inverting the distribution function at one uniform
number per row, over blocks of tokens first. The thresholds of top-k and top-p are found by bisection on CPU:
positive floats are ordered as the integers of the same bits, so thirty counts find one exactly. On
accelerators one sort finds both.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from samosa_kernels import current_device

Array = jax.Array | np.ndarray

BLOCK = 256  # tokens whose probabilities are added first
ONE_BITS = 0x3F800000  # of 1.0


class Rules(NamedTuple):
    """How every row draws; `rollout.request.Sampling` says what the numbers mean. All (B,)."""

    temperature: Array  # float32
    top_k: Array  # int32
    top_p: Array  # float32
    min_p: Array  # float32
    repetition_penalty: Array  # float32
    presence_penalty: Array  # float32
    frequency_penalty: Array  # float32


def draw(logits_BV: jax.Array, uniform_B: jax.Array, rules: Rules, *, filters: bool) -> jax.Array:
    """One token of every row, int32 (B,), at a uniform number from [0, 1).

    Without `filters`, top_k, top_p and min_p of all rows are taken to have no effect. Tokens that tie with
    the last one kept are kept.
    """
    scaled = logits_BV / jnp.maximum(rules.temperature, 1e-4)[:, None]
    weights = jnp.exp(scaled - scaled.max(axis=-1, keepdims=True))  # the likeliest has 1
    if filters:
        weights = keep_likely(weights, top_k=rules.top_k, top_p=rules.top_p, min_p=rules.min_p)
    return jnp.where(rules.temperature > 0, invert(weights, uniform_B), argmax(logits_BV))


def log_probs(logits_BV: jax.Array, tokens_B: jax.Array) -> jax.Array:
    """Natural logarithms (B,) of the probabilities that softmax(logits) gives to one token per row."""
    chosen = jnp.take_along_axis(logits_BV, tokens_B[:, None], axis=1)[:, 0]
    return chosen - jax.nn.logsumexp(logits_BV, axis=-1)


def penalize(logits_BV: jax.Array, rules: Rules, *, said_BV: jax.Array, in_prompt_BV: jax.Array) -> jax.Array:
    """Logits after the three penalties.

    Args:
        said_BV: int, how often each token stands in the answer.
        in_prompt_BV: bool, whether it stands in the prompt.
    """
    factor = rules.repetition_penalty[:, None]
    repeated = jnp.where(logits_BV > 0, logits_BV / factor, logits_BV * factor)
    logits = jnp.where((said_BV > 0) | in_prompt_BV, repeated, logits_BV)
    said = said_BV.astype(jnp.float32)
    return logits - rules.presence_penalty[:, None] * (said > 0) - rules.frequency_penalty[:, None] * said


def argmax(x_BV: jax.Array) -> jax.Array:
    """The first of the largest of each row, int32 (B,): two reductions, which XLA for CPU vectorises."""
    V = x_BV.shape[-1]
    highest = x_BV.max(axis=-1, keepdims=True)
    return jnp.where(x_BV == highest, jnp.arange(V, dtype=jnp.int32), V - 1).min(axis=-1)


def invert(weights_BV: jax.Array, uniform_B: jax.Array) -> jax.Array:
    """The token, int32 (B,), at which the running sum of a row first exceeds that share of its total.

    Weights are at least 0, and one is above it; a token of weight 0 is never chosen.
    """
    B, V = weights_BV.shape
    num_blocks = -(-V // BLOCK)
    blocks = jnp.pad(weights_BV, ((0, 0), (0, num_blocks * BLOCK - V))).reshape(B, num_blocks, BLOCK)
    ends = jnp.cumsum(blocks.sum(axis=-1), axis=-1)
    target = uniform_B[:, None] * ends[:, -1:]
    block = _first_above(ends, target)
    start = jnp.where(block > 0, jnp.take_along_axis(ends, jnp.maximum(block - 1, 0), axis=1), 0.0)
    inside = jnp.cumsum(jnp.take_along_axis(blocks, block[..., None], axis=1)[:, 0], axis=-1)
    return (block * BLOCK + _first_above(inside, target - start))[:, 0].astype(jnp.int32)


def _first_above(sums: jax.Array, target: jax.Array) -> jax.Array:
    """(B, 1): where rising sums (B, X) first exceed the target (B, 1), else where they rise last.

    The sum of a block and the running sum inside it are rounded differently, so the target may lie behind.
    """
    reachable = jnp.minimum(target, jnp.nextafter(sums[:, -1:], jnp.float32(0)))
    return (sums <= reachable).sum(axis=-1, keepdims=True, dtype=jnp.int32)


def keep_likely(weights_BV: jax.Array, *, top_k: Array, top_p: Array, min_p: Array) -> jax.Array:
    """Weights, of which the largest is 1, with those set to 0 that the three limits (B,) leave out."""
    bits = lax.bitcast_convert_type(weights_BV, jnp.int32)
    find = _bisected if current_device().platform == "cpu" else _sorted
    k = jnp.where(top_k > 0, top_k, weights_BV.shape[-1])
    bits_k, bits_p = find(weights_BV, bits, k, jnp.asarray(top_p))
    least = lax.bitcast_convert_type(jnp.asarray(min_p, jnp.float32), jnp.int32)
    threshold = jnp.maximum(jnp.maximum(bits_k, bits_p), least)
    return jnp.where(bits >= threshold[:, None], weights_BV, 0.0)


def _bisected(
    weights_BV: jax.Array, bits_BV: jax.Array, k: jax.Array, p: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The largest thresholds (B,), as bits, that leave at least k tokens, and of those a share of p."""

    def largest(leaves_enough: Callable[[jax.Array], jax.Array]) -> jax.Array:
        def halve(_: jax.Array, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            low, high = bounds  # low leaves enough, high does not
            middle = (low + high) // 2
            enough = leaves_enough(middle)
            return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

        bounds = (nothing, jnp.full_like(nothing, ONE_BITS + 1))
        return lax.fori_loop(0, 30, halve, bounds)[0]

    def leaves_k(at: jax.Array) -> jax.Array:
        return (bits_BV >= at[:, None]).sum(axis=-1, dtype=jnp.int32) >= k

    nothing = jnp.zeros(k.shape, jnp.int32)
    V = weights_BV.shape[-1]
    bits_k = lax.cond(jnp.any(k < V), lambda: largest(leaves_k), lambda: nothing)
    kept = jnp.where(bits_BV >= bits_k[:, None], weights_BV, 0.0)
    needed = jnp.minimum(p, 1.0) * kept.sum(axis=-1)

    def leaves_p(at: jax.Array) -> jax.Array:
        return jnp.where(bits_BV >= at[:, None], kept, 0.0).sum(axis=-1) >= needed

    bits_p = lax.cond(jnp.any(p < 1), lambda: largest(leaves_p), lambda: nothing)
    return bits_k, jnp.where(p < 1, bits_p, 0)


def _sorted(
    weights_BV: jax.Array, bits_BV: jax.Array, k: jax.Array, p: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """As `_bisected`, by sorting."""
    V = weights_BV.shape[-1]
    falling = -jnp.sort(-weights_BV, axis=-1)
    last = jnp.take_along_axis(falling, jnp.clip(k - 1, 0, V - 1)[:, None], axis=1)
    sums = jnp.cumsum(jnp.where(falling >= last, falling, 0.0), axis=-1)
    needed = jnp.minimum(p, 1.0)[:, None] * sums[:, -1:]
    enough = jnp.minimum((sums < needed).sum(axis=-1, keepdims=True), V - 1)
    at_p = jnp.take_along_axis(falling, enough, axis=1)[:, 0]
    as_bits = lax.bitcast_convert_type
    return as_bits(last[:, 0], jnp.int32), jnp.where(p < 1, as_bits(at_p, jnp.int32), 0)
