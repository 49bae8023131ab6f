"""Where a model comes from: the run that trained it, the run that began with, and so on to the first."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samosa_jax.training.checkpoint import SEAL, read_record
from samosa_jax.training.metrics import read_json_lines
from samosa_jax.training.run_folder import RunFolder


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One run, as far as the checkpoint that was taken from it."""

    name: str
    stage: str  # pretrain, sft, ...
    step: int
    tokens: int  # that it was trained on
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
        run = RunFolder(place.parent.parent)
        sources = record.data.get("sources")
        stages.append(
            Stage(
                name=config["name"],
                stage=config["stage"],
                step=record.step,
                tokens=record.step * config["train"]["batch_tokens"],
                hours=seconds / 3600,
                cost=seconds / 3600 * price if price else None,
                hardware=_hardware(run),
                data={
                    str(source.get("path", "")): str(source.get("fingerprint", ""))
                    for source in (sources if isinstance(sources, list) else [])
                },
                evaluation=_evaluation(run, record.step, checkpoint=_seal_digest(place)),
                config=config,
                checkpoint_sha256=_seal_digest(place),
            )
        )
        place = _origin(config, run.path, begun_with=record.data.get("begun_with"))
    return tuple(stages)


def _origin(config: Mapping[str, Any], run: Path, *, begun_with: object) -> Path | None:
    """The checkpoint that a run began with, if it is still there."""
    named = config["init_from"]
    if not named or not begun_with:
        return None
    own = Path(config["out_dir"]) / config["name"]
    places = [Path(named)]
    whole = run.absolute()
    if whole.parts[-len(own.parts) :] == own.parts:  # its paths are relative to where it was trained
        places.append(Path(*whole.parts[: -len(own.parts)]) / named)
    found = (folder for place in places for folder in _checkpoints(place))
    return next((folder for folder in found if _seal_digest(folder) == begun_with), None)


def _checkpoints(place: Path) -> Iterator[Path]:
    if (place / SEAL).exists():
        yield place
    yield from (seal.parent for seal in sorted(place.glob(f"checkpoints/*/{SEAL}")))


def _seal_digest(checkpoint: Path) -> str:
    seal = checkpoint / SEAL
    return hashlib.sha256(seal.read_bytes()).hexdigest() if seal.exists() else ""


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
