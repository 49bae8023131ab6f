"""Runs written by hand, as training and evaluation leave them, for tests of what reads them."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from samosa_jax.config import Config, to_dict
from samosa_jax.evals.results import TaskResult, append_result, mean_interval, write_items

DEVICE = {"kind": "NVIDIA H100 80GB HBM3", "platform": "gpu", "count": 8}


def write_run(
    folder: Path,
    *,
    stage: str = "pretrain",
    steps: int = 40,
    init_from: str = "",
    begun_with: str = "",
    losses: Mapping[int, float | None] | None = None,
    samples: Sequence[tuple[int, str, str]] = (),
    starts: Sequence[int] = (0,),
    checkpoints: Sequence[int] = (),
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """A finished run; `losses` replaces those of single steps, `extra` whole keys of the configuration."""
    folder.mkdir(parents=True)
    config = to_dict(Config(name=folder.name, out_dir=str(folder.parent)))
    config |= {"stage": stage, "init_from": init_from, **(extra or {})}
    config["train"] = {**to_dict(Config().train), "num_steps": steps, "batch_tokens": 1024}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    lines = []
    for step in range(1, steps + 1):
        loss = (losses or {}).get(step, 9.0 - step / 10)
        lines.append(
            {
                "step": step,
                "train/loss": loss,
                "train/lr": 0.01,
                "train/grad_norm": None if loss is None else 0.5,
                "train/tokens": step * 1024,
                "train/skipped": int(loss is None),
                "perf/tokens_per_sec": 2000.0,
                "perf/mfu": 0.41,
                **(
                    {"train/loss_part_assistant": 0.75, "train/loss_part_think": 0.25}
                    if stage == "sft"
                    else {}
                ),
            }
        )
    lines.append({"step": steps, ("val/bpb" if stage == "pretrain" else "val/loss"): 1.2345})
    write_lines(folder / "metrics.jsonl", lines)
    write_lines(
        folder / "samples.jsonl",
        [{"step": step, "prompt": prompt, "text": text} for step, prompt, text in samples],
    )
    environment = [
        {"from_step": step, "command": f"python -m samosa_jax.train --name={folder.name}", "device": DEVICE}
        for step in starts
    ]
    (folder / "environment.json").write_text(json.dumps(environment))
    summary = {"steps": steps, "seconds": 7200.0}
    (folder / "summary.json").write_text(json.dumps(summary))
    for step in checkpoints or (steps,):
        checkpoint = folder / "checkpoints" / f"{step:08d}"
        (checkpoint / "run").mkdir(parents=True)
        record = {
            "step": step,
            "config": config,
            "tokenizer": "t" * 64,
            "data": {"begun_with": begun_with} if begun_with else {},
            "mesh": {},
            "versions": {},
            "seconds_trained": 180.0 * step,
        }
        (checkpoint / "run" / "metadata").write_text(json.dumps(record))
        (checkpoint / "seal.json").write_text(json.dumps({"of": folder.name, "step": step}))
    return folder


def seal_of(run: Path, step: int) -> str:
    return hashlib.sha256((run / "checkpoints" / f"{step:08d}" / "seal.json").read_bytes()).hexdigest()


def write_lines(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def write_result(
    run: Path,
    task: str,
    scores: Sequence[float],
    *,
    step: int = 40,
    settings: Mapping[str, Any] | None = None,
    definition: int = 1,
    names: Sequence[str] | None = None,
    lines: Sequence[Mapping[str, Any]] | None = None,
    metric: str = "accuracy",
    higher_is_better: bool = True,
) -> TaskResult:
    """A result with its items; `lines` adds to the items' lines."""
    items = [
        {"item": name, "score": score, **more}
        for name, score, more in zip(
            names or [f"q{number}" for number in range(len(scores))],
            scores,
            lines or [{}] * len(scores),
            strict=True,
        )
    ]
    interval = mean_interval(scores)
    result = TaskResult(
        task=task,
        metric=metric,
        value=interval.value,
        low=interval.low,
        high=interval.high,
        num_items=len(scores),
        higher_is_better=higher_is_better,
        settings={"shots": 0, "config": run.name, **(settings or {})},
        definition=definition,
        step=step,
        checkpoint="c" * 64,
        time="2026-11-21T12:00:00+00:00",
        seconds=1.5,
        items=write_items(run, step=step, task=task, items=items),
    )
    append_result(run, result)
    return result
