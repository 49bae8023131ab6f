"""Writes safetensors files (https://github.com/huggingface/safetensors#format) one tensor at a time.

`convert.safetensors_files` reads them and says how they are laid out.
"""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from samosa_jax.convert.safetensors_files import INDEX_FILE, WEIGHTS_FILE

SHARD_BYTES = 5_000_000_000
_CODES = {"float32": "F32", "bfloat16": "BF16"}
_HEADER_MULTIPLE = 8  # bytes, so that the numbers are aligned


def write_tensors(
    folder: Path,
    tensors: Iterable[tuple[str, np.ndarray]],
    *,
    shapes: Mapping[str, tuple[int, ...]],
    dtype: np.dtype,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes model.safetensors, or shards of at most `shard_bytes` (a tensor more at least) and their index.

    Args:
        tensors: name and numbers, in the order of `shapes`; each is let go before the next is asked for.
        shapes: the shape of every tensor by name.
    """
    shards = _divide(shapes, dtype=dtype, shard_bytes=shard_bytes)
    names = [WEIGHTS_FILE]
    if len(shards) > 1:
        stem, suffix = WEIGHTS_FILE.split(".")
        names = [f"{stem}-{i + 1:05d}-of-{len(shards):05d}.{suffix}" for i in range(len(shards))]
    remaining = iter(tensors)
    for name, shard in zip(names, shards, strict=True):
        with (folder / name).open("xb") as file:
            file.write(_header({tensor: shapes[tensor] for tensor in shard}, dtype=dtype))
            for tensor in shard:
                found, numbers = next(remaining)
                if found != tensor or numbers.shape != shapes[tensor]:
                    raise ValueError(f"{found} {numbers.shape} comes where {tensor} {shapes[tensor]} belongs")
                file.write(np.ascontiguousarray(numbers, dtype=dtype).reshape(-1).view(np.uint8).data)
    if len(shards) > 1:
        places = {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
        total = sum(_num_bytes(shape, dtype) for shape in shapes.values())
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
        (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _divide(shapes: Mapping[str, tuple[int, ...]], *, dtype: np.dtype, shard_bytes: int) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    room = shard_bytes
    for name, shape in shapes.items():
        size = _num_bytes(shape, dtype)
        if size > room and shards[-1]:
            shards.append([])
            room = shard_bytes
        shards[-1].append(name)
        room -= size
    return shards


def _header(shapes: Mapping[str, tuple[int, ...]], *, dtype: np.dtype) -> bytes:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}  # transformers asks for it
    start = 0
    for name, shape in shapes.items():
        end = start + _num_bytes(shape, dtype)
        header[name] = {"dtype": _CODES[dtype.name], "shape": list(shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _HEADER_MULTIPLE)
    return len(text).to_bytes(8, "little") + text


def _num_bytes(shape: tuple[int, ...], dtype: np.dtype) -> int:
    return math.prod(shape) * dtype.itemsize
