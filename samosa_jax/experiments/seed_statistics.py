"""What several seeds allow one to say: means, deviations, and intervals of paired differences."""

import math
from collections.abc import Sequence

import numpy as np

from samosa_jax.evals.intervals import Interval

ANGLES = 200_001  # points of the integral of Student's density


def deviation(values: Sequence[float]) -> float | None:
    """Sample standard deviation; None of fewer than two values."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def paired_difference(base: Sequence[float], other: Sequence[float]) -> Interval:
    """Mean of other minus base over the same seeds in the same order, with Student's 95 % interval.

    A pair shares its order of data, and its initial weights where shapes allow, which cancels most of what a
    seed decides. A bootstrap of two or three differences would be far too narrow; Student's interval knows
    how little they say. Of one seed it is infinitely wide. Raises ValueError for unlike numbers of seeds.
    """
    if len(base) != len(other) or not base:
        raise ValueError(f"{len(base)} values against {len(other)}; pairs need the same seeds on both sides")
    differences = np.asarray(other, np.float64) - np.asarray(base, np.float64)
    mean = float(differences.mean())
    spread = deviation(differences.tolist())
    if spread is None:
        return Interval(mean, -math.inf, math.inf)
    half = student_quantile(len(differences) - 1) * spread / math.sqrt(len(differences))
    return Interval(mean, mean - half, mean + half)


def student_quantile(degrees: int, *, share: float = 0.95) -> float:
    """The t between whose negative and itself Student's distribution holds `share`.

    With t = sqrt(degrees) tan(angle) the density is proportional to cos(angle)^(degrees - 1), which is summed
    from 0 to a right angle and looked up.
    """
    angles = np.linspace(0.0, math.pi / 2, ANGLES)
    density = np.cos(angles) ** (degrees - 1)
    area = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    angle = float(np.interp(share, area / area[-1], angles))
    return math.sqrt(degrees) * math.tan(angle)
