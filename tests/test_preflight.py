"""The first look: a run without a signal is refused with the reason, and leaves nothing behind."""

from pathlib import Path

import guessing_model
import pytest
import training_runs
from test_grpo_training import flags

from samosa_jax import train
from samosa_jax.errors import UserError
from samosa_jax.rl.preflight import Preflight

GOOD = {
    "num_prompts": 4,
    "num_samples": 8,
    "pass_at_1": 0.4,
    "pass_at_k": 0.9,
    "mean_reward": 0.4,
    "zero_variance_frac": 0.2,
    "clipped_frac": 0.1,
    "ended_frac": 0.9,
    "mean_length": 30.0,
}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({}, None),
        ({"clipped_frac": 1.0, "ended_frac": 0.0}, "every answer was cut at rl.max_tokens (60)"),
        ({"ended_frac": 0.0}, "no answer ends with <|assistant_end|>"),
        ({"pass_at_1": 0.0, "pass_at_k": 0.0}, "not one of 32 answers is right"),
        ({"zero_variance_frac": 1.0}, "all answers to a prompt earn the same"),
    ],
)
def test_the_reason_is_the_first_thing_to_mend(change: dict[str, float], says: str | None):
    problem = Preflight(**{**GOOD, **change}).problem(max_tokens=60)
    assert (problem is None) == (says is None)
    assert says is None or says in str(problem)


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return guessing_model.write(tmp_path_factory.mktemp("guesser"))


def test_an_untrained_model_is_refused(tmp_path: Path):
    untrained = guessing_model.write(tmp_path, is_taught=False)
    done = training_runs.run(flags(untrained, tmp_path / "runs"))
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: preflight, 6 prompts x 4 answers: pass@1 0.000, pass@4 0.000")
    assert "there is nothing to learn from" in line
    assert line.endswith("(--rl.ignore_preflight=true begins all the same)")
    assert not (tmp_path / "runs/grpo").exists()


def test_a_constant_reward_is_refused_unless_one_insists(taught: tuple[Path, Path], tmp_path: Path):
    constant = {
        "rl__reward__task": 0,
        "rl__reward__format": 0,
        "rl__reward__length": 1,
        "rl__reward__length_free": 1000,
        "rl__reward__length_limit": 2000,
    }
    line = flags(taught, tmp_path, **constant, train__num_steps=1)
    with pytest.raises(UserError, match=r"all answers to a prompt earn the same, 1 on average"):
        train.main(line)
    assert not (tmp_path / "grpo").exists()
    train.main([*line, "--rl.ignore_preflight=true"])
    assert "earn the same" in training_runs.load_json(tmp_path / "grpo/preflight.json")["problem"]
    (step,) = training_runs.records(tmp_path / "grpo/metrics.jsonl")
    assert step["rl/zero_variance_frac"] == 1
    assert step["train/loss"] == 0
