"""Token shards on disk: `ShardSet` reads a prepared folder through memory maps, `ShardWriter` makes one.

A shard is two NumPy files: `NAME.tokens.npy`, the tokens of its documents one after another (uint16, or
uint32 for vocabularies above 65 536), and `NAME.documents.npy`, one row per document. Conversations have a
third, `NAME.roles.npy`, one byte per token. Shards are never changed once written; `docs/data.md` has the
whole format.
"""

import bisect
import dataclasses
import functools
import hashlib
import io
import itertools
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
    check_file,
    hash_file,
    list_tokenizer,
    load_manifest,
    naming_full_disk,
    save_manifest,
    write_atomically,
)
from samosa_jax.errors import UserError

# `offset` counts tokens from the start of the shard; `hash` is `content_hash` of the document's text.
DOCUMENT_DTYPE = np.dtype([("offset", "<u8"), ("hash", "<u8")])
ROLE_DTYPE = np.dtype(np.uint8)


def content_hash(data: bytes) -> int:
    """64 bits of BLAKE2b: names a document's content for deduplication and for the validation split."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


class ShardSet:
    """The documents of one split, numbered from 0 in the order they were prepared.

    Opening reads the manifest and checks file sizes; tokens are mapped when first asked for. Later
    shards and generations only ever add documents at the end, so a number keeps its meaning.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        *,
        split: Split,
        generations: tuple[int, ...] | None,
        verify: bool,
    ) -> None:
        self.folder = folder
        self.split: Split = split
        self._generations = generations
        self._verify = verify
        self._maps: dict[int, np.ndarray] = {}
        self._role_maps: dict[int, np.ndarray] = {}
        self._tables: dict[int, np.ndarray] = {}
        self._shards: tuple[ShardEntry, ...] = ()
        self._take(manifest)

    @classmethod
    def open(
        cls,
        folder: str | Path,
        *,
        split: Split = "train",
        generations: Sequence[int] | None = None,
        verify: bool = False,
    ) -> "ShardSet":
        """Opens a folder written by `prepare`.

        Args:
          split: "train" or "val".
          generations: which runs of `prepare` to read (0 the first, one more per `--append`); None: all.
          verify: also compare every SHA-256 (reads everything once).

        Raises:
          UserError: no manifest, a missing, truncated or (with `verify`) changed file.
        """
        folder = Path(folder)
        manifest = load_manifest(folder)
        chosen = None if generations is None else tuple(sorted(set(generations)))
        if chosen is not None and any(not 0 <= index < len(manifest.generations) for index in chosen):
            raise UserError(
                f"{folder}: generations {list(chosen)} asked, it has 0..{len(manifest.generations) - 1}; "
                "leave `generations` unset to read all"
            )
        return cls(folder, manifest, split=split, generations=chosen, verify=verify)

    def refresh(self) -> bool:
        """Takes up the shards written since opening; True when there were any."""
        before = self.num_documents
        self._take(load_manifest(self.folder))
        return self.num_documents > before

    def _take(self, manifest: Manifest) -> None:
        shards = manifest.select(self.split, generations=self._generations)
        known = self._shards
        if shards[: len(known)] != known:
            raise UserError(
                f"{self.folder}: its shards were replaced while they were read; start again on the new data"
            )
        for shard in shards[len(known) :]:
            for entry in shard.files:
                check_file(self.folder, entry, verify=self._verify)
        self.manifest = manifest
        self._shards = shards
        self._first_document = list(itertools.accumulate((s.num_documents for s in shards), initial=0))
        self.__dict__.pop("document_lengths", None)

    @property
    def complete(self) -> bool:
        """False while `prepare` may still add shards to what is open here."""
        chosen = range(len(self.manifest.generations)) if self._generations is None else self._generations
        return self.manifest.complete or all(self.manifest.generations[index].complete for index in chosen)

    @property
    def num_documents(self) -> int:
        return self._first_document[-1]

    @property
    def num_tokens(self) -> int:
        return sum(shard.num_tokens for shard in self._shards)

    @functools.cached_property
    def document_lengths(self) -> np.ndarray:
        """int64, (num_documents,): tokens of every document, `<|bos|>` included."""
        lengths = [
            np.diff(self._table(index)["offset"].astype(np.int64), append=shard.num_tokens)
            for index, shard in enumerate(self._shards)
        ]
        return np.concatenate(lengths) if lengths else np.zeros(0, np.int64)

    @property
    def generation_bounds(self) -> tuple[tuple[int, int], ...]:
        """(first document, one past the last) for each generation that is open, in order."""
        chosen = range(len(self.manifest.generations)) if self._generations is None else self._generations
        bounds = []
        start = 0
        for generation in chosen:
            stop = start + sum(s.num_documents for s in self._shards if s.generation == generation)
            bounds.append((start, stop))
            start = stop
        return tuple(bounds)

    def document(self, index: int) -> np.ndarray:
        """The tokens of a document: a read-only uint16 or uint32 view into the file."""
        return self.tokens(index, 0, None)

    def tokens(self, index: int, start: int, stop: int | None) -> np.ndarray:
        """Tokens [start, stop) of a document, cut off at its end; None: to its end."""
        shard_index, begin, end = self._place(index)
        stop = end if stop is None else min(begin + stop, end)
        return self._map(shard_index)[min(begin + start, stop) : stop]

    def roles(self, index: int) -> np.ndarray:
        """A byte for each token of a document, as it was written; only where the content is not text."""
        shard_index, begin, end = self._place(index)
        if shard_index not in self._role_maps:
            shard = self._shards[shard_index]
            if shard.roles is None:
                raise ValueError(f"{self.folder} holds text, whose tokens have no roles")
            path = self.folder / shard.roles.name
            self._role_maps[shard_index] = _map_array(path, dtype=ROLE_DTYPE, length=shard.num_tokens)
        return self._role_maps[shard_index][begin:end]

    def _place(self, index: int) -> tuple[int, int, int]:
        """(shard, first token in it, one past the last) of a document."""
        if not 0 <= index < self.num_documents:
            raise IndexError(f"document {index} of {self.num_documents}")
        shard_index = bisect.bisect_right(self._first_document, index) - 1
        table = self._table(shard_index)
        row = index - self._first_document[shard_index]
        end = int(table["offset"][row + 1]) if row + 1 < len(table) else self._shards[shard_index].num_tokens
        return shard_index, int(table["offset"][row]), end

    @property
    def fingerprint(self) -> str:
        """Hex, changes with any byte of the documents open here."""
        digest = hashlib.sha256()
        for shard in self._shards:
            digest.update((" ".join(entry.sha256 for entry in shard.files) + "\n").encode())
        return digest.hexdigest()

    @property
    def tokenizer_fingerprint(self) -> str:
        return self.manifest.tokenizer_fingerprint

    @property
    def tokenizer_dir(self) -> Path:
        """The copy of the tokenizer the shards were made with."""
        return self.folder / TOKENIZER_FOLDER

    def __getstate__(self) -> dict[str, Any]:
        # A memory map would be pickled as its contents; the other process maps the files itself.
        return self.__dict__ | {"_maps": {}, "_role_maps": {}, "_tables": {}}

    def _map(self, shard_index: int) -> np.ndarray:
        if shard_index not in self._maps:
            shard = self._shards[shard_index]
            dtype = np.dtype(self.manifest.dtype)
            tokens = _map_array(self.folder / shard.tokens.name, dtype=dtype, length=shard.num_tokens)
            self._maps[shard_index] = tokens
        return self._maps[shard_index]

    def _table(self, shard_index: int) -> np.ndarray:
        if shard_index not in self._tables:
            shard = self._shards[shard_index]
            self._tables[shard_index] = load_document_table(self.folder, shard)
        return self._tables[shard_index]


