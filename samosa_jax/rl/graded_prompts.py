"""Prompts of tasks with levels, asked where the model's pass rates say that there is something to learn."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from samosa_jax.config import CurriculumConfig, TaskConfig
from samosa_jax.errors import UserError
from samosa_jax.rl.curriculum import Standing, after_answers, choose_level
from samosa_jax.rl.prompts import Examples, Prompted, PromptSource, TaskMixture, open_examples, open_mixture
from samosa_jax.tasks.catalog import LEVELS


class GradedMixture:
    """A mixture of tasks; those with levels ask the ones that a curriculum chooses.

    The prompts of a rollout are a function of the seed, the number of the rollout and the standings, which
    are part of `state`.
    """

    def __init__(
        self,
        mixture: TaskMixture,
        levels: Mapping[str, Sequence[tuple[int, Examples]]],
        rules: CurriculumConfig,
        *,
        seed: int,
    ) -> None:
        """levels: examples of every level of the graded tasks of the mixture, the easiest first."""
        self._mixture = mixture
        self._levels = levels
        self._rules = rules
        self._seed = seed
        self._standings = {task: Standing.first(len(examples)) for task, examples in levels.items()}
        self._metrics: Mapping[str, float] = {}

    def prompts(self, rollout: int, count: int) -> Sequence[Prompted]:
        draw = random.Random(f"{self._seed}/{rollout}")
        return [
            self._at_its_level(one, draw) if one.task in self._levels else one
            for one in self._mixture.prompts(rollout, count)
        ]

    def record(self, rollout: int, prompted: Sequence[Prompted], pass_rates: Sequence[float]) -> None:
        answered: dict[str, list[tuple[int, float]]] = {task: [] for task in self._levels}
        for one, rate in zip(prompted, pass_rates, strict=True):
            if one.level is not None:
                levels = [level for level, _ in self._levels[one.task]]
                answered[one.task].append((levels.index(one.level), rate))
        self._standings = {
            task: after_answers(self._standings[task], self._rules, found) for task, found in answered.items()
        }
        asked = [one.level for one in prompted if one.level is not None]
        self._metrics = {"rl/level": sum(asked) / len(asked)} if asked else {}

    def state(self) -> dict[str, Any]:
        standings = {task: standing.as_json() for task, standing in self._standings.items()}
        return {**self._mixture.state(), "curriculum": standings}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Raises UserError, as `TaskMixture.restore`."""
        self._mixture.restore(state)
        self._standings = {task: Standing.from_json(state["curriculum"][task]) for task in self._levels}

    def describe(self) -> list[str]:
        return [
            *self._mixture.describe(),
            *(
                f"curriculum: {task}, levels {', '.join(str(level) for level, _ in examples)}, asked where "
                f"{self._rules.low:.0%} to {self._rules.high:.0%} of the answers are right"
                for task, examples in self._levels.items()
            ),
        ]

    def metrics(self) -> Mapping[str, float]:
        return self._metrics

    def _at_its_level(self, one: Prompted, draw: random.Random) -> Prompted:
        place = choose_level(self._standings[one.task], self._rules, draw)
        level, examples = self._levels[one.task][place]
        return replace(
            one, item=f"{one.item}/level {level}", example=examples.example(one.index), level=level
        )


def open_source(
    tasks: Sequence[TaskConfig], curriculum: CurriculumConfig, *, seed: int, data_dir: Path | None
) -> PromptSource:
    """Prompts of the tasks, chosen by the curriculum if there is one.

    Raises UserError for a task or a level that there is not, for a file that is missing or damaged, and for a
    curriculum without a task that has levels.
    """
    mixture = open_mixture(tasks, seed=seed, data_dir=data_dir)
    if curriculum.by == "none":
        return mixture
    graded = {
        task.name: [
            (level, open_examples(task.name, (level,), seed=seed, data_dir=data_dir))
            for level in task.levels or LEVELS[task.name]
        ]
        for task in tasks
        if task.name in LEVELS
    }
    if not graded:
        raise UserError(
            f"rl.curriculum.by is {curriculum.by}, but no task of rl.tasks has levels; name one of "
            f"{', '.join(LEVELS)}, or set it to none"
        )
    return GradedMixture(mixture, graded, curriculum, seed=seed)
