"""Finding the tiles of a kernel: JSON tables by kind of device, read once and checked when they are read."""

import contextlib
import contextvars
import dataclasses
import functools
import json
from collections.abc import Iterable, Iterator, Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from types import MappingProxyType
from typing import Any, NamedTuple

from samosa_kernels.tuning.config import ITEM_BYTES, KERNELS, TuningConfig

LENGTHS = (512, 1024, 2048, 4096, 8192, 16384)
HEAD_DIMS = (16, 32, 64, 128, 256)
# Chosen by time on the device; by what compiles for it without spilling, not timed; by neither.
ORIGINS = ("measured", "compiled", "untried")

# Opt-in shared memory of a block of threads: of compute capability 9.0, and of 8.6, the least since Ampere
# (CUDA C++ Programming Guide, technical specifications per compute capability).
HOPPER_SHARED_BYTES = 227 * 1024
LEAST_SHARED_BYTES = 99 * 1024

# By a word in the device kind, the tables to look in, in order; "GH200" has the word "H200".
TABLES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("H200", ("h200", "h100", "default")),
    ("H100", ("h100", "default")),
    ("H800", ("h100", "default")),
    ("H20", ("h100", "default")),
    ("", ("default",)),
)


class Entry(NamedTuple):
    """A line of a table."""

    kernel: str
    dtype: str
    head_dim: int
    length: int  # of the queries, or of decoding the cache, from which on it holds
    tuning: TuningConfig
    origin: str  # of ORIGINS
    milliseconds: float | None  # of one call of `programs.make_program`, where it is measured


_overrides: contextvars.ContextVar[Mapping[str, TuningConfig]] = contextvars.ContextVar(
    "tuning overrides", default=MappingProxyType({})
)


def find_tuning(kernel: str, *, device_kind: str, dtype: str, head_dim: int, length: int) -> TuningConfig:
    """The tiles for a kernel of tuning.KERNELS on a device, for that many queries (of decoding: keys).

    Of the first table of the device that has the kernel for the dtype: the entry of the least head width that
    is no smaller, because tiles that fit a wide head fit a narrow one, and of the greatest length that is no
    greater. ValueError if no table has one.
    """
    chosen = _overrides.get().get(kernel)
    if chosen is not None:
        return chosen
    for name in tables_of(device_kind):
        entry = nearest_entry(load_table(name), kernel, dtype=dtype, head_dim=head_dim, length=length)
        if entry is not None:
            return entry.tuning
    raise ValueError(f"no tuning for {kernel} in {dtype} at head width {head_dim} on {device_kind!r}")


@contextlib.contextmanager
def tuning_override(chosen: Mapping[str, TuningConfig]) -> Iterator[None]:
    """Inside it find_tuning gives these kernels these tiles, on every device; it may be nested.

    jax.jit does not know what a function was traced with: call jax.clear_caches() before tracing again what
    was traced with other tiles. ValueError on tiles that a kernel cannot run with.
    """
    for kernel, tuning in chosen.items():
        tuning.check(kernel)
    token = _overrides.set({**_overrides.get(), **chosen})
    try:
        yield
    finally:
        _overrides.reset(token)


def tables_of(device_kind: str) -> tuple[str, ...]:
    """The names of the tables to look in for a device, in order."""
    return next(names for word, names in TABLES if word in device_kind)


def nearest_entry(
    entries: tuple[Entry, ...], kernel: str, *, dtype: str, head_dim: int, length: int
) -> Entry | None:
    """The entry of one table that find_tuning means, or None."""
    fitting = [e for e in entries if e.kernel == kernel and e.dtype == dtype and e.head_dim >= head_dim]
    narrowest = min((entry.head_dim for entry in fitting), default=None)
    by_length = sorted((e for e in fitting if e.head_dim == narrowest), key=lambda entry: entry.length)
    shorter = [entry for entry in by_length if entry.length <= length]
    return shorter[-1] if shorter else next(iter(by_length), None)


