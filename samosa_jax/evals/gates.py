"""Gates: what a checkpoint's results must show before it moves on.

    conditions:
      - {task: probes, at_least: 0.95, min_items: 33}
      - {task: probes/artefacts, at_most: 0, min_items: 100}
      - {task: bpb, worse_by_at_most: 0.01, than: runs/base}
      - {task: core, at_least: 0.2, fails_when: surely_missed}

A gate passes if every condition is met. A result that is missing, is no number, is a mean of which tasks are
missing, or belongs to another checkpoint fails it, unless the condition is optional and the task was never
evaluated.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from samosa_jax.errors import UserError
from samosa_jax.evals.results import TaskResult, read_results
from samosa_jax.keys import near_miss

FailsWhen = Literal["missed", "surely_missed", "possibly_missed"]
State = Literal["passed", "failed", "missing", "skipped"]

KEYS = (
    *("task", "metric", "at_least", "at_most", "worse_by_at_most", "than"),
    *("min_items", "fails_when", "optional"),
)
SAME_QUESTIONS = ("questions", "suite", "data", "shots")  # settings without which numbers do not compare
BOUNDS = ("at_least", "at_most", "worse_by_at_most")


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One condition; exactly one of the three bounds is given.

    Attributes:
        metric: empty: the task's only one.
        worse_by_at_most: how much worse than `than`, in the metric's unit; 0: not worse at all.
        than: a number, or the folder of a run whose newest result is meant.
        min_items: a result of fewer items counts as missing.
        fails_when: what of the 95 % interval has to miss the bound for the condition to fail: "missed": the
            value; "surely_missed": all of it; "possibly_missed": any of it.
        optional: a task that was not evaluated does not fail the gate.
    """

    task: str
    metric: str = ""
    at_least: float | None = None
    at_most: float | None = None
    worse_by_at_most: float | None = None
    than: float | str | None = None
    min_items: int = 1
    fails_when: FailsWhen = "missed"
    optional: bool = False

    @property
    def name(self) -> str:
        return f"{self.task} ({self.metric})" if self.metric else self.task


@dataclass(frozen=True, kw_only=True)
class Gate:
    path: str
    conditions: tuple[Condition, ...]

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that have to be evaluated before it is judged, each once."""
        return tuple(dict.fromkeys(condition.task for condition in self.conditions))


@dataclass(frozen=True, kw_only=True)
class Row:
    """What came of one condition."""

    condition: str  # its task, and metric where it names one
    wanted: str
    found: str
    state: State
    why: str = ""  # where it fails or is passed over

    @property
    def fails(self) -> bool:
        return self.state in ("failed", "missing")


@dataclass(frozen=True, kw_only=True)
class Verdict:
    gate: str
    passed: bool
    rows: tuple[Row, ...]

    @property
    def stop_line(self) -> str:
        """One line: what fell, if anything did."""
        if self.passed:
            return f"PASSED {self.gate}: {len(self.rows)} conditions are met"
        fell = "; ".join(f"{row.condition} {row.why}" for row in self.rows if row.fails)
        return f"STOP {self.gate}: {fell}"

    def table(self) -> list[str]:
        """Lines of text, one per condition under a heading."""
        cells = [("condition", "wanted", "found", "")]
        cells += [(row.condition, row.wanted, row.found, row.state) for row in self.rows]
        widths = [max(len(row[column]) for row in cells) for column in range(4)]
        return [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in cells
        ]


def load(path: Path) -> Gate:
    """Raises UserError for what is no gate, by file, condition and key."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: no gate can be read from it ({reason}); see configs/gates") from None
    if not isinstance(raw, Mapping) or not isinstance(raw.get("conditions"), list) or not raw["conditions"]:
        raise UserError(f"{path}: expected a list of conditions that is not empty; see configs/gates")
    unknown = [key for key in raw if key != "conditions"]
    if unknown:
        raise UserError(f"{path}: {unknown[0]!r} is no key of a gate; its key is conditions")
    conditions = [
        _condition(entry, f"{path}: condition {number}")
        for number, entry in enumerate(raw["conditions"], start=1)
    ]
    return Gate(path=str(path), conditions=tuple(conditions))


