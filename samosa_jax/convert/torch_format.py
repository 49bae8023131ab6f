"""A folder for plain PyTorch: weights, and chat.py, which needs torch, safetensors and tokenizers only."""

import json
import sys
from pathlib import Path

from samosa_jax.convert.exported import NUMPY_DTYPES, ExportedModel
from samosa_jax.convert.layout import Layout
from samosa_jax.convert.names import samosa_layout
from samosa_jax.convert.pytorch_sources import chat_program, samosa_config
from samosa_jax.convert.safetensors_writing import write_tensors
from samosa_jax.convert.tokenizer_json import TOKENIZER_FILE, tokenizer_json

TORCH_FILES = ("config.json", "model.safetensors", TOKENIZER_FILE, "chat.py")


def torch_layout(model: ExportedModel) -> Layout:
    """The tensors of our own code, whatever the model."""
    return model.layout_of(samosa_layout)


def write_torch(model: ExportedModel, folder: Path, *, shard_bytes: int) -> None:
    """Writes everything into an existing empty folder; the weights are one file, however large."""
    del shard_bytes
    config = samosa_config(model.network.config, model.tokenizer.special_ids)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (folder / TOKENIZER_FILE).write_bytes(tokenizer_json(model.tokenizer))
    (folder / "chat.py").write_text(chat_program(), encoding="utf-8")
    layout = torch_layout(model)
    write_tensors(
        folder,
        layout.stream(model.params),
        shapes=layout.shapes(),
        dtype=NUMPY_DTYPES[model.dtype],
        shard_bytes=sys.maxsize,
    )
