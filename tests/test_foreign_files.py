"""Files of strangers that are not what their names say: one line tells so, whatever is in them."""

import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest

from samosa_jax.convert.hf_source import open_hf
from samosa_jax.convert.own_export import open_export
from samosa_jax.convert.safetensors_files import open_tensors
from samosa_jax.convert.tokenizer_import import import_tokenizer
from samosa_jax.convert.torch_files import read_state_dict
from samosa_jax.errors import UserError

BRACKETS = "[" * 100_000
LLAMA = {
    "model_type": "llama",
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": ["llama"]}, "model_type is"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps is nan; expected a positive number"),
        ({"rope_theta": float("inf")}, "rope_theta is inf; expected a positive number"),
        ({"rope_theta": 10**400}, "expected a positive number"),
        ({"rope_scaling": {"rope_type": ["yarn"], "factor": 2}}, "cannot be ours"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 1e308}}, "cannot be ours"),
    ],
)
def test_a_configuration_of_no_network(tmp_path: Path, change: dict[str, Any], message: str):
    (tmp_path / "config.json").write_text(json.dumps({**LLAMA, **change}))
    with pytest.raises(UserError, match=message):
        open_hf(tmp_path)


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("config.json", open_hf),
        ("samosa.json", open_export),
        ("model.safetensors.index.json", open_tensors),
        ("tokenizer_config.json", import_tokenizer),
    ],
)
def test_brackets_without_end(tmp_path: Path, name: str, read: Any):
    (tmp_path / "tokenizer.json").write_text(
        json.dumps({"added_tokens": [], "model": {"type": "BPE", "vocab": {}, "merges": []}})
    )
    (tmp_path / name).write_text(BRACKETS)
    with pytest.raises(UserError, match=name):
        read(tmp_path)


@pytest.mark.parametrize(
    "header",
    [
        BRACKETS,
        '{"a": {"dtype": "F32", "shape": [4], "data_offsets": [0.0, 16.0]}}',
        '{"a": {"dtype": "F32", "shape": [4.0], "data_offsets": [0, 16]}}',
        '{"a": {"dtype": "F32", "shape": [true, 4], "data_offsets": [false, 16]}}',
    ],
)
def test_a_header_of_no_tensors(tmp_path: Path, header: str):
    data = struct.pack("<Q", len(header)) + header.encode() + bytes(16)
    (tmp_path / "model.safetensors").write_bytes(data)
    with pytest.raises(UserError, match=r"model.safetensors has a damaged header"):
        open_tensors(tmp_path)


def test_a_pickle_that_takes_from_an_empty_stack(tmp_path: Path):
    torch = pytest.importorskip("torch", reason="torch is not installed: there are no .pt files")
    path = tmp_path / "model.pt"
    torch.save({"a": torch.zeros(2)}, path)
    with zipfile.ZipFile(path) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w") as file:
        for name, data in parts.items():
            file.writestr(name, b"\x80\x02a." if name.endswith("data.pkl") else data)
    with pytest.raises(UserError, match=r"model.pt is no PyTorch checkpoint, or damaged"):
        read_state_dict(path)


@pytest.mark.parametrize("kind", ["sparse", "quantized", "complex", "meta"])
def test_tensors_that_are_not_plain_numbers(tmp_path: Path, kind: str):
    torch = pytest.importorskip("torch", reason="torch is not installed: there are no .pt files")
    make = {
        "sparse": lambda: torch.eye(2).to_sparse(),
        "quantized": lambda: torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.qint8),
        "complex": lambda: torch.zeros(2, dtype=torch.complex64),
        "meta": lambda: torch.zeros(2, device="meta"),
    }
    torch.save({"weight": make[kind]()}, tmp_path / "model.pt")
    with pytest.raises(UserError, match=r"weight is sparse, quantized, complex or without numbers"):
        read_state_dict(tmp_path / "model.pt")
