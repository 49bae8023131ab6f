"""Newton-Schulz against the singular value decomposition that it stands in for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from samosa_kernels.newton_schulz import JORDAN, orthogonalize, uses_gram

SHAPES = [(3, 24, 24), (2, 16, 64), (2, 64, 16), (1, 8, 12)]


def polynomial_of_singular_values(matrix: np.ndarray, steps: int) -> np.ndarray:
    """The same iteration in float64 on the singular values alone."""
    u, s, vt = np.linalg.svd(matrix.astype(np.float64), full_matrices=False)
    s = s / np.sqrt(np.sum(s**2))
    a, b, c = JORDAN[0]
    for _ in range(steps):
        s = a * s + b * s**3 + c * s**5
    return u * s @ vt


@pytest.mark.parametrize("shape", SHAPES)
def test_is_the_polynomial_of_the_singular_values(shape):
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    found = np.asarray(orthogonalize(jnp.asarray(x), steps=5))
    expected = np.stack([polynomial_of_singular_values(matrix, 5) for matrix in x])
    np.testing.assert_allclose(found, expected, atol=2e-5)
    fewer = np.stack([polynomial_of_singular_values(matrix, 4) for matrix in x])
    assert np.abs(fewer - expected).max() > 1e-2  # the number of steps matters to this comparison


def test_shapes_cover_both_iterations():
    assert {uses_gram(min(m, n), max(m, n), 5) for _, m, n in SHAPES} == {True, False}


@pytest.mark.parametrize("shape", SHAPES)
def test_singular_values_end_near_one(shape):
    x = jax.random.normal(jax.random.key(1), shape)
    values = np.linalg.svd(np.asarray(orthogonalize(x)), compute_uv=False)
    assert values.max() < 1.3
    assert np.median(values) > 0.6


@pytest.mark.parametrize("steps", [5, 8, 12])
def test_ill_conditioned_wide_matrix_stays_stable(steps):
    rng = np.random.default_rng(2)
    u, _ = np.linalg.qr(rng.normal(size=(16, 16)))
    v, _ = np.linalg.qr(rng.normal(size=(96, 16)))
    x = (u * np.logspace(0, -6, 16)) @ v.T
    found = np.asarray(orthogonalize(jnp.asarray(x[None], jnp.float32), steps=steps))[0]
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, polynomial_of_singular_values(x, steps), atol=5e-3)


def test_dtype_zero_and_refusals():
    assert orthogonalize(jnp.ones((1, 8, 64), jnp.bfloat16)).dtype == jnp.bfloat16
    assert not orthogonalize(jnp.zeros((2, 8, 64))).any()
    with pytest.raises(ValueError, match=r"expected \(L, M, N\)"):
        orthogonalize(jnp.zeros((8, 8)))
    with pytest.raises(ValueError, match="0 steps"):
        orthogonalize(jnp.zeros((1, 8, 8)), steps=0)


def test_a_coefficient_per_step():
    x = jax.random.normal(jax.random.key(3), (1, 8, 8))
    doubled = orthogonalize(x, steps=2, coefficients=((1.0, 0.0, 0.0), (2.0, 0.0, 0.0)))
    np.testing.assert_allclose(doubled, 2 * x / jnp.linalg.norm(x), rtol=1e-5)
