"""Writing token shards: documents are collected in memory and become files that the manifest then names."""

import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from samosa_jax.data.manifest import (
    DOWNLOAD_FOLDER,
    MANIFEST_NAME,
    TOKENIZER_FOLDER,
    Content,
    FileEntry,
    GenerationEntry,
    Manifest,
    ShardEntry,
    Split,
    hash_file,
    list_tokenizer,
    naming_unwritable,
    save_manifest,
    write_atomically,
)
from samosa_jax.data.shards import DOCUMENT_DTYPE, content_hash
from samosa_jax.errors import UserError


class _PendingDocument(NamedTuple):
    tokens: np.ndarray
    digest: int
    num_text_bytes: int
    roles: np.ndarray | None


class ShardWriter:
    """Collects tokenized documents and commits them as shards of the manifest's newest generation.

    `add` puts documents into memory, `commit` writes what is there (at most one shard per split) and
    then the manifest. As a context manager it commits and marks the generation complete on a clean exit.
    """

    def __init__(self, folder: str | Path, manifest: Manifest) -> None:
        self.folder = Path(folder)
        self.manifest = manifest
        self._pending: dict[Split, list[_PendingDocument]] = {"train": [], "val": []}
        self.pending_tokens: dict[Split, int] = {"train": 0, "val": 0}

    @classmethod
    def create(
        cls,
        folder: str | Path,
        *,
        vocab_size: int,
        bos_id: int,
        tokenizer_fingerprint: str,
        content: Content = "text",
        tokenizer_dir: str | Path | None = None,
        validation: dict[str, Any] | None = None,
        inputs: Sequence[str] = (),
        files: Sequence[dict[str, Any]] = (),
        options: dict[str, Any] | None = None,
    ) -> "ShardWriter":
        """Starts a folder with one empty generation; the last three describe it (see GenerationEntry).

        Args:
          tokenizer_dir: copied into the folder, so that the shards can be read back as text anywhere.
          validation: the rule that chose the validation documents, kept in the manifest.

        Raises:
          UserError: the folder holds something already.
        """
        folder = Path(folder)
        leftovers = {f".{MANIFEST_NAME}.tmp", DOWNLOAD_FOLDER}  # of a writer killed before its first commit
        if folder.exists() and (not folder.is_dir() or {path.name for path in folder.iterdir()} - leftovers):
            raise UserError(f"{folder}: not an empty folder; choose another --out, or remove it")
        with naming_unwritable(folder):
            folder.mkdir(parents=True, exist_ok=True)
        manifest = Manifest(
            dtype="uint16" if vocab_size <= 1 << 16 else "uint32",
            vocab_size=vocab_size,
            bos_id=bos_id,
            tokenizer_fingerprint=tokenizer_fingerprint,
            content=content,
            tokenizer_files=() if tokenizer_dir is None else list_tokenizer(Path(tokenizer_dir)),
            validation=validation or {},
        )
        writer = cls(folder, manifest)
        writer.begin_generation(inputs=inputs, files=files, options=options)
        if tokenizer_dir is not None:
            writer.copy_tokenizer(Path(tokenizer_dir))
        return writer

    def begin_generation(
        self,
        *,
        inputs: Sequence[str] = (),
        files: Sequence[dict[str, Any]] = (),
        options: dict[str, Any] | None = None,
    ) -> None:
        """Documents added from here on belong to a new generation."""
        generation = GenerationEntry(
            inputs=tuple(inputs),
            files=tuple(files),
            options=options or {},
            complete=False,
            position={},
            statistics={},
        )
        self._save(dataclasses.replace(self.manifest, generations=(*self.manifest.generations, generation)))

    def add(
        self, tokens: np.ndarray | Sequence[int], *, split: Split = "train", text: bytes | None = None
    ) -> None:
        """Adds one document; tokens[0] must be `<|bos|>`. `text` is its UTF-8 text, hashed and counted."""
        array = np.asarray(tokens, dtype=self.manifest.dtype)
        digest = content_hash(array.tobytes() if text is None else text)
        self.add_hashed(array, split=split, digest=digest, num_text_bytes=0 if text is None else len(text))

    def add_hashed(
        self,
        tokens: np.ndarray,
        *,
        split: Split,
        digest: int,
        num_text_bytes: int,
        roles: np.ndarray | None = None,
    ) -> None:
        """`add` for one with the content_hash of the text; `roles`: a byte per token, unless text."""
        if len(tokens) == 0 or tokens[0] != self.manifest.bos_id:
            raise ValueError(f"a document must begin with token {self.manifest.bos_id}, got {tokens[:4]}")
        if (roles is None) != (self.manifest.content == "text"):
            raise ValueError(f"roles are given for conversations only, and this is {self.manifest.content}")
        self._pending[split].append(_PendingDocument(tokens, digest, num_text_bytes, roles))
        self.pending_tokens[split] += len(tokens)

    def commit(
        self, *, position: dict[str, int] | None = None, statistics: dict[str, int] | None = None
    ) -> None:
        """Writes the documents added since the last commit, then the manifest that names them."""
        self._commit(complete=False, position=position, statistics=statistics)

    def finish(
        self, *, position: dict[str, int] | None = None, statistics: dict[str, int] | None = None
    ) -> None:
        """The last commit: marks the generation complete."""
        self._commit(complete=True, position=position, statistics=statistics)

    def _commit(
        self, *, complete: bool, position: dict[str, int] | None, statistics: dict[str, int] | None
    ) -> None:
        with naming_unwritable(self.folder):
            new = [self._write_shard(split) for split in ("train", "val") if self._pending[split]]
        *earlier, generation = self.manifest.generations
        generation = dataclasses.replace(
            generation, complete=complete, position=position or {}, statistics=statistics or {}
        )
        self._save(
            dataclasses.replace(
                self.manifest, generations=(*earlier, generation), shards=(*self.manifest.shards, *new)
            )
        )
        self._pending = {"train": [], "val": []}
        self.pending_tokens = {"train": 0, "val": 0}

    def _write_shard(self, split: Split) -> ShardEntry:
        documents = self._pending[split]
        tokens = np.concatenate([document.tokens for document in documents])
        table = np.zeros(len(documents), DOCUMENT_DTYPE)
        table["offset"][1:] = np.cumsum([len(document.tokens) for document in documents])[:-1]
        table["hash"] = [document.digest for document in documents]
        name = f"{split}-{len(self.manifest.select(split)):05d}"
        roles = [document.roles for document in documents if document.roles is not None]
        return ShardEntry(
            split=split,
            generation=len(self.manifest.generations) - 1,
            num_documents=len(documents),
            num_tokens=len(tokens),
            num_text_bytes=sum(document.num_text_bytes for document in documents),
            tokens=_write_array(self.folder / f"{name}.tokens.npy", tokens),
            documents=_write_array(self.folder / f"{name}.documents.npy", table),
            roles=_write_array(self.folder / f"{name}.roles.npy", np.concatenate(roles)) if roles else None,
        )

    def copy_tokenizer(self, source: Path) -> None:
        """Makes the folder's copy of the tokenizer whole, as the manifest lists it."""
        with naming_unwritable(self.folder):
            (self.folder / TOKENIZER_FOLDER).mkdir(exist_ok=True)
            for entry in self.manifest.tokenizer_files:
                target = self.folder / entry.name
                if not target.exists() or hash_file(target) != entry.sha256:
                    write_atomically(target, (source / target.name).read_bytes())

    def _save(self, manifest: Manifest) -> None:
        with naming_unwritable(self.folder):
            save_manifest(self.folder, manifest)
        self.manifest = manifest

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.finish()


def _write_array(path: Path, array: np.ndarray) -> FileEntry:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
    return write_atomically(path, header.getvalue(), array.tobytes())
