"""Reads `tokenizer.pkl` of nanochat, a pickled `tiktoken.Encoding`, without running what it says.

A pickle is a program: loading one from a stranger can do anything. Here the only thing it may name is
`Encoding`, in whose place a record stands that takes values and does nothing.
"""

import io
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from samosa_jax.convert.bpe_merges import find_merges
from samosa_jax.convert.tokenizer_json import added_token
from samosa_jax.data.imported_tokenizer import byte_alphabet
from samosa_jax.errors import UserError

_ENCODINGS = {("tiktoken.core", "Encoding"), ("tiktoken", "Encoding")}


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """What defines a tiktoken encoding."""

    pattern: str  # what text is split by
    ranks: dict[bytes, int]  # of ordinary tokens; a rank is also the id
    specials: dict[str, int]


def read_tiktoken_pickle(path: Path) -> Encoding:
    """Raises UserError if the file is missing, damaged, names anything but an Encoding, or is incomplete."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror}; name the folder with tokenizer.pkl"
        ) from error
    try:
        found = _Unpickler(io.BytesIO(data), path).load()
    except UserError:
        raise
    except Exception as error:  # a damaged pickle can fail in any way
        raise UserError(
            f"{path} is not a readable pickle ({type(error).__name__}: {error}); get the file again"
        ) from error
    state = found.state if isinstance(found, _Record) else None
    if isinstance(state, str):
        raise UserError(
            f"{path} only names the public encoding {state}, without its tokens; save that as tokenizer.json"
        )
    if not isinstance(state, dict):
        raise UserError(f"{path} holds no tiktoken.Encoding; get the tokenizer.pkl that nanochat has written")
    pattern: Any = state.get("pat_str")
    ranks: Any = state.get("mergeable_ranks")
    specials: Any = state.get("special_tokens")
    fault = _find_fault(pattern, ranks, specials)
    if fault is not None:
        raise UserError(f"{path} holds {fault}; get the tokenizer.pkl that nanochat has written")
    return Encoding(pattern=pattern, ranks=ranks, specials=specials)


def encoding_to_json(encoding: Encoding) -> dict[str, Any]:
    """The same as a tokenizer.json of byte-level BPE, read by the tokenizers library."""
    alphabet = byte_alphabet()

    def written(token: bytes) -> str:
        return "".join(map(alphabet.__getitem__, token))

    vocab = {written(token): rank for token, rank in encoding.ranks.items()}
    merges = find_merges(vocab, vocab)
    by_id = sorted(encoding.specials.items(), key=lambda item: item[1])
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [added_token(name, i) for name, i in by_id],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {
                    "type": "Split",
                    "pattern": {"Regex": encoding.pattern},
                    "behavior": "Isolated",
                    "invert": False,
                },
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
            ],
        },
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,  # tiktoken, too, looks a whole word up first
            "vocab": vocab,
            "merges": [list(pair) for pair in merges],
        },
    }


class _Record:
    """Stands where the pickle says Encoding."""

    state: object = None

    def __setstate__(self, state: object) -> None:
        self.state = state


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, path: Path) -> None:
        super().__init__(file)
        self._path = path

    def find_class(self, module_name: str, global_name: str, /) -> type[_Record]:
        if (module_name, global_name) in _ENCODINGS:
            return _Record
        raise self._refusal(f"{module_name}.{global_name}")

    def persistent_load(self, pid: object) -> NoReturn:
        raise self._refusal(f"the outside object {pid!r}")

    def _refusal(self, name: str) -> UserError:
        return UserError(
            f"{self._path} asks for {name}, which no tokenizer needs, so it was not read: do not trust this "
            "file; a tokenizer.pkl may name tiktoken's Encoding alone"
        )


def _find_fault(pattern: Any, ranks: Any, specials: Any) -> str | None:
    """What is wrong with the state of an Encoding."""
    if not isinstance(pattern, str):
        return "an Encoding without a pattern (pat_str)"
    if not (_maps(ranks, bytes) and _maps(specials, str)):
        return "an Encoding without tables of tokens (mergeable_ranks, special_tokens)"
    ids = [*ranks.values(), *specials.values()]
    if len(set(ids)) != len(ids) or min(ids, default=-1) < 0:
        return "an Encoding in which two tokens have one id, or a token none"
    return None


def _maps(table: object, key_type: type) -> bool:
    return isinstance(table, dict) and all(
        isinstance(key, key_type) and type(value) is int for key, value in table.items()
    )
