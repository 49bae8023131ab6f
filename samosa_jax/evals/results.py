"""What an evaluation leaves in a run: a line per result, and a file per result with a line per item.

runs/NAME/  evals.jsonl  evals/STEP/TASK.jsonl

evals.jsonl also holds what training measured on its way; those lines have no `task` and are passed over here.
"""

import fcntl
import json
import math
import os
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from samosa_jax.errors import UserError
from samosa_jax.evals.intervals import Difference, Interval, mean_interval, paired_bootstrap
from samosa_jax.training.run_folder import RunFolder

__all__ = [
    "Difference",
    "Interval",
    "TaskResult",
    "append_result",
    "mean_interval",
    "paired_bootstrap",
    "read_items",
    "read_results",
    "write_items",
]

NUMBERS = ("value", "low", "high", "seconds")  # may be non-finite, which JSON has not: null there


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """One number of one checkpoint, and all that is needed to believe it."""

    task: str  # "arc_easy", "core/hellaswag", "probes/identity", "bpb"
    metric: str  # "accuracy", "centered", "pass@1", "bpb"
    value: float
    low: float  # the ends of its 95 % interval
    high: float
    num_items: int
    higher_is_better: bool
    settings: Mapping[str, Any]  # shots, seed, limit, temperature, ...
    definition: int  # goes up when the same model and data would give another number
    step: int
    checkpoint: str  # SHA-256 of the checkpoint's seal
    time: str  # ISO 8601
    seconds: float
    counts: Mapping[str, int] = field(default_factory=dict)  # truncated prompts, compiled programs, ...
    items: str = ""  # JSONL with a line per item, relative to the run's folder; empty: there is none

    @property
    def interval(self) -> Interval:
        return Interval(self.value, self.low, self.high)


def append_result(run: Path, result: TaskResult) -> None:
    """Adds one line to the run's evals.jsonl, whole or not at all.

    Raises UserError where it cannot be written.
    """
    record = asdict(result)
    finite = {
        name: None if name in NUMBERS and not math.isfinite(value) else value
        for name, value in record.items()
    }
    line = f"{json.dumps(finite, ensure_ascii=False, allow_nan=False)}\n".encode()
    path = RunFolder(run).evals
    try:
        with path.open("a+b") as file:
            # Two evaluations of a run may end at the same time.
            fcntl.flock(file, fcntl.LOCK_EX)
            _append(file, line)
    except OSError as error:
        raise UserError(
            f"{path}: the result of {result.task} cannot be written ({error.strerror}); make room, or "
            "make the folder writable"
        ) from error


def read_results(run: Path) -> list[TaskResult]:
    """The results of a run, oldest first; none if nothing was evaluated yet.

    A last line without its end, which a kill has left, is passed over. Raises UserError for any other line
    that is no record, by file and line.
    """
    path = RunFolder(run).evals
    return [
        _result(record, where=where)
        for where, record in _records(path)
        # Training's own evaluations have no task.
        if "task" in record or "step" not in record
    ]


def write_items(run: Path, *, step: int, task: str, items: Iterable[Mapping[str, Any]]) -> str:
    """Writes a line per item, each with at least `item` and `score`; returns the path for `TaskResult.items`.

    A file of an earlier result stays as it is: the new one then has a number in its name. Raises UserError
    where it cannot be written.
    """
    folder = RunFolder(run).evaluated_items / f"{step:08d}"
    name = task.replace("/", "_")
    text = "".join(f"{json.dumps(dict(item), ensure_ascii=False)}\n" for item in items)
    temporary = folder / f"{name}.{os.getpid()}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_text(text, encoding="utf-8")
            path = _take_name(temporary, folder, name)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"{folder}: the items of {task} cannot be written ({error.strerror}); make room, or make the "
            "folder writable"
        ) from error
    return path.relative_to(run).as_posix()


def read_items(run: Path, result: TaskResult) -> list[dict[str, Any]]:
    """The items of a result in their order. Raises UserError if the file is gone, damaged or too short."""
    path = run / result.items
    if not result.items or not path.is_file():
        raise UserError(
            f"{path} is not there, which holds the items of {result.task}; evaluate it again with --again"
        )
    found: list[dict[str, Any]] = []
    for where, record in _records(path):
        score = record.get("score")
        if "item" not in record or isinstance(score, bool) or not isinstance(score, int | float):
            raise UserError(f"{where}: expected an object with item and a number as score; evaluate it again")
        found.append(record)
    if len(found) != result.num_items:
        raise UserError(
            f"{path} has {len(found)} items where its result counts {result.num_items}; evaluate it again "
            "with --again"
        )
    return found


def _append(file: typing.BinaryIO, line: bytes) -> None:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 1))
    if size and file.read(1) != b"\n":
        # What a kill has left of a line is no record, and would swallow this one.
        file.seek(0)
        size = file.read().rfind(b"\n") + 1
        file.truncate(size)
    try:
        file.write(line)
        file.flush()
        os.fsync(file.fileno())
    except OSError:
        file.truncate(size)
        raise


def _take_name(temporary: Path, folder: Path, name: str) -> Path:
    number = 1
    while True:
        path = folder / (f"{name}.jsonl" if number == 1 else f"{name}-{number}.jsonl")
        try:
            os.link(temporary, path)  # unlike a rename it never replaces
            return path
        except FileExistsError:
            number += 1


def _records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file and line, object) of every whole line."""
    if not path.exists():
        return
    *lines, _ = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        where = f"{path}:{number}"
        try:
            record = json.loads(line)
        except ValueError as error:
            raise UserError(f"{where}: {line[:40]!r} is not JSON; repair or remove that line") from error
        if not isinstance(record, dict):
            raise UserError(f"{where}: {line[:40]!r} is no JSON object; repair or remove that line")
        yield where, record


def _result(record: Mapping[str, Any], *, where: str) -> TaskResult:
    hints = typing.get_type_hints(TaskResult)
    for spec in fields(TaskResult):
        if spec.name not in record:
            raise UserError(f"{where}: the result has no {spec.name}; repair or remove that line")
        if not _fits(record[spec.name], hints[spec.name], may_be_null=spec.name in NUMBERS):
            expected = _IN_WORDS.get(hints[spec.name], "an object")
            raise UserError(
                f"{where}: {spec.name} is {record[spec.name]!r}; expected {expected}; mend that line"
            )
    unknown = sorted(record.keys() - hints.keys())
    if unknown:
        raise UserError(
            f"{where}: {unknown[0]} is no field of a result; read it with the version that wrote it"
        )
    numbers = {name: math.nan if record[name] is None else float(record[name]) for name in NUMBERS}
    return TaskResult(**{**record, **numbers})


_IN_WORDS = {str: "a text", float: "a number or null", int: "a whole number", bool: "true or false"}


def _fits(value: object, hint: Any, *, may_be_null: bool) -> bool:
    if value is None:
        return may_be_null
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in (str, bool):
        return isinstance(value, hint)
    return isinstance(value, dict)
