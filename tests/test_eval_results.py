"""Results on disk: what is written is what is read, whole or refused by line; and how sure a number is."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from samosa_jax.errors import UserError
from samosa_jax.evals.intervals import combined_interval, ratio_interval
from samosa_jax.evals.results import (
    TaskResult,
    append_result,
    mean_interval,
    paired_bootstrap,
    read_items,
    read_results,
    write_items,
)


def make_result(**changes: Any) -> TaskResult:
    values: dict[str, Any] = {
        "task": "core/hellaswag",
        "metric": "centered",
        "value": 0.25,
        "low": 0.2,
        "high": 0.3,
        "num_items": 2,
        "higher_is_better": True,
        "settings": {"shots": 10, "seed": 1234, "limit": None},
        "definition": 1,
        "step": 40,
        "checkpoint": "ab" * 32,
        "time": "2026-11-21T10:00:00+00:00",
        "seconds": 1.5,
        "counts": {"truncated": 3},
    }
    return TaskResult(**{**values, **changes})


def test_a_result_reads_back_as_written(tmp_path: Path) -> None:
    items = [{"item": "a", "score": 1.0, "said": "naïve\u2028\u0085"}, {"item": "b", "score": 0}]
    path = write_items(tmp_path, step=40, task="core/hellaswag", items=items)
    result = make_result(items=path)
    append_result(tmp_path, result)
    append_result(tmp_path, make_result(task="bpb", value=math.nan, high=math.inf))
    first, second = read_results(tmp_path)
    assert first == result
    assert path == "evals/00000040/core_hellaswag.jsonl"
    assert read_items(tmp_path, first) == items
    assert math.isnan(second.value)
    assert math.isnan(second.high)
    assert read_results(tmp_path / "elsewhere") == []


def test_items_of_an_earlier_result_stay(tmp_path: Path) -> None:
    old = write_items(tmp_path, step=1, task="arc", items=[{"item": 1, "score": 1}])
    new = write_items(tmp_path, step=1, task="arc", items=[{"item": 1, "score": 0}])
    assert (old, new) == ("evals/00000001/arc.jsonl", "evals/00000001/arc-2.jsonl")
    assert read_items(tmp_path, make_result(items=old, num_items=1))[0]["score"] == 1
    assert not list(tmp_path.rglob("*.tmp"))


def test_lines_of_training_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "evals.jsonl").write_text('{"step": 10, "val/bpb": 1.5}\n')
    append_result(tmp_path, make_result())
    assert [result.task for result in read_results(tmp_path)] == ["core/hellaswag"]


def test_a_line_torn_by_a_kill_swallows_nothing(tmp_path: Path) -> None:
    append_result(tmp_path, make_result(step=1))
    path = tmp_path / "evals.jsonl"
    whole = path.read_text()
    path.write_text(whole + whole[:50])
    assert len(read_results(tmp_path)) == 1
    append_result(tmp_path, make_result(step=2))
    assert [result.step for result in read_results(tmp_path)] == [1, 2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda line: "{broken", "not JSON"),
        (lambda line: "[1]", "no JSON object"),
        (lambda line: json.dumps({**json.loads(line), "value": "0.5"}), "value is '0.5'; expected a number"),
        (lambda line: json.dumps({**json.loads(line), "num_items": 1.5}), "num_items is 1.5"),
        (lambda line: json.dumps({**json.loads(line), "settings": 3}), "settings is 3; expected an object"),
        (lambda line: json.dumps({**json.loads(line), "step": None}), "step is None"),
        (lambda line: json.dumps({**json.loads(line), "vaule": 1}), "vaule is no field"),
        (lambda line: json.dumps({"task": "x"}), "has no metric"),
        (lambda line: json.dumps({"taks": "x"}), "has no task"),
    ],
)
def test_a_bad_line_is_refused_by_file_and_line(tmp_path: Path, change: Any, message: str) -> None:
    append_result(tmp_path, make_result())
    path = tmp_path / "evals.jsonl"
    line = path.read_text()
    path.write_text(line + change(line) + "\n")
    with pytest.raises(UserError, match=r"evals.jsonl:2: ") as error:
        read_results(tmp_path)
    assert message in str(error.value)


def test_items_that_are_gone_or_damaged_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not there"):
        read_items(tmp_path, make_result(items="evals/00000001/arc.jsonl"))
    path = write_items(tmp_path, step=1, task="arc", items=[{"item": 1, "score": 1}])
    with pytest.raises(UserError, match="has 1 items where its result counts 2"):
        read_items(tmp_path, make_result(items=path))
    write_items(tmp_path, step=2, task="arc", items=[{"item": 1, "score": "1"}])
    with pytest.raises(UserError, match=r"arc.jsonl:1: expected an object with item"):
        read_items(tmp_path, make_result(items="evals/00000002/arc.jsonl", num_items=1))


def test_a_result_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "evals").write_text("in the way")
    with pytest.raises(UserError, match="items of arc cannot be written"):
        write_items(tmp_path, step=1, task="arc", items=[])
    with pytest.raises(UserError, match="result of core/hellaswag cannot be written"):
        append_result(tmp_path / "gone", make_result())


def test_wilson_matches_published_values() -> None:
    # The examples of Newcombe 1998, doi 10.1002/(SICI)1097-0258(19980430)17:8<857::AID-SIM777>3.0.CO;2-E.
    for successes, count, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ]:
        interval = mean_interval([1.0] * successes + [0.0] * (count - successes))
        assert interval.low == pytest.approx(low, abs=5e-5)
        assert interval.high == pytest.approx(high, abs=5e-5)


def test_intervals_cover_what_they_should() -> None:
    """Of 300 samples of known mean about 95 % have it in their interval, for every kind."""
    random = np.random.default_rng(0)
    covered = np.zeros(4)
    for trial in range(300):
        scores = random.beta(2, 3, 60)
        interval = mean_interval(scores, seed=trial)
        covered[0] += interval.low <= 0.4 <= interval.high
        interval = mean_interval((random.random(60) < 0.3).astype(float))
        covered[1] += interval.low <= 0.3 <= interval.high
        sizes = random.integers(1, 50, 60)
        interval = ratio_interval(sizes * random.gamma(4, 0.5, 60), sizes, seed=trial)
        covered[2] += interval.low <= 2.0 <= interval.high
        groups = [random.random(40) < 0.7, random.random(90) < 0.5]
        interval = combined_interval(groups, scale=[2.0, 4 / 3], shift=[-1.0, -1 / 3], seed=trial)
        covered[3] += interval.low <= (0.4 + 1 / 3) / 2 <= interval.high
    assert ((covered / 300 > 0.90) & (covered / 300 < 0.985)).all(), covered / 300


def test_paired_bootstrap_tells_a_difference_from_chance() -> None:
    random = np.random.default_rng(1)
    hard = random.random(400)
    a = (random.random(400) > hard).astype(float)
    better = np.maximum(a, random.random(400) < 0.2)
    assert paired_bootstrap(a, better).is_real
    assert paired_bootstrap(a, better).p_value < 0.01
    assert paired_bootstrap(a, better).value == pytest.approx((better - a).mean())
    same = paired_bootstrap(a, a)
    assert (same.value, same.low, same.high, same.is_real, same.p_value) == (0, 0, 0, False, 1)
    # Pairs see what two intervals cannot: item by item the same, but for a few.
    slightly = a.copy()
    slightly[np.flatnonzero(a == 0)[:8]] = 1
    assert paired_bootstrap(a, slightly).is_real
    assert mean_interval(a).high > mean_interval(slightly).low
    false_alarms = sum(
        paired_bootstrap(random.random(80), random.random(80), seed=trial).is_real for trial in range(200)
    )
    assert false_alarms < 24
    with pytest.raises(ValueError, match="80 scores against 79"):
        paired_bootstrap(np.zeros(80), np.zeros(79))
    with pytest.raises(ValueError, match="no score"):
        mean_interval([])
