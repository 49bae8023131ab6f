"""A folder that nanochat loads: a checkpoint as its checkpoint_manager writes them, and its tokenizer."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from samosa_jax.convert.exported import ExportedModel
from samosa_jax.convert.layout import Layout
from samosa_jax.convert.nanochat import check_nanochat, nanochat_pt_layout, write_nanochat
from samosa_jax.convert.nanochat_tokenizer import TOKEN_BYTES_FILE, write_nanochat_tokenizer
from samosa_jax.convert.tokenizer_import import PICKLE_FILE
from samosa_jax.convert.torch_files import TorchTensors, read_pt
from samosa_jax.errors import UserError

STEP = 0  # of the file's name: the checkpoint begins a life of its own there
MODEL_FILE, META_FILE = f"model_{STEP:06d}.pt", f"meta_{STEP:06d}.json"


def check(model: ExportedModel) -> None:
    """Raises UserError for a model that nanochat's code would not compute."""
    check_nanochat(model.network.config)
    if model.dtype != "float32":
        raise UserError(f"nanochat keeps weights in float32; leave --dtype={model.dtype} out")


def nanochat_format_layout(model: ExportedModel) -> Layout:
    return model.layout_of(nanochat_pt_layout)


def nanochat_files(model: ExportedModel) -> Sequence[str]:
    del model  # every one has these
    return (MODEL_FILE, META_FILE, PICKLE_FILE, TOKEN_BYTES_FILE)


def write(model: ExportedModel, folder: Path, *, shard_bytes: int) -> None:
    """Writes everything into an existing empty folder; the weights are one file, however large."""
    del shard_bytes
    write_nanochat_tokenizer(folder, model.tokenizer)
    write_nanochat(folder, model.params, model.network.config, model.network.info, step=STEP)


def read_tensor(folder: Path, name: str) -> np.ndarray:
    return TorchTensors(read_pt(folder / MODEL_FILE))[name]
