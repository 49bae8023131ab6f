"""`Tokenizer`: text and bytes to token ids and back, exactly, by sentencepiece BPE with byte fallback.

A tokenizer is a folder with `tokenizer.model` (readable by plain sentencepiece) and `tokenizer_meta.json`
(`train_tokenizer` writes both). What sentencepiece itself would change, U+2581 (its mark for a space) and
bytes that are no UTF-8, goes through byte tokens here, so that every input comes back as it was.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from pathlib import Path

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


class Tokenizer:
    """Thread-safe and picklable. Ordinary text never becomes a special token, whatever it spells.

    Attributes:
        vocab_size: number of token ids, special tokens included.
        special_ids: id of every name in SPECIAL_TOKENS.
        bos_id: id of <|bos|>.
        token_bytes: int32 (vocab_size,), bytes each token stands for; 0 for special tokens.
        fingerprint: hex SHA-256 of the model and the special tokens.
        meta: what `train_tokenizer` recorded: corpus, sample and options; empty without a folder.
    """

    def __init__(self, model: bytes, meta: dict[str, object] | None = None) -> None:
        """model: a serialized sentencepiece model. Raises UserError if it lacks what exactness needs."""
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        except RuntimeError as error:
            raise UserError(f"not a sentencepiece model: {error}") from error
        self._model = model
        self.meta = meta or {}
        self.vocab_size = self._processor.vocab_size()
        pieces = [self._processor.id_to_piece(i) for i in range(self.vocab_size)]
        _check_pieces(self._processor, pieces)
        self.special_ids = {name: self._processor.piece_to_id(name) for name in SPECIAL_TOKENS}
        self.bos_id = self.special_ids[BOS]
        self._byte_ids = [self._processor.piece_to_id(f"<0x{value:02X}>") for value in range(256)]
        self._bytes = [self._bytes_of(i, piece) for i, piece in enumerate(pieces)]
        self._bytes_with_specials = list(self._bytes)
        for name, i in self.special_ids.items():
            self._bytes_with_specials[i] = name.encode()
        self.token_bytes = np.array([len(value) for value in self._bytes], np.int32)
        digest = hashlib.sha256(model)
        digest.update(json.dumps(self.special_ids, sort_keys=True).encode())
        self.fingerprint = digest.hexdigest()
        self._word_ids: dict[str, list[int]] = _WordIds(self._encode_word)

    def __reduce__(self) -> tuple[object, ...]:
        return Tokenizer, (self._model, self.meta)

    @staticmethod
    def load(folder: str | Path) -> "Tokenizer":
        """Reads a folder written by `train_tokenizer`. Raises UserError if it is missing or damaged."""
        folder = Path(folder)
        mend = "train it again with `python -m samosa_jax.train_tokenizer`"
        if not folder.is_dir():
            raise UserError(f"tokenizer folder {folder} does not exist; {mend}")
        try:
            model = (folder / MODEL_FILE).read_bytes()
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
                f"{folder / MODEL_FILE} is damaged or does not belong to {META_FILE}: "
                f"SHA-256 is {found}, expected {expected}; {mend}"
            )
        return Tokenizer(model, meta)

    def save(self, folder: Path) -> None:
        """Writes the two files into an existing folder. `tokenizer_training.write` does it atomically."""
        (folder / MODEL_FILE).write_bytes(self._model)
        own = {
            "vocab_size": self.vocab_size,
            "special_ids": self.special_ids,
            "model_sha256": hashlib.sha256(self._model).hexdigest(),
            "fingerprint": self.fingerprint,
        }
        text = json.dumps(own | self.meta | own, indent=2, ensure_ascii=False) + "\n"
        (folder / META_FILE).write_text(text, encoding="utf-8")

    def encode(self, text: str | bytes) -> list[int]:
        """Ids of ordinary text; no special token is added or recognised."""
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
        texts = list(texts)
        escaped = [escape(text) for text in texts]
        plain = [i for i, text in enumerate(escaped) if not UNSAFE.search(text)]
        encoded = self._processor.encode([escaped[i] for i in plain], num_threads=num_threads)
        ids_of = dict(zip(plain, encoded, strict=True))
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
        """The exact bytes that were encoded. Special tokens stand for none."""
        return _join(self._bytes, ids)

    def decode(self, ids: Sequence[int] | np.ndarray, *, show_specials: bool = False) -> str:
        """Text of ids; bytes that are no UTF-8 read U+FFFD. Special tokens are left out unless asked for."""
        return _join(self._bytes_with_specials if show_specials else self._bytes, ids).decode(
            "utf-8", "replace"
        )

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
