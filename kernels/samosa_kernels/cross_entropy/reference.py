"""The cross-entropy as its definition reads, in float32 and with all logits in memory."""

import jax
import jax.numpy as jnp
from jax import lax

from samosa_kernels.cross_entropy.api import CrossEntropy, check_arguments


def softmax_cross_entropy_reference(
    hidden: jax.Array,
    head_VD: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
    *,
    vocab_size: int,
    soft_cap: float | None,
    z_loss: float,
    chunk_tokens: int,
) -> CrossEntropy:
    """What softmax_cross_entropy promises, in O(tokens * V) memory; differentiated by JAX.

    Same signature, so that either stands in for the other; all logits exist, whatever chunk_tokens is.
    """
    check_arguments(
        hidden, head_VD, targets, weights, vocab_size=vocab_size, soft_cap=soft_cap, chunk_tokens=chunk_tokens
    )
    weights = weights.astype(jnp.float32)
    counts = weights != 0
    in_range = (targets >= 0) & (targets < vocab_size)
    # A row that does not count may hold anything, even NaN, which 0 * NaN would spread.
    rows = jnp.where(counts[..., None], hidden, 0).astype(jnp.float32)
    logits = rows @ head_VD[:vocab_size].astype(jnp.float32).T
    if soft_cap is not None:
        logits = soft_cap * jnp.tanh(logits / soft_cap)
    lse = jax.nn.logsumexp(logits, axis=-1)
    target = jnp.where(in_range, targets, 0)[..., None]
    target_logit = jnp.take_along_axis(logits, target, axis=-1)[..., 0]
    token_nll = jnp.where(counts, jnp.where(in_range, lse - target_logit, jnp.inf), 0.0)
    nll = jnp.sum(weights * token_nll)
    total = nll + z_loss * jnp.sum(weights * lse**2)
    return CrossEntropy(total, lax.stop_gradient(nll), lax.stop_gradient(token_nll))
