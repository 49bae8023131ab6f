"""`token_nll`: what each target costs, by itself, for losses that are no weighted sum known beforehand.

The gradient of such a loss asks for each token's cotangent (the slope of the loss in that token's nll), and
that comes later, when all tokens are known: in DPO it hangs on whole sequences. So no gradient can be made in
the forward, where `softmax_cross_entropy` makes it; the backward computes the logits of each chunk again.
Under given cotangents it is exactly the gradient of the cross-entropy that takes them as weights. Four matrix
products in all, one more than the weighted sum costs.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from samosa_kernels.cross_entropy.api import softmax_cross_entropy
from samosa_kernels.varying import varying_like


class _Options(NamedTuple):
    """What is static: hashable, so that custom_vjp can take it as a non-differentiated argument."""

    vocab_size: int
    soft_cap: float | None
    chunk_tokens: int


def token_nll(
    hidden: jax.Array,
    head_VD: jax.Array,
    targets: jax.Array,
    *,
    vocab_size: int,
    soft_cap: float | None,
    chunk_tokens: int,
) -> jax.Array:
    """-log softmax(cap * tanh(hidden @ head^T / cap))[target] over vocab_size columns, float32 (...).

    hidden is (..., D), targets (integers) have its leading shape. The logits are computed in the dtype of
    hidden with float32 accumulation; softmax and the head's gradient are float32. A target outside
    0..vocab_size-1 costs infinity. Gradients flow to hidden and head_VD; a token whose cotangent is 0
    contributes exactly 0 to them, whatever its hidden and target are: a loss may drop it by jnp.where.

    At most chunk_tokens rows of logits exist at the same time, in the backward too. Knows no mesh: inside
    jax.shard_map it works on the rows of its device. Raises ValueError on shapes that do not fit together.
    """
    options = _Options(vocab_size, soft_cap, chunk_tokens)
    return _token_nll(hidden, varying_like(head_VD, hidden), targets, options)


def _nll(hidden: jax.Array, head_VD: jax.Array, targets: jax.Array, options: _Options) -> jax.Array:
    every_token = jnp.ones_like(targets, jnp.float32)
    return softmax_cross_entropy(
        hidden, head_VD, targets, every_token, z_loss=0.0, **options._asdict()
    ).token_nll


def _forward(
    hidden: jax.Array, head_VD: jax.Array, targets: jax.Array, options: _Options
) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array]]:
    return _nll(hidden, head_VD, targets, options), (hidden, head_VD, targets)


def _backward(
    options: _Options, residuals: tuple[jax.Array, jax.Array, jax.Array], cotangents: jax.Array
) -> tuple[jax.Array, jax.Array, None]:
    hidden, head_VD, targets = residuals

    def weighted_sum(hidden: jax.Array, head_VD: jax.Array) -> jax.Array:
        return softmax_cross_entropy(
            hidden, head_VD, targets, cotangents, z_loss=0.0, **options._asdict()
        ).total

    return *jax.grad(weighted_sum, argnums=(0, 1))(hidden, head_VD), None


_token_nll = jax.custom_vjp(_nll, nondiff_argnums=(3,))
_token_nll.defvjp(_forward, _backward)
