"""Where the prompts of a rollout come from: tasks by their weights, on their training split.

Prompt n of a run is a function of the seed and n alone, whatever was answered before. What else chooses
prompts, such as a curriculum, is another `PromptSource`.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from samosa_jax.config import TaskConfig
from samosa_jax.data.mixture import Mixture
from samosa_jax.data.packing import seeded_permutation
from samosa_jax.errors import UserError
from samosa_jax.evals.generation_tasks import GENERATION_TASKS, Score
from samosa_jax.evals.question_files import find_file, read_file
from samosa_jax.keys import near_miss
from samosa_jax.tasks.catalog import TASK_NAMES, make_generated
from samosa_jax.tasks.task import Example, GeneratedTask


@dataclass(frozen=True, kw_only=True)
class Prompted:
    """One prompt of a rollout.

    Attributes:
        task: its name, for logs.
        item: unique in the run; the random numbers of the answers come from it.
        index: of the example among those of its task.
        score: judges an answer, 1 for a right one.
        level: that was asked for, where something chooses levels.
    """

    task: str
    item: str
    index: int
    example: Example
    score: Score
    level: int | None = None


class PromptSource(Protocol):
    """Chooses prompts. Rollouts are numbered from 0."""

    def prompts(self, rollout: int, count: int) -> Sequence[Prompted]:
        """Of one rollout: a function of the seed, the number of the rollout, and the state."""
        ...

    def record(self, rollout: int, prompted: Sequence[Prompted], pass_rates: Sequence[float]) -> None:
        """Hears what share of the answers to each prompt was right, once for every rollout, in order."""
        ...

    def state(self) -> dict[str, Any]:
        """What was learnt from the records so far, as JSON."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `state` gave."""
        ...

    def describe(self) -> list[str]:
        """Lines for people: what prompts there are."""
        ...

    def metrics(self) -> Mapping[str, float]:
        """Further metrics of the rollout recorded last, declared in `training.metrics`."""
        ...


class Examples(Protocol):
    """The training split of one task, without end."""

    @property
    def score(self) -> Score: ...

    @property
    def fingerprint(self) -> str:
        """Of what they are made from: other examples have another one."""
        ...

    def example(self, index: int) -> Example: ...

    def describe(self) -> str: ...


class MadeExamples:
    """Of a task that composes them: all different."""

    def __init__(self, task: GeneratedTask, *, seed: int) -> None:
        self.score: Score = task.score
        self.fingerprint = "made"
        self._task = task
        self._seed = seed

    def example(self, index: int) -> Example:
        return self._task.example("train", self._seed, index)

    def describe(self) -> str:
        return "made without end"


class StoredExamples:
    """Rows of a file, in an order of their own every time they are gone through."""

    def __init__(self, examples: Sequence[Example], score: Score, *, seed: int, path: Path) -> None:
        self.score = score
        self.fingerprint = hashlib.sha256(path.read_bytes()).hexdigest()
        self._examples = examples
        self._seed = seed
        self._path = path

    def example(self, index: int) -> Example:
        visit, place = divmod(index, len(self._examples))
        order = seeded_permutation(len(self._examples), key=(self._seed, visit))
        return self._examples[order[place]]

    def describe(self) -> str:
        return f"{len(self._examples):,} rows of {self._path}"


class TaskMixture:
    """Prompts of several tasks, each with its share to within one prompt."""

    def __init__(self, tasks: Sequence[tuple[str, float, Examples]]) -> None:
        """tasks: name, weight and examples of each."""
        self._tasks = tasks
        self._mixture = Mixture([weight for _, weight, _ in tasks])

    def prompts(self, rollout: int, count: int) -> Sequence[Prompted]:
        chosen = self._mixture.rows(rollout * count, (rollout + 1) * count)
        return [self._prompted(int(task), int(row)) for task, row in zip(*chosen, strict=True)]

    def record(self, rollout: int, prompted: Sequence[Prompted], pass_rates: Sequence[float]) -> None:
        """Nothing is learnt from it."""

    def state(self) -> dict[str, Any]:
        return {"examples": {name: examples.fingerprint for name, _, examples in self._tasks}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Raises UserError where the examples are no longer those that the run was trained on."""
        for name, fingerprint in self.state()["examples"].items():
            if state["examples"][name] != fingerprint:
                raise UserError(
                    f"rl.tasks: the examples of {name} are not those that this run was trained on; name "
                    "their folder with rl.data_dir, or give the new run another name"
                )

    def describe(self) -> list[str]:
        return [
            f"prompts: {name}, {share:.1%} of them, {examples.describe()}"
            for (name, _, examples), share in zip(self._tasks, self._mixture.shares, strict=True)
        ]

    def metrics(self) -> Mapping[str, float]:
        return {}

    def _prompted(self, task: int, index: int) -> Prompted:
        name, _, examples = self._tasks[task]
        return Prompted(
            task=name,
            item=f"{name}/{index}",
            index=index,
            example=examples.example(index),
            score=examples.score,
        )


def open_mixture(tasks: Sequence[TaskConfig], *, seed: int, data_dir: Path | None) -> TaskMixture:
    """Raises UserError for a task or level that there is not, and for a file that is missing or damaged."""
    return TaskMixture(
        [
            (task.name, task.weight, open_examples(task.name, task.levels, seed=seed, data_dir=data_dir))
            for task in tasks
        ]
    )


def open_examples(name: str, levels: Sequence[int], *, seed: int, data_dir: Path | None) -> Examples:
    """The training split of the task of this name. Raises UserError, as `open_mixture`.

    levels: of a graded task; empty: all.
    """
    stored = {task.name: task for task in GENERATION_TASKS.values() if task.train_file is not None}
    known = (*TASK_NAMES, *stored)
    if name not in known:
        hint = near_miss(name, known) or f"; there are {', '.join(known)}"
        raise UserError(f"rl.tasks has {name!r}, which is no task{hint}")
    if name in TASK_NAMES:
        return MadeExamples(make_generated(name, levels=levels), seed=seed)
    task = stored[name]
    assert task.train_file is not None
    assert task.example_of is not None
    if levels:
        raise UserError(f"rl.tasks: {name} has no levels; leave them out")
    path = find_file(task.train_file, data_dir=data_dir, flag="rl.data_dir")
    rows = [task.example_of(row, where) for where, row in read_file(path)]
    return StoredExamples(rows, task.score, seed=seed, path=path)
