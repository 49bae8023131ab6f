"""Losses that fall with size as L(x) = a + b x^-c, fitted and carried on to a size that was not trained.

The form is that of Hoffmann et al. 2022 (https://arxiv.org/abs/2203.15556) along a line of fixed tokens per
parameter, where both of their terms fall with one x.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from samosa_jax.evals.intervals import Interval

LOWEST_EXPONENT, HIGHEST_EXPONENT = 1e-3, 3.0
GRID = 200  # exponents tried at once
ZOOMS = 6  # times that the grid closes in on the best of them
RESAMPLES = 1_000
MIN_POINTS = 3


@dataclass(frozen=True)
class PowerLaw:
    """L(x) = floor + scale * (x / unit) ** -exponent, floor at least 0."""

    floor: float
    scale: float
    exponent: float
    unit: float  # the geometric mean of the fitted x: scale is what size still gains there

    def __call__(self, x: float) -> float:
        return self.floor + self.scale * (x / self.unit) ** -self.exponent

    @property
    def coefficient(self) -> float:
        """b of a + b x^-c."""
        return self.scale * self.unit**self.exponent


def fit(x: Sequence[float] | np.ndarray, losses: Sequence[float] | np.ndarray) -> PowerLaw:
    """The law with the least squared relative error.

    For a given exponent the best floor and scale solve a linear least-squares problem, so that only the
    exponent is searched for: on a grid that closes in on the best.

    Raises ValueError for fewer than three different x, or numbers that are not positive and finite.
    """
    sizes, values = np.asarray(x, np.float64), np.asarray(losses, np.float64)
    if len(sizes) != len(values) or len(set(sizes.tolist())) < MIN_POINTS:
        raise ValueError(f"{len(set(sizes.tolist()))} sizes; a law of three numbers needs {MIN_POINTS}")
    if not (np.isfinite(sizes) & np.isfinite(values) & (sizes > 0) & (values > 0)).all():
        raise ValueError("sizes and losses must be positive and finite")
    unit = float(np.exp(np.log(sizes).mean()))
    low, high = LOWEST_EXPONENT, HIGHEST_EXPONENT
    best: tuple[float, ...] = (math.inf, 0.0, 0.0, low)
    for _ in range(ZOOMS):
        exponents = np.geomspace(low, high, GRID)
        floors, scales, errors = _solve(sizes / unit, values, exponents)
        place = int(np.argmin(errors))
        best = errors[place], floors[place], scales[place], exponents[place]
        low, high = exponents[max(0, place - 1)], exponents[min(GRID - 1, place + 1)]
    _, floor, scale, exponent = map(float, best)
    return PowerLaw(floor, scale, exponent, unit)


def _solve(x: np.ndarray, losses: np.ndarray, exponents: np.ndarray) -> tuple[np.ndarray, ...]:
    """The best floor and scale of each exponent, with the sum of their squared relative errors, all (G,)."""
    ones = 1 / losses
    terms = x[None] ** -exponents[:, None] / losses
    one_one, one_term, term_term = ones @ ones, terms @ ones, (terms**2).sum(axis=1)
    sum_one, sum_term = ones.sum(), terms.sum(axis=1)
    determinant = one_one * term_term - one_term**2
    floors = np.maximum((term_term * sum_one - one_term * sum_term) / determinant, 0.0)
    scales = (sum_term - floors * one_term) / term_term
    errors = ((floors[:, None] * ones + scales[:, None] * terms - 1) ** 2).sum(axis=1)
    return floors, scales, errors


def seed_interval(rungs: Sequence[tuple[float, Sequence[float]]], at: float, *, seed: int = 0) -> Interval:
    """The prediction at x = `at`, with the interval that holds 95 % of those from redrawn seeds.

    Args:
        rungs: (x, losses of its seeds). With one seed each there is nothing to redraw, and the interval is
            infinite.
    """
    value = fit_rungs(rungs)(at)
    if all(len(losses) < 2 for _, losses in rungs):
        return Interval(value, -math.inf, math.inf)
    random = np.random.default_rng(seed)
    predicted = []
    for _ in range(RESAMPLES):
        drawn = [(x, random.choice(np.asarray(losses), size=len(losses))) for x, losses in rungs]
        predicted.append(fit_rungs(drawn)(at))
    low, high = np.percentile(predicted, [2.5, 97.5])
    return Interval(value, float(low), float(high))


def without_one(rungs: Sequence[tuple[float, Sequence[float]]], at: float) -> tuple[float, float] | None:
    """Lowest and highest prediction of fits that leave out one rung; None if too few would be left.

    It shows how far the law's form, rather than the seeds, decides.
    """
    if len(rungs) <= MIN_POINTS:
        return None
    predicted = [fit_rungs([*rungs[:left], *rungs[left + 1 :]])(at) for left in range(len(rungs))]
    return min(predicted), max(predicted)


def fit_rungs(rungs: Sequence[tuple[float, Sequence[float] | np.ndarray]]) -> PowerLaw:
    """The law through the means of the rungs. Raises ValueError as `fit`."""
    return fit([x for x, _ in rungs], [float(np.mean(losses)) for _, losses in rungs])
