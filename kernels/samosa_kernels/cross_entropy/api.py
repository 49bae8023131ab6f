"""`softmax_cross_entropy`: the loss of a linear head without all of its logits."""

from typing import NamedTuple

import jax
from jax import lax

from samosa_kernels.cross_entropy.chunked import cross_entropy_chunked


class CrossEntropy(NamedTuple):
    """All float32."""

    total: jax.Array  # scalar, sum of weight * (nll + z_loss * logsumexp^2): the one to differentiate
    # For reading, no gradient flows through them:
    nll: jax.Array  # scalar, sum of weight * nll
    token_nll: jax.Array  # (...), of every token, whatever its weight; 0 where that is 0


def softmax_cross_entropy(
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
    """-log softmax(cap * tanh(hidden @ head^T / cap))[target] over vocab_size columns, weighted and summed.

    hidden is (..., D), targets (integers) and weights have its leading shape. The logits are computed in the
    dtype of hidden with float32 accumulation; softmax, loss and the head's gradient are float32. A token of
    weight 0 contributes exactly 0 to values and gradients, whatever its hidden and target are; elsewhere a
    target outside 0..vocab_size-1 makes the loss infinite rather than quietly wrong. Gradients flow to hidden
    and head_VD, from `total` only; without differentiation none are computed.

    At most chunk_tokens rows of logits exist at the same time; chunks are of equal size, at most one padding
    row each. Knows no mesh: inside jax.shard_map it works on the rows of its device, and so do its sums.
    Raises ValueError on shapes that do not fit together.
    """
    check_arguments(
        hidden, head_VD, targets, weights, vocab_size=vocab_size, soft_cap=soft_cap, chunk_tokens=chunk_tokens
    )
    losses = cross_entropy_chunked(
        hidden.reshape(-1, hidden.shape[-1]),
        head_VD,
        targets.reshape(-1),
        weights.reshape(-1),
        vocab_size=vocab_size,
        soft_cap=soft_cap,
        z_loss=z_loss,
        chunk_tokens=chunk_tokens,
    )
    token_nll = losses.token_nll.reshape(targets.shape)
    return CrossEntropy(losses.total, lax.stop_gradient(losses.nll), lax.stop_gradient(token_nll))


def check_arguments(
    hidden: jax.Array,
    head_VD: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
    *,
    vocab_size: int,
    soft_cap: float | None,
    chunk_tokens: int,
) -> None:
    """ValueError, saying what was expected, unless the arguments of softmax_cross_entropy fit together."""
    *leading, D = hidden.shape
    V = head_VD.shape[0]
    if head_VD.shape != (V, D) or targets.shape != tuple(leading) or weights.shape != tuple(leading):
        raise ValueError(
            f"hidden {hidden.shape}, head_VD {head_VD.shape}, targets {targets.shape} and weights "
            f"{weights.shape} do not fit: expected (..., D), (V, D), (...) and (...)"
        )
    if not 1 <= vocab_size <= V:
        raise ValueError(f"vocab_size is {vocab_size}; it must lie in 1..{V}, the rows of head_VD")
    if soft_cap is not None and not soft_cap > 0:
        raise ValueError(f"soft_cap is {soft_cap}; it must be positive, or None for no cap")
    if chunk_tokens < 1:
        raise ValueError(f"chunk_tokens is {chunk_tokens}; it must be at least 1")
