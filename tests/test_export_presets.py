"""Every preset at tiny width through export and verification, in transformers and in plain PyTorch."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="torch is not installed: exports are not read back")

import exported_models

from samosa_jax.command_line import load_config
from samosa_jax.convert.expected import ask
from samosa_jax.convert.exported import ExportedModel
from samosa_jax.convert.exporting import verify_folder, write_folder
from samosa_jax.convert.verification import Verification
from samosa_jax.data.tokenizer import Tokenizer

CONFIGS = Path(__file__).parents[1] / "configs"
PRESETS = sorted(CONFIGS.glob("*.yaml"))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return exported_models.train_tokenizer()


def tiny(path: Path) -> dict[str, Any]:
    """The options of a preset, at tiny width."""
    model = load_config(path).model
    return {
        **dataclasses.asdict(model),
        "depth": None,
        "vocab_size": exported_models.BASE.vocab_size,
        "context_len": exported_models.BASE.context_len,
        "model_dim": 48,
        "num_heads": 4,
        "head_dim": 16,
        "mlp_dim": 80,
        "num_kv_heads": 4 if model.num_kv_heads == model.num_heads else 2,
        "window": 9 if "S" in model.window_pattern else None,
        "num_layers": 4 if "S" in model.window_pattern else 2,
    }


@functools.cache
def presets() -> dict[str, dict[str, Any]]:
    """Those that differ from each other at tiny width."""
    found: dict[str, dict[str, Any]] = {}
    for path in PRESETS:
        options = tiny(path)
        options |= {"init": "gpt2", "init_std": 0.02, "embedding_std": 0.8}  # they decide first values alone
        if options not in found.values():
            found[path.stem] = options
    return found


def written(model: ExportedModel, folder: Path, *, format: Any = "hf", shard_bytes: int = 10**9) -> Path:
    folder.mkdir(parents=True)
    write_folder(model, folder, format=format, lineage=(), shard_bytes=shard_bytes)
    return folder


def verify(model: ExportedModel, folder: Path, *, format: Any = "hf", num_new: int = 0) -> Verification:
    questions = ask(model, num_new=num_new)
    return verify_folder(model, folder, format=format, questions=questions, read=exported_models.read_here)


@pytest.mark.parametrize("name", presets())
def test_every_preset_is_equal_in_transformers(name: str, tokenizer: Tokenizer, tmp_path: Path):
    model = exported_models.model_of(presets()[name], tokenizer)
    found = verify(model, written(model, tmp_path / name, shard_bytes=50_000))
    print(f"{name}: {model.twin}, logits within {found.relative_logit_error:.1e}")
    assert 0 < found.relative_logit_error < 1e-4


@pytest.mark.parametrize("name", ["samosa_d24", "novamind_256m", "matilda_152m"])
def test_presets_are_equal_in_plain_pytorch(name: str, tokenizer: Tokenizer, tmp_path: Path):
    # With room for the chats that chat.py can say: those without tools.
    model = exported_models.model_of({**tiny(CONFIGS / f"{name}.yaml"), "context_len": 256}, tokenizer)
    found = verify(model, written(model, tmp_path / name, format="torch"), format="torch")
    assert 0 < found.relative_logit_error < 1e-4
    assert found.num_chats == 2
