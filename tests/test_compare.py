"""`samosa compare`: real differences are called real, equal models equal, unlike measurements refused."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from written_runs import write_result, write_run

from samosa_jax import compare
from samosa_jax.errors import UserError
from samosa_jax.evals.results import append_result
from samosa_jax.reporting.differences import (
    Measured,
    NotComparableError,
    compare_paired,
    compare_unpaired,
    survivors,
)


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    return write_run(tmp_path / "runs" / "a"), write_run(tmp_path / "runs" / "b", steps=60)


def difference(runs: tuple[Path, Path], first: list[float], second: list[float]):
    a, b = (
        Measured(run, write_result(run, "arc_easy", scores))
        for run, scores in zip(runs, (first, second), strict=True)
    )
    return compare_paired(a, b)


def test_a_real_difference_is_called_real(runs: tuple[Path, Path]):
    # 30 of 200 items turn from wrong to right, none the other way: the mean difference is 0.15 and its
    # standard error sqrt(0.15 * 0.85 / 200) = 0.0252.
    first = [0.0] * 100 + [1.0] * 100
    second = [1.0] * 30 + first[30:]
    found = difference(runs, first, second)
    assert found.difference.value == pytest.approx(0.15)
    assert found.difference.low == pytest.approx(0.15 - 1.96 * 0.0252, abs=0.01)
    assert found.difference.high == pytest.approx(0.15 + 1.96 * 0.0252, abs=0.01)
    assert found.is_real
    assert found.verdict == 1
    assert [item.change for item in found.changed] == [1.0] * 30


def test_pairs_see_what_two_intervals_do_not(runs: tuple[Path, Path]):
    """The two intervals overlap, and yet every change is for the better."""
    first = [0.0] * 100 + [1.0] * 100
    second = [1.0] * 12 + first[12:]
    found = difference(runs, first, second)
    assert found.a.high > found.b.low
    assert found.verdict == 1
    a, b = (Measured(run, result) for run, result in zip(runs, (found.a, found.b), strict=True))
    assert compare_unpaired(a, b).verdict == 0


def test_equal_models_are_not_told_apart(runs: tuple[Path, Path]):
    random = np.random.default_rng(0)
    first, second = random.integers(0, 2, (2, 300)).astype(float)
    found = difference(runs, first.tolist(), second.tolist())
    assert not found.is_real
    assert found.verdict == 0
    same = compare_paired(Measured(runs[0], found.a), Measured(runs[0], found.a))
    assert (same.difference.value, same.difference.low, same.difference.high) == (0.0, 0.0, 0.0)
    assert not same.changed


@pytest.mark.parametrize(("changes", "verdict"), [(1, 0), (5, 0), (6, 1)])
def test_a_handful_of_changes_proves_nothing(runs: tuple[Path, Path], changes: int, verdict: int):
    """All items of a tiny task turn right: the bootstrap of them alone would be sure of it."""
    found = difference(runs, [0.0] * changes, [1.0] * changes)
    assert found.difference.low == 1.0
    assert found.verdict == verdict


def test_lower_can_be_better(runs: tuple[Path, Path]):
    a, b = (
        Measured(run, write_result(run, "probes/artefacts", scores, higher_is_better=False))
        for run, scores in zip(runs, ([1.0] * 50 + [0.0] * 50, [0.0] * 100), strict=True)
    )
    assert compare_paired(a, b).verdict == 1


def test_items_are_paired_by_name_not_by_place(runs: tuple[Path, Path]):
    scores = [float(number % 2) for number in range(20)]
    names = [f"q{number}" for number in range(20)]
    a = Measured(runs[0], write_result(runs[0], "t", scores, names=names))
    b = Measured(runs[1], write_result(runs[1], "t", scores[::-1], names=names[::-1]))
    assert not compare_paired(a, b).changed


@pytest.mark.parametrize(
    ("unlike", "named"),
    [
        ({"settings": {"shots": 5}}, "setting shots is 0 in .* and 5 in"),
        ({"settings": {"seed": 1}}, "setting seed is absent in .* and 1 in"),
        ({"definition": 2}, "definition is 1 in .* and 2 in"),
        ({"scores": [1.0, 0.0]}, "number of items is 3 in .* and 2 in"),
        ({"names": ["q0", "q1", "other"]}, "the items differ: q2 is in .*/a .* alone"),
        ({"names": ["q0", "q1", "q1"]}, "q2 is in .*/a .* alone|has an item twice"),
    ],
)
def test_unlike_measurements_are_refused(runs: tuple[Path, Path], unlike: dict, named: str):
    write_result(runs[0], "arc_easy", [1.0, 0.0, 1.0])
    write_result(runs[1], "arc_easy", unlike.pop("scores", [1.0, 0.0, 1.0]), **unlike)
    with pytest.raises(NotComparableError, match=named):
        compare.main([str(run) for run in runs])


def test_settings_of_the_model_itself_may_differ(runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]):
    for run in runs:
        write_result(run, "arc_easy", [1.0, 0.0, 1.0], settings={"config": run.name})
    compare.main([str(run) for run in runs])
    assert "no difference is real" in capsys.readouterr().out


def test_unpaired_only_when_asked_and_with_a_warning(
    runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
):
    write_result(runs[0], "arc_easy", [0.0] * 100)
    write_result(runs[1], "arc_easy", [1.0] * 100, settings={"shots": 5})
    compare.main([*map(str, runs), "--unpaired"])
    out = capsys.readouterr().out
    assert "WARNING: Compared without pairs: arc_easy" in out
    assert "b is better" in out


def test_another_definition_is_refused_even_unpaired(runs: tuple[Path, Path]):
    write_result(runs[0], "arc_easy", [0.0, 1.0])
    write_result(runs[1], "arc_easy", [1.0, 1.0], definition=2)
    with pytest.raises(NotComparableError, match="definition"):
        compare.main([*map(str, runs), "--unpaired"])


def test_tasks_groups_categories_and_changed_items(
    runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
):
    lines = [
        {"category": "tools" if number < 20 else "identity", "answer": f"says {number}"}
        for number in range(40)
    ]
    for run, right in zip(runs, (0.0, 1.0), strict=True):
        write_result(run, "core/one", [right] * 20 + [0.0] * 20, lines=lines)
        write_result(run, "core/two", [0.0, 1.0] * 20, lines=lines)
        write_result(run, "boolq", [1.0] * 10)
    compare.main([*map(str, runs), "--tasks", "core", "--items=2"])
    out = " ".join(capsys.readouterr().out.split())
    assert "boolq" not in out
    assert "core (accuracy), mean of 2 +25.0" in out
    assert "core/one: tools +100.0 [+100.0, +100.0] real" in out
    assert "core/one: identity +0.0 [+0.0, +0.0] may be chance" in out
    assert "core/one, accuracy: 20 items changed their score, 18 more not shown" in out
    assert "says 1" in out
    assert "1 of 2 differences are real one by one; tried together, 1 of 2 paired ones hold" in out


def test_unknown_task_names_the_near_one(runs: tuple[Path, Path]):
    for run in runs:
        write_result(run, "arc_easy", [1.0, 0.0])
    with pytest.raises(UserError, match="did you mean arc_easy"):
        compare.main([*map(str, runs), "--tasks=arc_esy"])


def test_what_one_run_alone_has_is_said(runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]):
    for run in runs:
        write_result(run, "arc_easy", [1.0, 0.0])
    write_result(runs[1], "piqa", [1.0])
    compare.main([str(run) for run in runs])
    assert "missing: piqa (accuracy): evaluated on b alone" in capsys.readouterr().out


def test_the_newest_results_measured_alike_are_taken(
    runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
):
    write_result(runs[0], "t", [0.0, 0.0], settings={"shots": 5})
    write_result(runs[1], "t", [0.0, 1.0], settings={"shots": 5})
    write_result(runs[1], "t", [1.0, 1.0], settings={"shots": 9}, step=50)
    compare.main([str(run) for run in runs])
    assert "+50.0" in capsys.readouterr().out


def test_a_checkpoint_is_compared_as_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = write_run(tmp_path / "a", steps=60, checkpoints=(40, 60))
    write_result(run, "t", [0.0] * 9, step=40)
    write_result(run, "t", [1.0] * 9, step=60)
    compare.main([str(run / "checkpoints" / "00000040"), str(run)])
    out = " ".join(capsys.readouterr().out.split())
    assert "a is better" in out
    assert "a at 40" in out
    assert "+100.0 [+100.0, +100.0]" in out
    assert "tokens 40,960 61,440" in out
    with pytest.raises(UserError, match="does not exist"):
        compare.main([str(run / "checkpoints" / "00000050"), str(run)])


def test_configurations_and_training_are_compared(
    runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
):
    compare.main([str(run) for run in runs])
    out = " ".join(capsys.readouterr().out.split())
    assert "missing: results: nothing was evaluated on both" in out
    assert "train.num_steps 40 60" in out
    assert "tokens 40,960 61,440" in out
    assert "held out 1.2345 bits per byte 1.2345 bits per byte" in out
    assert "hours 2.000 2.000" in out
    assert "out_dir" not in out


def test_nothing_in_common_is_an_error(runs: tuple[Path, Path]):
    write_result(runs[0], "arc_easy", [1.0])
    write_result(runs[1], "piqa", [1.0])
    with pytest.raises(UserError, match="no task in common"):
        compare.main([str(run) for run in runs])


def test_missing_items_are_named(runs: tuple[Path, Path]):
    results = [write_result(run, "arc_easy", [1.0, 0.0]) for run in runs]
    (runs[1] / results[1].items).unlink()
    with pytest.raises(UserError, match=r"arc_easy\.jsonl is not there"):
        compare.main([str(run) for run in runs])


def test_a_page_is_written(runs: tuple[Path, Path], tmp_path: Path):
    for run in runs:
        write_result(run, "arc_easy", [1.0, 0.0])
    compare.main([*map(str, runs), f"--out={tmp_path / 'c.html'}"])
    assert "b against a" in (tmp_path / "c.html").read_text()
    assert json.dumps("+0.0")[1:-1] in (tmp_path / "c.md").read_text()


def test_bits_per_byte_are_compared_as_sums(runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]):
    random = np.random.default_rng(0)
    num_bytes = random.integers(100, 1000, 50)
    scores, lines = [], []
    for run, factor in zip(runs, (1.00, 0.97), strict=True):
        nats = num_bytes * factor * random.uniform(0.999, 1.001, 50)
        lines = [{"nats": own, "bytes": int(size)} for own, size in zip(nats, num_bytes, strict=True)]
        scores = [own / size / np.log(2) for own, size in zip(nats, num_bytes, strict=True)]
        write_result(run, "bpb", scores, lines=lines, metric="bpb", higher_is_better=False)
    compare.main([str(run) for run in runs])
    out = capsys.readouterr().out
    assert "b is better on bpb" in out
    assert f"{-0.03 / np.log(2):+.3f}" in out
    lines[3]["bytes"] += 1
    write_result(runs[1], "bpb", scores, lines=lines, metric="bpb", higher_is_better=False)
    with pytest.raises(NotComparableError, match="q3 holds other text on the two sides"):
        compare.main([str(run) for run in runs])


def test_means_over_tasks_are_compared_by_their_intervals(
    runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
):
    for run, value in zip(runs, (0.1, 0.4), strict=True):
        one = write_result(run, "core/one", [0.0, 1.0])
        low, high = value - 0.05, value + 0.05
        mean = dataclasses.replace(
            one,
            task="core",
            metric="centered",
            items="",
            value=value,
            low=low,
            high=high,
            settings={"tasks": {"core/one": value}, "limit": None},
        )
        append_result(run, mean)
    compare.main([str(run) for run in runs])
    out = " ".join(capsys.readouterr().out.split())
    assert "b is better on core" in out
    assert "+30.0 [+22.9, +37.1]" in out
    assert "WARNING" not in out


def test_many_tests_are_judged_together(runs: tuple[Path, Path]):
    random = np.random.default_rng(0)
    found = []
    for number in range(40):
        scores = random.integers(0, 2, (2, 80)).astype(float)
        pair = [
            Measured(run, write_result(run, f"t{number}", own.tolist()))
            for run, own in zip(runs, scores, strict=True)
        ]
        found.append(compare_paired(*pair))
    # By chance alone about 40 x 0.05 seem real one by one; Holm lets none of them through.
    assert 0 < sum(one.is_real for one in found) <= 6
    assert survivors(found) == 0
