"""The loop of GRPO on GSM8K's own rows, by a model that cannot solve them: nothing crashes or piles up."""

import json
from pathlib import Path

import jax
import pytest
import training_runs

from samosa_jax import train
from samosa_jax.command_line import parse_config
from samosa_jax.data.tokenizer import Tokenizer
from samosa_jax.errors import UserError
from samosa_jax.evals.generation_tasks import find_generation_task, open_items
from samosa_jax.model.gpt import Network

NUM_STEPS = 6
CONTEXT_LEN = 384  # too short for some of the questions
MODEL = {"model.context_len": CONTEXT_LEN, "train.batch_tokens": CONTEXT_LEN * 8}
MB = 1 << 20


@pytest.fixture(scope="module")
def untaught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose model knows nothing."""
    folder = tmp_path_factory.mktemp("untaught")
    data = training_runs.write_dataset(folder)
    config = parse_config(training_runs.flags(data, folder, {"name": "sft", "stage": "sft", **MODEL})).config
    params = jax.jit(Network.build(config.model, compute_dtype="float32").init)(jax.random.key(0))
    training_runs.save_run(folder / "sft", config, Tokenizer.load(folder / "tokenizer"), params)
    return folder


def flags(untaught: Path, out_dir: Path, data_dir: Path, *more: str) -> list[str]:
    return [
        "--stage=grpo",
        "--name=grpo",
        f"--out_dir={out_dir}",
        f"--init_from={untaught / 'sft'}",
        f"--tokenizer={untaught / 'tokenizer'}",
        "--rl.tasks=gsm8k",
        f"--rl.data_dir={data_dir}",
        "--rl.prompts=4",
        "--rl.samples=4",
        "--rl.max_tokens=24",
        "--rl.max_batch=16",
        "--rl.preflight_prompts=4",
        "--rl.held_out.prompts=6",
        f"--train.num_steps={NUM_STEPS}",
        f"--train.batch_tokens={CONTEXT_LEN * 16}",
        "--train.device_batch_size=2",
        "--schedule.warmup_steps=0",
        "--eval.every_steps=3",
        "--sample.prompts=[]",
        "--checkpoint.every_steps=0",
        *more,
    ]


def test_steps_on_real_rows(untaught: Path, tmp_path: Path, test_data: Path) -> None:
    rows = open_items(find_generation_task("gsm8k"), data_dir=test_data, split="train")
    line = flags(untaught, tmp_path, test_data, "--rl.ignore_preflight=true")
    done = training_runs.run([*line, "--train.device_batch_size=16"])
    assert done.returncode == 0, done.stderr
    assert "prompts: gsm8k, 100.0% of them, 7,473 rows" in done.stdout
    records = training_runs.records(tmp_path / "grpo/metrics.jsonl")
    steps = [record for record in records if "train/loss" in record]
    assert [record["step"] for record in steps] == list(range(1, NUM_STEPS + 1))
    assert all(record["rl/logprob_gap"] < 1e-4 for record in steps)
    assert all(record["completions/mean_length"] > 0 for record in steps)
    # The first steps compile; from there on nothing may pile up.
    assert steps[-1]["perf/peak_bytes"] - steps[2]["perf/peak_bytes"] < 64 * MB
    held_out = [record for record in records if "eval/pass@1" in record]
    assert [record["step"] for record in held_out] == [0, 3, 6]
    kept = training_runs.records(tmp_path / "grpo/evals.jsonl")
    assert kept[-1]["by_task"]["gsm8k"]["pass@1"] <= 0.5  # by chance: some answers are small numbers
    shown = training_runs.records(tmp_path / "grpo/samples.jsonl")
    assert shown[0]["prompt"] in {item.example.prompt.messages[0].text for item in rows}


def test_without_a_signal_it_does_not_begin(untaught: Path, tmp_path: Path, test_data: Path) -> None:
    with pytest.raises(UserError, match="nothing to learn from"):
        train.main(flags(untaught, tmp_path, test_data))
    assert not (tmp_path / "grpo").exists()


def test_a_folder_without_the_held_out_rows_is_named(untaught: Path, tmp_path: Path) -> None:
    (tmp_path / "gsm8k").mkdir()
    row = {"question": "What is 2 and 3?", "answer": "It is <<2+3=5>>5.\n#### 5"}
    (tmp_path / "gsm8k/train.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(UserError, match=r"rl\.data_dir: .* has no gsm8k/test\.jsonl"):
        train.main(flags(untaught, tmp_path / "runs", tmp_path))
    assert not (tmp_path / "runs").exists()
