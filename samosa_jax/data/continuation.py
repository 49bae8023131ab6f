"""Going on with a folder of shards: one writer at a time, and only with what the folder was begun with."""

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from samosa_jax.data.holdout import ValidationRule
from samosa_jax.data.hub import SCHEME
from samosa_jax.data.manifest import (
    MANIFEST_NAME,
    TOKENIZER_FOLDER,
    GenerationEntry,
    Manifest,
    check_file,
    load_manifest,
    naming_unwritable,
    save_manifest,
)
from samosa_jax.data.sources import InputFile
from samosa_jax.errors import UserError

_LEFTOVER = re.compile(r"(train|val)-\d+\.(tokens|documents|roles)\.npy|\..*\.tmp")


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One writer per folder, which is made if need be; the lock goes with the process, however it ends."""
    with naming_unwritable(folder):
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{folder}: is a file; --out names a folder")
        is_new = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise UserError(
            f"{folder}: another `prepare` is writing here; wait for it, or choose another --out"
        ) from None
    try:
        yield
    finally:
        os.close(descriptor)
        if is_new and not any(folder.iterdir()):
            folder.rmdir()  # a mistake was found before anything was written


def check_outside(folder: Path, inputs: Sequence[str]) -> None:
    """UserError if the folder lies inside an input, whose files would then be joined by its own."""
    for given in inputs:
        if Path(given).is_dir() and folder.resolve().is_relative_to(Path(given).resolve()):
            raise UserError(f"--out {folder} lies inside the input {given}; choose a folder beside it")


def begun(folder: Path) -> Manifest | None:
    """The manifest to go on from, after removing what a killed writer left; None: nothing was written yet.

    A newest generation without shards is taken back, so that it may start afresh, with other options too.
    """
    if not (folder / MANIFEST_NAME).exists():
        return None
    manifest = load_manifest(folder)
    newest = len(manifest.generations) - 1
    if not manifest.complete and all(shard.generation != newest for shard in manifest.shards):
        manifest = replace(manifest, generations=manifest.generations[:-1])
    named = {entry.name for entry in manifest.files}
    for path in folder.iterdir():
        if _LEFTOVER.fullmatch(path.name) and path.name not in named:
            path.unlink()
    if not manifest.generations:
        _remove_empty(folder, manifest)
        return None
    for shard in manifest.shards:
        for entry in shard.files:
            check_file(folder, entry)
    if len(manifest.generations) == newest:
        save_manifest(folder, manifest)
    return manifest


def _remove_empty(folder: Path, manifest: Manifest) -> None:
    (folder / MANIFEST_NAME).unlink()
    for entry in manifest.tokenizer_files:
        (folder / entry.name).unlink(missing_ok=True)
    copies = folder / TOKENIZER_FOLDER
    if copies.is_dir():
        for path in copies.glob(".*.tmp"):
            path.unlink()
        copies.rmdir()


def hub_commits(generation: GenerationEntry) -> dict[str, str]:
    """repository -> commit of the hub files a generation reads."""
    names = (entry["name"] for entry in generation.files)
    pinned = (name.removeprefix(SCHEME).split("@", 1) for name in names if name.startswith(SCHEME))
    return {repo: rest.split("/", 1)[0] for repo, rest in pinned}


def check_same_folder(
    folder: Path, manifest: Manifest, *, tokenizer_dir: Path, tokenizer_fingerprint: str, rule: ValidationRule
) -> None:
    """UserError unless the tokenizer and the validation rule, which generations share, are the folder's."""
    if tokenizer_fingerprint != manifest.tokenizer_fingerprint:
        raise UserError(
            f"{folder}: was begun with tokenizer {manifest.tokenizer_fingerprint[:12]}, {tokenizer_dir} "
            f"is {tokenizer_fingerprint[:12]}; give --tokenizer {folder / TOKENIZER_FOLDER}, "
            "or choose another --out"
        )
    _check_equal(folder, recorded=manifest.validation, given=asdict(rule))


def equal_generation(
    manifest: Manifest, *, options: dict[str, Any], files: Sequence[InputFile]
) -> GenerationEntry | None:
    """The generation that was made of the same files with the same options."""
    described = tuple(file.description() for file in files)
    same = (entry for entry in manifest.generations if entry.files == described and entry.options == options)
    return next(same, None)


def check_same_generation(
    folder: Path,
    generation: GenerationEntry,
    *,
    inputs: Sequence[str],
    options: dict[str, Any],
    files: Sequence[InputFile],
) -> None:
    """UserError naming the first thing that differs from how the generation was begun."""
    mend = "add it with --append" if generation.complete else "give the same input to go on"
    if tuple(inputs) != generation.inputs:
        raise UserError(
            f"{folder}: was begun with --input {' '.join(generation.inputs)}, now it is {' '.join(inputs)}; "
            f"{mend}, or choose another --out"
        )
    _check_equal(folder, recorded=generation.options, given=options)
    before = {entry["name"]: entry for entry in generation.files}
    now = {file.name: file.description() for file in files}
    for name in [*before, *now]:
        if before.get(name) != now.get(name):
            what = "is gone" if name not in now else "is new" if name not in before else "has changed"
            raise UserError(
                f"{folder}: the input {name} {what} since the folder was begun; {mend}, "
                "or choose another --out"
            )


def _check_equal(folder: Path, *, recorded: dict[str, Any], given: dict[str, Any]) -> None:
    for key, value in given.items():
        if recorded.get(key) != value:
            raise UserError(
                f"{folder}: was begun with --{key.replace('_', '-')} {recorded.get(key)}, now it is {value}; "
                "give the same value to go on, or choose another --out"
            )
