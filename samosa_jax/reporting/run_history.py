"""What a run has left on disk, read as it is: what is missing is said, what is broken is named by its line.

The configuration is read as plain values, so that a run of an older version can be reported on.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from samosa_jax.errors import UserError
from samosa_jax.evals.results import TaskResult, read_results
from samosa_jax.training.checkpoint import (
    SEAL,
    CheckpointRecord,
    list_steps,
    read_record,
    seal_digest,
    step_folder,
)
from samosa_jax.training.metrics import is_train_record
from samosa_jax.training.resume import flatten
from samosa_jax.training.run_folder import RunFolder


@dataclass(frozen=True, eq=False)
class Curve:
    """A metric over the steps it was written at; NaN where it was not finite."""

    steps: np.ndarray  # (N,) int64
    values: np.ndarray  # (N,) float64

    def until(self, step: int) -> "Curve":
        kept = self.steps <= step
        return Curve(self.steps[kept], self.values[kept])

    @property
    def finite(self) -> "Curve":
        kept = np.isfinite(self.values)
        return Curve(self.steps[kept], self.values[kept])


@dataclass(frozen=True)
class Sample:
    step: int
    prompt: str
    text: str


@dataclass(frozen=True)
class Checkpoint:
    step: int
    seal_digest: str  # SHA-256 of its seal


@dataclass(frozen=True, kw_only=True, eq=False)
class RunHistory:
    """One run."""

    folder: Path
    config: Mapping[str, Any]  # by dotted key; empty if the run has none
    train: Mapping[str, Curve]  # of every step
    held_out: Mapping[str, Curve]  # measured now and then by training itself
    by_source: Mapping[str, float]  # the last held-out value of every source
    results: Sequence[TaskResult]  # of `samosa evaluate`
    samples: Sequence[Sample]
    starts: Sequence[Mapping[str, Any]]  # of the command: a run may have been stopped and gone on
    summary: Mapping[str, Any]
    checkpoints: Sequence[Checkpoint]  # the finished ones, ascending
    record: CheckpointRecord | None  # of the newest
    bad_batches: Sequence[str]  # files of batches that gave no finite loss
    notices: Sequence[str]  # what was passed over while reading
    last_step: int

    @property
    def name(self) -> str:
        return str(self.config.get("name") or self.folder.absolute().name)

    @property
    def stage(self) -> str:
        return str(self.config.get("stage", "unknown stage"))

    @property
    def is_chat(self) -> bool:
        return self.stage != "pretrain"

    @property
    def tokens(self) -> int:
        """In the rows of all steps that were trained here."""
        curve = self.train.get("train/tokens")
        if curve is not None and len(curve.values):
            return int(curve.values[-1])
        if self.record is not None and self.record.imported_from:
            return 0
        return self.last_step * int(self.config.get("train.batch_tokens", 0))

    @property
    def seconds(self) -> float | None:
        """Of training, evaluating and saving up to the last step; None if no file says."""
        if self.summary.get("steps") == self.last_step and "seconds" in self.summary:
            return float(self.summary["seconds"])
        if self.record is not None and self.record.step == self.last_step:
            return self.record.seconds_trained
        steps = self.train.get("perf/step_ms")
        return float(np.nansum(steps.values)) / 1e3 if steps is not None and len(steps.values) else None

    @property
    def hardware(self) -> str:
        """Like "8 x NVIDIA H100 80GB HBM3"; empty if no file says."""
        kinds = [start.get("device", {}) for start in self.starts]
        named = [f"{kind['count']} x {kind['kind']}" for kind in kinds if {"count", "kind"} <= kind.keys()]
        return ", then ".join(dict.fromkeys(named))

    def until(self, step: int) -> "RunHistory":
        """The run as it was after a step: what came later belongs to no run that began with it there."""
        if step >= self.last_step:
            return self

        def cut(curves: Mapping[str, Curve]) -> dict[str, Curve]:
            return {name: kept for name, curve in curves.items() if len((kept := curve.until(step)).steps)}

        return dataclasses.replace(
            self,
            train=cut(self.train),
            held_out=cut(self.held_out),
            results=[result for result in self.results if result.step <= step],
            samples=[sample for sample in self.samples if sample.step <= step],
            starts=[start for start in self.starts if start.get("from_step", 0) <= step],
            last_step=step,
            record=_record_at(self.folder, step),
            notices=[*self.notices, f"the run went on to step {self.last_step}, which is not shown"],
        )


def read_run(folder: Path) -> RunHistory:
    """Reads all there is of a run.

    Raises UserError if the folder is no run, or a file in it is broken: its name and line are given.
    """
    run = RunFolder(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist; name the folder of a run, as in runs/base")
    if not (run.config.exists() or run.metrics.exists()):
        raise UserError(
            f"{folder} is no run: it has neither {run.config.name} nor {run.metrics.name}; name a folder "
            "such as runs/base"
        )
    notices: list[str] = []
    train, held_out = _read_metrics(run.metrics, notices)
    evaluations = [record for _, record in _records(run.evals, []) if "task" not in record]
    checkpoints, record = _read_checkpoints(run.checkpoints, notices)
    steps = [int(curve.steps[-1]) for curve in (*train.values(), *held_out.values())]
    return RunHistory(
        folder=folder,
        config=flatten(_read_yaml(run.config)),
        train=train,
        held_out=held_out,
        by_source=_last_by_source(evaluations),
        results=read_results(folder),
        samples=[_sample(where, record) for where, record in _records(run.samples, notices)],
        starts=_read_json(run.environment, list),
        summary=_read_json(run.summary, dict),
        checkpoints=checkpoints,
        record=record,
        bad_batches=sorted(path.name for path in run.bad_steps.glob("*.npz")),
        notices=notices,
        last_step=max(steps, default=record.step if record else 0),
    )


def _read_metrics(path: Path, notices: list[str]) -> tuple[dict[str, Curve], dict[str, Curve]]:
    """Curves of the training steps, and of the evaluations between them."""
    found: tuple[dict[str, tuple[list[int], list[float]]], ...] = ({}, {})
    for where, record in _records(path, notices):
        step = record.get("step")
        if not isinstance(step, int) or isinstance(step, bool):
            raise UserError(f"{where}: the line has no step; repair or remove it")
        kind = found[0 if is_train_record(record) else 1]
        for name, value in record.items():
            if name == "step":
                continue
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
                raise UserError(
                    f"{where}: {name} is {str(value)[:40]!r}; expected a number or null; repair or remove "
                    "that line"
                )
            steps, values = kind.setdefault(name, ([], []))
            steps.append(step)
            values.append(np.nan if value is None else float(value))
    train, held_out = (
        {
            name: Curve(np.asarray(steps, np.int64), np.asarray(values, np.float64))
            for name, (steps, values) in kind.items()
        }
        for kind in found
    )
    return train, held_out


def _records(path: Path, notices: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file and line, object) of every whole line; a torn last one is noted and passed over."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            where = f"{path}:{number}"
            if not line.endswith(b"\n"):
                notices.append(f"{path.name}: the last line was torn by a kill and is left out")
                return
            try:
                record = json.loads(line)
            except ValueError as error:
                shown = line[:40].decode("utf-8", "replace").strip()
                raise UserError(f"{where}: {shown!r} is not JSON; repair or remove that line") from error
            if not isinstance(record, dict):
                raise UserError(f"{where}: {line[:40]!r} is no JSON object; repair or remove that line")
            yield where, record


def _sample(where: str, record: Mapping[str, Any]) -> Sample:
    try:
        return Sample(int(record["step"]), str(record["prompt"]), str(record["text"]))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{where}: expected an object with step, prompt and text; repair or remove that line"
        ) from error


def _last_by_source(evaluations: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    for record in reversed(evaluations):
        found = record.get("by_source")
        if isinstance(found, dict):
            return {str(name): float(value) for name, value in found.items() if value is not None}
    return {}


def _read_yaml(path: Path) -> Mapping[str, Any]:
    if not path.exists():
        return {}
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{path}: not valid YAML ({reason}); repair it from a checkpoint's record") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: expected keys and values; repair it from a checkpoint's record")
    return found


def _read_json(path: Path, kind: type) -> Any:
    """The value in a JSON file, an empty one if there is no file."""
    if not path.exists():
        return kind()
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); repair or remove it") from error
    items = found if isinstance(found, list) else [found]
    if not isinstance(found, kind) or not all(isinstance(item, dict) for item in items):
        expected = "a list of objects" if kind is list else "an object"
        raise UserError(f"{path}: expected {expected}; repair or remove it")
    return found


def _read_checkpoints(folder: Path, notices: list[str]) -> tuple[list[Checkpoint], CheckpointRecord | None]:
    checkpoints = []
    for step in list_steps(folder):
        seal = step_folder(folder, step) / SEAL
        if seal.exists():
            checkpoints.append(Checkpoint(step, seal_digest(seal.parent)))
        else:
            notices.append(f"checkpoint {seal.parent.name} was never finished")
    if not checkpoints:
        return [], None
    try:
        return checkpoints, read_record(step_folder(folder, checkpoints[-1].step))
    except UserError as error:
        notices.append(str(error))
        return checkpoints, None


def _record_at(folder: Path, step: int) -> CheckpointRecord | None:
    place = step_folder(RunFolder(folder).checkpoints, step)
    return read_record(place) if (place / SEAL).exists() else None
