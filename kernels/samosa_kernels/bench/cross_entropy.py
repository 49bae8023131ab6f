"""Cross-entropy of a linear head: ours in chunks, its reference, and what one writes without a library."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from samosa_kernels.bench.measure import Candidate, Comparison, Limits, prepare_jax
from samosa_kernels.cross_entropy import softmax_cross_entropy, softmax_cross_entropy_reference

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {"soft_cap": None, "z_loss": 0.0},
    "soft-cap 15, z-loss": {"soft_cap": 15.0, "z_loss": 1e-4},
}


def comparisons(
    *,
    tokens: int,
    vocab_size: int,
    width: int,
    chunk_tokens: int,
    passes: tuple[str, ...],
    dtype: str,
    impls: tuple[str, ...] | None,
    limits: Limits,
) -> Iterator[Comparison]:
    """Plain and with everything, by pass. The head is float32, as a trainer keeps it."""
    for variant, options in VARIANTS.items():
        for direction in passes:
            inputs = functools.cache(functools.partial(_inputs, tokens, vocab_size, width, dtype))
            options = options | {"vocab_size": vocab_size, "chunk_tokens": chunk_tokens}
            candidates = tuple(
                Candidate(
                    impl,
                    functools.partial(_prepare, function, direction, options, inputs, limits),
                    is_auto=impl == "chunked",
                )
                for impl, function in IMPLEMENTATIONS.items()
                if impls is None or impl in impls
            )
            labels: dict[str, str | int] = {
                "what": "cross_entropy",
                "length": tokens,
                "batch": 1,
                "width": width,
                "vocab_size": vocab_size,
                "chunk_tokens": chunk_tokens,
                "mask": variant,
                "pass": direction,
                "dtype": dtype,
            }
            product = 2 * tokens * vocab_size * width
            flops = product if direction == "forward" else 3 * product
            yield Comparison(labels, flops, None, "xla", candidates)


def _inputs(tokens: int, vocab_size: int, width: int, dtype: str) -> tuple[jax.Array, ...]:
    rng = np.random.default_rng(0)
    hidden = jnp.asarray(rng.standard_normal((tokens, width), np.float32), dtype)
    head = jnp.asarray(rng.standard_normal((vocab_size, width), np.float32) / np.sqrt(width))
    targets = jnp.asarray(rng.integers(0, vocab_size, tokens), jnp.int32)
    return hidden, head, targets, jnp.ones(tokens)


def _prepare(
    function: Callable[..., Any],
    direction: str,
    options: dict[str, Any],
    inputs: Callable[[], tuple[jax.Array, ...]],
    limits: Limits,
):
    def total(hidden, head, targets, weights):
        return function(hidden, head, targets, weights, **options).total

    differentiated = jax.value_and_grad(total, argnums=(0, 1))
    return prepare_jax(total if direction == "forward" else differentiated, inputs(), limits)


class _Total:
    """A loss under the name that the others give it."""

    def __init__(self, total: jax.Array) -> None:
        self.total = total


def _xla(hidden, head, targets, weights, *, vocab_size, soft_cap, z_loss, chunk_tokens) -> _Total:
    """All logits at once, the product in the dtype of hidden, differentiated by JAX."""
    del vocab_size, chunk_tokens  # no padding columns here, and no chunks
    logits = jnp.matmul(hidden, head.T.astype(hidden.dtype), preferred_element_type=jnp.float32)
    if soft_cap is not None:
        logits = soft_cap * jnp.tanh(logits / soft_cap)
    lse = jax.nn.logsumexp(logits, axis=-1)
    target_logit = jnp.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]
    return _Total(jnp.sum(weights * (lse - target_logit + z_loss * lse**2)))


IMPLEMENTATIONS: dict[str, Callable[..., Any]] = {
    "xla": _xla,
    "reference": softmax_cross_entropy_reference,
    "chunked": softmax_cross_entropy,
}