def load_document_table(folder: Path, shard: ShardEntry) -> np.ndarray:
    """DOCUMENT_DTYPE, (num_documents,), mapped; UserError when it does not fit the manifest."""
    return _map_array(folder / shard.documents.name, dtype=DOCUMENT_DTYPE, length=shard.num_documents)


def _map_array(path: Path, *, dtype: np.dtype, length: int) -> np.ndarray:
    """A one-dimensional .npy file, mapped.

    The header is compared, not parsed: `np.load` parses it with `ast`, which on CPython 3.11 fails with
    SystemError when another thread uses `ast` at the same time, as reading threads do.
    """
    expected = io.BytesIO()
    descr = np.lib.format.dtype_to_descr(dtype)
    np.lib.format.write_array_header_1_0(
        expected, {"descr": descr, "fortran_order": False, "shape": (length,)}
    )
    try:
        with open(path, "rb") as file:
            version = np.lib.format.read_magic(file)
            header = file.read(int.from_bytes(file.read(2), "little"))
            if version == (1, 0) and header.strip() == expected.getvalue()[10:].strip():
                # A plain view: slices of a np.memmap cost several times as much.
                return np.memmap(file, dtype, "r", offset=file.tell(), shape=(length,)).view(np.ndarray)
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a readable shard ({error}); prepare the folder again") from None
    raise UserError(
        f"{path}: holds {found.dtype} {found.shape}, the manifest says {dtype} ({length},); "
        "prepare the folder again"
    )


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
        with naming_full_disk(folder):
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
        with naming_full_disk(self.folder):
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
        with naming_full_disk(self.folder):
            (self.folder / TOKENIZER_FOLDER).mkdir(exist_ok=True)
            for entry in self.manifest.tokenizer_files:
                target = self.folder / entry.name
                if not target.exists() or hash_file(target) != entry.sha256:
                    write_atomically(target, (source / target.name).read_bytes())

    def _save(self, manifest: Manifest) -> None:
        with naming_full_disk(self.folder):
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
