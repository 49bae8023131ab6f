"""Slower angles for a longer context: those of transformers, on the right half of a head; what is refused."""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from samosa_jax.config import ModelConfig
from samosa_jax.errors import ConfigError
from samosa_jax.model.rope import attention_gain, make_rotation, slowdown

SCALED: dict[str, Any] = {
    "context_len": 16_384,
    "rope_scaling_type": "yarn",
    "rope_scaling_factor": 8.0,
    "original_context_len": 2_048,
}
# Of transformers: what it wants to hear beside the type.
DETAILS: dict[str, dict[str, float]] = {
    "linear": {},
    "yarn": {"original_max_position_embeddings": 2_048},
    "llama3": {
        "original_max_position_embeddings": 2_048,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
    },
}


@pytest.mark.parametrize("kind", DETAILS)
@pytest.mark.parametrize("base", [10_000.0, 500_000.0])
def test_frequencies_are_those_of_transformers(kind: Any, base: float):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    rope_utils = pytest.importorskip("transformers.modeling_rope_utils")
    theirs = transformers.LlamaConfig(
        head_dim=128,
        hidden_size=256,
        num_attention_heads=2,
        max_position_embeddings=16_384,
        rope_parameters={"rope_type": kind, "rope_theta": base, "factor": 8.0, **DETAILS[kind]},
    )
    frequencies, gain = rope_utils.ROPE_INIT_FUNCTIONS[kind](theirs)
    ours = ModelConfig(**{**SCALED, "rope_scaling_type": kind}, head_dim=128, rope_base=base)
    found = base ** -(np.arange(64) / 64) * slowdown(ours, base=base, num_pairs=64)
    np.testing.assert_allclose(found, frequencies.numpy(), rtol=2e-6)
    assert attention_gain(ours) == gain


def angles(config: ModelConfig, *, position: int, turn_position: int) -> tuple[np.ndarray, np.ndarray]:
    """Angle of every pair, by clock, and the length of what is turned."""
    rotation = make_rotation(
        config, position=jnp.array([[position]]), turn_position=jnp.array([[turn_position]])
    )
    cos, sin = np.asarray(rotation.cos)[:, 0, 0], np.asarray(rotation.sin)[:, 0, 0]
    return np.arctan2(sin, cos), np.hypot(sin, cos)


def test_linear_divides_positions():
    plain = ModelConfig(head_dim=16, rope_base=100.0)
    linear = dataclasses.replace(plain, **{**SCALED, "rope_scaling_type": "linear"})
    np.testing.assert_allclose(
        angles(linear, position=80, turn_position=0)[0],
        angles(plain, position=10, turn_position=0)[0],
        atol=1e-5,
    )


def test_yarn_keeps_fast_pairs_and_sharpens_attention():
    plain = ModelConfig(head_dim=128, rope_base=10_000.0)
    yarn = dataclasses.replace(plain, **SCALED)
    share = slowdown(yarn, base=10_000.0, num_pairs=64)
    turns = 2_048 / (2 * math.pi) * 10_000.0 ** -(np.arange(64) / 64)
    np.testing.assert_array_equal(share[turns > 35], 1)
    np.testing.assert_array_equal(share[turns < 0.9], 1 / 8)
    assert (np.diff(share) <= 0).all()
    _, lengths = angles(yarn, position=5_000, turn_position=0)
    np.testing.assert_allclose(lengths, 0.1 * math.log(8) + 1, rtol=1e-6)


def test_of_hirope_the_global_half_is_slower():
    plain = ModelConfig(head_dim=64, position="hirope")
    yarn = dataclasses.replace(plain, **SCALED)
    before, after = (angles(config, position=3, turn_position=2)[0] for config in (plain, yarn))
    np.testing.assert_allclose(after[0], before[0], atol=1e-6)
    expected = before[1] * slowdown(yarn, base=plain.hirope_global_base, num_pairs=16)
    np.testing.assert_allclose(after[1], expected, atol=1e-6)
    assert np.abs(after[1] - before[1]).max() > 0.01
    # Attention is sharpened whatever half of a head finds a key.
    assert np.unique(angles(yarn, position=3, turn_position=2)[1].round(5)).size == 1


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"rope_scaling_type": "none"}, r"model.rope_scaling_factor is 8.0 but .*none; choose linear"),
        (
            {"rope_scaling_type": "none", "rope_scaling_factor": 1.0},
            r"model.original_context_len is 2048 but model.rope_scaling_type is none",
        ),
        ({"rope_scaling_factor": 1.0}, r"model.rope_scaling_factor is 1.0; .*=yarn needs a finite number"),
        ({"rope_scaling_factor": math.nan}, r"model.rope_scaling_factor is nan"),
        ({"original_context_len": None}, r"model.original_context_len is None; .* trained with before"),
        ({"original_context_len": 0}, r"model.original_context_len is 0"),
        (
            {"context_len": 32_768},
            r"model.context_len is 32768, but .*factor 8 x original_context_len 2048 reach 16384; raise",
        ),
        ({"rope_base": 1.0}, r"model.rope_base is 1.0; rope_scaling_type=yarn needs one above 1"),
    ],
)
def test_what_does_not_go_together_is_refused(changes: dict[str, Any], says: str):
    with pytest.raises(ConfigError, match=says):
        ModelConfig(**{**SCALED, **changes})
