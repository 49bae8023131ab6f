"""`manifest.json`: what a folder of token shards holds, and the only proof that a shard is complete.

A shard exists when the manifest names it. The manifest is replaced atomically after the files it names
are on disk, so a reader sees a whole state at any moment and a killed writer loses at most one shard.
It holds no times and no machine names: the same text prepared twice gives the same bytes.
"""

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from samosa_jax.errors import UserError

FORMAT = "samosa-shards"
FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"
TOKENIZER_FOLDER = "tokenizer"
DOWNLOAD_FOLDER = "downloads"  # hub files between arriving and being read
_USERS_TO_MEND = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.EEXIST)

Split = Literal["train", "val"]
# What a document is: text; a conversation, every token with its role; or a side of a preference pair, the
# chosen one first.
Content = Literal["text", "conversations", "preferences"]


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """One file, by its path inside the folder."""

    name: str
    num_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """One immutable shard: its tokens, and a table with one row per document."""

    split: Split
    generation: int  # index into Manifest.generations
    num_documents: int
    num_tokens: int
    num_text_bytes: int  # UTF-8 bytes of the text the tokens stand for
    tokens: FileEntry
    documents: FileEntry
    roles: FileEntry | None = None  # of the tokens; None: text has none

    @property
    def files(self) -> tuple[FileEntry, ...]:
        return (self.tokens, self.documents, *([] if self.roles is None else [self.roles]))


