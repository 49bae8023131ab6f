"""The check of a machine with a GPU, run here as a user would run it, with tiny shapes on the CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(ROOT / "scripts" / "gpu_check.sh"), *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHON": sys.executable, **environment},
        check=False,
    )


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "gpu_check.json").read_text(encoding="utf-8"))


def part(result: dict[str, Any], name: str) -> dict[str, Any]:
    return next(part for part in result["parts"] if part["name"].startswith(name))


@pytest.fixture(scope="module")
def with_one_limit(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    """Training alone gets a second, too short to import JAX; the other parts get what they usually do."""
    folder = tmp_path_factory.mktemp("gpu_check")
    done = run(str(folder), "--quick", "--parts", "numerics,bench,train,decode", "--limit", "train=1")
    return done, folder


def test_part_that_runs_out_of_time_is_recorded_and_the_rest_goes_on(with_one_limit):
    done, folder = with_one_limit
    assert done.returncode == 1, done.stdout + done.stderr
    result = read(folder)
    assert not result["ok"]
    statuses = {part["name"]: part["status"] for part in result["parts"]}
    timed_out = {name for name, status in statuses.items() if status == "timed out"}
    assert timed_out == {"train tiny chunked"}
    assert "limit of 1 s" in part(result, "train")["message"]
    assert list(statuses)[-1] == "decode"
    assert set(statuses.values()) == {"ok", "timed out"}
    report = (folder / "gpu_check.md").read_text(encoding="utf-8")
    assert "NOT all parts ran" in report
    assert "| train tiny chunked | timed out |" in report


def test_numerics_hold_every_kernel_against_its_definition(with_one_limit):
    _, folder = with_one_limit
    result = read(folder)
    assert result["environment"]["attention"]["chunked"] is None
    for what in ("chunked", "cross_entropy", "newton_schulz", "decode"):
        verdicts = [found["verdict"] for found in part(result, f"numerics {what}")["results"]]
        assert "pass" in verdicts
        assert set(verdicts) <= {"pass", "refused"}  # Triton's decoding refuses a CPU


def test_attention_is_benchmarked(with_one_limit):
    (found,) = part(read(with_one_limit[1]), "bench")["results"]
    assert (found["impl"], found["status"]) == ("chunked", "ran")
    assert found["ms"] > 0


def test_decoding_is_timed(with_one_limit):
    timed = [
        found for found in part(read(with_one_limit[1]), "decode")["results"] if found["verdict"] == "timed"
    ]
    assert {found["batch"] for found in timed} == {1, 4}
    assert all(found["tokens_per_second"] > 0 for found in timed)


def test_training_alone(tmp_path: Path):
    done = run(str(tmp_path), "--quick", "--parts", "train")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()[:2]] == ["environment", "train"]
    result = read(tmp_path)
    (found,) = part(result, "train")["results"]
    assert result["ok"]
    assert found["losses"][-1] < found["losses"][0]  # the same batch again and again: it is learnt
    assert found["predicted_peak_bytes"] > 0
    assert len(found["step_ms_all"]) == 4
    assert "| tiny |" in (tmp_path / "gpu_check.md").read_text(encoding="utf-8")


def test_device_that_cannot_start_is_recorded(tmp_path: Path):
    done = run(str(tmp_path), "--quick", JAX_PLATFORMS="abacus")
    assert done.returncode == 1
    (only,) = read(tmp_path)["parts"]
    assert (only["name"], only["status"]) == ("environment", "failed")
    assert "abacus" in only["message"]
    assert "abacus" in (tmp_path / "gpu_check.log").read_text(encoding="utf-8")


def test_budget_that_is_spent_is_no_success(tmp_path: Path):
    done = run(str(tmp_path), "--quick", "--budget", "1")
    assert done.returncode == 1
    (only,) = read(tmp_path)["parts"]
    assert (only["name"], only["status"]) == ("environment", "not run")
    assert "--budget" in only["message"]


def test_kernel_with_wrong_numbers_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(ROOT)
    from scripts.gpu_check.jobs import Outcome
    from scripts.gpu_check.report import wrong_kernels

    def numerics(what: str, *verdicts: str) -> Outcome:
        results = tuple({"what": what, "verdict": verdict} for verdict in verdicts)
        return Outcome(part="numerics", name=f"numerics {what}", status="ok", seconds=1.0, results=results)

    outcomes = [
        numerics("right", "pass", "refused"),
        numerics("off", "pass", "FAIL"),
        numerics("ill", "error"),
    ]
    assert wrong_kernels(outcomes) == ["off", "ill"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "OUT_FOLDER"),
        (("out", "--fast"), "--fast"),
        (("out", "--parts", "train,music"), "'music' is no part"),
        (("out", "--budget", "0"), "--budget: 0 is not a positive number of seconds"),
        (("out", "--limit", "train"), "'' in 'train' is not a number of seconds"),
        (("out", "--limit", "music=1"), "'music=1' is not PART=SECONDS"),
        (("/dev/null/out",), "/dev/null/out cannot be made a folder"),
    ],
)
def test_wrong_usage_is_one_line(arguments: tuple[str, ...], said: str, tmp_path: Path):
    arguments = tuple(str(tmp_path) if argument == "out" else argument for argument in arguments)
    done = run(*arguments)
    assert done.returncode == 2
    assert not done.stdout
    (line,) = done.stderr.splitlines()
    assert said in line
    assert not list(tmp_path.iterdir())


def test_without_python_is_one_line(tmp_path: Path):
    done = run(str(tmp_path), PYTHON="no-such-python")
    assert done.returncode == 2
    assert done.stderr == "gpu_check: no no-such-python here; set PYTHON to a Python with jax\n"


def test_errors_are_relative_and_a_nan_is_the_worst(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(ROOT)
    from scripts.gpu_check.numerics import errors

    theirs = np.array([3.0, -4.0])
    found = errors({"near": (theirs, theirs), "off": (theirs + np.array([0.0, 0.5]), theirs)})
    assert found["rms"] == pytest.approx(0.1)
    assert found["peak"] == pytest.approx(0.125)
    assert found["absolute"] == 0.5
    assert np.isnan(errors({"broken": (theirs * np.nan, theirs), "off": (theirs + 1, theirs)})["rms"])


def test_rows_are_the_most_that_should_fit(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(ROOT)
    from scripts.gpu_check.train_step import choose_rows

    ladder = (32, 16, 8, 4)
    # 20 bytes of state and 5 a row: 32 rows take 180, 16 take 100.
    assert choose_rows(ladder, tried=32, peak=180, empty=20, limit=100) == 16
    assert choose_rows(ladder, tried=32, peak=180, empty=20, limit=99) == 8
    assert choose_rows(ladder, tried=4, peak=180, empty=20, limit=99) is None
    assert choose_rows(ladder, tried=32, peak=180, empty=20, limit=30) is None
