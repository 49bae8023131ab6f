"""Which level of a graded task to ask next: those that the model gets right sometimes, as its pass rates say.

Answers to a prompt that are all right or all wrong teach nothing (https://arxiv.org/abs/2503.14476 leaves
them out), so prompts are drawn from levels whose running pass rate lies between two bounds. A task begins
with its easiest level; the next one opens when the hardest open one is passed more often than the upper
bound, and that one closes when it is passed less often than the lower.

Pure: what is known of a task is a `Standing`, which is made anew and never changed.
"""

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from samosa_jax.config import CurriculumConfig


@dataclass(frozen=True)
class Standing:
    """How far a task has come. Levels are numbered from 0, the easiest.

    Attributes:
        hardest: the hardest level that is open.
        rates: running pass rate of every level; None: not asked since it was opened.
        asked: prompts that each rate is made of.
    """

    hardest: int
    rates: tuple[float | None, ...]
    asked: tuple[int, ...]

    @classmethod
    def first(cls, num_levels: int) -> "Standing":
        """Before anything was asked. Raises ValueError without levels."""
        if num_levels < 1:
            raise ValueError("a curriculum needs at least one level")
        return cls(0, (None,) * num_levels, (0,) * num_levels)

    def as_json(self) -> dict[str, Any]:
        return {"hardest": self.hardest, "rates": list(self.rates), "asked": list(self.asked)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Standing":
        return cls(values["hardest"], tuple(values["rates"]), tuple(values["asked"]))


def choose_level(standing: Standing, rules: CurriculumConfig, draw: random.Random) -> int:
    """One of the open levels whose pass rate is unknown or within the bounds, each as likely.

    Where none is, the hardest open one. A share of `rules.review` goes to any open level, so that the rates
    of those left behind stay true.
    """
    is_review = draw.random() < rules.review
    wanted = [
        level
        for level, rate in enumerate(standing.rates[: standing.hardest + 1])
        if is_review or rate is None or rules.low <= rate <= rules.high
    ]
    return draw.choice(wanted or [standing.hardest])


def after_answers(
    standing: Standing, rules: CurriculumConfig, answered: Iterable[tuple[int, float]]
) -> Standing:
    """What is known after prompts of these levels were answered, with the share of right answers to each.

    A rate is the mean over the first `rules.memory` prompts and forgets exponentially from there on. After
    all are counted, at most one level opens or closes. The level below one that closes is measured anew
    before that one can open again.
    """
    rates, asked = list(standing.rates), list(standing.asked)
    for level, passed in answered:
        known = rates[level]
        asked[level] += 1
        rates[level] = passed if known is None else known + (passed - known) / min(asked[level], rules.memory)
    hardest, rate = standing.hardest, rates[standing.hardest]
    if rate is not None and asked[hardest] >= rules.min_prompts:
        if rate > rules.high and hardest + 1 < len(rates):
            hardest += 1
            _forget(rates, asked, hardest)
        elif rate < rules.low and hardest > 0:
            _forget(rates, asked, hardest)
            hardest -= 1
            _forget(rates, asked, hardest)
    return Standing(hardest, tuple(rates), tuple(asked))


def _forget(rates: list[float | None], asked: list[int], level: int) -> None:
    rates[level], asked[level] = None, 0
