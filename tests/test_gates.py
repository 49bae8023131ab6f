"""Gates: what they ask, what a missing result does, and how mistakes in their files are named."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest

from samosa_jax.errors import UserError
from samosa_jax.evals import gates
from samosa_jax.evals.gates import Condition, Gate, judge
from samosa_jax.evals.results import TaskResult

ROOT = Path(__file__).parents[1]
HERE, OTHER = "a" * 64, "b" * 64


def result(**changes: Any) -> TaskResult:
    values: dict[str, Any] = {
        "task": "probes",
        "metric": "pass_rate",
        "value": 0.9,
        "low": 0.8,
        "high": 0.96,
        "num_items": 50,
        "higher_is_better": True,
        "settings": {},
        "definition": 1,
        "step": 10,
        "checkpoint": HERE,
        "time": "2026-01-01T00:00:00+00:00",
        "seconds": 1.0,
    }
    return TaskResult(**{**values, **changes})


def verdict_of(condition: Condition, *results: TaskResult, others: tuple[TaskResult, ...] = ()) -> gates.Row:
    gate = Gate(path="gate.yaml", conditions=(condition,))
    verdict = judge(gate, results, checkpoint=HERE, read=lambda run: others)
    assert verdict.passed == (not verdict.rows[0].fails)
    assert ("STOP" in verdict.stop_line) != verdict.passed
    assert "\n" not in verdict.stop_line
    return verdict.rows[0]


@pytest.mark.parametrize(
    ("bound", "fails_when", "state"),
    [
        (0.9, "missed", "passed"),
        (0.91, "missed", "failed"),
        (0.95, "surely_missed", "passed"),  # the interval reaches up to 0.96
        (0.97, "surely_missed", "failed"),
        (0.79, "possibly_missed", "passed"),
        (0.81, "possibly_missed", "failed"),
    ],
)
def test_a_lower_bound_looks_at_the_value_or_an_end_of_the_interval(
    bound: float, fails_when: gates.FailsWhen, state: str
) -> None:
    row = verdict_of(Condition(task="probes", at_least=bound, fails_when=fails_when), result())
    assert row.state == state


@pytest.mark.parametrize(
    ("bound", "fails_when", "state"),
    [
        (1.2, "missed", "passed"),
        (1.19, "missed", "failed"),
        (1.11, "surely_missed", "passed"),
        (1.09, "surely_missed", "failed"),
        (1.31, "possibly_missed", "passed"),
        (1.29, "possibly_missed", "failed"),
    ],
)
def test_an_upper_bound_likewise(bound: float, fails_when: gates.FailsWhen, state: str) -> None:
    bpb = result(task="bpb", metric="bpb", value=1.2, low=1.1, high=1.3, higher_is_better=False)
    row = verdict_of(Condition(task="bpb", at_most=bound, fails_when=fails_when), bpb)
    assert row.state == state


@pytest.mark.parametrize(("worse", "state"), [(0.05, "failed"), (0.11, "passed")])
@pytest.mark.parametrize("higher_is_better", [True, False])
def test_worse_than_another_run_knows_which_way_is_worse(
    worse: float, state: str, higher_is_better: bool, tmp_path: Path
) -> None:
    sign = -1 if higher_is_better else 1
    own = result(value=0.5 + sign * 0.1, low=0.3, high=0.7, higher_is_better=higher_is_better)
    condition = Condition(task="probes", worse_by_at_most=worse, than=str(tmp_path))
    before = result(value=0.5, checkpoint=OTHER, higher_is_better=higher_is_better)
    # Only the newest one of the other run counts.
    stale = dataclasses.replace(before, value=0.5 - sign * 0.3)
    assert verdict_of(condition, own, others=(stale, before)).state == state
    against_number = dataclasses.replace(condition, than=0.5)
    assert verdict_of(against_number, own).state == state


def test_what_cannot_be_compared_fails(tmp_path: Path) -> None:
    condition = Condition(task="probes", worse_by_at_most=1.0, than=str(tmp_path))
    assert verdict_of(condition, result()).state == "missing"
    row = verdict_of(condition, result(), others=(result(definition=2, checkpoint=OTHER),))
    assert row.state == "missing"
    assert "measured otherwise" in row.why
    assert verdict_of(condition, result(), others=(result(num_items=9),)).state == "missing"
    asked = result(settings={"questions": "a"})
    assert verdict_of(condition, asked, others=(asked,)).state == "passed"
    row = verdict_of(condition, asked, others=(result(settings={"questions": "b"}),))
    assert (row.state, "questions differs" in row.why) == ("missing", True)
    gone = dataclasses.replace(condition, than=str(tmp_path / "gone"))
    assert "has no result of it" in verdict_of(gone, result()).why


def test_a_missing_result_fails_unless_it_is_optional() -> None:
    condition = Condition(task="probes", at_least=0.1)
    optional = dataclasses.replace(condition, optional=True)
    assert verdict_of(condition).state == "missing"
    assert verdict_of(optional).state == "skipped"
    # Of an earlier checkpoint: neither passes.
    stale = result(value=1.0, high=1.0, checkpoint=OTHER)
    assert "other checkpoints only" in verdict_of(condition, stale).why
    assert verdict_of(optional, stale).state == "missing"
    # Too few items, no number, several metrics.
    assert verdict_of(dataclasses.replace(optional, min_items=51), result()).state == "missing"
    assert verdict_of(optional, result(value=math.nan)).state == "failed"
    partial = verdict_of(optional, result(settings={"missing": ["squad", "coqa"]}))
    assert (partial.state, partial.why) == ("missing", "is partial, without squad, coqa")
    assert verdict_of(optional, result(settings={"missing": []})).state == "passed"
    two = (result(metric="pass@1"), result(metric="pass@5"))
    assert "name one" in verdict_of(optional, *two).why
    assert verdict_of(dataclasses.replace(optional, metric="pass@5"), *two).state == "passed"
    assert verdict_of(dataclasses.replace(optional, metric="pass@9"), *two).state == "missing"


def test_the_newest_result_of_the_checkpoint_counts() -> None:
    condition = Condition(task="probes", at_least=0.5)
    low, high = result(value=0.2, low=0.1, high=0.3), result()
    assert verdict_of(condition, high, low).state == "failed"
    assert verdict_of(condition, low, high).state == "passed"


def test_the_stop_line_names_all_that_fell() -> None:
    gate = Gate(
        path="gate.yaml",
        conditions=(
            Condition(task="probes", at_least=0.95),
            Condition(task="bpb", at_most=1.0),
            Condition(task="probes", at_least=0.5),
        ),
    )
    verdict = judge(gate, [result()], checkpoint=HERE)
    assert verdict.stop_line == (
        "STOP gate.yaml: probes is 0.9 (0.8 to 0.96), below 0.95; bpb was not evaluated"
    )
    table = verdict.table()
    assert len(table) == 4
    assert [line.split()[-1] for line in table[1:]] == ["failed", "missing", "passed"]


@pytest.mark.parametrize("path", sorted((ROOT / "configs/gates").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_gates_load_and_fail_without_results(path: Path) -> None:
    gate = gates.load(path)
    verdict = judge(gate, [], checkpoint=HERE)
    assert not verdict.passed
    assert {row.state for row in verdict.rows} <= {"missing", "skipped"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("conditions: []", "expected a list of conditions"),
        ("conditions: [", "no gate can be read"),
        ("conditions: [{task: a, at_least: 1}]\nother: 1", "'other' is no key of a gate"),
        ("conditions: [{task: a, at_leest: 1}]", "condition 1: 'at_leest' is no key; did you mean at_least?"),
        ("conditions: [{task: a}]", "condition 1 has no bound"),
        ("conditions: [{task: a, at_least: 1, at_most: 2}]", "at_least and at_most; give one"),
        ("conditions: [{task: a, at_least: high}]", "at_least is 'high'; expected a number"),
        ("conditions: [{task: a, at_least: .nan}]", "at_least is nan; expected a number"),
        ("conditions: [{task: a, worse_by_at_most: 1}]", "belong together"),
        ("conditions: [{task: a, worse_by_at_most: -1, than: 1}]", "expected a number from 0 on"),
        ("conditions: [{at_least: 1}]", "task is None"),
        ("conditions: [{task: a, at_least: 1, min_items: 0}]", "min_items is 0"),
        ("conditions: [{task: a, at_least: 1, fails_when: never}]", "fails_when is 'never'"),
        ("conditions: [{task: a, at_least: 1, optional: maybe}]", "optional is 'maybe'"),
    ],
)
def test_mistakes_in_a_gate_are_named(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "gate.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r".") as error:
        gates.load(path)
    assert says in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
