"""Advantages of groups and weights of tokens: by hand, by torch, and what holds for any numbers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from samosa_jax.rl.advantages import (
    Advantage,
    Normalization,
    Truncation,
    group_advantages,
    overlong_penalty,
    token_weights,
    treat_truncated,
)

KINDS: tuple[Advantage, ...] = ("centred", "std", "leave_one_out")
REWARDS = np.array([[1.0, 0.0, 0.0, 0.0], [1.1, 1.1, 0.1, 0.6], [0.3, 0.3, 0.3, 0.3]])
REWARD_ARRAYS = hnp.arrays(
    np.float64,
    st.tuples(st.integers(1, 4), st.integers(2, 6)),
    elements=st.floats(-3, 3).map(lambda value: round(value, 3)),
)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("centred", [0.75, -0.25, -0.25, -0.25]),
        ("std", [3**0.5, -(3**-0.5), -(3**-0.5), -(3**-0.5)]),  # the standard deviation is sqrt(3) / 4
        ("leave_one_out", [1.0, -1 / 3, -1 / 3, -1 / 3]),
    ],
)
def test_one_right_answer_of_four_by_hand(kind: Advantage, expected: list[float]) -> None:
    found = group_advantages(REWARDS[:1], kind=kind)
    np.testing.assert_allclose(found.values, [expected], rtol=1e-5)
    assert found.values.dtype == np.float64
    assert found.zero_variance_share == 0.0


@pytest.mark.parametrize("kind", KINDS)
def test_advantages_are_those_of_torch(kind: Advantage) -> None:
    torch = pytest.importorskip("torch", reason="the formula is computed by torch: pip install torch")
    rewards = torch.tensor(REWARDS, dtype=torch.float64)
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    expected = {
        "centred": centred,
        "std": centred / (rewards.std(dim=1, correction=0, keepdim=True) + 1e-6),
        "leave_one_out": rewards - (rewards.sum(dim=1, keepdim=True) - rewards) / 3,
    }[kind]
    found = group_advantages(REWARDS, kind=kind)
    np.testing.assert_allclose(found.values[:2], expected[:2].numpy(), rtol=1e-12)
    assert not found.values[2].any()
    assert found.has_signal.tolist() == [True, True, False]
    assert found.zero_variance_share == pytest.approx(1 / 3)


@pytest.mark.parametrize("kind", KINDS)
@given(value=st.floats(-1e3, 1e3), size=st.integers(1, 33))
def test_a_constant_group_teaches_nothing(kind: Advantage, value: float, size: int) -> None:
    found = group_advantages(np.full((1, size), value), kind=kind)
    assert not found.values.any()
    assert found.zero_variance_share == 1.0


@pytest.mark.parametrize("kind", KINDS)
def test_rounding_is_no_difference(kind: Advantage) -> None:
    same = np.array([[0.1 + 0.2, 0.3, 0.3, 0.1 + 0.2]])
    assert same.min() < same.max()
    assert not group_advantages(same, kind=kind).values.any()


@pytest.mark.parametrize("kind", KINDS)
@given(rewards=REWARD_ARRAYS, shift=st.integers(-9, 9), order=st.randoms())
def test_groups_are_centred_and_know_neither_shift_nor_order(kind: Advantage, rewards, shift, order) -> None:
    values = group_advantages(rewards, kind=kind).values
    np.testing.assert_allclose(values.sum(axis=1), 0, atol=1e-9)
    np.testing.assert_allclose(group_advantages(rewards + shift, kind=kind).values, values, atol=1e-6)
    places = list(range(rewards.shape[1]))
    order.shuffle(places)
    shuffled = group_advantages(rewards[:, places], kind=kind).values
    np.testing.assert_allclose(shuffled, values[:, places], atol=1e-9)
    better = np.diff(rewards, axis=1) > 1e-3
    assert (np.diff(values, axis=1)[better] > 0).all()


@pytest.mark.parametrize("kind", KINDS)
@given(rewards=REWARD_ARRAYS, data=st.data())
def test_answers_that_do_not_count_are_as_if_never_given(kind: Advantage, rewards, data) -> None:
    counts = data.draw(hnp.arrays(bool, rewards.shape))
    spoilt = np.where(counts, rewards, np.nan)
    found = group_advantages(spoilt, counts, kind=kind)
    assert not found.values[~counts].any()
    for row, kept in enumerate(counts):
        if kept.any():
            alone = group_advantages(rewards[row : row + 1, kept], kind=kind)
            np.testing.assert_allclose(found.values[row, kept], alone.values[0], atol=1e-12)
            assert found.has_signal[row] == alone.has_signal[0]
        else:
            assert not found.has_signal[row]


def test_a_reward_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        group_advantages(np.array([[0.0, np.nan]]), kind="centred")
    assert group_advantages(np.zeros((0, 4)), kind="centred").zero_variance_share == 1.0


def test_overlong_penalty_by_hand() -> None:
    """DAPO's own numbers: 20,480 tokens at most, of which the last 4,096 cost."""
    lengths = np.array([1, 16_384, 17_408, 18_432, 20_480, 30_000])
    penalty = overlong_penalty(lengths, limit=20_480, margin=4_096)
    np.testing.assert_array_equal(penalty, [0, 0, -0.25, -0.5, -1, -1])