@functools.cache
def load_table(name: str) -> tuple[Entry, ...]:
    """The entries of a table of this package, none if it is not there yet. ValueError if one is wrong."""
    file = resources.files("samosa_kernels.tuning") / "tables" / f"{name}.json"
    return read_table(file) if file.is_file() else ()


def read_table(file: Traversable) -> tuple[Entry, ...]:
    """The entries of a table file. ValueError, naming file and entry, if one is wrong."""
    limit = LEAST_SHARED_BYTES if file.name == "default.json" else HOPPER_SHARED_BYTES
    try:
        lines = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"tuning table {file}: {error}") from error
    if not isinstance(lines, list):
        raise ValueError(f"tuning table {file} is not a list of entries")
    entries: list[Entry] = []
    for number, line in enumerate(lines):
        try:
            entry = _read_entry(line, limit)
            if any(entry[:4] == other[:4] for other in entries):
                raise ValueError("the table has another for the same kernel, dtype, head_dim and length")
        except ValueError as error:
            raise ValueError(f"tuning table {file}, entry {number} {json.dumps(line)}: {error}") from error
        entries.append(entry)
    return tuple(entries)


def format_table(entries: Iterable[Entry]) -> str:
    """The text of a table, an entry to a line, in the order of KERNELS."""
    kernels = list(KERNELS)
    lines = []
    for entry in sorted(entries, key=lambda e: (kernels.index(e.kernel), e.dtype, e.head_dim, e.length)):
        line = {
            "kernel": entry.kernel,
            "dtype": entry.dtype,
            "head_dim": entry.head_dim,
            "length": entry.length,
            **dataclasses.asdict(entry.tuning),
            "from": entry.origin,
        }
        if entry.milliseconds is not None:
            line["milliseconds"] = entry.milliseconds
        lines.append(json.dumps(line))
    return "[\n  " + ",\n  ".join(lines) + "\n]\n"


def _read_entry(line: Any, limit: int) -> Entry:
    tiles = [field.name for field in dataclasses.fields(TuningConfig)]
    if not isinstance(line, dict):
        raise ValueError("it is no object")
    expected = ["kernel", "dtype", "head_dim", "length", *tiles, "from"]
    if line.get("from") == "measured":
        expected.append("milliseconds")
    if sorted(line) != sorted(expected):
        raise ValueError(f"its keys must be {', '.join(expected)}")
    for name, known in (
        ("kernel", tuple(KERNELS)),
        ("dtype", tuple(ITEM_BYTES)),
        ("head_dim", HEAD_DIMS),
        ("length", LENGTHS),
        ("from", ORIGINS),
    ):
        if line[name] not in known:
            raise ValueError(f"{name} is {line[name]!r}; it must be one of {', '.join(map(str, known))}")
    for name in tiles:
        if type(line[name]) is not int:
            raise ValueError(f"{name} is {line[name]!r}; it must be an integer")
    milliseconds = line.get("milliseconds")
    if milliseconds is None:
        if line["from"] == "measured":
            raise ValueError("milliseconds is null; it must be a positive number")
    elif type(milliseconds) not in (int, float) or not milliseconds > 0:
        raise ValueError(f"milliseconds is {milliseconds!r}; it must be a positive number")
    kernel, dtype, head_dim = line["kernel"], line["dtype"], line["head_dim"]
    tuning = TuningConfig(**{name: line[name] for name in tiles})
    tuning.check(kernel)
    shared = tuning.shared_bytes(kernel, head_dim=head_dim, dtype=dtype)
    limit = HOPPER_SHARED_BYTES if kernel.startswith("hopper") else limit
    if shared > limit:
        raise ValueError(f"its tiles need {shared} bytes of shared memory, of {limit}")
    return Entry(kernel, dtype, head_dim, line["length"], tuning, line["from"], milliseconds)
