"""Stages after pretraining, as users start them: from a base model, on conversations and preference pairs."""

import dataclasses
import json
import re
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import chat_runs
import numpy as np
import pytest
import training_runs
from test_kill_resume import steps_written, wait_for_step

from samosa_jax import train
from samosa_jax.command_line import parse_config
from samosa_jax.config import DataConfig
from samosa_jax.errors import ConfigError, UserError
from samosa_jax.stages import resolve_epochs
from samosa_jax.training.checkpoint import SEAL
from samosa_jax.training.resume import inherited_values

# Rows for eight devices too, as the process of the tests has them.
# HiRoPE, to which turns matter.
BASE = {
    "model.context_len": 128,
    "model.position": "hirope",
    "train.batch_tokens": 2048,
    "train.num_steps": 40,
    "sample.prompts": [],
}
SFT = {**chat_runs.SFT, "train.batch_tokens": 2048}
DPO = {
    "stage": "dpo",
    "train.horizon": "epochs",
    "train.horizon_value": 8,
    "train.device_batch_size": 2,
    "model.context_len": 256,
    "train.batch_tokens": 4096,
    "optimizer.lr_scale": 0.05,
    "dpo.beta": 0.1,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    return chat_runs.write_datasets(tmp_path_factory.mktemp("chat"))


@pytest.fixture(scope="module")
def base(folders: tuple[Path, Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out_dir = tmp_path_factory.mktemp("base")
    run(training_runs.flags(folders[0], out_dir, BASE))
    return out_dir / "base"


def run(line: list[str]) -> str:
    """A training process on one device, as that of a user; what it says."""
    done = training_runs.run(line)
    assert done.returncode == 0, done.stderr
    return done.stdout


def flags(data: Path, out_dir: Path, base: Path, values: dict[str, Any]) -> list[str]:
    """Without the model: a run takes it over from the one it begins with."""
    inherited = ("model.", "loss.", "train.num_steps" if "train.horizon" in values else "-")
    line = training_runs.flags(data, out_dir, {"init_from": base, "name": "chat", **values})
    own = [f"--{key}=" for key in values]
    return [
        flag
        for flag in line
        if not flag.removeprefix("--").startswith(inherited) or flag.startswith(tuple(own))
    ]


def values_of(folder: Path, name: str) -> list[float]:
    lines = training_runs.records(folder / "metrics.jsonl")
    return [line[name] for line in lines if name in line]


def parameters(folder: Path) -> dict[str, np.ndarray]:
    newest = max(path for path in (folder / "checkpoints").iterdir() if path.is_dir())
    return training_runs.stored_arrays(newest / "params")


def assert_same(folder: Path, other: Path) -> None:
    for name in ("train/loss", "train/grad_norm", "val/loss"):
        assert values_of(folder, name) == values_of(other, name)
    ours, theirs = parameters(folder), parameters(other)
    assert ours.keys() == theirs.keys()
    for path, values in ours.items():
        np.testing.assert_array_equal(values, theirs[path], err_msg=path)


def interrupted(line: list[str], folder: Path, *, at_step: int) -> None:
    """Killed once after a step and a finished checkpoint, then run to its end."""
    process = training_runs.start(line)
    assert wait_for_step(process, folder, at_step), process.communicate()[0]
    while process.poll() is None and not any(folder.glob(f"checkpoints/*/{SEAL}")):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert steps_written(folder) >= at_step
    assert "going on from" in run(line)


@pytest.fixture(scope="module")
def sft(folders, base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], str]:
    """A finished run, its command, and what it said."""
    out_dir = tmp_path_factory.mktemp("sft")
    line = flags(folders[1], out_dir, base, {**SFT, "checkpoint.every_steps": 6, "eval.every_steps": 6})
    return out_dir / "chat", line, run(line)


def test_sft_learns_the_answers_and_goes_on_after_a_kill(sft, tmp_path: Path):
    folder, line, said = sft
    assert re.search(r"data: .*, \d+ conversations .*, 1 times an epoch", said)
    assert re.search(r"an epoch: \d+ items in \d+ rows, \d+\.\d% of their positions filled", said)
    losses = values_of(folder, "val/loss")
    assert losses[-1] < losses[0] - 0.1
    assert {"val/loss_assistant", "val/loss_tool_call", "val/loss_human"} <= set().union(
        *map(dict.keys, training_runs.records(folder / "metrics.jsonl"))
    )
    for record in training_runs.records(folder / "metrics.jsonl"):
        parts = [value for name, value in record.items() if name.startswith("train/loss_part_")]
        if "train/loss" in record:
            assert sum(parts) == pytest.approx(record["train/loss"], rel=1e-4)
            assert record["train/loss_part_human"] == 0
    samples = training_runs.records(folder / "samples.jsonl")
    assert samples[-1]["prompt"] == SFT["sample.prompts"][0]
    config = (folder / "config.yaml").read_text(encoding="utf-8")
    assert "context_len: 128" in config  # from the base
    assert "position: hirope" in config
    record = json.loads((folder / "checkpoints/00000024/run/metadata").read_text(encoding="utf-8"))
    assert len(record["data"]["begun_with"]) == 64

    interrupted([*line, f"--out_dir={tmp_path}"], tmp_path / "chat", at_step=9)
    assert_same(tmp_path / "chat", folder)


def test_dpo_prefers_the_chosen_answers_and_goes_on_after_a_kill(folders, base: Path, tmp_path: Path):
    line = flags(folders[2], tmp_path, base, {**DPO, "checkpoint.every_steps": 4, "eval.every_steps": 4})
    run(line)
    folder = tmp_path / "chat"
    assert values_of(folder, "train/loss")[0] == pytest.approx(np.log(2), abs=1e-4)  # the reference is itself
    assert values_of(folder, "val/rewards/accuracies")[-1] > 0.9
    margins = values_of(folder, "val/rewards/margins")
    assert margins[0] == 0 < margins[-1]

    interrupted([*line, f"--out_dir={tmp_path / 'killed'}"], tmp_path / "killed" / "chat", at_step=6)
    assert_same(tmp_path / "killed" / "chat", folder)

    frozen = [*line, "--dpo.reference=frozen", "--name=frozen"]
    run(frozen)
    np.testing.assert_allclose(
        values_of(tmp_path / "frozen", "train/loss"), values_of(folder, "train/loss"), rtol=1e-3, atol=1e-4
    )


def test_adapters_are_trained_alone_and_belong_to_their_base(folders, base: Path, sft, tmp_path: Path):
    lora = {"lora.rank": 4, "optimizer.matrix.kind": "adamw", "optimizer.matrix.lr": 0.02}
    line = flags(folders[1], tmp_path, base, {**SFT, **lora, "eval.every_steps": 8})
    run(line)
    folder = tmp_path / "chat"
    losses = values_of(folder, "val/loss")
    assert losses[-1] < losses[0]
    stored = parameters(folder)
    assert stored
    assert all(path.endswith(("['A']", "['B']")) for path in stored)
    with pytest.raises(UserError, match="is not the checkpoint that this run began with"):
        train.main([*line, f"--init_from={sft[0]}", "--train.num_steps=30"])


def test_what_cannot_begin_says_why(folders, base: Path, tmp_path: Path):
    text, chat, pairs = folders
    with pytest.raises(UserError, match="holds conversations, and this stage trains on preferences"):
        train.main(flags(chat, tmp_path, base, DPO))
    with pytest.raises(UserError, match=r"init_from: .* is neither a run with a finished checkpoint nor"):
        train.main(flags(chat, tmp_path, tmp_path / "nothing", SFT))
    with pytest.raises(ConfigError, match=r"stage=dpo starts from a trained model; name its run"):
        train.main(training_runs.flags(pairs, tmp_path, {**DPO, "train.num_steps": 5}))
    with pytest.raises(ConfigError, match=r"train\.horizon is epochs, which text has none of"):
        train.main(training_runs.flags(text, tmp_path, {"train.horizon": "epochs", "train.horizon_value": 1}))
    with pytest.raises(UserError, match=r"has .* where this configuration needs"):
        train.main(flags(chat, tmp_path, base, {**SFT, "model.num_layers": 3}))
    damaged = tmp_path / "damaged"
    shutil.copytree(base, damaged)
    weights = max(damaged.rglob("params/**/*"), key=lambda path: path.stat().st_size if path.is_file() else 0)
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match=r"init_from: checkpoint .* cannot be used: .* has changed since"):
        train.main(flags(chat, tmp_path, damaged, SFT))
    other = training_runs.write_dataset(tmp_path, vocab_size=600).parent / "tokenizer"
    rows = chat_runs.write_rows(tmp_path / "rows.jsonl", [chat_runs.conversation(seed) for seed in range(40)])
    foreign = chat_runs.prepare(rows, other, tmp_path / "foreign", val_documents=2)
    with pytest.raises(UserError, match=r"model.vocab_size is 512, but tokenizer .* has 600 tokens"):
        train.main(flags(foreign, tmp_path, base, SFT))
    assert not (tmp_path / "chat").exists()


def test_epochs_are_counted_by_the_data_and_contradict_no_other_number(
    folders, base: Path, tmp_path: Path, capsys
):
    epochs = {**SFT, "train.horizon": "epochs", "train.horizon_value": 2}
    del epochs["train.num_steps"]
    line = flags(folders[1], tmp_path, base, epochs)
    parsed = parse_config(line, inherit=inherited_values).config
    assert parsed.train.num_steps == 0
    counted = resolve_epochs(parsed).train.num_steps
    assert counted > 0
    same = parse_config([*line, f"--train.num_steps={counted}"], inherit=inherited_values).config
    assert resolve_epochs(same).train.num_steps == counted
    with pytest.raises(
        ConfigError, match=rf"num_steps is 30, but 2 epochs of the data .* are {counted}; drop"
    ):
        train.main([*line, "--train.num_steps=30"])
    with pytest.raises(ConfigError, match=rf"2 epochs are {counted} steps of .* warm up for fewer"):
        train.main([*line, "--schedule.warmup_steps=99999"])
    with pytest.raises(UserError, match="which the data measures; name it"):
        resolve_epochs(dataclasses.replace(parsed, data=DataConfig()))
    assert not (tmp_path / "chat").exists()
    train.main([*line, "--explain"])
    assert "as many as 2 epochs of the data have" in capsys.readouterr().out
    train.main([*line, "--dry-run"])
    assert "its data say how long the run is; nothing was written" in capsys.readouterr().out


def test_a_dry_run_of_every_stage(folders, base: Path, capsys):
    for stage, data in (("sft", folders[1]), ("dpo", folders[2])):
        lora = {"lora.rank": 2} if stage == "sft" else {"dpo.reference": "frozen"}
        values = {**(SFT if stage == "sft" else DPO), **lora}
        train.main([*flags(data, base, base, values), "--dry-run"])
        assert "nothing was written" in capsys.readouterr().out
