"""GRPO as users start it: from a taught model, killed and gone on with, on one device and on eight."""

import re
import signal
import time
from pathlib import Path
from typing import Any

import guessing_model
import numpy as np
import pytest
import training_runs
from test_kill_resume import steps_written, wait_for_step

from samosa_jax import train
from samosa_jax.errors import ConfigError, UserError
from samosa_jax.training.checkpoint import SEAL
from samosa_jax.training.metrics import POLICY_METRICS, REWARD_PARTS

NUM_STEPS = 8
GRPO = {
    "stage": "grpo",
    "name": "grpo",
    "rl.tasks": "gsm8k",
    "rl.prompts": 4,
    "rl.samples": 4,
    "rl.max_tokens": 60,
    "rl.minibatches": 2,
    "rl.max_batch": 16,
    "rl.preflight_prompts": 6,
    "rl.held_out.prompts": 0,
    "rl.show_every_steps": 2,
    "rl.kl_coef": 0.01,
    "rl.old_log_probs": "first_pass",
    "train.num_steps": NUM_STEPS,
    "train.batch_tokens": guessing_model.CONTEXT_LEN * 8,
    "train.device_batch_size": 1,
    "schedule.warmup_steps": 0,
    "optimizer.lr_scale": 0.1,
    "checkpoint.every_steps": 1,
    "checkpoint.keep_last": 3,
    "loss.chunk_tokens": 64,
    "sample.prompts": "[]",
}
TIMES = re.compile(r"^perf/|^seconds$")


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return guessing_model.write(tmp_path_factory.mktemp("guesser"))


def flags(taught: tuple[Path, Path], out_dir: Path, **values: Any) -> list[str]:
    given = {
        "init_from": taught[0],
        "out_dir": out_dir,
        "rl.data_dir": taught[1],
        **GRPO,
        **{name.replace("__", "."): value for name, value in values.items()},
    }
    return [f"--{key}={value}" for key, value in given.items()]


def untimed(path: Path) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in record.items() if not TIMES.search(name)}
        for record in training_runs.records(path)
    ]


def assert_same(folder: Path, other: Path, *, step: int = NUM_STEPS) -> None:
    """To the last bit: every number, every answer, every parameter."""
    for name in ("metrics.jsonl", "samples.jsonl"):
        assert untimed(folder / name) == untimed(other / name)
    ours, theirs = (
        training_runs.stored_arrays(run / "checkpoints" / f"{step:08d}" / "params") for run in (folder, other)
    )
    for path, values in ours.items():
        np.testing.assert_array_equal(values, theirs[path], err_msg=path)


