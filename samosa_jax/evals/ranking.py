"""From likelihoods to what an item scores."""

import math
from collections.abc import Sequence
from typing import Literal

from samosa_jax.evals.likelihood import Score

RankedBy = Literal["sum", "mean", "bytes"]
TIE = 1e-6  # of the larger value: about what float32 leaves between numbers that are equal


def rank_values(scores: Sequence[Score], answers: Sequence[str], by: RankedBy) -> list[float]:
    """What choices are ranked by: the log-probability, or that per token, or per byte of the answer."""
    if by == "sum":
        return [score.logprob for score in scores]
    if by == "mean":
        return [score.logprob / score.num_tokens for score in scores]
    return [
        score.logprob / max(1, len(answer.encode())) for score, answer in zip(scores, answers, strict=True)
    ]


def choice_score(values: Sequence[float], gold: int) -> float:
    """1 if the right choice has the largest value, 0 if another has.

    Choices that are equally likely share: the right one among k of the best scores 1 / k, what guessing
    between them would on average. Where any value is not a number the item scores 0.
    """
    if any(math.isnan(value) for value in values):
        return 0.0
    best = max(values)
    tied = [number for number, value in enumerate(values) if _is_tie(value, best)]
    return 1 / len(tied) if gold in tied else 0.0


def _is_tie(value: float, best: float) -> bool:
    return value == best or (math.isfinite(value) and best - value <= TIE * abs(value))


def centre(accuracy: float, baseline: float) -> float:
    """0 for guessing, 1 for all right."""
    return (accuracy - baseline) / (1 - baseline)
