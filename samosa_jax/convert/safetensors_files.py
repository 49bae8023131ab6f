"""Reads safetensors files (https://github.com/huggingface/safetensors#format) one tensor at a time.

    tensors = open_tensors(Path("folder"))       # model.safetensors, or the shards that its index names
    tensors["model.norm.weight"]                 # a view of the file

A file is eight bytes that say how long the header is, the header (JSON: name -> dtype, shape, offsets), and
the numbers. Nothing is read before it is asked for, and nothing in a file can run code.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np

from samosa_jax.errors import UserError

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_DTYPES = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "BF16": np.dtype(ml_dtypes.bfloat16)}
_MAX_HEADER_BYTES = 100_000_000  # the format's own limit
_FETCH_AGAIN = "fetch it again"


@dataclass(frozen=True)
class _Place:
    """Where a tensor's numbers are."""

    file: Path
    dtype: np.dtype
    shape: tuple[int, ...]
    start: int  # of its first byte in the file


class SafetensorsFiles(Mapping[str, np.ndarray]):
    """Tensors by name, each a read-only view of its file, in the dtype it has there (F32, F16 or BF16)."""

    def __init__(self, places: Mapping[str, _Place]) -> None:
        self._places = places

    def __getitem__(self, name: str) -> np.ndarray:
        place = self._places[name]
        count = math.prod(place.shape)
        if not count:
            return np.zeros(place.shape, place.dtype)
        numbers = np.memmap(place.file, place.dtype, mode="r", offset=place.start, shape=(count,))
        return numbers.reshape(place.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def shape(self, name: str) -> tuple[int, ...]:
        """Without reading the tensor. Raises KeyError if there is none of that name."""
        return self._places[name].shape


def open_tensors(folder: Path) -> SafetensorsFiles:
    """The tensors of a Hugging Face folder, in one file or in shards with an index.

    Raises:
        UserError: a file is missing, cut short or damaged, or a shard lacks a tensor that the index gives it.
    """
    index_path = folder / INDEX_FILE
    if not index_path.exists():
        path = folder / WEIGHTS_FILE
        if not path.exists():
            raise UserError(
                f"{folder} has neither {WEIGHTS_FILE} nor {INDEX_FILE}; weights in other formats "
                "(pytorch_model.bin) are saved as safetensors by transformers' save_pretrained"
            )
        return SafetensorsFiles(_read_header(path))
    places: dict[str, _Place] = {}
    headers: dict[str, dict[str, _Place]] = {}
    for name, file in _read_index(index_path).items():
        if file not in headers:
            path = folder / file
            if not path.exists():
                raise UserError(f"{path} is missing, which {INDEX_FILE} names; fetch this shard")
            headers[file] = _read_header(path)
        if name not in headers[file]:
            raise UserError(
                f"{folder / file} has no tensor {name}, which {INDEX_FILE} places there; fetch both again"
            )
        places[name] = headers[file][name]
    return SafetensorsFiles(places)


def _read_index(path: Path) -> dict[str, str]:
    """Tensor -> file name. Raises UserError."""
    try:
        weight_map = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        entries = {str(name): str(file) for name, file in weight_map.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is no index of safetensors ({error}); {_FETCH_AGAIN}") from error
    for name, file in entries.items():
        if Path(file).name != file:
            raise UserError(f"{path} places {name} in {file!r}, which is not in its folder; {_FETCH_AGAIN}")
    return entries


def _read_header(path: Path) -> dict[str, _Place]:
    """The tensors of one file, whose every byte they must account for. Raises UserError."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _MAX_HEADER_BYTES):
            raise UserError(
                f"{path} is cut short or no safetensors file: it has {size} bytes, its header alone would "
                f"have {length}; {_FETCH_AGAIN}"
            )
        text = file.read(length)
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        spans = {name: _read_entry(path, name, entry, start=8 + length) for name, entry in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path} has a damaged header ({type(error).__name__}: {error}); {_FETCH_AGAIN}"
        ) from error
    expected_size = 8 + length
    for name, (place, end) in sorted(spans.items(), key=lambda item: item[1][0].start):
        if place.start != expected_size:
            raise UserError(
                f"{path}: tensor {name} begins at byte {place.start}, expected {expected_size}; "
                f"{_FETCH_AGAIN}"
            )
        expected_size = end
    if size != expected_size:
        raise UserError(f"{path} has {size} bytes, expected {expected_size}; {_FETCH_AGAIN}")
    return {name: place for name, (place, _) in spans.items()}


def _read_entry(path: Path, name: str, entry: Mapping[str, object], *, start: int) -> tuple[_Place, int]:
    """One line of the header: where the tensor is, and where it ends in the file."""
    dtype = _DTYPES.get(str(entry["dtype"]))
    if dtype is None:
        raise UserError(
            f"{path}: tensor {name} has dtype {entry['dtype']}; expected one of {', '.join(_DTYPES)}: "
            "quantized weights are converted to one of these by the program that made them"
        )
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not isinstance(shape, list) or not isinstance(offsets, list):
        raise ValueError(f"shape or data_offsets of {name} is no list")
    if not all(type(number) is int for number in (*shape, *offsets)):
        raise ValueError(f"shape or data_offsets of {name} has something other than whole numbers")
    first, end = offsets
    if end - first != math.prod(shape) * dtype.itemsize or min(first, *shape, 0) < 0:
        raise ValueError(f"{name} of shape {shape} has {end - first} bytes")
    return _Place(path, dtype, tuple(shape), start + first), start + end
