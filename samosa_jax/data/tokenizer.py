"""`Tokenizer`: text and bytes to token ids and back; `SentencePieceTokenizer`, the kind that is trained here.

A tokenizer is a folder with a model and `tokenizer_meta.json`. The model of a trained one, `tokenizer.model`,
is readable by plain sentencepiece (`train_tokenizer` writes it): BPE with byte fallback. What sentencepiece
itself would change, U+2581 (its mark for a space) and bytes that are no UTF-8, goes through byte tokens here,
so that every input comes back as it was. Those of other models are an `imported_tokenizer`.
"""

import abc
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import ClassVar

import numpy as np
import sentencepiece

from samosa_jax.errors import UserError

MODEL_FILE = "tokenizer.model"
META_FILE = "tokenizer_meta.json"
BOS = "<|bos|>"
SPECIAL_TOKENS = (
    BOS,
    "<|user_start|>",
    "<|user_end|>",
    "<|assistant_start|>",
    "<|assistant_end|>",
    "<|python_start|>",
    "<|python_end|>",
    "<|output_start|>",
    "<|output_end|>",
    "<think>",
    "</think>",
)
SPACE_MARK = "\u2581"  # sentencepiece writes a space as this character

# Characters that only byte tokens can carry. Surrogates stand for the bytes of invalid UTF-8 (PEP 383).
_UNSAFE = "\0\u2581\ud800-\udfff"
UNSAFE = re.compile(f"[{_UNSAFE}]")
# No token crosses the border of such a word (`_check_pieces`), so that words can be encoded one by one.
WORD = re.compile(f" *[^ \n\t{_UNSAFE}]+| +|\n+|\t+|[{_UNSAFE}]")

_REMEMBERED_WORDS = 1 << 18  # about 60 MB
_REMEMBERED_CHARS = 64  # longer words hardly ever come back