def judge(
    gate: Gate,
    results: Sequence[TaskResult],
    *,
    checkpoint: str,
    read: Callable[[Path], Sequence[TaskResult]] = read_results,
) -> Verdict:
    """Whether a checkpoint passes.

    Args:
        results: of the run, oldest first; of several that a condition may mean, the newest counts.
        checkpoint: SHA-256 of its seal; results of other checkpoints do not count.
        read: the results of another run's folder.

    Raises:
        UserError: a run that a condition names cannot be read.
    """
    rows = [_judge(condition, results, checkpoint=checkpoint, read=read) for condition in gate.conditions]
    return Verdict(gate=gate.path, passed=not any(row.fails for row in rows), rows=tuple(rows))


def _judge(
    condition: Condition,
    results: Sequence[TaskResult],
    *,
    checkpoint: str,
    read: Callable[[Path], Sequence[TaskResult]],
) -> Row:
    wanted = _wanted(condition)

    def row(state: State, found: str, why: str = "") -> Row:
        return Row(condition=condition.name, wanted=wanted, found=found, state=state, why=why)

    of_task = [result for result in results if result.task == condition.task]
    own = [result for result in of_task if result.checkpoint == checkpoint]
    if not own:
        why = "was not evaluated" if not of_task else "was evaluated for other checkpoints only"
        # A result that is there, but of another checkpoint, is no reason to pass anything over.
        if condition.optional and not of_task:
            return row("skipped", "nothing", f"{why}, and is optional")
        return row("missing", "nothing", why)
    metrics = list(dict.fromkeys(result.metric for result in own))
    if not condition.metric and len(metrics) > 1:
        return row("missing", "several", f"has the metrics {', '.join(metrics)}; name one with `metric`")
    meant = [result for result in own if condition.metric in ("", result.metric)]
    if not meant:
        return row("missing", "nothing", f"has no {condition.metric}, only {', '.join(metrics)}")
    result = meant[-1]
    found = _shown(result)
    if result.num_items < condition.min_items:
        return row("missing", found, f"has {result.num_items} items, {condition.min_items} are needed")
    if result.settings.get("missing"):
        absent = ", ".join(map(str, result.settings["missing"]))
        return row("missing", found, f"is partial, without {absent}")
    if not all(map(math.isfinite, (result.value, result.low, result.high))):
        return row("failed", found, f"is {result.value}, which is no number")
    bound, problem = _bound(condition, result, read)
    if bound is None:
        return row("missing", found, problem)
    low_is_bad = condition.at_least is not None or (condition.at_most is None and result.higher_is_better)
    missed = _misses(result, bound, low_is_bad, condition.fails_when)
    if not missed:
        return row("passed", found)
    side = "below" if low_is_bad else "above"
    surely = {"missed": "", "surely_missed": "surely ", "possibly_missed": "possibly "}[condition.fails_when]
    return row("failed", found, f"is {found}, {surely}{side} {_number(bound)}")


def _misses(result: TaskResult, bound: float, low_is_bad: bool, fails_when: FailsWhen) -> bool:
    worst, best = (result.low, result.high) if low_is_bad else (result.high, result.low)
    judged = {"missed": result.value, "surely_missed": best, "possibly_missed": worst}[fails_when]
    return judged < bound if low_is_bad else judged > bound


