"""`ImportedTokenizer`: the tokenizer of another model, a `tokenizer.json` of Hugging Face's tokenizers.

`convert.tokenizer_import` makes it of what the other model has left; from there on it is a `Tokenizer` like
those trained here. Two kinds are known: BPE over bytes (GPT-2, Llama 3, Qwen, nanochat), and BPE over
characters with tokens for single bytes (Llama 2).
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from samosa_jax.data.tokenizer import SPACE_MARK, SPECIAL_TOKENS, Tokenizer, escape
from samosa_jax.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Library

IMPORTED_FILE = "tokenizer.json"
LIBRARY_HINT = "imported tokenizers need the library tokenizers: pip install 'samosa-jax[torch]'"
_SURROGATES = re.compile("([\ud800-\udfff]+)")  # each is a byte of invalid UTF-8
_BYTE_TOKEN = re.compile("<0x[0-9A-F]{2}>")


class ImportedTokenizer(Tokenizer):
    """Gives the ids that the tokenizers library gives for text without special tokens.

    Text comes back as it was but for what the tokenizer's own normalization changes (Qwen: Unicode's NFC).

    Attributes:
        special_names: what the tokenizer itself calls each of SPECIAL_TOKENS, as `<|begin_of_text|>`.
        pad_name: of the token to fill up batches with.
        num_new_rows: rows that the embedding of the other model lacks for this tokenizer; they come last.
    """

    model_file = IMPORTED_FILE

    def __init__(self, model: bytes, meta: Mapping[str, Any]) -> None:
        """
        Args:
            model: contents of tokenizer.json.
            meta: what `convert.tokenizer_import` has recorded: special_names, pad_name, vocab_size,
                origin.

        Raises:
            UserError: the library is missing, or the two do not fit or are of an unknown kind.
        """
        try:
            self.special_names: dict[str, str] = {
                name: meta["special_names"][name] for name in SPECIAL_TOKENS
            }
            vocab_size = int(meta["vocab_size"])
            self.pad_name = str(meta["pad_name"])
            self.num_new_rows = int(meta["origin"]["num_new_rows"])
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"the record of an imported tokenizer lacks {error}; import it again with `samosa import`"
            ) from error
        spec = read_spec(model)
        self._core = open_library(model)
        added = spec["added_tokens"]
        self._check_ids(added)
        token_ids: dict[str, int] = spec["model"]["vocab"] | {
            token["content"]: token["id"] for token in added
        }
        largest = max(token_ids.values())
        if largest >= vocab_size:
            raise UserError(
                f"{IMPORTED_FILE} has token {largest}, but the recorded vocabulary has {vocab_size} tokens; "
                "import it again with `samosa import`"
            )
        specials: dict[int, str] = {token["id"]: token["content"] for token in added if token["special"]}
        ours: dict[str, str] = {theirs: name for name, theirs in self.special_names.items()}
        missing = ours.keys() - set(specials.values())
        if missing:
            raise UserError(
                f"{IMPORTED_FILE} has no special token {min(missing)}; import it again with `samosa import`"
            )
        table = [b""] * vocab_size
        bytes_of = token_reader(spec)
        for content, i in token_ids.items():
            if i not in specials:
                table[i] = bytes_of(content)
        super().__init__(
            model,
            meta,
            table=table,
            special_ids={name: token_ids[theirs] for name, theirs in self.special_names.items()},
            names={i: ours.get(content, content) for i, content in specials.items()},
        )
        self._byte_ids = _byte_ids(spec, token_ids)
        # Special tokens are recognised by nobody but `encode_with_specials`.
        self._core.encode_special_tokens = True

    def encode(self, text: str | bytes) -> list[int]:
        escaped = escape(text)
        if escaped.isascii() or not _SURROGATES.search(escaped):
            return self._core.encode(escaped, add_special_tokens=False).ids
        ids: list[int] = []
        for part in filter(None, _SURROGATES.split(escaped)):
            if _SURROGATES.match(part):
                ids += [self._byte_ids[value] for value in part.encode("utf-8", "surrogateescape")]
            else:
                ids += self._core.encode(part, add_special_tokens=False).ids
        return ids

    def encode_batch(self, texts: Iterable[str | bytes], *, num_threads: int = 1) -> list[np.ndarray]:
        """`encode` of many texts, each an int32 array; the library itself counts its threads, if several."""
        if num_threads <= 1:
            return [np.array(self.encode(text), np.int32) for text in texts]

        def encode(plain: list[str]) -> list[list[int]]:
            return [found.ids for found in self._core.encode_batch_fast(plain, add_special_tokens=False)]

        return self._encode_many(texts, special_cases=_SURROGATES, encode=encode)

    def _check_ids(self, added: list[dict[str, Any]]) -> None:
        """The library numbers added tokens itself: after the vocabulary, without gaps."""
        for token in added:
            found = self._core.token_to_id(token["content"])
            if found != token["id"]:
                raise UserError(
                    f"{IMPORTED_FILE} gives the added token {token['content']} the id {token['id']}, where "
                    f"the tokenizers library reads {found}; number added tokens without gaps"
                )


def open_library(model: bytes) -> "Library":
    """The library's own tokenizer. Raises UserError if it is not installed or cannot read the model."""
    try:
        from tokenizers import Tokenizer as Library
    except ImportError as error:
        raise UserError(LIBRARY_HINT) from error
    try:
        return Library.from_str(model.decode())
    except Exception as error:  # the library raises nothing more special
        line = str(error).partition("\n")[0]
        raise UserError(
            f"the tokenizers library cannot read {IMPORTED_FILE} ({line}); get the file again, "
            "or a newer library"
        ) from error


