"""Makes a tokenizer of ours out of another model's: a tokenizer.json, or nanochat's tokenizer.pkl.

Ordinary text keeps the ids it has there. The special tokens of our chat template take, in this order: tokens
of the same name; for `<|bos|>` the token that documents began with when the model was trained; reserved
tokens, which no model has learned, by giving them our names; and new ids after the last.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from samosa_jax.convert.tiktoken_pickle import encoding_to_json, read_tiktoken_pickle
from samosa_jax.convert.tokenizer_json import added_token, begin_with
from samosa_jax.data.imported_tokenizer import IMPORTED_FILE, ImportedTokenizer, read_spec, steps
from samosa_jax.data.tokenizer import BOS, SPECIAL_TOKENS
from samosa_jax.errors import UserError

PICKLE_FILE = "tokenizer.pkl"
# What families call the token at the head of a document, where tokenizer_config.json does not say it:
# Llama 3, DeepSeek, Qwen and GPT-2 (there it stands between documents), Llama 2, Gemma.
KNOWN_BOS = ("<|begin_of_text|>", "<｜begin▁of▁sentence｜>", "<|endoftext|>", "<s>", "<bos>")
_RESERVED = re.compile(r"<\|reserved_special_token_(\d+)\|>|<unused(\d+)>")


def import_tokenizer(folder: Path, *, vocab_rows: int | None = None) -> ImportedTokenizer:
    """The tokenizer of the model in a folder; `tokenizer_training.write` writes it to a folder of its own.

    Args:
        folder: holds tokenizer.json (and tokenizer_config.json, if there is one), or tokenizer.pkl.
        vocab_rows: of the model's embedding. Often more than tokens: the tokenizer then gets that many
            ids, the last of which stand for nothing. None: as many as it needs.

    Returns:
        The tokenizer. `num_new_rows` says how many rows the embedding lacks; `meta["origin"]["new_tokens"]`
        names the tokens whose rows were never trained.

    Raises:
        UserError: no tokenizer there, or one of an unknown kind, or more tokens than rows.
    """
    spec, source = _read(folder)
    config = _read_config(folder)
    has_lost_prefix = _drop_prefix_space(spec)
    num_before = _end(spec)
    if vocab_rows is not None and num_before > vocab_rows:
        raise UserError(
            f"{source} has {num_before} tokens, but the model's embedding has {vocab_rows} rows: it "
            "belongs to another model; name the folder of this one"
        )
    names: dict[str, str] = {}
    renamed: dict[str, str] = {}
    new_tokens: dict[str, int] = {}
    for ours in SPECIAL_TOKENS:
        theirs = _find(spec, ours, config)
        reserved = next(_reserved(spec), None) if theirs is None and ours != BOS else None
        if reserved is not None:
            renamed[reserved["content"]] = ours
            new_tokens[ours] = reserved["id"]
            _rename(spec, reserved, ours)
        elif theirs is None:
            new_tokens[ours] = _end(spec)
            spec["added_tokens"].append(added_token(ours, new_tokens[ours]))
        names[ours] = theirs or ours
    _make_special(spec, set(names.values()))
    spec["added_tokens"].sort(key=lambda token: token["id"])
    bos = next(token for token in spec["added_tokens"] if token["content"] == names[BOS])
    spec |= {"post_processor": begin_with(bos["content"], bos["id"]), "truncation": None, "padding": None}
    size = max(_end(spec), vocab_rows or 0)
    meta = {
        "vocab_size": size,
        "special_names": names,
        "pad_name": _pad_name(spec, config, names),
        "origin": {
            "file": source.name,
            "sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
            "num_tokens": num_before,
            "num_new_rows": size - (num_before if vocab_rows is None else vocab_rows),
            "new_tokens": new_tokens,
            "renamed": renamed,
            "dropped_prefix_space": has_lost_prefix,
        },
    }
    return ImportedTokenizer(json.dumps(spec, ensure_ascii=False).encode(), meta)


def _read(folder: Path) -> tuple[dict[str, Any], Path]:
    """The JSON of the tokenizer in a folder, and the file it came from."""
    for name in (IMPORTED_FILE, PICKLE_FILE):
        path = folder / name
        if not path.exists():
            continue
        if name == PICKLE_FILE:
            return encoding_to_json(read_tiktoken_pickle(path)), path
        try:
            return read_spec(path.read_bytes()), path
        except UserError as error:
            raise UserError(f"{folder}: {error}") from error
    raise UserError(
        f"{folder} has neither {IMPORTED_FILE} nor {PICKLE_FILE}; name the folder that holds the tokenizer"
    )


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "tokenizer_config.json"
    if not path.exists():
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON ({error}); get the file again") from error
    if not isinstance(config, dict):
        raise UserError(f"{path} is not a JSON object; get the file again")
    return config


def _find(spec: dict[str, Any], ours: str, config: dict[str, Any]) -> str | None:
    """The name of the token that is to be `ours`, if there is one."""
    known = {token["content"] for token in spec["added_tokens"]}
    if ours in known:
        return ours
    if ours != BOS:
        return None
    stated = _token_name(config.get("bos_token"))
    return next((name for name in (stated, *KNOWN_BOS) if name in known), None)


def _token_name(value: object) -> str | None:
    """tokenizer_config.json names a token by its text, or by an object with its text."""
    name = value.get("content") if isinstance(value, dict) else value
    return name if isinstance(name, str) else None


def _reserved(spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Added tokens that stand for nothing yet, by number."""
    found = [
        (int(match[1] or match[2]), token)
        for token in spec["added_tokens"]
        if (match := _RESERVED.fullmatch(token["content"]))
    ]
    yield from (token for _, token in sorted(found, key=lambda pair: pair[0]))


