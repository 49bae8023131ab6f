"""Writes a model in a format of others, reads it back, and only then gives it its name.

What is written stands in a folder beside the final one until it is verified; if it is not what was trained,
nothing is left. `samosa.json` in the folder says what every file and tensor is, and holds the ModelConfig.
"""

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from samosa_jax.config import to_dict
from samosa_jax.convert import nanochat_format
from samosa_jax.convert.expected import ask, expected_answers, tensor_digests
from samosa_jax.convert.exported import ExportedModel
from samosa_jax.convert.extras import require_packages
from samosa_jax.convert.gguf_format import GGUF_FILE, check_gguf, gguf_layout, read_gguf_tensor, write_gguf
from samosa_jax.convert.hf_format import hf_files, hf_layout, write_hf
from samosa_jax.convert.layout import Layout
from samosa_jax.convert.lineage import Stage
from samosa_jax.convert.model_card import model_card
from samosa_jax.convert.own_export import RECORD_VERSION
from samosa_jax.convert.questions import Answers, Questions
from samosa_jax.convert.safetensors_files import open_tensors
from samosa_jax.convert.safetensors_writing import SHARD_BYTES
from samosa_jax.convert.torch_format import TORCH_FILES, torch_layout, write_torch
from samosa_jax.convert.verification import MismatchError, Verification, compare, read_in_fresh_process
from samosa_jax.data.manifest import TOKENIZER_FOLDER, hash_file
from samosa_jax.errors import UserError
from samosa_jax.training.run_folder import EXPORT_RECORD

Format = Literal["hf", "torch", "gguf", "nanochat"]
Reader = Callable[[str, Path, Questions], Answers]
CARD = "README.md"


@dataclass(frozen=True)
class FileFormat:
    """How one format is written, and what it has to hold."""

    write: Callable[..., None]  # (model, folder, shard_bytes=)
    layout: Callable[[ExportedModel], Layout]
    files: Callable[[ExportedModel], Sequence[str]]
    read_tensor: Callable[[Path, str], np.ndarray]
    extra: str  # of samosa-jax, which brings the packages:
    writes_with: tuple[str, ...] = ()
    reads_with: tuple[str, ...] = ()
    check: Callable[[ExportedModel], None] = lambda model: None  # raises UserError for what it cannot hold


def _read_safetensors(folder: Path, name: str) -> np.ndarray:
    return open_tensors(folder)[name]