@pytest.fixture(scope="module")
def whole(taught, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run that nobody stopped, and what it said."""
    out_dir = tmp_path_factory.mktemp("whole")
    done = training_runs.run(flags(taught, out_dir))
    assert done.returncode == 0, done.stderr
    return out_dir / "grpo", done.stdout


def test_a_run_tells_what_it_does(whole: tuple[Path, str]):
    folder, said = whole
    assert "prompts: gsm8k, 100.0% of them, 6 rows of" in said
    assert "a rollout: 4 prompts x 4 answers of at most 60 tokens, tools: calculator; it lasts for 2" in said
    assert "preflight, 6 prompts x 4 answers: pass@1 0." in said
    assert "advantage" in said
    lines = training_runs.records(folder / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, NUM_STEPS + 1))
    unused = {f"reward/{name}" for name in REWARD_PARTS if name not in ("task", "format")} | {"rl/level"}
    for line in lines[0::2]:
        assert POLICY_METRICS.keys() - unused <= line.keys()
        assert line["rl/logprob_gap"] < 1e-4
        assert line["rl/ratio"] == pytest.approx(1, abs=1e-5)
        times = line["perf/rollout_ms"] + line["perf/reward_ms"] + line["perf/train_ms"]
        assert times == pytest.approx(line["perf/step_ms"])
        assert line["perf/rollout_ms"] > 0
    for line in lines[1::2]:
        assert "reward/mean" not in line
        assert line["perf/rollout_ms"] == 0
        assert line["rl/ratio"] != 1
        assert line["rl/kl"] > 0
    assert [line["train/tokens"] for line in lines] == sorted({line["train/tokens"] for line in lines})
    assert lines[-1]["train/tokens"] < NUM_STEPS * 8 * guessing_model.CONTEXT_LEN
    shown = training_runs.records(folder / "samples.jsonl")
    assert {record["step"] for record in shown} == {0, 2, 4, 6}
    assert {"prompt", "text", "reward", "parts", "advantage", "reason"} <= shown[0].keys()
    preflight = training_runs.load_json(folder / "preflight.json")
    assert preflight["problem"] is None
    assert 0 < preflight["pass_at_1"] < 1
    kept = {path.stem for path in (folder / "rollouts").iterdir()}
    assert "00000006" in kept
    assert "00000000" not in kept  # no checkpoint goes on with it


def kill(process: Any) -> None:
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def test_killed_between_minibatches_and_in_a_rollout_it_goes_on_to_the_same_bits(
    taught, whole: tuple[Path, str], tmp_path: Path
):
    line, folder = flags(taught, tmp_path), tmp_path / "grpo"
    process = training_runs.start(line)
    assert wait_for_step(process, folder, 3), process.communicate()[0]
    while process.poll() is None and not (folder / "checkpoints/00000003" / SEAL).exists():
        time.sleep(0.001)
    kill(process)
    # As if it had been killed right there: the second minibatch of the rollout is still to be trained on.
    for later in folder.glob("checkpoints/*"):
        if int(later.name[:8]) > 3:
            (later / SEAL).unlink(missing_ok=True)
    process = training_runs.start(line)
    assert wait_for_step(process, folder, 4), process.communicate()[0]
    kill(process)  # in the rollout of the next step, or while saving
    assert steps_written(folder) >= 4
    done = training_runs.run(line)
    assert done.returncode == 0, done.stderr
    assert "going on from" in done.stdout
    assert "preflight, " not in done.stdout
    assert_same(folder, whole[0])


def test_two_runs_on_eight_devices_are_equal(taught, tmp_path: Path):
    values = {"train__num_steps": 4, "rl__minibatches": 1, "checkpoint__every_steps": 0}
    line = flags(taught, tmp_path, **values, rl__kl_coef=0, rl__truncated="mask", rl__advantage="std")
    train.main(line)
    train.main([*line, "--name=again"])
    assert_same(tmp_path / "grpo", tmp_path / "again", step=4)
    environment = training_runs.load_json(tmp_path / "grpo/environment.json")
    assert environment[0]["mesh"]["data"] == 8


def test_adapters_learn_with_the_base_as_reference(taught, tmp_path: Path):
    lora = {"lora__rank": 2, "optimizer__matrix__kind": "adamw", "rl__reference": "frozen"}
    train.main(flags(taught, tmp_path, **lora, train__num_steps=2, checkpoint__every_steps=0))
    lines = training_runs.records(tmp_path / "grpo/metrics.jsonl")
    assert abs(lines[0]["rl/kl"]) < 1e-6 < lines[1]["rl/kl"]
    assert lines[0]["rl/logprob_gap"] < 1e-4


def test_what_cannot_begin_says_why(taught, tmp_path: Path):
    for values, says in (
        ({"rl__tasks": "[]"}, "rl.tasks is empty; name where the prompts of stage=grpo come from"),
        ({"data": "data/x"}, "data.sources names data/x, but stage=grpo trains on its own answers"),
        ({"rl__max_tokens": 160}, "rl.max_tokens is 160, which leaves no room for a prompt"),
        ({"rl__minibatches": 3}, "rl.prompts is 4, not a multiple of rl.minibatches"),
        ({"train__horizon": "tokens", "train__horizon_value": 9e9}, "nobody knows how many before"),
        ({"rl__tools": "web_search"}, "web_search and the documents it finds are given together"),
    ):
        with pytest.raises(ConfigError, match=re.escape(says)):
            train.main(flags(taught, tmp_path, **values))
    with pytest.raises(UserError, match=r"rl.tools has 'calculater', which is no tool"):
        train.main(flags(taught, tmp_path, rl__tools="calculater"))
    assert not (tmp_path / "grpo").exists()


def test_a_dry_run(taught, tmp_path: Path, capsys):
    train.main([*flags(taught, tmp_path), "--dry-run"])
    assert "nothing was written" in capsys.readouterr().out
    assert not (tmp_path / "grpo").exists()
