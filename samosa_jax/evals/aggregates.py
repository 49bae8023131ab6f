"""CORE and its sister for chat models: means over tasks, each centred: guessing is 0, all right is 1.

    centred = (accuracy - baseline) / (1 - baseline)

A task without a result is named and makes the value partial, under a name of its own: the mean of fewer tasks
is another quantity.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from samosa_jax.evals.intervals import Interval, combined_interval
from samosa_jax.evals.ranking import centre

METRIC = "centered"
PARTIAL_METRIC = "centered_partial"
DEFINITION = 1  # goes up when the same scores would give another number

# The baselines are chance: one letter of four; nobody guesses a number, a program or a spelling.
CHATCORE_BASELINES: Mapping[str, float] = {
    "chat/arc_easy": 25.0,
    "chat/arc_challenge": 25.0,
    "chat/mmlu": 25.0,
    "gsm8k": 0.0,
    "humaneval": 0.0,
    "spelling": 0.0,
}


@dataclass(frozen=True, kw_only=True)
class Aggregate:
    """A mean over tasks.

    Attributes:
        centred: of every task that has a result.
        missing: those that have none, in their order.
    """

    interval: Interval
    centred: Mapping[str, float]
    missing: tuple[str, ...] = field(default=())

    @property
    def metric(self) -> str:
        return PARTIAL_METRIC if self.missing else METRIC


def aggregate(baselines: Mapping[str, float], scores: Mapping[str, Sequence[float]]) -> Aggregate:
    """The mean over tasks of `baselines` (per cent), of the item scores by task.

    Every task counts alike, whatever its number of items. Raises ValueError where no task has scores.
    """
    present = [task for task in baselines if task in scores]
    if not present:
        raise ValueError(f"none of {', '.join(baselines)} has scores; a mean needs one task at least")
    factors = [1 / (1 - baselines[task] / 100) for task in present]
    interval = combined_interval(
        [scores[task] for task in present],
        scale=factors,
        shift=[-factor * baselines[task] / 100 for factor, task in zip(factors, present, strict=True)],
    )
    centred = {task: centre(sum(scores[task]) / len(scores[task]), baselines[task] / 100) for task in present}
    missing = tuple(task for task in baselines if task not in scores)
    return Aggregate(interval=interval, centred=centred, missing=missing)
