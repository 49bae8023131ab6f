"""Shares of rows: exact, evenly spread, the same at any row."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from samosa_jax.data.mixture import MAX_PERIOD, Mixture
from samosa_jax.errors import UserError


@given(weights=st.lists(st.integers(1, 60), min_size=1, max_size=6))
def test_every_prefix_holds_its_share_to_within_a_row(weights: list[int]):
    mixture = Mixture([float(weight) for weight in weights])
    num_rows = 2 * mixture.period + 3
    mixed = mixture.rows(0, num_rows)
    one_hot = mixed.source[:, None] == np.arange(len(weights))
    counts = np.cumsum(one_hot, axis=0)
    ideal = np.arange(1, num_rows + 1)[:, None] * (np.array(weights) / sum(weights))
    assert (np.abs(counts - ideal) < 1).all()
    for source in range(len(weights)):
        of_source = mixed.row[mixed.source == source]
        np.testing.assert_array_equal(of_source, np.arange(len(of_source)))
    middle = num_rows // 2
    np.testing.assert_array_equal(mixture.counts(middle), counts[middle - 1])
    np.testing.assert_array_equal(mixture.rows(middle, num_rows).row, mixed.row[middle:])
    np.testing.assert_array_equal(mixture.rows(middle, num_rows).source, mixed.source[middle:])


@pytest.mark.parametrize(
    ("weights", "parts"),
    [
        ([83, 17], (83, 17)),
        ([0.83, 0.17], (83, 17)),
        ([75, 15, 10], (15, 3, 2)),
        ([0.75, 0.15, 0.10], (15, 3, 2)),
        ([1.0], (1,)),
    ],
)
def test_shares_are_exact(weights: list[float], parts: tuple[int, ...]):
    mixture = Mixture(weights)
    assert mixture.parts == parts
    assert mixture.counts(1_000_000 * mixture.period).tolist() == [1_000_000 * part for part in parts]


def test_the_order_of_sources_is_the_same_on_every_machine_and_version():
    pattern = [0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 2]
    assert Mixture([75, 15, 10]).rows(0, 20).source.tolist() == pattern


def test_a_share_without_a_short_period_is_rounded_to_a_small_fraction():
    weights = [1 / 3, 2 / 3, 0.123456789]
    shares = np.array(Mixture(weights).shares)
    assert np.abs(shares - np.array(weights) / sum(weights)).max() <= 1 / MAX_PERIOD


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([], "data.sources is empty"),
        ([1.0, 0.0], "weight 0.0; a weight must be a positive number"),
        ([1.0, float("nan")], "weight nan"),
        ([float("inf")], "weight inf"),
        ([1.0, 1e-9], "at least 1/65536 of the mixture"),
    ],
)
def test_impossible_weights(weights: list[float], message: str):
    with pytest.raises(UserError, match=message):
        Mixture(weights)
