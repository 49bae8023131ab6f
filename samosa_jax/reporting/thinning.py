"""Curves of millions of steps in as many points as a picture can show, and in a line of text."""

import itertools

import numpy as np

from samosa_jax.evals.plot import smooth

MAX_POINTS = 2_000
BARS = "▁▂▃▄▅▆▇█"
GAP = "·"  # where no value is finite


def thin(x: np.ndarray, y: np.ndarray, *, max_points: int = MAX_POINTS) -> tuple[np.ndarray, np.ndarray]:
    """At most `max_points` of the points: of equal stretches the lowest and the highest, so no spike is lost.

    The first and the last point stay. A stretch without a finite value keeps one point, a gap.
    """
    if len(x) <= max_points:
        return x, y
    edges = np.linspace(0, len(x), (max_points - 2) // 2 + 1).astype(np.int64)
    kept = {0, len(x) - 1}
    for start, stop in itertools.pairwise(edges):
        part = y[start:stop]
        finite = np.isfinite(part)
        if finite.any():
            kept.add(int(start + np.argmin(np.where(finite, part, np.inf))))
            kept.add(int(start + np.argmax(np.where(finite, part, -np.inf))))
        else:
            kept.add(int(start))
    index = np.fromiter(sorted(kept), np.int64)
    return x[index], y[index]


def smoothed(x: np.ndarray, y: np.ndarray, *, max_points: int = MAX_POINTS // 4) -> tuple[np.ndarray, ...]:
    """The moving mean of the finite values at evenly spaced points."""
    finite = np.isfinite(y)
    steps, means = x[finite], smooth(y[finite].tolist())
    if len(steps) > max_points:
        index = np.linspace(0, len(steps) - 1, max_points).round().astype(np.int64)
        steps, means = steps[index], means[index]
    return steps, means


def sparkline(y: np.ndarray, *, width: int = 32) -> str:
    """The course of a curve as characters, each the mean of a stretch between lowest and highest."""
    if not len(y):
        return ""
    parts = np.array_split(y, min(width, len(y)))
    means = np.array(
        [part[np.isfinite(part)].mean() if np.isfinite(part).any() else np.nan for part in parts]
    )
    finite = means[np.isfinite(means)]
    if not len(finite):
        return GAP * len(means)
    low, span = finite.min(), np.ptp(finite)
    heights = (means - low) / span if span else np.where(np.isfinite(means), 0.5, np.nan)
    return "".join(
        BARS[min(int(height * len(BARS)), len(BARS) - 1)] if np.isfinite(height) else GAP
        for height in heights
    )
