"""How much better each answer is than the others to the same prompt, and what its tokens count.

All arrays are (P, R): R answers to each of P prompts. Computed on the host, in float64.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

Advantage = Literal["centred", "std", "leave_one_out"]
Normalization = Literal["sequence", "group", "batch", "constant"]
Truncation = Literal["keep", "mask", "zero", "soft_penalty"]

STD_EPSILON = 1e-6
# Rewards that differ by less are equal: sums of weighted parts, rounded one way or the other.
EQUAL_REWARDS = 1e-9


@dataclass(frozen=True)
class GroupAdvantages:
    values: np.ndarray  # float64 (P, R); 0 where an answer does not count
    has_signal: np.ndarray  # bool (P,); False: all answers that count earned the same

    @property
    def zero_variance_share(self) -> float:
        """Share of prompts that teach nothing; 1 without any prompt."""
        return 1.0 - float(np.mean(self.has_signal)) if self.has_signal.size else 1.0


def treat_truncated(
    rewards: np.ndarray,
    truncated: np.ndarray,
    num_tokens: np.ndarray,
    *,
    policy: Truncation,
    max_tokens: int,
    soft_penalty_tokens: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Rewards of answers of which some did not come to their end, and which answers count; both (P, R).

    Args:
      truncated: bool, those that were cut.
      num_tokens: their lengths, as `max_tokens` counts them.
      policy: "keep": as rewarded. "mask": they do not count, neither in the mean of their group nor in the
        loss. "zero": no reward. "soft_penalty": DAPO's, see `overlong_penalty`; a cut answer gets all of it,
        wherever it was cut.
    """
    rewards = np.asarray(rewards, np.float64)
    truncated = np.asarray(truncated, bool)
    counts = np.ones(rewards.shape, bool)
    match policy:
        case "keep":
            return rewards, counts
        case "mask":
            return rewards, ~truncated
        case "zero":
            return np.where(truncated, 0.0, rewards), counts
        case "soft_penalty":
            penalty = overlong_penalty(num_tokens, limit=max_tokens, margin=soft_penalty_tokens)
            return rewards + np.where(truncated, -1.0, penalty), counts


def overlong_penalty(num_tokens: np.ndarray | int, *, limit: int, margin: int) -> np.ndarray:
    """0 for answers at least `margin` tokens below the limit, falling to -1 at it (DAPO, equation 13)."""
    return np.clip((limit - margin - np.asarray(num_tokens, np.float64)) / margin, -1.0, 0.0)


def group_advantages(
    rewards: np.ndarray, counts: np.ndarray | None = None, *, kind: Advantage
) -> GroupAdvantages:
    """Rewards (P, R) compared within their group; where all that count are equal, exactly 0.

    Args:
      counts: bool (P, R); None: all.
      kind: "centred": less the mean of the group (Dr.GRPO, https://arxiv.org/abs/2503.20783). "std": that,
        divided by the population's standard deviation (GRPO, https://arxiv.org/abs/2402.03300).
        "leave_one_out": less the mean of the others (RLOO, https://arxiv.org/abs/2402.14740).

    Raises ValueError for rewards that count and are not finite.
    """
    rewards = np.asarray(rewards, np.float64)
    counts = np.ones(rewards.shape, bool) if counts is None else np.asarray(counts, bool)
    if not np.isfinite(rewards[counts]).all():
        raise ValueError("a reward is not finite; every answer that counts needs one")
    size = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    mean = np.where(counts, rewards, 0.0).sum(axis=1, keepdims=True) / size
    centred = np.where(counts, rewards - mean, 0.0)
    spread = np.abs(centred).max(axis=1, initial=0.0)
    has_signal = spread > EQUAL_REWARDS * np.maximum(1.0, np.abs(mean[:, 0]))
    if kind == "std":
        values = centred / (np.sqrt(np.square(centred).sum(axis=1, keepdims=True) / size) + STD_EPSILON)
    elif kind == "leave_one_out":
        values = centred * size / np.maximum(size - 1, 1)
    else:
        values = centred
    return GroupAdvantages(np.where(has_signal[:, None], values, 0.0), has_signal)


def token_weights(
    num_tokens: np.ndarray, counts: np.ndarray, *, normalization: Normalization, max_tokens: int
) -> np.ndarray:
    """What a trained token of each answer counts, float64 (P, R), 0 where the answer does not.

    The loss of a step is the sum of its tokens' losses times these weights, divided once by the number of
    tokens of weight above 0. A step is all that is handed in here: with several processes, or several
    minibatches, the answers of one minibatch of all processes. With G answers that count, of the lengths n,
    the division makes of the sums

    - "sequence", the mean over answers of their mean over tokens (GRPO): tokens weigh 1 / (n G);
    - "group", the mean over groups of their mean over tokens (DAPO, https://arxiv.org/abs/2503.14476);
    - "batch", the mean over all tokens of the step;
    - "constant", the mean over answers of their sum, divided by `max_tokens` (Dr.GRPO): a long wrong answer
      is not let off lightly for being long.

    Args:
      num_tokens: of each answer, those that were sampled.
      counts: bool, answers that count.
    """
    lengths = np.where(counts, num_tokens, 0).astype(np.float64)
    exists = lengths > 0
    total = lengths.sum()
    if normalization == "batch" or not total:
        return exists.astype(np.float64)
    if normalization == "group":
        in_group = np.broadcast_to(lengths.sum(axis=1, keepdims=True), lengths.shape)
        tokens_per_unit, units = in_group, exists.any(axis=1).sum()
    elif normalization == "sequence":
        tokens_per_unit, units = lengths, exists.sum()
    else:
        tokens_per_unit, units = np.full(lengths.shape, float(max_tokens)), exists.sum()
    return np.where(exists, total / (units * np.where(exists, tokens_per_unit, 1.0)), 0.0)
