"""From the files of the lm-evaluation-harness to the results of a run: evals.jsonl and a line per item."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from samosa_jax.errors import UserError
from samosa_jax.evals.intervals import Interval, Z, mean_interval, ratio_interval
from samosa_jax.evals.results import TaskResult, append_result, write_items
from samosa_jax.trained import Trained
from samosa_jax.training.checkpoint import seal_digest

DEFINITION = 1  # goes up when the same task and model would give another number; a task has its own version
PREFIX = "lm_eval"  # of the names of tasks
# What the harness makes of the items' (log-probability, weight): from nats per weight of them all.
PERPLEXITIES: Mapping[str, Callable[[float], float]] = {
    "word_perplexity": math.exp,
    "byte_perplexity": math.exp,
    "bits_per_byte": lambda nats: nats / math.log(2),
}

Record = Mapping[str, Any]


def summarise(
    output: Path,
    run: Path,
    trained: Trained,
    *,
    truncated: Mapping[str, int],
    seconds: float,
    time: datetime,
    sample_seed: int,
) -> list[TaskResult]:
    """Adds every number that the harness has written into `output` to the results of the run.

    Args:
        truncated: by task, requests that lost a beginning.
        seconds: that all tasks took together; it stands in every result.

    Raises UserError where the harness has written nothing, or nothing can be written.
    """
    path = next(iter(sorted(output.glob("*/results_*.json"))), None)
    if path is None:
        raise UserError(
            f"{output} holds no results; the harness says above why it could not write them, make room or "
            "make the folder writable"
        )
    found = json.loads(path.read_text(encoding="utf-8"))
    checkpoint = seal_digest(trained.folder)
    results = []
    for task, numbers in found["results"].items():
        samples = read_samples(path, task)
        settings = settings_of(found, task) | {"sample_seed": sample_seed}
        for number, (metric, filter_name) in enumerate(metrics_of(numbers)):
            name = metric if filter_name == "none" else f"{metric},{filter_name}"
            items = items_of(samples, metric, filter_name)
            stem = f"{PREFIX}/{task}" if number == 0 else f"{PREFIX}/{task}_{name}"
            interval = interval_of(
                metric,
                float(numbers[f"{metric},{filter_name}"]),
                numbers.get(f"{metric}_stderr,{filter_name}"),
                [sample[metric] for sample in samples if is_of(sample, metric, filter_name)],
            )
            result = TaskResult(
                task=f"{PREFIX}/{task}",
                metric=name,
                value=interval.value,
                low=interval.low,
                high=interval.high,
                num_items=len(items) or num_items_of(found, task),
                higher_is_better=bool(found["higher_is_better"].get(task, {}).get(metric, True)),
                settings=settings,
                definition=DEFINITION,
                step=trained.step,
                checkpoint=checkpoint,
                time=time.isoformat(timespec="seconds"),
                seconds=round(seconds, 3),
                counts={"truncated_prompts": truncated.get(task, 0)},
                items=write_items(run, step=trained.step, task=stem, items=items) if items else "",
            )
            append_result(run, result)
            results.append(result)
    return results


def read_samples(results: Path, task: str) -> list[dict[str, Any]]:
    """What the harness has written of every item, once for each filter of the task; nothing of a group."""
    date = results.stem.removeprefix("results_")
    path = results.with_name(f"samples_{task}_{date}.jsonl")
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def metrics_of(numbers: Record) -> Iterator[tuple[str, str]]:
    """(metric, filter) of every number of a task."""
    for key, value in numbers.items():
        metric, comma, filter_name = key.partition(",")
        if comma and not metric.endswith("_stderr") and is_number(value):
            yield metric, filter_name


def settings_of(found: Record, task: str) -> dict[str, Any]:
    """All of the harness's settings that change a task's numbers."""
    config = found["config"]
    names = ("limit", "gen_kwargs", "random_seed", "numpy_seed", "torch_seed", "fewshot_seed")
    return {
        "shots": found["n-shot"].get(task),
        "version": found["versions"].get(task),
        "task_hash": found["task_hashes"].get(task, ""),
        "chat_template": found["chat_template_sha"],
        "fewshot_as_multiturn": found["fewshot_as_multiturn"],
        "system_instruction": found["system_instruction_sha"],
        "lm_eval": found.get("lm_eval_version"),
        **{name: config[name] for name in names},
    }


def num_items_of(found: Record, task: str) -> int:
    """Of a task, or of all tasks of a group."""
    if task in found["n-samples"]:
        return int(found["n-samples"][task]["effective"])
    return sum(num_items_of(found, part) for part in found["group_subtasks"].get(task, ()))


def items_of(samples: Sequence[Record], metric: str, filter_name: str) -> list[dict[str, Any]]:
    """A line per item; none where the metric says nothing of an item by itself, as F1 does not."""
    items = []
    for sample in samples:
        if not is_of(sample, metric, filter_name):
            continue
        score = score_of(metric, sample[metric])
        if score is None:
            return []
        items.append(
            {
                "item": str(sample["doc_id"]),
                "score": score,
                "target": sample["target"],
                "answer": sample["filtered_resps"],
                "prompt_hash": sample["prompt_hash"],
            }
        )
    return items


def score_of(metric: str, value: object) -> float | None:
    """Of one item; None where it has none."""
    if isinstance(value, int | float):
        return float(value)
    if metric in PERPLEXITIES and isinstance(value, list):
        logprob, weight = value
        return PERPLEXITIES[metric](-logprob / weight) if weight else None
    return None


def interval_of(metric: str, value: float, stderr: Any, scores: Sequence[Any]) -> Interval:
    """Of the harness's value: from the items where it is their mean or ratio, else from its standard error.

    Without one of these there is no interval: the ends are NaN.
    """
    if metric in PERPLEXITIES and scores:
        logprobs, weights = zip(*scores, strict=True)
        ratio = ratio_interval([-logprob for logprob in logprobs], weights)
        return Interval(value, PERPLEXITIES[metric](ratio.low), PERPLEXITIES[metric](ratio.high))
    if scores and all(isinstance(score, int | float) for score in scores):
        mean = mean_interval([float(score) for score in scores])
        if math.isclose(mean.value, value, rel_tol=1e-9, abs_tol=1e-12):
            return Interval(value, mean.low, mean.high)
    if is_number(stderr):
        return Interval(value, value - Z * stderr, value + Z * stderr)
    return Interval(value, math.nan, math.nan)


def is_of(sample: Record, metric: str, filter_name: str) -> bool:
    return sample["filter"] == filter_name and metric in sample


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
