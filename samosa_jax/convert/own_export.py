"""Reads back what `samosa export` wrote, and holds every file and tensor to what its samosa.json says."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from samosa_jax.config import ModelConfig
from samosa_jax.convert.foreign import ForeignModel
from samosa_jax.convert.hf_source import open_hf
from samosa_jax.convert.names import TWIN_LAYOUTS, samosa_layout
from samosa_jax.convert.questions import tensor_digest
from samosa_jax.convert.safetensors_files import SafetensorsFiles, open_tensors
from samosa_jax.data.manifest import TOKENIZER_FOLDER, hash_file
from samosa_jax.errors import ConfigError, UserError
from samosa_jax.training.run_folder import EXPORT_RECORD

RECORD_VERSION = 1
NEEDED = {"format": str, "architecture": str, "name": str, "model": dict, "files": dict, "tensors": dict}


class _CheckedTensors(Mapping[str, np.ndarray]):
    """Tensors that are compared with their SHA-256 when they are read."""

    def __init__(self, tensors: SafetensorsFiles, digests: Mapping[str, str], folder: Path) -> None:
        self._tensors = tensors
        self._digests = digests
        self._folder = folder

    def __getitem__(self, name: str) -> np.ndarray:
        numbers = self._tensors[name].astype(np.float32, copy=False)
        found = tensor_digest(numbers)
        expected = self._digests.get(name)
        if found != expected:
            raise UserError(
                f"{self._folder}: tensor {name} is not the one that was exported: its SHA-256 is "
                f"{found[:12]}, {EXPORT_RECORD} says {str(expected)[:12]}; fetch or export it again"
            )
        return numbers

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def open_export(folder: Path) -> ForeignModel:
    """Reads samosa.json and checks every file against it; tensors are checked when they are read.

    Raises:
        UserError: the record cannot be read, a file is missing or changed, or the format is not for reading.
    """
    record = _read_record(folder / EXPORT_RECORD)
    if record["format"] not in ("hf", "torch"):
        raise UserError(
            f"{folder} was exported with --format={record['format']}, which rounds or regroups; import one "
            "exported with --format=hf or --format=torch"
        )
    for name, expected in record["files"].items():
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path} is missing, which {EXPORT_RECORD} names; fetch or export it again")
        if path.suffix != ".safetensors" and hash_file(path) != expected:
            raise UserError(f"{path} has changed since it was exported; fetch or export it again")
    try:
        config = ModelConfig(**record["model"])
    except (TypeError, ConfigError) as error:
        raise UserError(
            f"{folder / EXPORT_RECORD} has a model that this version cannot read ({error})"
        ) from error
    stock = TWIN_LAYOUTS.get(record["architecture"])
    is_own = stock is None or record["format"] == "torch"
    return ForeignModel(
        kind=f"exported {record['architecture']}",
        path=folder,
        config=config,
        tensors=_CheckedTensors(open_tensors(folder), record["tensors"], folder),
        make_layout=samosa_layout if is_own or stock is None else stock,
        table_rows=config.padded_vocab_size if is_own else config.vocab_size,
        tokenizer=folder / TOKENIZER_FOLDER,
        open_peer=open_hf(folder).open_peer,
        origin={"format": record["format"], "model_type": record["architecture"], "name": record["name"]},
    )


def _read_record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        missing = sorted(name for name, kind in NEEDED.items() if not isinstance(record.get(name), kind))
        version = record.get("version")
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path} cannot be read ({type(error).__name__}); fetch or export it again"
        ) from error
    if version != RECORD_VERSION:
        raise UserError(f"{path} has version {version!r}, this program reads {RECORD_VERSION}")
    if missing:
        raise UserError(f"{path} has no {missing[0]} that can be read; fetch or export it again")
    return record
