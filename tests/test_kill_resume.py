"""Training processes stopped by real signals: what goes on is the run that never stopped, bit for bit."""

import random
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import training_runs

from samosa_jax.data.tokenizer import Tokenizer

NUM_STEPS = 120
OVERRIDES = {
    "train.num_steps": NUM_STEPS,
    "checkpoint.every_steps": 10,
    "eval.every_steps": 30,
    "sample.every_steps": 40,
    "log.every_steps": 20,
}
EXACT = ("train/loss", "train/lr", "train/grad_norm", "train/tokens", "val/bpb")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return training_runs.write_dataset(tmp_path_factory.mktemp("dataset"))


@pytest.fixture(scope="module")
def uninterrupted(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out_dir = tmp_path_factory.mktemp("uninterrupted")
    done = training_runs.run(training_runs.flags(data, out_dir, OVERRIDES))
    assert done.returncode == 0, done.stderr
    return out_dir / "base"


def curve(run: Path) -> list[tuple[object, ...]]:
    """Every number of metrics.jsonl that does not measure time, line by line."""
    lines = training_runs.records(run / "metrics.jsonl")
    return [(line["step"], *(line.get(name) for name in EXACT)) for line in lines]


def without_seconds(path: Path) -> list[dict[str, object]]:
    return [{k: v for k, v in line.items() if k != "seconds"} for line in training_runs.records(path)]


def parameters(run: Path, step: int = NUM_STEPS) -> dict[str, np.ndarray]:
    return training_runs.stored_arrays(run / "checkpoints" / f"{step:08d}" / "params")


def assert_same_run(run: Path, expected: Path) -> None:
    assert curve(run) == curve(expected)
    for name in ("evals.jsonl", "samples.jsonl"):
        assert without_seconds(run / name) == without_seconds(expected / name)
    left, right = parameters(run), parameters(expected)
    assert left.keys() == right.keys()
    for path, values in left.items():
        np.testing.assert_array_equal(values, right[path], err_msg=path)


def steps_written(run: Path) -> int:
    path = run / "metrics.jsonl"
    return path.read_bytes().count(b'"train/loss"') if path.exists() else 0


def wait_for_step(process: subprocess.Popen[str], run: Path, step: int) -> bool:
    """Whether the process reached the step before it ended."""
    deadline = time.monotonic() + 200
    while process.poll() is None and time.monotonic() < deadline:
        if steps_written(run) >= step:
            return True
        time.sleep(0.002)
    return False


def wait_until_still(run: Path, *, seconds: float) -> None:
    """Comes back when no step was written for so long."""
    last, since = steps_written(run), time.monotonic()
    while time.monotonic() - since < seconds:
        time.sleep(0.05)
        if (now := steps_written(run)) != last:
            last, since = now, time.monotonic()


def test_killed_at_random_points_it_goes_on_to_the_same_bits(data: Path, uninterrupted: Path, tmp_path: Path):
    rng = random.Random(7)
    flags = training_runs.flags(data, tmp_path, OVERRIDES)
    run = tmp_path / "base"
    resumed_from = []
    for goal in sorted(rng.sample(range(2, NUM_STEPS * 3 // 4), 6)):
        process = training_runs.start(flags)
        assert wait_for_step(process, run, goal), process.communicate()[0]
        time.sleep(rng.uniform(0, 0.03))
        process.send_signal(signal.SIGKILL)
        said = process.communicate()[0]
        assert process.returncode == -signal.SIGKILL, f"it ended before the kill at step {goal}: {said}"
        resumed_from += [line for line in said.splitlines() if line.startswith("going on from")]
    done = training_runs.run(flags)
    assert done.returncode == 0, done.stderr
    assert_same_run(run, uninterrupted)
    assert len(resumed_from) >= 3, "too few of the kills came after a checkpoint"
    starts = training_runs.load_json(run / "environment.json")
    assert len(starts) == 7


def test_sigterm_saves_and_the_same_command_goes_on(data: Path, uninterrupted: Path, tmp_path: Path):
    flags = training_runs.flags(data, tmp_path, OVERRIDES | {"checkpoint.every_steps": 0})
    run = tmp_path / "base"
    process = training_runs.start(flags)
    assert wait_for_step(process, run, 17), process.communicate()[0]
    process.terminate()
    said = process.communicate()[0]
    assert process.returncode == 143, said
    (saved,) = (path for path in (run / "checkpoints").iterdir() if path.is_dir())
    assert f"stopped by SIGTERM after step {int(saved.name)}; the same command goes on from there" in said
    assert steps_written(run) == int(saved.name) < NUM_STEPS
    done = training_runs.run(flags)
    assert done.returncode == 0, done.stderr
    assert_same_run(run, uninterrupted)


def test_ctrl_c_on_four_devices_then_on_with_two(data: Path, uninterrupted: Path, tmp_path: Path):
    run = tmp_path / "base"
    flags = training_runs.flags(data, tmp_path, OVERRIDES)
    process = training_runs.start(flags, num_devices=4)
    assert wait_for_step(process, run, 25), process.communicate()[0]
    process.send_signal(signal.SIGINT)
    said = process.communicate()[0]
    assert process.returncode == 130, said
    assert "4 x cpu, mesh data=4" in said
    saved = max(path.name for path in (run / "checkpoints").iterdir() if path.is_dir())
    done = training_runs.run(flags, num_devices=2)
    assert done.returncode == 0, done.stderr
    assert f"going on from {run}/checkpoints/{saved}, step {int(saved)} of {NUM_STEPS}" in done.stdout
    assert "2 x cpu, mesh data=2" in done.stdout
    # The same rows, summed in another order: equal up to rounding, which training amplifies.
    found, expected = np.array(losses(run)), np.array(losses(uninterrupted))
    assert not np.array_equal(found, expected)
    np.testing.assert_allclose(found[:40], expected[:40], rtol=1e-3)
    np.testing.assert_allclose(found, expected, rtol=2e-2)


def losses(run: Path) -> list[float]:
    return [
        line["train/loss"] for line in training_runs.records(run / "metrics.jsonl") if "train/loss" in line
    ]


def test_a_second_ctrl_c_stops_at_once(data: Path, tmp_path: Path):
    """The first waits for the end of a step, and that step for text that nobody prepares."""
    tokenizer_folder = data.parent / "tokenizer"
    unfinished = tmp_path / "unfinished"
    training_runs.write_shards(
        unfinished,
        Tokenizer.load(tokenizer_folder),
        tokenizer_folder=tokenizer_folder,
        texts=[training_runs.make_text(seed) for seed in range(60)],
        finish=False,
    )
    flags = training_runs.flags(
        unfinished, tmp_path, {"data.wait_for_shards": True, "checkpoint.every_steps": 2}
    )
    process = training_runs.start(flags)
    assert wait_for_step(process, tmp_path / "base", 4), process.communicate()[0]
    wait_until_still(tmp_path / "base", seconds=3.0)  # the text there is used up
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None, process.communicate()[0]
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=20)[0]
    assert process.returncode == 130, said
    assert "stopped at once; the same command goes on from the newest whole checkpoint" in said