@dataclass(frozen=True, kw_only=True)
class GenerationEntry:
    """One run of `prepare`: the first writes generation 0, each `--append` adds one."""

    inputs: tuple[str, ...]  # as the user named them
    files: tuple[dict[str, Any], ...]  # name and size of every file they stood for, in reading order
    options: dict[str, Any]  # what decides the bytes of the shards
    complete: bool
    position: dict[str, int]  # where reading goes on after the last shard
    statistics: dict[str, int]  # rows read, and kept or dropped by reason, up to that position


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a prepared folder holds: how its tokens are written, and every shard of every generation."""

    dtype: Literal["uint16", "uint32"]
    vocab_size: int
    bos_id: int
    tokenizer_fingerprint: str
    content: Content = "text"
    tokenizer_files: tuple[FileEntry, ...] = ()
    validation: dict[str, Any] = field(default_factory=dict)  # the rule that holds documents out
    generations: tuple[GenerationEntry, ...] = ()
    shards: tuple[ShardEntry, ...] = ()

    @property
    def complete(self) -> bool:
        """False while `prepare` is still writing, or was interrupted."""
        return bool(self.generations) and all(generation.complete for generation in self.generations)

    def select(self, split: Split, *, generations: tuple[int, ...] | None = None) -> tuple[ShardEntry, ...]:
        """The shards of a split in document order."""
        return tuple(
            shard
            for shard in self.shards
            if shard.split == split and (generations is None or shard.generation in generations)
        )

    @property
    def files(self) -> tuple[FileEntry, ...]:
        """Every file the folder must hold beside the manifest."""
        shard_files = [entry for shard in self.shards for entry in shard.files]
        return (*self.tokenizer_files, *shard_files)


def load_manifest(folder: Path) -> Manifest:
    """Reads and checks `folder/manifest.json`; UserError when it is absent, broken or of another format."""
    path = folder / MANIFEST_NAME
    try:
        raw = json.loads(path.read_bytes())
    except FileNotFoundError:
        reason = "the folder does not exist" if not folder.exists() else f"it has no {MANIFEST_NAME}"
        raise UserError(
            f"{folder}: no prepared data here ({reason}); write it with `python -m samosa_jax.prepare "
            f"--input TEXT --tokenizer DIR --out {folder}`"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a readable manifest ({error}); prepare the folder again") from None
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        raise UserError(f"{path}: not a manifest of token shards (format is not {FORMAT!r})")
    if raw.get("version") != FORMAT_VERSION:
        raise UserError(
            f"{path}: format version {raw.get('version')}, this program reads version {FORMAT_VERSION}; "
            "prepare the folder again"
        )
    try:
        return _from_json(raw)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path}: the manifest is damaged ({type(error).__name__}: {error}); prepare the folder again"
        ) from None


def save_manifest(folder: Path, manifest: Manifest) -> None:
    """Replaces `folder/manifest.json` in one step."""
    body = {"format": FORMAT, "version": FORMAT_VERSION, "complete": manifest.complete}
    body |= dataclasses.asdict(manifest)
    write_atomically(folder / MANIFEST_NAME, (json.dumps(body, indent=1, ensure_ascii=False) + "\n").encode())


def check_file(folder: Path, entry: FileEntry, *, verify: bool = False) -> None:
    """UserError when the file is missing, has another size or (with `verify`) another SHA-256."""
    path = folder / entry.name
    mend = "prepare the folder again, or restore the file from a copy"
    try:
        num_bytes = path.stat().st_size
    except FileNotFoundError:
        raise UserError(f"{path}: missing, though the manifest names it; {mend}") from None
    if num_bytes != entry.num_bytes:
        what = "truncated" if num_bytes < entry.num_bytes else "too long"
        raise UserError(
            f"{path}: {what}, {num_bytes} bytes where the manifest says {entry.num_bytes}; {mend}"
        )
    if verify and (found := hash_file(path)) != entry.sha256:
        raise UserError(
            f"{path}: contents changed, SHA-256 {found[:12]} where the manifest says "
            f"{entry.sha256[:12]}; {mend}"
        )


def hash_file(path: Path) -> str:
    """Hex SHA-256 of a file's contents."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, *parts: bytes | memoryview) -> FileEntry:
    """Writes a file that appears whole or not at all, even if the machine loses power.

    Returns:
      The entry for the manifest, with the path's last part as its name.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    digest = hashlib.sha256()
    num_bytes = 0
    with open(temporary, "wb") as file:
        for part in parts:
            digest.update(part)
            num_bytes += file.write(part)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_folder(path.parent)
    return FileEntry(name=path.name, num_bytes=num_bytes, sha256=digest.hexdigest())


def sync_folder(folder: Path) -> None:
    """Makes renames in the folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def naming_unwritable(folder: Path) -> Iterator[None]:
    """Turns "no space left", "permission denied" and the like into a UserError that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in _USERS_TO_MEND:
            raise
        raise UserError(
            f"{folder}: cannot write ({error.strerror}); what was written before is whole; mend that, or "
            "name another place, and run the same command again"
        ) from error


def list_tokenizer(source: Path) -> tuple[FileEntry, ...]:
    """The files of a tokenizer folder, under the names they get in a prepared folder."""
    return tuple(
        FileEntry(
            name=f"{TOKENIZER_FOLDER}/{path.name}", num_bytes=path.stat().st_size, sha256=hash_file(path)
        )
        for path in sorted(source.iterdir())
        if path.is_file() and not path.name.startswith(".")
    )


def _from_json(raw: Mapping[str, Any]) -> Manifest:
    files = ("tokens", "documents", "roles")
    shards = tuple(
        ShardEntry(**(shard | {key: FileEntry(**shard[key]) for key in files if shard.get(key)}))
        for shard in raw["shards"]
    )
    generations = tuple(
        GenerationEntry(**(entry | {"inputs": tuple(entry["inputs"]), "files": tuple(entry["files"])}))
        for entry in raw["generations"]
    )
    if raw["dtype"] not in ("uint16", "uint32"):
        raise ValueError(f"dtype is {raw['dtype']!r}")
    content = raw.get("content", "text")
    if content not in get_args(Content):
        raise ValueError(f"content is {content!r}")
    if any((shard.roles is None) != (content == "text") for shard in shards):
        raise ValueError(f"content is {content!r}, which its shards' files do not fit")
    manifest = Manifest(
        dtype=raw["dtype"],
        vocab_size=int(raw["vocab_size"]),
        bos_id=int(raw["bos_id"]),
        tokenizer_fingerprint=raw["tokenizer_fingerprint"],
        content=content,
        tokenizer_files=tuple(FileEntry(**entry) for entry in raw["tokenizer_files"]),
        validation=raw["validation"],
        generations=generations,
        shards=shards,
    )
    if raw["complete"] != manifest.complete:
        raise ValueError("'complete' disagrees with the generations")
    return manifest
