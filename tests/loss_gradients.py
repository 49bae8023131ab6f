"""What a loss function returns with its gradient, and whether two such trees are close."""

import functools
from typing import Any

import jax
import numpy as np

from samosa_jax.training.losses import LossOutput


@functools.partial(jax.jit, static_argnums=0)
def run(loss_fn, params, batch, frozen=None) -> tuple[LossOutput, Any]:
    """What the loss function returns, and the gradient of its sum."""

    def loss_sum(params):
        output = loss_fn(params, batch, frozen)
        return output.sum, output

    gradients, output = jax.grad(loss_sum, has_aux=True)(params)
    return output, gradients


def assert_close(found, expected, tolerance=1e-4):
    """Trees alike, each array to a share of its largest number."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance * np.abs(theirs).max() + 1e-7)
