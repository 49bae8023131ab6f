"""Newton-Schulz orthogonalisation of a stack of matrices: Muon's update direction, without an SVD.

One matrix at a time, because XLA's CPU backend multiplies a batch of matrices slower than the same
matrices in turn; and for matrices far from square on their Gram matrix alone, a third fewer products.
On an accelerator a stack is one batched product.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from samosa_kernels.device import current_device

Coefficients = Sequence[tuple[float, float, float]]

# The same odd quintic at every step: small singular values grow fastest, all end in about 0.7..1.2
# (Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024).
JORDAN: Coefficients = ((3.4445, -4.7750, 2.0315),)

NORM_EPS = 1e-8

# Rounding in the product of the factors grows with how much the smallest singular values do: a to the number
# of steps. In TF32, a GPU's float32, five steps would be wrong by 0.17, three by 8e-3.
STEPS_PER_GRAM = 3


def orthogonalize(x_LMN: jax.Array, *, steps: int = 5, coefficients: Coefficients = JORDAN) -> jax.Array:
    """U V^T, nearly, of every matrix U S V^T in a stack (L, M, N); shape and dtype stay.

    Each step maps X to a X + (b A + c A^2) X with A = X X^T, an odd polynomial of the singular values that
    draws them towards 1; (a, b, c) is coefficients[step], the last one going on when steps are more. A zero
    matrix stays zero. Knows no mesh: with L sharded, call it inside jax.shard_map. ValueError if x is no
    stack of matrices, steps is below 1 or coefficients is empty.
    """
    if x_LMN.ndim != 3 or steps < 1 or not coefficients:
        raise ValueError(
            f"orthogonalize got shape {x_LMN.shape}, {steps} steps and {len(coefficients)} coefficients; "
            "expected (L, M, N) and at least one of each"
        )
    polynomials = [coefficients[min(step, len(coefficients) - 1)] for step in range(steps)]

    def one(x_MN):
        rows, columns = x_MN.shape
        if rows > columns:
            return one(x_MN.T).T
        x_MN = x_MN / (jnp.linalg.norm(x_MN) + NORM_EPS).astype(x_MN.dtype)
        # Products of a Gram matrix with itself lose what bfloat16 has of its small eigenvalues.
        if x_MN.dtype == jnp.float32 and uses_gram(rows, columns, steps):
            for first in range(0, steps, STEPS_PER_GRAM):
                x_MN = _iterate_gram(x_MN, polynomials[first : first + STEPS_PER_GRAM])
            return x_MN
        return _iterate(x_MN, polynomials)

    return jax.lax.map(one, x_LMN) if current_device().platform == "cpu" else jax.vmap(one)(x_LMN)


def uses_gram(rows: int, columns: int, steps: int) -> bool:
    """Whether iterating on the Gram matrix takes fewer multiplications, for rows <= columns."""
    in_turn = min(steps, STEPS_PER_GRAM)
    direct = in_turn * (2 * rows**2 * columns + rows**3)
    gram = 2 * rows**2 * columns + (4 * in_turn - 3) * rows**3
    return gram < direct


def _iterate(x_MN: jax.Array, polynomials: Coefficients) -> jax.Array:
    for a, b, c in polynomials:
        gram_MM = x_MN @ x_MN.T
        x_MN = a * x_MN + (b * gram_MM + c * (gram_MM @ gram_MM)) @ x_MN
    return x_MN


def _iterate_gram(x_MN: jax.Array, polynomials: Coefficients) -> jax.Array:
    """X is multiplied once, by the product of all the steps' factors Z = a + b A + c A^2.

    A step takes X to Z X, hence A to Z A Z: all are polynomials of the first A, and commute.
    """
    gram_MM = x_MN @ x_MN.T
    identity_MM = jnp.eye(gram_MM.shape[0], dtype=gram_MM.dtype)
    product_MM = identity_MM
    for step, (a, b, c) in enumerate(polynomials):
        factor_MM = a * identity_MM + b * gram_MM + c * (gram_MM @ gram_MM)
        product_MM = factor_MM if step == 0 else factor_MM @ product_MM
        if step + 1 < len(polynomials):
            gram_MM = factor_MM @ gram_MM @ factor_MM
    return product_MM @ x_MN