@pytest.mark.parametrize(
    ("policy", "rewards", "counts"),
    [
        ("keep", [1.0, 1.0, 1.0, 0.5], [True] * 4),
        ("mask", [1.0, 1.0, 1.0, 0.5], [True, True, False, False]),
        ("zero", [1.0, 1.0, 0.0, 0.0], [True] * 4),
        ("soft_penalty", [1.0, 0.5, 0.0, -0.5], [True] * 4),
    ],
)
def test_truncated_answers(policy: Truncation, rewards: list[float], counts: list[bool]) -> None:
    found = treat_truncated(
        np.array([[1.0, 1.0, 1.0, 0.5]]),
        np.array([[False, False, True, True]]),
        np.array([[10, 95, 100, 40]]),  # the last was cut by the end of the context
        policy=policy,
        max_tokens=100,
        soft_penalty_tokens=10,
    )
    np.testing.assert_array_equal(found[0], [rewards])
    np.testing.assert_array_equal(found[1], [counts])


LENGTHS = np.array([[1, 3], [8, 4]])
LOSSES = np.array([[2.0, 5.0], [7.0, 11.0]])  # of every token of the answer


@pytest.mark.parametrize(
    ("normalization", "expected"),
    [
        ("sequence", (2 + 5 + 7 + 11) / 4),
        ("group", ((2 + 15) / 4 + (56 + 44) / 12) / 2),
        ("batch", (2 + 15 + 56 + 44) / 16),
        ("constant", (2 + 15 + 56 + 44) / 10 / 4),
    ],
)
def test_weights_make_of_one_division_the_mean_that_is_meant(
    normalization: Normalization, expected: float
) -> None:
    everything = np.ones((2, 2), bool)
    weights = token_weights(LENGTHS, everything, normalization=normalization, max_tokens=10)
    found = (weights * LENGTHS * LOSSES).sum() / LENGTHS.sum()
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("normalization", ["sequence", "group", "batch", "constant"])
@given(data=st.data())
def test_token_weights_count_what_counts(normalization: Normalization, data) -> None:
    shape = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 4)))
    lengths = data.draw(hnp.arrays(np.int64, shape, elements=st.integers(0, 20)))
    counts = data.draw(hnp.arrays(bool, shape))
    weights = token_weights(lengths, counts, normalization=normalization, max_tokens=20)
    exists = counts & (lengths > 0)
    np.testing.assert_array_equal(weights > 0, exists)
    assert np.isfinite(weights).all()
    if exists.any() and normalization != "constant":  # a mean of ones is one
        assert (weights * lengths).sum() / lengths[exists].sum() == pytest.approx(1.0, rel=1e-9)
    if exists.any() and normalization == "constant":
        mean = (weights * lengths).sum() / lengths[exists].sum()
        assert mean == pytest.approx(lengths[exists].mean() / 20, rel=1e-9)
