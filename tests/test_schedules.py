"""Schedules against a table worked out by hand, at their corners, and over random settings."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samosa_jax.config import ScheduleConfig
from samosa_jax.training.schedules import make_schedule

# 10 steps, 2 of them warm-up; wsd decays over the last 4. Columns are the factors of steps 0..9.
BY_HAND = {
    "constant": [0.5, 1, 1, 1, 1, 1, 1, 1, 1, 1],
    "linear": [0.5, 1, 1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3],
    "wsd": [0.5, 1, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4],
    # 0.2 + 0.8 (1 + cos(pi k / 8)) / 2 for k = 0..7
    "cosine": [0.5, 1, 1, 0.969552, 0.882843, 0.753073, 0.6, 0.446927, 0.317157, 0.230448],
}


@pytest.mark.parametrize("kind", BY_HAND)
def test_matches_the_table(kind):
    config = ScheduleConfig(kind=kind, warmup_steps=2, decay_frac=0.4, final_frac=0.2)
    factor = make_schedule(config, num_steps=10)
    np.testing.assert_allclose([factor(step) for step in range(10)], BY_HAND[kind], atol=1e-6)


@pytest.mark.parametrize("kind", ["linear", "wsd", "cosine"])
def test_reaches_final_frac_right_after_the_last_step_and_stays(kind):
    factor = make_schedule(ScheduleConfig(kind=kind, final_frac=0.1), num_steps=100)
    np.testing.assert_allclose(factor(100), 0.1, atol=1e-6)
    np.testing.assert_allclose(factor(1000), 0.1, atol=1e-6)
    assert factor(99) > 0.1


def test_without_warmup_the_first_step_is_whole():
    assert make_schedule(ScheduleConfig(kind="wsd", warmup_steps=0), num_steps=10)(0) == 1


def test_wsd_without_decay_is_constant():
    config = ScheduleConfig(kind="wsd", warmup_steps=0, decay_frac=0)
    assert make_schedule(config, num_steps=10)(9) == 1


@settings(max_examples=60)
@given(
    kind=st.sampled_from(["constant", "cosine", "wsd", "linear"]),
    num_steps=st.integers(1, 5000),
    warmup=st.floats(0, 0.4),
    decay_frac=st.floats(0, 0.6),
    final_frac=st.floats(0, 1),
)
def test_rises_once_then_never_again_and_stays_within_bounds(kind, num_steps, warmup, decay_frac, final_frac):
    warmup_steps = int(warmup * num_steps)
    config = ScheduleConfig(
        kind=kind, warmup_steps=warmup_steps, decay_frac=decay_frac, final_frac=final_frac
    )
    steps = np.arange(5000)  # of one length, for one compilation
    factors = np.asarray(make_schedule(config, num_steps=num_steps)(steps))[:num_steps]
    assert np.all(factors > 0)
    assert np.all(factors <= 1 + 1e-6)
    assert np.all(np.diff(factors[:warmup_steps]) > 0)
    assert np.all(np.diff(factors[max(warmup_steps - 1, 0) :]) <= 1e-6)
    assert np.all(factors[warmup_steps:] >= final_frac - 1e-6)
