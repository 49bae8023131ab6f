"""Checkpoints are pushed while a run trains: the newest, one at a time, and never at the run's cost."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import training_runs
from hub_server import Hub
from pushed_runs import FIRST, REPO, TOKEN

from samosa_jax import pull
from samosa_jax.trained import open_trained
from samosa_jax.training import background_push
from samosa_jax.training.background_push import BackgroundPush

pytest_plugins = ["pushed_runs"]


def sealed(checkpoints: Path, step: int) -> None:
    folder = checkpoints / f"{step:08d}"
    folder.mkdir(parents=True)
    (folder / "seal.json").touch()


def wait_until(condition: Any, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background_push, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(background_push, "FIRST_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(background_push, "LAST_PAUSE_SECONDS", 0.05)


def make_push(script: str, run: Path, said: list[str], *, every_steps: int = 10) -> BackgroundPush:
    return BackgroundPush(
        ["sh", "-c", script],
        name=REPO,
        checkpoints=run / "checkpoints",
        every_steps=every_steps,
        first_step=0,
        say=said.append,
    )


@pytest.mark.usefixtures("fast")
def test_the_newest_is_pushed_every_so_many_steps(tmp_path: Path) -> None:
    said: list[str] = []
    script = f"echo begun >> {tmp_path}/log; sleep 0.3; echo ended >> {tmp_path}/log"
    log = tmp_path / "log"
    with make_push(script, tmp_path, said) as pushing:
        sealed(tmp_path / "checkpoints", 5)
        time.sleep(0.2)
        assert not log.exists()  # too early
        sealed(tmp_path / "checkpoints", 10)
        wait_until(log.exists)
        sealed(tmp_path / "checkpoints", 20)
        sealed(tmp_path / "checkpoints", 30)
        wait_until(lambda: pushing.pushed_step == 30)
        sealed(tmp_path / "checkpoints", 33)
        pushing.finish(seconds=10)
        assert pushing.pushed_step == 33
    assert log.read_text().split() == ["begun", "ended"] * 3  # one at a time; 20 was passed over
    assert said == [f"pushing step 33 to {REPO}, for at most 10 s"]


@pytest.mark.usefixtures("fast")
def test_problems_are_told_once_and_pass(tmp_path: Path) -> None:
    said: list[str] = []
    complain = 'echo "error: down, try $$" >&2; exit 2'
    script = f"echo x >> {tmp_path}/tries; test -e {tmp_path}/well && exit 0; {complain}"
    with make_push(script, tmp_path, said) as pushing:
        sealed(tmp_path / "checkpoints", 10)
        wait_until(lambda: (tmp_path / "tries").exists() and (tmp_path / "tries").read_text().count("x") >= 3)
        (tmp_path / "well").touch()
        wait_until(lambda: pushing.pushed_step == 10)
    assert len(said) == 2
    assert said[0].startswith(f"WARNING: step 10 could not be pushed to {REPO} (down, try ")
    assert said[1] == f"step 10 is on {REPO}: pushing works again"


@pytest.mark.usefixtures("fast")
def test_a_log_that_is_removed_does_not_end_the_pushing(tmp_path: Path) -> None:
    said: list[str] = []
    with make_push(f"rm -f {tmp_path}/push.log", tmp_path, said) as pushing:
        for step in (10, 20):
            sealed(tmp_path / "checkpoints", step)
            wait_until(lambda step=step: pushing.pushed_step == step)
    assert not said


@pytest.mark.usefixtures("fast")
def test_an_upload_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background_push, "GRACE_SECONDS", 0.2)
    said: list[str] = []
    script = f"trap '' TERM; echo $$ > {tmp_path}/process; while true; do sleep 0.05; done"
    with make_push(script, tmp_path, said) as pushing:
        sealed(tmp_path / "checkpoints", 10)
        wait_until(lambda: (tmp_path / "process").exists() and (tmp_path / "process").read_text().strip())
        begun = time.monotonic()
        pushing.finish(seconds=0.5)
        assert time.monotonic() - begun < 3
    assert f"step 10 is not on {REPO}; `samosa push {tmp_path} {REPO}`" in said[-1]
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "process").read_text()), 0)
    failing = make_push("exit 3", tmp_path, said)
    begun = time.monotonic()
    with failing:
        failing.finish(seconds=60)
    assert time.monotonic() - begun < 5  # gives up long before
    assert any("exit code 3" in line for line in said)


@pytest.mark.usefixtures("fast")
def test_a_slow_hub_costs_bounded_time(hub: Hub, run: Path) -> None:
    hub.seconds_per_write = 60.0
    said: list[str] = []
    pushing = BackgroundPush(
        [sys.executable, "-m", "samosa_jax.push", str(run), REPO, "--newest_only"],
        name=REPO,
        checkpoints=run / "checkpoints",
        every_steps=8,
        first_step=0,
        say=said.append,
    )
    with pushing:
        wait_until(lambda: any(method == "POST" for method, *_ in hub.requests), seconds=60)
        assert list(run.glob(".pushing*"))
        begun = time.monotonic()
        pushing.finish(seconds=0.2)
    assert time.monotonic() - begun < 10
    assert not list(run.glob(".pushing*"))
    assert list(hub.commits) == [FIRST]
    assert f"WARNING: step 8 is not on {REPO}" in said[-1]
    assert open_trained(run).step == 8


def train(data: Path, out: Path, hub: Hub, **overrides: object) -> subprocess.CompletedProcess[str]:
    values = {"name": "pushed", "train.num_steps": 12, "checkpoint.every_steps": 6, "sample.prompts": []}
    values |= {"train.push_to": REPO, "train.push_every": 6} | overrides
    assert os.environ["HF_ENDPOINT"] == hub.endpoint
    return training_runs.run(training_runs.flags(data, out, values))


def test_training_pushes_and_does_not_mind_a_refusal(hub: Hub, data: Path, tmp_path: Path) -> None:
    hub.exists = False
    good = train(data, tmp_path / "good", hub)
    assert hub.is_private
    assert hub.messages[-1] == "Push pushed, step 12"
    pull.main([REPO])
    assert open_trained(Path("runs/stories")).step == 12
    hub.refuses_writes = 401
    refused = train(data, tmp_path / "refused", hub)
    assert refused.stdout.count("could not be pushed") == 1
    assert f"step 12 is not on {REPO}; `samosa push" in refused.stdout
    losses = []
    for name, found in (("good", good), ("refused", refused)):
        assert found.returncode == 0, found.stdout + found.stderr
        assert TOKEN not in found.stdout + found.stderr
        folder = tmp_path / name / "pushed"
        assert TOKEN not in (folder / "push.log").read_text()
        assert not list(folder.glob(".pushing*"))
        records = training_runs.records(folder / "metrics.jsonl")
        losses.append([record["train/loss"] for record in records if "train/loss" in record])
    assert losses[0] == losses[1]
    assert len(losses[0]) == 12