def _bound(
    condition: Condition, result: TaskResult, read: Callable[[Path], Sequence[TaskResult]]
) -> tuple[float | None, str]:
    """(the number to hold against, "") or (None, why there is none)."""
    if condition.at_least is not None:
        return condition.at_least, ""
    if condition.at_most is not None:
        return condition.at_most, ""
    assert condition.worse_by_at_most is not None  # `load` asks for one of the three
    sign = -1.0 if result.higher_is_better else 1.0
    if isinstance(condition.than, float):
        return condition.than + sign * condition.worse_by_at_most, ""
    run = Path(str(condition.than))
    alike = [
        other
        for other in (read(run) if run.is_dir() else ())
        if (other.task, other.metric) == (result.task, result.metric) and math.isfinite(other.value)
    ]
    if not alike:
        return None, f"has nothing to be compared with: {run} has no result of it"
    other = alike[-1]
    if (other.definition, other.num_items) != (result.definition, result.num_items):
        return None, (
            f"was measured otherwise than in {run}: definition {result.definition} with {result.num_items} "
            f"items against {other.definition} with {other.num_items}"
        )
    for key in SAME_QUESTIONS:
        if other.settings.get(key) != result.settings.get(key):
            return None, f"was measured otherwise than in {run}: {key} differs"
    return other.value + sign * condition.worse_by_at_most, ""


def _wanted(condition: Condition) -> str:
    how = {"missed": "", "surely_missed": ", or close", "possibly_missed": ", surely"}[condition.fails_when]
    if condition.at_least is not None:
        return f"at least {_number(condition.at_least)}{how}"
    if condition.at_most is not None:
        return f"at most {_number(condition.at_most)}{how}"
    assert condition.worse_by_at_most is not None
    than = _number(condition.than) if isinstance(condition.than, float) else condition.than
    return f"worse than {than} by at most {_number(condition.worse_by_at_most)}{how}"


def _shown(result: TaskResult) -> str:
    return f"{_number(result.value)} ({_number(result.low)} to {_number(result.high)})"


def _number(value: float) -> str:
    return f"{value:.4g}"


def _condition(raw: Any, where: str) -> Condition:
    if not isinstance(raw, Mapping):
        raise UserError(f"{where} is {raw!r}; expected keys such as task and at_least")
    for key in raw:
        if key not in KEYS:
            hint = near_miss(str(key), KEYS) or f"; there are {', '.join(KEYS)}"
            raise UserError(f"{where}: {key!r} is no key{hint}")
    bounds = [key for key in BOUNDS if key in raw]
    if len(bounds) != 1:
        raise UserError(f"{where} has {' and '.join(bounds) or 'no bound'}; give one of {', '.join(BOUNDS)}")
    if ("than" in raw) != ("worse_by_at_most" in raw):
        raise UserError(f"{where}: worse_by_at_most and than belong together; give both or neither")
    if not isinstance(raw.get("task"), str) or not raw["task"].strip():
        raise UserError(f"{where}: task is {raw.get('task')!r}; expected a task's name such as probes")
    if not isinstance(raw.get("metric", ""), str):
        raise UserError(f"{where}: metric is {raw['metric']!r}; expected a text such as accuracy")
    bound = raw[bounds[0]]
    if not _is_number(bound) or (bounds[0] == "worse_by_at_most" and bound < 0):
        least = " from 0 on" if bounds[0] == "worse_by_at_most" else ""
        raise UserError(f"{where}: {bounds[0]} is {bound!r}; expected a number{least}")
    than = raw.get("than")
    if than is not None and not _is_number(than) and not (isinstance(than, str) and than.strip()):
        raise UserError(f"{where}: than is {than!r}; expected a number or the folder of a run")
    min_items = raw.get("min_items", 1)
    if not isinstance(min_items, int) or isinstance(min_items, bool) or min_items < 1:
        raise UserError(f"{where}: min_items is {min_items!r}; expected a whole number from 1 on")
    if raw.get("fails_when", "missed") not in get_args(FailsWhen):
        raise UserError(
            f"{where}: fails_when is {raw['fails_when']!r}; expected {', '.join(get_args(FailsWhen))}"
        )
    if not isinstance(raw.get("optional", False), bool):
        raise UserError(f"{where}: optional is {raw['optional']!r}; expected true or false")
    values = {key: float(value) if _is_number(value) else value for key, value in raw.items()}
    return Condition(**{**values, "min_items": min_items, "optional": raw.get("optional", False)})


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
