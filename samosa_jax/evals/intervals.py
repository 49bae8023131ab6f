"""How sure a number is: 95 % intervals of means, of ratios, of means of tasks, and of differences.

Items are taken as drawn at random from all that the task could have asked; an interval says how far the
number would move with other items of the same kind. It knows nothing of another seed of training.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Z = 1.959964  # standard deviations that hold 95 % of a normal distribution
RESAMPLES = 2000
MAX_DRAWN = 1 << 22  # random numbers that exist at the same time


@dataclass(frozen=True)
class Interval:
    """A number, and between what it lies with 95 % confidence."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference(Interval):
    """Mean of b minus mean of a on the same items."""

    p_value: float  # two-sided: how often chance alone would give a difference as large

    @property
    def is_real(self) -> bool:
        """Whether 0 lies outside the interval."""
        return self.low > 0 or self.high < 0


def mean_interval(scores: Sequence[float] | np.ndarray, *, seed: int = 0) -> Interval:
    """Of the mean of the items' scores: Wilson's for scores that are 0 or 1, else a percentile bootstrap.

    Raises ValueError without scores.
    """
    values = _array(scores)
    if np.isin(values, (0.0, 1.0)).all():
        return _wilson(float(values.mean()), len(values))
    means = _resampled_sums(values[:, None], seed=seed)[:, 0] / len(values)
    return _percentiles(float(values.mean()), means)


def ratio_interval(
    numerators: Sequence[float] | np.ndarray, denominators: Sequence[float] | np.ndarray, *, seed: int = 0
) -> Interval:
    """Of sum(numerators) / sum(denominators), bootstrapped over the items that both belong to.

    Such is bits per byte: bits of every document over bytes of every document.
    """
    pairs = np.stack([_array(numerators), _array(denominators)], axis=1)
    sums = _resampled_sums(pairs, seed=seed)
    # A resample of empty documents alone says nothing.
    sums = sums[sums[:, 1] > 0]
    total = pairs.sum(axis=0)
    return _percentiles(float(total[0] / total[1]), sums[:, 0] / sums[:, 1])


def combined_interval(
    groups: Sequence[Sequence[float] | np.ndarray],
    *,
    scale: Sequence[float],
    shift: Sequence[float],
    seed: int = 0,
) -> Interval:
    """Of the mean over groups of `scale * mean(group) + shift`, every group bootstrapped by itself.

    Such is CORE: tasks of unlike sizes that count alike.
    """
    total, value = np.zeros(RESAMPLES), 0.0
    for number, (group, factor, offset) in enumerate(zip(groups, scale, shift, strict=True)):
        values = _array(group)
        sums = _resampled_sums(values[:, None], seed=seed + number)[:, 0]
        total += factor * sums / len(values) + offset
        value += factor * float(values.mean()) + offset
    return _percentiles(value / len(groups), total / len(groups))


def paired_bootstrap(
    a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray, *, seed: int = 0
) -> Difference:
    """Whether b scores otherwise than a on the same items, in the same order.

    The interval is the percentile bootstrap of the mean of b - a; the p-value that of the same means moved to
    have the mean 0. Raises ValueError for unlike numbers of items, or none.
    """
    first, second = _array(a), _array(b)
    if len(first) != len(second):
        raise ValueError(
            f"{len(first)} scores against {len(second)}; pairs need the same items on both sides"
        )
    differences = second - first
    value = float(differences.mean())
    means = _resampled_sums(differences[:, None], seed=seed)[:, 0] / len(differences)
    interval = _percentiles(value, means)
    as_large = int(np.count_nonzero(np.abs(means - value) >= abs(value) - 1e-12))
    return Difference(interval.value, interval.low, interval.high, p_value=(as_large + 1) / (RESAMPLES + 1))


def _wilson(share: float, count: int) -> Interval:
    """https://doi.org/10.1080/01621459.1927.10502953: it stays in 0..1 and holds for few items too."""
    denominator = 1 + Z**2 / count
    centre = (share + Z**2 / (2 * count)) / denominator
    half = Z / denominator * math.sqrt(share * (1 - share) / count + Z**2 / (4 * count**2))
    # At 0 and 1 an end is the value itself, but for rounding.
    return Interval(share, min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half)))


def _percentiles(value: float, resampled: np.ndarray) -> Interval:
    if not math.isfinite(value):
        return Interval(value, value, value)
    low, high = np.percentile(resampled, [2.5, 97.5])
    return Interval(value, float(low), float(high))


def _resampled_sums(rows: np.ndarray, *, seed: int) -> np.ndarray:
    """(RESAMPLES, C): sums of columns (N, C) over N rows drawn with replacement, for every resample."""
    random = np.random.default_rng(seed)
    at_once = max(1, MAX_DRAWN // len(rows))
    parts = []
    for start in range(0, RESAMPLES, at_once):
        count = min(at_once, RESAMPLES - start)
        drawn = random.integers(len(rows), size=(count, len(rows)))
        parts.append(rows[drawn].sum(axis=1))
    return np.concatenate(parts)


def _array(scores: Sequence[float] | np.ndarray) -> np.ndarray:
    values = np.asarray(scores, np.float64)
    if not len(values):
        raise ValueError("there is no score; an interval needs at least one item")
    return values