def read_spec(model: bytes) -> dict[str, Any]:
    """The JSON of a tokenizer. Raises UserError unless it is BPE over all bytes, whose tokens can be read."""
    try:
        spec = json.loads(model)
    except ValueError as error:
        raise UserError(f"{IMPORTED_FILE} is not valid JSON ({error}); get the file again") from error
    kind = spec.get("model", {}).get("type") if isinstance(spec, dict) else None
    if kind != "BPE":
        raise UserError(f"{IMPORTED_FILE} holds a model of type {kind}; only BPE can be imported")
    for mark in ("continuing_subword_prefix", "end_of_word_suffix"):
        if spec["model"].get(mark):
            raise UserError(
                f"{IMPORTED_FILE} marks words by {mark} {spec['model'][mark]!r}; only BPE over text with its "
                "spaces can be imported"
            )
    parts = dict.fromkeys(("normalizer", "pre_tokenizer", "decoder"))
    return parts | spec | {"added_tokens": spec.get("added_tokens") or []}


def is_over_bytes(spec: Mapping[str, Any]) -> bool:
    """Whether every character of a token stands for one byte (GPT-2's alphabet)."""
    return any(step["type"] == "ByteLevel" for step in steps(spec["decoder"]))


def steps(part: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The steps of a normalizer, pre-tokenizer or decoder, in order."""
    if part is None:
        return []
    if part["type"] != "Sequence":
        return [dict(part)]
    inner = next(value for key, value in part.items() if key != "type")
    return [step for each in inner for step in steps(each)]


def byte_alphabet() -> dict[int, str]:
    """The printable character that GPT-2 writes for each byte: itself, or the next free one from U+0100."""
    printable = {
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    }
    others = [value for value in range(256) if value not in printable]
    return {value: chr(value) for value in printable} | {
        value: chr(0x100 + place) for place, value in enumerate(others)
    }


def token_reader(spec: Mapping[str, Any]) -> Callable[[str], bytes]:
    """What gives the bytes of an ordinary token. Raises UserError for a decoder of an unknown kind."""
    if is_over_bytes(spec):
        values = {character: value for value, character in byte_alphabet().items()}

        def over_bytes(token: str) -> bytes:
            # As the library does: a token with a character outside of the alphabet stands for itself.
            return bytes(map(values.__getitem__, token)) if values.keys() >= set(token) else token.encode()

        return over_bytes
    kinds = {step["type"] for step in steps(spec["decoder"])}
    unknown = kinds - {"ByteFallback", "Fuse", "Metaspace", "Replace", "Strip"}
    replaced = [
        (step["pattern"], step["content"]) for step in steps(spec["decoder"]) if step["type"] == "Replace"
    ]
    if unknown or "ByteFallback" not in kinds or replaced not in ([], [({"String": SPACE_MARK}, " ")]):
        raise UserError(
            f"{IMPORTED_FILE} has a decoder of {', '.join(sorted(kinds)) or 'no steps'}; only ByteLevel, or "
            "ByteFallback for BPE over characters, can be imported"
        )
    has_space_mark = bool(kinds & {"Metaspace", "Replace"})

    def over_characters(token: str) -> bytes:
        if _BYTE_TOKEN.fullmatch(token):
            return bytes([int(token[1:-1], 16)])
        return (token.replace(SPACE_MARK, " ") if has_space_mark else token).encode()

    return over_characters


def _byte_ids(spec: Mapping[str, Any], token_ids: Mapping[str, int]) -> list[int]:
    alphabet = byte_alphabet()
    names = [alphabet[value] if is_over_bytes(spec) else f"<0x{value:02X}>" for value in range(256)]
    absent = [value for value, name in enumerate(names) if name not in token_ids]
    if absent:
        raise UserError(
            f"{IMPORTED_FILE} has no token for the byte 0x{absent[0]:02X}, so that some text would be lost; "
            "only tokenizers that know all bytes can be imported"
        )
    return [token_ids[name] for name in names]
