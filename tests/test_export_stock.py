"""Exports that stock transformers loads without code of ours: the same numbers, tokens and text."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="torch is not installed: exports are not read back")

import exported_models
import numpy as np
import torch
import transformers

from samosa_jax.convert import hf_format
from samosa_jax.convert.expected import ask, logits
from samosa_jax.convert.exported import ExportedModel
from samosa_jax.convert.exporting import verify_folder, write_folder
from samosa_jax.convert.hf_format import write_hf
from samosa_jax.convert.hf_source import open_hf
from samosa_jax.convert.layout import Layout
from samosa_jax.convert.names import stock_layout
from samosa_jax.convert.verification import MismatchError
from samosa_jax.data.tokenizer import Tokenizer

STOCK: dict[str, dict[str, Any]] = {
    **{name: dict(exported_models.KINDS[name]) for name in ("llama", "qwen3", "nanochat")},
    "qwen3_without_scales": {"mlp": "swiglu", "qk_gain": 1.2, "tie_embeddings": True},
    "qwen3_with_windows": {
        **exported_models.KINDS["qwen3"],
        "num_layers": 3,
        "window_pattern": "SSL",
        "window": 9,
    },
    "llama_yarn": {**exported_models.KINDS["llama"], **exported_models.YARN},
    "llama_llama3": {**exported_models.KINDS["llama"], **exported_models.YARN, "rope_scaling_type": "llama3"},
    "qwen3_yarn": {**exported_models.KINDS["qwen3"], **exported_models.YARN},
    "nanochat_linear": {
        **exported_models.KINDS["nanochat"],
        **exported_models.YARN,
        "rope_scaling_type": "linear",
    },
    "nanochat_tied": {"embedding_norm": True, "tie_embeddings": True},
}
CLASSES = {
    "llama": transformers.LlamaForCausalLM,
    "qwen3": transformers.Qwen3ForCausalLM,
    "nanochat": transformers.NanoChatForCausalLM,
}


# Of which greedy text is compared too: each architecture once.
WRITING = (("llama", "bfloat16"), ("qwen3_with_windows", "float32"), ("nanochat", "float32"))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return exported_models.train_tokenizer()


def export(model: ExportedModel, folder: Path) -> Path:
    folder.mkdir()
    write_folder(model, folder, format="hf", lineage=(), shard_bytes=10**9)
    return folder


@pytest.mark.parametrize(
    ("name", "dtype"),
    [*((name, "float32") for name in STOCK), ("llama", "bfloat16"), ("qwen3_without_scales", "bfloat16")],
)
def test_stock_transformers_computes_the_same(name: str, dtype: Any, tokenizer: Tokenizer, tmp_path: Path):
    model = exported_models.model_of(STOCK[name], tokenizer, dtype=dtype)
    folder = export(model, tmp_path / name)
    assert not list(folder.glob("*.py"))
    writes = (name, dtype) in WRITING
    found = verify_folder(
        model,
        folder,
        format="hf",
        questions=ask(model, num_new=32 if writes else 0),
        read=exported_models.read_here,
    )
    print(f"{name} {dtype}: logits within {found.relative_logit_error:.1e}")
    assert 0 < found.relative_logit_error < 1e-4
    assert (found.greedy_tokens > 32) == writes
    assert (found.num_texts, found.num_chats, found.notes) == (len(ask(model).texts), 6, ())
    loaded = transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert type(loaded) is CLASSES[name.split("_")[0]]
    assert loaded.dtype == getattr(torch, dtype)
    assert loaded.num_parameters() >= model.num_params - 64 * 48 * 2  # tables without rows of no token
    back, config = open_hf(folder).config, model.network.config
    for field in ("rope_base", "rope_scaling_type", "rope_scaling_factor", "original_context_len"):
        assert getattr(back, field) == getattr(config, field), field


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("llama", {"rope_base": 500.0}),
        ("llama", {"norm_eps": 1e-2}),
        ("llama_yarn", {"rope_scaling_factor": 5.0}),
        ("llama_yarn", {"original_context_len": 32}),
        ("llama_yarn", {"rope_scaling_type": "llama3"}),
        ("qwen3_with_windows", {"window": 12}),
        ("qwen3_with_windows", {"window_pattern": "SLL"}),
        ("qwen3_without_scales", {"qk_gain": 1.25}),
        ("nanochat", {"soft_cap": 5.0}),
    ],
)
def test_a_setting_that_is_written_wrongly_is_noticed(
    name: str, change: dict[str, Any], tokenizer: Tokenizer, tmp_path: Path
):
    """config.json says something else than what was trained; the tensors are right."""
    model = exported_models.model_of(STOCK[name], tokenizer)
    config = dataclasses.replace(model.network.config, **change)
    other = exported_models.model_of(dataclasses.asdict(config), tokenizer)
    other = dataclasses.replace(other, params=model.params)
    folder = export(other, tmp_path / name)
    says = (
        "q_norm" if "qk_gain" in change else r"the logit of token \d+ .* is -?[\d.e-]+, expected -?[\d.e-]+"
    )
    with pytest.raises(MismatchError, match=says):
        verify_folder(
            model, folder, format="hf", questions=ask(model, num_new=0), read=exported_models.read_here
        )


def test_heads_that_are_not_turned_are_noticed(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A wrong layout deceives the comparison of tensors, but not that of logits."""

    def unturned(config: Any, info: Any) -> Layout:
        layout = stock_layout(config, info)
        rules = tuple(dataclasses.replace(rule, head_order=()) for rule in layout.rules)
        return dataclasses.replace(layout, rules=rules)

    monkeypatch.setattr(hf_format, "stock_layout", unturned)
    model = exported_models.model_of(STOCK["nanochat"], tokenizer)
    folder = export(model, tmp_path / "nanochat")
    with pytest.raises(MismatchError, match=r"the logit of token \d+ .* at position 1 of row 0"):
        verify_folder(
            model, folder, format="hf", questions=ask(model, num_new=0), read=exported_models.read_here
        )


