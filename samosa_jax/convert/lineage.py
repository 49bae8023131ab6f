"""Where a model comes from: the run that trained it, the run that began with, and so on to the first."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samosa_jax.training.checkpoint import CheckpointRecord, read_record, seal_digest
from samosa_jax.training.metrics import read_json_lines
from samosa_jax.training.parents import find_by_seal, parent_places, run_of
from samosa_jax.training.run_folder import RunFolder


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One run, as far as the checkpoint that was taken from it."""

    name: str
    stage: str  # pretrain, sft, ...
    imported_from: str  # the file or folder; empty: it was trained here
    step: int
    tokens: int  # that it was trained on here
    hours: float
    cost: float | None  # of these hours; None: the run states no price
    hardware: str  # empty: the run's folder does not say
    data: Mapping[str, str]  # the folder of each source, and the fingerprint of its text
    evaluation: Mapping[str, float]  # the last one until this step, and the tasks that this checkpoint did
    config: Mapping[str, Any]
    checkpoint_sha256: str  # of the seal, which holds those of all files


def read_lineage(checkpoint: Path) -> tuple[Stage, ...]:
    """The stages from the last to the first, as far as their folders are still there.

    Raises UserError if the checkpoint itself cannot be read.
    """
    stages: list[Stage] = []
    place: Path | None = checkpoint
    while place is not None:
        record = read_record(place)
        config: Mapping[str, Any] = record.config
        seconds = record.seconds_trained
        price = config["log"]["cost_per_hour"]
        run, digest = RunFolder(run_of(place)), seal_digest(place)
        sources = record.data.get("sources")
        stages.append(
            Stage(
                name=config["name"],
                stage=config["stage"],
                imported_from=record.imported_from,
                step=record.step,
                tokens=0 if record.imported_from else record.step * config["train"]["batch_tokens"],
                hours=seconds / 3600,
                cost=seconds / 3600 * price if price else None,
                hardware=_hardware(run),
                data={
                    str(source.get("path", "")): str(source.get("fingerprint", ""))
                    for source in (sources if isinstance(sources, list) else [])
                },
                evaluation=_evaluation(run, record.step, checkpoint=digest),
                config=config,
                checkpoint_sha256=digest,
            )
        )
        place = _parent(record, run.path)
    return tuple(stages)


def _parent(record: CheckpointRecord, run: Path) -> Path | None:
    """The checkpoint that a run began with, if it is still there."""
    config: Mapping[str, Any] = record.config
    if not config["init_from"]:
        return None
    places = parent_places(config["init_from"], run=run, out_dir=config["out_dir"], name=config["name"])
    return find_by_seal(places, record.data.get("begun_with"))


def _hardware(run: RunFolder) -> str:
    if not run.environment.exists():
        return ""
    device = json.loads(run.environment.read_text(encoding="utf-8"))[-1]["device"]
    return f"{device['count']} x {device['kind']}"


def _evaluation(run: RunFolder, step: int, *, checkpoint: str) -> dict[str, float]:
    if not run.evals.exists():
        return {}
    records = [record for record in read_json_lines(run.evals) if record.get("step", 0) <= step]
    while_training = [record for record in records if "task" not in record]
    last = while_training[-1] if while_training else {}
    tasks = [record for record in records if "task" in record and record.get("checkpoint") == checkpoint]
    return {
        name: float(value)
        for name, value in last.items()
        if isinstance(value, int | float) and name not in ("step", "seconds")
    } | {f"{record['task']} {record['metric']}": float(record["value"]) for record in tasks}
