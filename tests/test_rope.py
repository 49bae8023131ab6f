"""Rotary positions against numpy, and the invariances that make them positions."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from samosa_jax.config import ModelConfig
from samosa_jax.model.rope import make_rotation, rotate

ROPE = ModelConfig(head_dim=8, rope_base=100.0)
HIROPE = dataclasses.replace(ROPE, position="hirope", hirope_local_base=10.0, hirope_global_base=1000.0)


def turned_by_hand(x: np.ndarray, position: np.ndarray, base: float) -> np.ndarray:
    """RoPE of one clock as its definition reads: a pair (i, i + n) is a complex number, turned."""
    half = x.shape[-1] // 2
    angle = position[:, :, None, None] * base ** (-np.arange(half) / half)
    turned = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * angle)
    return np.concatenate([turned.real, turned.imag], axis=-1)


@pytest.fixture(scope="module")
def heads() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(2, 12, 3, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def clocks() -> tuple[np.ndarray, np.ndarray]:
    """Positions that go on through the dialogue, and positions that restart at every turn of five."""
    position = np.tile(np.arange(12, dtype=np.int32), (2, 1)) + np.array([[0], [30]], dtype=np.int32)
    return position, position % 5


def test_rope_is_its_definition(heads, clocks):
    position, turn_position = clocks
    rotation = make_rotation(ROPE, position=jnp.asarray(position), turn_position=jnp.asarray(turn_position))
    np.testing.assert_allclose(rotate(heads, rotation), turned_by_hand(heads, position, 100.0), atol=2e-5)


def test_hirope_turns_each_half_by_its_own_clock(heads, clocks):
    position, turn_position = clocks
    rotation = make_rotation(HIROPE, position=jnp.asarray(position), turn_position=jnp.asarray(turn_position))
    by_hand = np.concatenate(
        [
            turned_by_hand(heads[..., :4], turn_position, 10.0),
            turned_by_hand(heads[..., 4:], position, 1000.0),
        ],
        axis=-1,
    )
    turned = rotate(heads, rotation)
    np.testing.assert_allclose(turned, by_hand, atol=2e-5)
    one_clock = make_rotation(ROPE, position=jnp.asarray(position), turn_position=jnp.asarray(turn_position))
    assert not np.allclose(turned, rotate(heads, one_clock), atol=0.1)


@pytest.mark.parametrize("config", [ROPE, HIROPE], ids=["rope", "hirope"])
def test_products_see_distances_only(config, heads):
    def products(shift):
        position = jnp.broadcast_to(jnp.arange(12) + shift, (2, 12))
        turned = rotate(heads, make_rotation(config, position=position, turn_position=position))
        return jnp.einsum("btnh,bsnh->bnts", turned, turned)

    np.testing.assert_allclose(products(0), products(50), atol=1e-4)
    unturned = jnp.einsum("btnh,bsnh->bnts", heads, heads)
    assert not np.allclose(products(0), unturned, atol=0.1)


def test_the_opposite_direction_is_a_swap_of_halves(heads, clocks):
    """What makes the import of checkpoints that turn by -angle exact."""
    position = clocks[0]
    swapped = np.concatenate([heads[..., 4:], heads[..., :4]], axis=-1)
    rotation = make_rotation(ROPE, position=jnp.asarray(position), turn_position=jnp.asarray(position))
    ours = np.asarray(rotate(jnp.asarray(swapped), rotation))
    theirs = turned_by_hand(heads, -position, 100.0)
    np.testing.assert_allclose(np.concatenate([ours[..., 4:], ours[..., :4]], axis=-1), theirs, atol=2e-5)
