"""Token shards on disk: `ShardSet` reads a prepared folder through memory maps.

A shard is two NumPy files: `NAME.tokens.npy`, the tokens of its documents one after another (uint16, or
uint32 for vocabularies above 65 536), and `NAME.documents.npy`, one row per document. Conversations have a
third, `NAME.roles.npy`, one byte per token. Shards are never changed once written; `docs/data.md` has the
whole format.
"""

import bisect
import functools
import hashlib
import io
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from samosa_jax.data.manifest import (
    TOKENIZER_FOLDER,
    Manifest,
    ShardEntry,
    Split,
    check_file,
    load_manifest,
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
