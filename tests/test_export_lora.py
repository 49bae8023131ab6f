"""Low-rank adapters as users train them leave the house merged: transformers has the sum, and no adapter."""

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="torch is not installed: exports are not read back")

import chat_runs
import numpy as np
import torch
import training_runs
import transformers

from samosa_jax import export

RANK, ALPHA = 4, 12.0
QWEN3 = {
    "model.architecture": "hf",
    "model.mlp": "swiglu",
    "model.norm_scale": True,
    "model.qk_norm_scale": True,
    "model.context_len": 128,
    "train.batch_tokens": 512,
    "train.num_steps": 10,
    "sample.prompts": [],
}
LORA = {
    **chat_runs.SFT,
    "sample.prompts": [],
    "train.batch_tokens": 512,
    "train.num_steps": 10,
    "lora.rank": RANK,
    "lora.alpha": ALPHA,
    "optimizer.matrix.kind": "adamw",
    "optimizer.matrix.lr": 0.02,
}


def train(data: Path, out_dir: Path, values: dict[str, Any]) -> Path:
    line = training_runs.flags(data, out_dir, values)
    if "init_from" in values:  # the model is that of the base
        line = [flag for flag in line if not flag.startswith("--model.")]
    done = training_runs.run(line)
    assert done.returncode == 0, done.stderr
    return out_dir / str(values["name"])


def arrays(run: Path, step: int) -> dict[str, np.ndarray]:
    return training_runs.stored_arrays(run / "checkpoints" / f"{step:08d}" / "params")


def test_an_export_of_adapters_is_the_merged_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    text = training_runs.write_dataset(tmp_path)
    rows = chat_runs.write_rows(tmp_path / "chat.jsonl", [chat_runs.conversation(seed) for seed in range(60)])
    chat = chat_runs.prepare(rows, tmp_path / "tokenizer", tmp_path / "chat", val_documents=4)
    base = train(text, tmp_path / "runs", {**QWEN3, "name": "base"})
    lora = train(chat, tmp_path / "runs", {**LORA, "name": "lora", "init_from": base})
    out = tmp_path / "exports" / "lora"
    export.main([str(lora), f"--out={out}"])
    assert "25 tensors equal bit for bit" in capsys.readouterr().out

    model = transformers.AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    assert type(model).__name__ == "Qwen3ForCausalLM"
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    before, adapters = arrays(base, 10), arrays(lora, 10)
    for ours, theirs in (
        ("['attention']['query']", "self_attn.q_proj"),
        ("['attention']['value']", "self_attn.v_proj"),
        ("['mlp']['gate']", "mlp.gate_proj"),
        ("['mlp']['down']", "mlp.down_proj"),
    ):
        path = f"['blocks']{ours}"
        for layer in range(2):
            weight = before[path][layer]
            a, b = (adapters[f"{path}['{part}']"][layer].astype(np.float64) for part in "AB")
            change = ALPHA / RANK * (a.reshape(-1, RANK) @ b.reshape(RANK, -1))
            assert np.abs(change).max() > 1e-3
            expected = weight.reshape(change.shape) + change
            found = state[f"model.layers.{layer}.{theirs}.weight"].T
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    # What has no adapter is the base's, bit for bit.
    np.testing.assert_array_equal(state["model.embed_tokens.weight"], before["['embedding']"])

    card = (out / "README.md").read_text()
    assert "**sft** (lora): 10 steps" in card
    assert "**pretrain** (base): 10 steps" in card
    record = json.loads((out / "samosa.json").read_text())
    assert record["parameters"] == sum(parameter.numel() for parameter in model.parameters())