def test_a_chat_through_generate(tokenizer: Tokenizer, tmp_path: Path):
    """As the model card says it: template, generate with the folder's own settings, decode."""
    model = exported_models.model_of(STOCK["qwen3"], tokenizer)
    folder = export(model, tmp_path / "qwen3")
    loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(folder)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    settings = loaded.generation_config
    special = tokenizer.special_ids
    assert settings.bos_token_id == special["<|bos|>"]
    assert settings.eos_token_id == special["<|assistant_end|>"] == theirs.eos_token_id
    assert settings.pad_token_id == theirs.pad_token_id != settings.eos_token_id
    assert (settings.do_sample, settings.temperature, settings.top_k) == (True, 0.8, 50)
    prompt = theirs.apply_chat_template(
        [{"role": "user", "content": "Anna"}], add_generation_prompt=True, return_tensors="pt"
    )
    torch.manual_seed(0)
    answer = loaded.generate(**prompt)[0, prompt["input_ids"].shape[1] :]
    assert 0 < len(answer) <= 32  # half of the context
    assert isinstance(theirs.decode(answer, skip_special_tokens=True), str)


def test_padding_changes_nothing(tokenizer: Tokenizer, tmp_path: Path):
    """A batch that is filled up on the left gives every row the logits that it has alone."""
    model = exported_models.model_of(STOCK["qwen3_with_windows"], tokenizer)
    (tmp_path / "x").mkdir()
    write_hf(model, tmp_path / "x", shard_bytes=10**9)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "x")
    row = ask(model).rows[:1, :20]
    padded = torch.tensor(np.concatenate([np.zeros((1, 5), np.int64), row], axis=1))
    mask = torch.ones_like(padded)
    mask[:, :5] = 0
    position = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        found = loaded(padded, attention_mask=mask, position_ids=position).logits[0, 5:].numpy()
    np.testing.assert_allclose(found, logits(model, row)[0], rtol=1e-4, atol=1e-4)