class Tokenizer(abc.ABC):
    """Thread-safe and picklable. Ordinary text never becomes a special token, whatever it spells.

    Attributes:
        vocab_size: number of token ids, special tokens included.
        special_ids: id of every name in SPECIAL_TOKENS.
        bos_id: id of <|bos|>.
        token_bytes: int32 (vocab_size,), bytes each token stands for; 0 for special tokens.
        fingerprint: hex SHA-256 of the model and the special tokens.
        meta: what is recorded beside the model: its corpus and options, or its origin; may be empty.
    """

    model_file: ClassVar[str]  # its name in the folder

    def __init__(
        self,
        model: bytes,
        meta: Mapping[str, object],
        *,
        table: list[bytes],
        special_ids: dict[str, int],
        names: Mapping[int, str],
    ) -> None:
        """For subclasses.

        Args:
            model: contents of the model's file.
            table: the bytes of every token, none for special tokens.
            names: of all special tokens, for those who want to see them.
        """
        self._model = model
        self.meta = dict(meta)
        self.vocab_size = len(table)
        self.special_ids = special_ids
        self.bos_id = special_ids[BOS]
        self._bytes = table
        self._bytes_with_specials = list(table)
        for i, name in names.items():
            self._bytes_with_specials[i] = name.encode()
        self.token_bytes = np.array([len(value) for value in table], np.int32)
        digest = hashlib.sha256(model)
        digest.update(json.dumps(special_ids, sort_keys=True).encode())
        self.fingerprint = digest.hexdigest()

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self._model, self.meta)

    @staticmethod
    def load(folder: str | Path) -> "Tokenizer":
        """Reads a folder that `save` has written. Raises UserError if it is missing or damaged."""
        from samosa_jax.data.imported_tokenizer import ImportedTokenizer  # which derives from this class

        folder = Path(folder)
        mend = "train it again with `python -m samosa_jax.train_tokenizer`"
        if not folder.is_dir():
            raise UserError(f"tokenizer folder {folder} does not exist; {mend}")
        kind: type[SentencePieceTokenizer | ImportedTokenizer] = SentencePieceTokenizer
        if (folder / ImportedTokenizer.model_file).exists() and not (folder / MODEL_FILE).exists():
            kind, mend = ImportedTokenizer, "import it again with `samosa import`"
        try:
            model = (folder / kind.model_file).read_bytes()
            meta = json.loads((folder / META_FILE).read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(
                f"tokenizer folder {folder} is incomplete: {error.strerror}: {error.filename}; {mend}"
            ) from error
        except ValueError as error:
            raise UserError(f"{folder / META_FILE} is not valid JSON ({error}); {mend}") from error
        found = hashlib.sha256(model).hexdigest()
        expected = meta.get("model_sha256") if isinstance(meta, dict) else None
        if found != expected:
            raise UserError(
                f"{folder / kind.model_file} is damaged or does not belong to {META_FILE}: "
                f"SHA-256 is {found}, expected {expected}; {mend}"
            )
        return kind(model, meta)

    def save(self, folder: Path) -> None:
        """Writes the two files into an existing folder. `tokenizer_training.write` does it atomically."""
        (folder / self.model_file).write_bytes(self._model)
        own = {
            "vocab_size": self.vocab_size,
            "special_ids": self.special_ids,
            "model_sha256": hashlib.sha256(self._model).hexdigest(),
            "fingerprint": self.fingerprint,
        }
        text = json.dumps(own | self.meta | own, indent=2, ensure_ascii=False) + "\n"
        (folder / META_FILE).write_text(text, encoding="utf-8")

    @property
    def model(self) -> bytes:
        """Contents of the model's file."""
        return self._model

    @abc.abstractmethod
    def encode(self, text: str | bytes) -> list[int]:
        """Ids of ordinary text; no special token is added or recognised."""

    @abc.abstractmethod
    def encode_batch(self, texts: Iterable[str | bytes], *, num_threads: int = 1) -> list[np.ndarray]:
        """`encode` of many texts, each an int32 array. Ids are the same with any number of threads."""

    def _encode_many(
        self,
        texts: Iterable[str | bytes],
        *,
        special_cases: re.Pattern[str],
        encode: Callable[[list[str]], list[list[int]]],
    ) -> list[np.ndarray]:
        """`encode_batch` by a library's own: it gets all texts at once in which no special case is found."""
        texts = list(texts)
        escaped = [escape(text) for text in texts]
        plain = [i for i, text in enumerate(escaped) if not special_cases.search(text)]
        ids_of = dict(zip(plain, encode([escaped[i] for i in plain]), strict=True))
        return [
            np.array(ids_of[i] if i in ids_of else self.encode(text), np.int32)
            for i, text in enumerate(texts)
        ]

    def encode_with_specials(self, text: str) -> list[int]:
        """As `encode`, but the names of special tokens become these tokens. For trusted text only."""
        ids: list[int] = []
        for part in _SPECIAL_NAMES.split(text):
            ids += [self.special_ids[part]] if part in self.special_ids else self.encode(part)
        return ids

    def decode_bytes(self, ids: Sequence[int] | np.ndarray) -> bytes:
        """The bytes that were encoded. Special tokens stand for none."""
        return _join(self._bytes, ids)

    def bytes_of(self, token: int) -> bytes:
        """`decode_bytes` of one token."""
        if not 0 <= token < len(self._bytes):
            raise ValueError(f"token id {token} is not among this tokenizer's 0..{len(self._bytes) - 1}")
        return self._bytes[token]

    def decode(self, ids: Sequence[int] | np.ndarray, *, show_specials: bool = False) -> str:
        """Text of ids; bytes that are no UTF-8 read U+FFFD. Special tokens are left out unless asked for."""
        return _join(self._bytes_with_specials if show_specials else self._bytes, ids).decode(
            "utf-8", "replace"
        )


class SentencePieceTokenizer(Tokenizer):
    """Exact: every text, and every sequence of bytes, comes back as it was.

    Attributes:
        pieces: what sentencepiece calls each token.
        unknown_id: of the token that sentencepiece wants for unknown text; nothing is encoded as it.
    """

    model_file = MODEL_FILE

    def __init__(self, model: bytes, meta: Mapping[str, object] | None = None) -> None:
        """model: a serialized sentencepiece model. Raises UserError if it lacks what exactness needs."""
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        except RuntimeError as error:
            raise UserError(f"not a sentencepiece model: {error}") from error
        self.pieces = pieces = [self._processor.id_to_piece(i) for i in range(self._processor.vocab_size())]
        self.unknown_id = self._processor.unk_id()
        _check_pieces(self._processor, pieces)
        special_ids = {name: self._processor.piece_to_id(name) for name in SPECIAL_TOKENS}
        super().__init__(
            model,
            meta or {},
            table=[self._bytes_of(i, piece) for i, piece in enumerate(pieces)],
            special_ids=special_ids,
            names={i: name for name, i in special_ids.items()},
        )
        self._byte_ids = [self._processor.piece_to_id(f"<0x{value:02X}>") for value in range(256)]
        self._word_ids: dict[str, list[int]] = _WordIds(self._encode_word)

    def encode(self, text: str | bytes) -> list[int]:
        words = WORD.findall(escape(text))
        return list(chain.from_iterable(map(self._word_ids.__getitem__, words)))

    def encode_batch(self, texts: Iterable[str | bytes], *, num_threads: int = 1) -> list[np.ndarray]:
        """`encode` of many texts, each an int32 array.

        One thread remembers the ids of words, which is 1.5 to 3 times as fast as sentencepiece; more
        threads are sentencepiece's own, free of the interpreter lock. Ids are the same.
        """
        if num_threads <= 1:
            lookup, find = self._word_ids.__getitem__, WORD.findall
            return [
                np.fromiter(chain.from_iterable(map(lookup, find(escape(text)))), np.int32) for text in texts
            ]
        return self._encode_many(
            texts,
            special_cases=UNSAFE,
            encode=lambda plain: self._processor.encode(plain, num_threads=num_threads),
        )

    def scores(self) -> dict[str, float]:
        """How early sentencepiece merges to each ordinary token, highest first; no specials, no bytes."""
        return {
            piece: self._processor.get_score(i)
            for i, piece in enumerate(self.pieces)
            if self._bytes[i] and not self._processor.is_byte(i)
        }

    def _bytes_of(self, i: int, piece: str) -> bytes:
        if self._processor.is_control(i) or self._processor.is_unknown(i):
            return b""
        if self._processor.is_byte(i):
            return bytes([int(piece[1:-1], 16)])
        return piece.replace(SPACE_MARK, " ").encode()

    def _encode_word(self, word: str) -> list[int]:
        if UNSAFE.match(word):
            return [self._byte_ids[value] for value in word.encode("utf-8", "surrogateescape")]
        return self._processor.encode(word)


_SPECIAL_NAMES = re.compile("(" + "|".join(map(re.escape, SPECIAL_TOKENS)) + ")")


class _WordIds(dict[str, list[int]]):
    """Ids of the words met so far; forgets them all when there are too many."""

    def __init__(self, encode_word: Callable[[str], list[int]]) -> None:
        super().__init__()
        self._encode_word = encode_word

    def __missing__(self, word: str) -> list[int]:
        ids = self._encode_word(word)
        if len(word) <= _REMEMBERED_CHARS:
            if len(self) >= _REMEMBERED_WORDS:
                self.clear()
            self[word] = ids
        return ids


def escape(text: str | bytes) -> str:
    """As a string whose every surrogate is one byte of invalid UTF-8 (PEP 383)."""
    if isinstance(text, str):
        if text.isascii() or not UNSAFE.search(text):
            return text
        text = text.encode("utf-8", "surrogatepass")
    return text.decode("utf-8", "surrogateescape")


def _join(table: list[bytes], ids: Sequence[int] | np.ndarray) -> bytes:
    ids = ids.tolist() if isinstance(ids, np.ndarray) else ids
    if len(ids) and not 0 <= min(ids) <= max(ids) < len(table):
        raise ValueError(f"token ids lie in {min(ids)}..{max(ids)}; this tokenizer has 0..{len(table) - 1}")
    return b"".join(map(table.__getitem__, ids))


def _check_pieces(processor: sentencepiece.SentencePieceProcessor, pieces: list[str]) -> None:
    """Raises UserError unless ids can be exact: specials, all bytes, and no token across a word's border."""
    absent = [name for name in SPECIAL_TOKENS if not processor.is_control(processor.piece_to_id(name))]
    if absent:
        raise UserError(
            f"the sentencepiece model has no control token {absent[0]}; use one of train_tokenizer"
        )
    if sum(map(processor.is_byte, range(len(pieces)))) != 256:
        raise UserError("the sentencepiece model has no byte fallback; use one made by train_tokenizer")
    for i, piece in enumerate(pieces):
        if not (processor.is_control(i) or processor.is_unknown(i)) and not WORD.fullmatch(
            piece.replace(SPACE_MARK, " ")
        ):
            raise UserError(
                f"token {i} of the sentencepiece model, {piece!r}, spans words; use one of train_tokenizer"
            )