def _rename(spec: dict[str, Any], token: dict[str, Any], name: str) -> None:
    vocab = spec["model"]["vocab"]
    if token["content"] in vocab:  # Gemma's are in both
        vocab[name] = vocab.pop(token["content"])
    token["content"] = name


def _make_special(spec: dict[str, Any], names: set[str]) -> None:
    """Qwen has <think> as a token that any text may spell; no text spells one of ours."""
    for token in spec["added_tokens"]:
        if token["content"] in names:
            token |= added_token(token["content"], token["id"])


def _end(spec: dict[str, Any]) -> int:
    """The first id after all tokens."""
    added = (token["id"] for token in spec["added_tokens"])
    return max([-1, *spec["model"]["vocab"].values(), *added]) + 1


def _pad_name(spec: dict[str, Any], config: dict[str, Any], names: dict[str, str]) -> str:
    """The token for padding there, unless it means something in our chats; `<|bos|>` costs least of these."""
    specials = {token["content"] for token in spec["added_tokens"] if token["special"]} - set(names.values())
    stated = _token_name(config.get("pad_token"))
    named_so = sorted(name for name in specials if "pad" in name.lower())
    if stated is not None and stated in specials:
        return stated
    return next(iter(named_so), names[BOS])


def _drop_prefix_space(spec: dict[str, Any]) -> bool:
    """Whether the tokenizer put a space before every text; from now on it does not.

    Text is encoded here piece by piece between special tokens and decoded token by token, where such spaces
    would appear that nobody wrote.
    """
    has_dropped = False
    normalizers = steps(spec["normalizer"])
    kept = [step for step in normalizers if step["type"] != "Prepend"]
    if len(kept) < len(normalizers):
        spec["normalizer"] = {"type": "Sequence", "normalizers": kept}
        has_dropped = True
    splitters = steps(spec["pre_tokenizer"])
    for step in splitters:
        if step.get("prepend_scheme", "never") != "never":
            step["prepend_scheme"] = "never"
            has_dropped = True
        if step.get("add_prefix_space"):
            step["add_prefix_space"] = False
            has_dropped = True
    if has_dropped and splitters:
        spec["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": splitters}
    decoders = steps(spec["decoder"])
    mended = [
        step | ({"prepend_scheme": "never"} if step["type"] == "Metaspace" else {}) for step in decoders
    ]
    if has_dropped and decoders:
        mended = [step for step in mended if step["type"] != "Strip"]
        spec["decoder"] = {"type": "Sequence", "decoders": mended}
    return has_dropped