FORMATS: dict[str, FileFormat] = {
    "hf": FileFormat(
        write_hf,
        hf_layout,
        hf_files,
        _read_safetensors,
        extra="torch",
        writes_with=("transformers",),
        reads_with=("torch", "tokenizers"),
    ),
    "torch": FileFormat(
        write_torch,
        torch_layout,
        lambda model: TORCH_FILES,
        _read_safetensors,
        extra="torch",
        reads_with=("torch", "safetensors", "tokenizers"),
    ),
    "gguf": FileFormat(
        write_gguf,
        lambda model: model.layout_of(gguf_layout),
        lambda model: (GGUF_FILE,),
        read_gguf_tensor,
        extra="gguf",
        writes_with=("gguf",),
        reads_with=("torch", "transformers", "accelerate"),
        check=check_gguf,
    ),
    "nanochat": FileFormat(
        nanochat_format.write,
        nanochat_format.nanochat_format_layout,
        nanochat_format.nanochat_files,
        nanochat_format.read_tensor,
        extra="torch",
        writes_with=("torch", "tiktoken"),
        check=nanochat_format.check,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written."""

    folder: Path
    architecture: str
    num_bytes: int
    verification: Verification | None  # None: nobody looked


def export(
    model: ExportedModel,
    folder: Path,
    *,
    format: Format,
    lineage: Sequence[Stage],
    verify: bool = True,
    overwrite: bool = False,
    shard_bytes: int = SHARD_BYTES,
) -> Exported:
    """Writes the model as `folder`.

    Args:
        overwrite: an older export of that name may be replaced; anything else is never touched.

    Raises:
        MismatchError: what was read back is not the model.
        UserError: the format cannot hold the model, a package is missing, or the folder is taken.
    """
    wanted = FORMATS[format]
    wanted.check(model)
    packages = (*wanted.writes_with, *(wanted.reads_with if verify else ()))
    require_packages(packages, extra=wanted.extra, purpose=f"--format={format}")
    check_destination(folder, overwrite=overwrite)
    with _unfinished(folder) as place:
        try:
            write_folder(model, place, format=format, lineage=lineage, shard_bytes=shard_bytes)
            verification = verify_folder(model, place, format=format) if verify else None
            num_bytes = _write_record(model, place, format=format, lineage=lineage, verification=verification)
            _put(place, folder)
        except OSError as error:
            raise UserError(
                f"{folder} cannot be written ({error.strerror or error}); make room, or choose another --out"
            ) from error
    return Exported(
        folder=folder,
        architecture=model.known_as(format),
        num_bytes=num_bytes,
        verification=verification,
    )


def write_folder(
    model: ExportedModel, folder: Path, *, format: Format, lineage: Sequence[Stage], shard_bytes: int
) -> None:
    """Writes all of it but the record into an existing empty folder."""
    FORMATS[format].write(model, folder, shard_bytes=shard_bytes)
    (folder / CARD).write_text(model_card(model, lineage, format=format), encoding="utf-8")
    # The tokenizer as it is here, for the way back: its files elsewhere cannot say everything.
    (folder / TOKENIZER_FOLDER).mkdir()
    model.tokenizer.save(folder / TOKENIZER_FOLDER)


def verify_folder(
    model: ExportedModel,
    folder: Path,
    *,
    format: Format,
    questions: Questions | None = None,
    read: Reader = read_in_fresh_process,
) -> Verification:
    """Raises MismatchError, which names it, if anything in the folder is not the model.

    Args:
        questions: what is asked; None: everything of `ask`.
        read: answers questions from the folder in a format.
    """
    layout = FORMATS[format].layout(model)
    for name in FORMATS[format].files(model):
        if not (folder / name).exists():
            raise MismatchError(f"{folder}: {name} is missing, which the format {format} needs")
    questions = questions or ask(model)
    ours = expected_answers(model, layout, questions)
    theirs = read(format, folder, questions)
    return compare(
        model,
        layout,
        questions,
        ours=ours,
        theirs=theirs,
        folder=folder,
        read_tensor=FORMATS[format].read_tensor,
    )


def check_destination(folder: Path, *, overwrite: bool) -> None:
    """Raises UserError if the folder is taken, unless by an export that may be replaced."""
    if not folder.exists():
        return
    if not (folder / EXPORT_RECORD).exists():
        raise UserError(
            f"{folder} exists and is no export ({EXPORT_RECORD} is not in it); choose another --out"
        )
    if not overwrite:
        raise UserError(f"{folder} holds an export already; choose another --out, or add --overwrite")


@contextmanager
def _unfinished(folder: Path) -> Iterator[Path]:
    """An empty folder beside the final one, which is gone afterwards."""
    place = folder.with_name(f".{folder.name}.unfinished")
    try:
        shutil.rmtree(place, ignore_errors=True)  # left by an export that was killed
        place.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"{place} cannot be written ({error.strerror}); choose another --out") from error
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _put(place: Path, folder: Path) -> None:
    """Gives what is finished its name; an export that had it before goes, once the new one has it."""
    replaced = folder.with_name(f".{folder.name}.replaced")
    if folder.exists():
        shutil.rmtree(replaced, ignore_errors=True)
        folder.rename(replaced)
    try:
        place.rename(folder)
    except OSError:
        if replaced.exists():
            replaced.rename(folder)
        raise
    shutil.rmtree(replaced, ignore_errors=True)


def _write_record(
    model: ExportedModel,
    folder: Path,
    *,
    format: Format,
    lineage: Sequence[Stage],
    verification: Verification | None,
) -> int:
    """Writes samosa.json; returns the bytes of all files."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    record: dict[str, Any] = {
        "version": RECORD_VERSION,
        "format": format,
        "architecture": model.known_as(format),
        "name": model.name,
        "checkpoint_sha256": lineage[0].checkpoint_sha256 if lineage else "",  # of its seal
        "dtype": model.dtype,
        "parameters": model.num_params,
        "tokenizer": model.tokenizer.fingerprint,
        "verified": None if verification is None else dataclasses.asdict(verification),
        "model": to_dict(model.network.config),
        "files": {path.relative_to(folder).as_posix(): hash_file(path) for path in files},
        # Of the numbers in float32.
        "tensors": tensor_digests(model, FORMATS[format].layout(model)),
    }
    (folder / EXPORT_RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return sum(path.stat().st_size for path in files)
