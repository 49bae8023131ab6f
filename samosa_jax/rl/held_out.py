"""pass@k on held-out prompts during training by rewards: whether what was learnt holds for others.

The prompts are the same at every step and of every run, and so are the random numbers that answer them: what
changes between two steps is the model.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from samosa_jax.config import RewardConfig, TaskConfig
from samosa_jax.evals.asking import seed_of
from samosa_jax.evals.generation import pass_at_k
from samosa_jax.evals.generation_tasks import find_generation_task, open_items
from samosa_jax.evals.intervals import mean_interval
from samosa_jax.model.params import Params
from samosa_jax.rl.judging import Judged, judge
from samosa_jax.rl.prompts import Prompted
from samosa_jax.rl.rollouts import Sampler
from samosa_jax.rollout.engine import Engine
from samosa_jax.tasks.catalog import TASK_NAMES, make_generated

SEED = 0  # as `samosa evaluate` has it: the first questions of both are the same


def open_held_out(
    tasks: Sequence[TaskConfig], *, prompts: int, data_dir: Path | None, flag: str
) -> list[Prompted]:
    """The first prompts of the held-out split of every task.

    `flag` names the setting of data_dir in errors. Raises UserError for a task that there is not, and for a
    file that is missing or damaged.
    """
    found = []
    for task in tasks:
        if task.name in TASK_NAMES:
            made = make_generated(task.name, levels=task.levels)
            score = made.score
            examples = {f"{SEED}/{n}": made.example("heldout", SEED, n) for n in range(prompts)}
        else:
            stored = find_generation_task(task.name)
            score = stored.score
            items = open_items(stored, data_dir=data_dir, limit=prompts, levels=task.levels, flag=flag)
            examples = {item.name: item.example for item in items}
        found += [
            Prompted(task=task.name, item=f"{task.name}/{name}", index=index, example=example, score=score)
            for index, (name, example) in enumerate(examples.items())
        ]
    return found


def make_held_out_evaluation(
    prompted: Sequence[Prompted],
    sampler: Sampler,
    engine: Engine,
    *,
    reward: RewardConfig,
    ks: Sequence[int],
    whole: Callable[[Params], Params],
) -> Callable[[Params], Mapping[str, Any]]:
    """A function of what is trained -> a record for evals.jsonl, see `passes`.

    Args:
      sampler: writes with `engine`, at least max(ks) answers to a prompt.
      whole: the network's parameters, of what is trained.
    """

    def evaluate(params: Params) -> Mapping[str, Any]:
        engine.update(whole(params))
        groups = sampler.sample(prompted, seed_of_item=lambda item: seed_of(SEED, "held out", item))
        engine.release()
        return passes(judge(prompted, groups, reward=reward), ks)

    return evaluate


def passes(judged: Judged, ks: Sequence[int]) -> dict[str, Any]:
    """pass@k with 95 % intervals over prompts: of all, and `by_task`, and `by_level` of graded tasks."""
    by_task: dict[str, list[int]] = {}
    by_level: dict[str, list[int]] = {}
    for row, one in enumerate(judged.prompted):
        by_task.setdefault(one.task, []).append(row)
        if "level" in one.example.checks:
            by_level.setdefault(f"{one.task}/{one.example.checks['level']}", []).append(row)
    everything = _passes_of(judged.right, ks)
    return {
        **{f"eval/{name}": value for name, value in everything.items()},
        "eval/reward": float(judged.totals.mean()),
        "eval/mean_length": float(judged.num_tokens.mean()),
        "eval/clipped_frac": float(judged.truncated.mean()),
        "prompts": len(judged.prompted),
        "samples": judged.right.shape[1],
        **{
            name: {group: _passes_of(judged.right[rows], ks) for group, rows in sorted(groups.items())}
            for name, groups in (("by_task", by_task), ("by_level", by_level))
            if groups
        },
    }


def _passes_of(right: np.ndarray, ks: Sequence[int]) -> dict[str, float]:
    """Of right answers (P, R), bool."""
    found = {}
    for k in ks:
        interval = mean_interval([pass_at_k(right.shape[1], int(row.sum()), k) for row in right])
        found |= {f"pass@{k}": interval.value, f"pass@{k}_low": interval.low, f"pass@{k}_high": interval.high}
    return found
