"""Training by two processes of four devices each, over the loopback: as one process of eight trains."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import chat_runs
import numpy as np
import pytest
import several_processes
import training_runs
from several_processes import Processes, host_name, last_line
from test_kill_resume import curve, parameters, steps_written, without_seconds

from samosa_jax import train
from samosa_jax.training.checkpoint import find_fault, list_steps

ROOT = Path(__file__).parents[1]
NUM_STEPS = 12
TEXT = {
    "model.num_layers": 1,  # it is compiled often
    "model.context_len": 128,
    "train.batch_tokens": 2048,
    "train.device_batch_size": 1,  # two microbatches
    "train.num_steps": NUM_STEPS,
    "eval.every_steps": 6,
    "sample.every_steps": 6,
    "sample.max_tokens": 6,
    "checkpoint.every_steps": 3,
}
STAGE = {
    "train.num_steps": 3,
    "train.device_batch_size": 1,
    "schedule.warmup_steps": 1,
    "checkpoint.every_steps": 0,
    "eval.every_steps": 2,
}
SFT = {**chat_runs.SFT, **STAGE, "train.batch_tokens": 2048, "sample.max_tokens": 0}
DPO = {
    **STAGE,
    "stage": "dpo",
    "model.context_len": 256,
    "train.batch_tokens": 4096,
    "optimizer.lr_scale": 0.05,
    "sample.prompts": [],
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Prepared text, conversations and pairs."""
    return chat_runs.write_datasets(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def together(folders: tuple[Path, Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that two processes did without a break."""
    out_dir = tmp_path_factory.mktemp("together")
    ended = several_processes.train(training_runs.flags(folders[0], out_dir, TEXT), logs=out_dir).wait()
    assert [each.code for each in ended] == [0, 0], [each.said[-2000:] for each in ended]
    assert "8 x cpu, mesh data=8" in ended[0].said
    assert own_words(ended[1].said) == []  # the second has nothing to say
    return out_dir / "base"


def own_words(said: str) -> list[str]:
    """What a process says, without the lines of its collectives' library."""
    # Its threads write into each other's lines.
    return [line for line in said.splitlines() if line.strip() and not re.search("Gloo|peer rank", line)]


def values_of(run: Path, name: str) -> np.ndarray:
    lines = training_runs.records(run / "metrics.jsonl")
    return np.array([line[name] for line in lines if name in line])


def wait_for_step(processes: Processes, run: Path, step: int) -> None:
    deadline = time.monotonic() + 200
    while steps_written(run) < step:
        assert processes.are_running, processes.said(0)
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_two_processes_train_as_one_does(folders, together: Path, tmp_path: Path):
    train.main(training_runs.flags(folders[0], tmp_path, TEXT))
    one = tmp_path / "base"
    # The same rows; sums over devices are taken in another order, which training amplifies.
    for name in ("train/loss", "train/grad_norm"):
        np.testing.assert_allclose(values_of(together, name)[:6], values_of(one, name)[:6], rtol=2e-5)
        np.testing.assert_allclose(values_of(together, name), values_of(one, name), rtol=2e-4)
    np.testing.assert_array_equal(values_of(together, "train/tokens"), values_of(one, "train/tokens"))
    np.testing.assert_allclose(values_of(together, "val/bpb"), values_of(one, "val/bpb"), rtol=1e-4)
    ours, theirs = (training_runs.records(run / "evals.jsonl") for run in (together, one))
    assert [line["num_bytes"] for line in ours] == [line["num_bytes"] for line in theirs]
    assert len(training_runs.records(together / "samples.jsonl")) == 4
    start = training_runs.load_json(together / "environment.json")[0]
    assert start["host"]["processes"] == 2
    steps = list_steps(together / "checkpoints")
    assert steps[-1] == NUM_STEPS
    assert [find_fault(together / "checkpoints" / f"{step:08d}") for step in steps] == [None] * len(steps)


def test_stopped_and_killed_they_go_on_to_the_same_bits(folders, together: Path, tmp_path: Path):
    flags = training_runs.flags(folders[0], tmp_path, TEXT)
    run = tmp_path / "base"

    stopped = several_processes.train(flags, logs=tmp_path / "stopped")
    wait_for_step(stopped, run, 2)
    stopped.processes[1].send_signal(signal.SIGTERM)
    ended = stopped.wait()
    assert [each.code for each in ended] == [143, 143], [each.said[-2000:] for each in ended]
    saved = list_steps(run / "checkpoints")[-1]
    assert 2 <= saved < NUM_STEPS - 3
    assert steps_written(run) == saved
    assert f"stopped by SIGTERM after step {saved}; the same command goes on from there" in ended[0].said
    assert find_fault(run / "checkpoints" / f"{saved:08d}") is None

    killed = several_processes.train(flags, logs=tmp_path / "killed")
    wait_for_step(killed, run, saved + 1)
    killed.processes[0].send_signal(signal.SIGKILL)  # the coordinator itself
    when = time.monotonic()
    ended = killed.wait(timeout=60)
    assert time.monotonic() - when < 30
    assert [each.code for each in ended] == [-signal.SIGKILL, 75]
    assert f"going on from {run}/checkpoints/{saved:08d}, step {saved} of {NUM_STEPS}" in ended[0].said
    assert own_words(ended[1].said) == [
        f"error: process 0 on {host_name()} has ended, so this one stops too; the same command goes on from "
        "the newest whole checkpoint"
    ]

    ended = several_processes.train(flags, logs=tmp_path / "finished").wait()
    assert [each.code for each in ended] == [0, 0], [each.said[-2000:] for each in ended]
    assert "going on from" in ended[0].said
    assert curve(run) == curve(together)
    for name in ("evals.jsonl", "samples.jsonl"):
        assert without_seconds(run / name) == without_seconds(together / name)
    ours, theirs = parameters(run, NUM_STEPS), parameters(together, NUM_STEPS)
    for path, values in theirs.items():
        np.testing.assert_array_equal(ours[path], values, err_msg=path)


def stage_flags(data: Path, out_dir: Path, base: Path, values: dict[str, Any]) -> list[str]:
    """Without the model, which is that of the run it begins with."""
    line = training_runs.flags(data, out_dir, {"init_from": base, "name": "chat", **values})
    own = tuple(f"--{key}=" for key in values)
    return [flag for flag in line if flag.startswith(own) or not flag.startswith(("--model.", "--loss."))]


@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_later_stages_too(stage: str, folders, together: Path, tmp_path: Path):
    data, values = (folders[1], SFT) if stage == "sft" else (folders[2], DPO)
    flags = stage_flags(data, tmp_path, together, values)
    ended = several_processes.train(flags, logs=tmp_path).wait()
    assert [each.code for each in ended] == [0, 0], [each.said[-2000:] for each in ended]
    train.main([*flags, "--name=one"])
    ours, theirs = tmp_path / "chat", tmp_path / "one"
    np.testing.assert_allclose(values_of(ours, "train/loss"), values_of(theirs, "train/loss"), rtol=1e-4)
    evals = [training_runs.records(run / "evals.jsonl") for run in (ours, theirs)]
    assert evals[0]
    for mine, other in zip(*evals, strict=True):
        assert mine.keys() == other.keys()
        for name, value in mine.items():
            if name.startswith("val/"):
                assert value == pytest.approx(other[name], rel=1e-4, abs=1e-4), name


def test_processes_started_differently_say_in_what(folders, tmp_path: Path):
    """Another step count, another learning rate, and another line of code."""
    changed = tmp_path / "changed"
    for package in ("samosa_jax", "kernels/samosa_kernels"):
        shutil.copytree(ROOT / package, changed / Path(package).name)
    with (changed / "samosa_jax/training/losses.py").open("a", encoding="utf-8") as file:
        file.write("\n# not on the other host\n")
    flags = training_runs.flags(folders[0], tmp_path, TEXT)
    port = several_processes.free_port()
    commands = [
        ["-P", "-m", "samosa_jax.train", *flags, *(f"--{key}={value}" for key, value in meeting.items())]
        for meeting in (several_processes.meeting(index, 2, port) for index in range(2))
    ]
    commands[1] += ["--train.num_steps=20", "--optimizer.matrix.lr=0.5"]
    paths = [os.environ.get("PYTHONPATH", str(ROOT)), str(changed)]
    ended = Processes(commands, logs=tmp_path, python_paths=paths).wait()
    assert [each.code for each in ended] == [2, 2], [each.said for each in ended]
    for each in ended:
        line = last_line(each)
        second, first = f"in process 1 on {host_name()}", f"in process 0 on {host_name()}"
        assert f"train.num_steps is 20 {second} and {NUM_STEPS} {first}; " in line
        assert f"optimizer.matrix.lr is 0.5 {second}" in line
        assert "code samosa_jax/training/losses.py is " in line
        assert line.endswith("; start all with the same command and the same code")
    assert not (tmp_path / "base").exists()


def test_grpo_asks_for_one_process(together: Path, tmp_path: Path):
    flags = ["--stage=grpo", "--rl.tasks=arithmetic", f"--init_from={together}", f"--out_dir={tmp_path}"]
    flags += ["--train.num_steps=4", "--schedule.warmup_steps=0", "--rl.max_tokens=32"]
    flags += ["--train.batch_tokens=1024", "--train.device_batch_size=1"]
    ended = several_processes.train(flags, logs=tmp_path).wait()
    assert [each.code for each in ended] == [2, 2], [each.said for each in ended]
    for each in ended:
        assert "stage=grpo runs in one process, and there are 2; use the devices of one machine" in last_line(
            each
        )


@pytest.mark.skipif(shutil.which("mpirun") is None, reason="Open MPI's mpirun is not here")
def test_mpirun_says_all_that_is_needed(folders):
    launch = ["mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-n", "2"]
    flags = training_runs.flags(folders[0], folders[0].parent, TEXT)
    done = subprocess.run(
        [*launch, sys.executable, "-m", "samosa_jax.train", *flags, "--dry-run"],
        capture_output=True,
        text=True,
        env=training_runs.environment(num_devices=4),
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("device: 8 x cpu, mesh data=8 fsdp=1 tensor=1") == 1
