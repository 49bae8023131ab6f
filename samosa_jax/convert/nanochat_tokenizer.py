"""Writes a tokenizer as nanochat reads it: a pickled `tiktoken.Encoding`, and the bytes of each token."""

import pickle
from pathlib import Path
from typing import Any

from samosa_jax.convert.battery import TEXTS
from samosa_jax.convert.extras import require_packages
from samosa_jax.convert.tokenizer_import import PICKLE_FILE
from samosa_jax.convert.torch_files import import_torch
from samosa_jax.data.imported_tokenizer import (
    ImportedTokenizer,
    is_over_bytes,
    read_spec,
    steps,
    token_reader,
)
from samosa_jax.data.tokenizer import Tokenizer
from samosa_jax.errors import UserError

TOKEN_BYTES_FILE = "token_bytes.pt"
_MEND = "export this model with --format=hf"


def write_nanochat_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    """Writes the two files into an existing folder.

    Raises:
        UserError: the tokenizer is of a kind that tiktoken does not know, or gives other ids there; then
            nothing is written.
    """
    torch = import_torch("writing nanochat's format")
    encoding = _encoding(tokenizer)
    for text in TEXTS:
        found, expected = encoding.encode_ordinary(text), tokenizer.encode(text)
        if found != expected:
            raise UserError(
                f"tiktoken would give the text {text[:40]!r} other tokens than this model has; {_MEND}"
            )
    torch.save(torch.from_numpy(tokenizer.token_bytes.copy()), folder / TOKEN_BYTES_FILE)
    (folder / PICKLE_FILE).write_bytes(pickle.dumps(encoding))


def _encoding(tokenizer: Tokenizer) -> Any:
    """The `tiktoken.Encoding` of the same tokens. Raises UserError where there is none."""
    if not isinstance(tokenizer, ImportedTokenizer):
        raise UserError(f"nanochat reads tokenizers of tiktoken, this one is of sentencepiece; {_MEND}")
    spec = read_spec(tokenizer.model)
    specials = {token["content"]: token["id"] for token in spec["added_tokens"]}
    pattern = _split_pattern(spec)
    fault = _find_fault(tokenizer, spec, specials, pattern)
    if fault is not None or pattern is None:
        raise UserError(f"nanochat reads tokenizers of tiktoken, and this one {fault}; {_MEND}")
    require_packages(["tiktoken"], extra="torch", purpose="writing nanochat's tokenizer")
    import tiktoken

    bytes_of = token_reader(spec)
    ranks = {bytes_of(token): rank for token, rank in spec["model"]["vocab"].items() if token not in specials}
    return tiktoken.Encoding("samosa", pat_str=pattern, mergeable_ranks=ranks, special_tokens=specials)


def _split_pattern(spec: dict[str, Any]) -> str | None:
    """The one expression that text is split by before its bytes are merged."""
    splitters = steps(spec["pre_tokenizer"])
    patterns = [step["pattern"].get("Regex") for step in splitters if step["type"] == "Split"]
    return (
        patterns[0]
        if len(patterns) == 1 and {step["type"] for step in splitters} == {"Split", "ByteLevel"}
        else None
    )


def _find_fault(
    tokenizer: ImportedTokenizer, spec: dict[str, Any], specials: dict[str, int], pattern: str | None
) -> str | None:
    """What tiktoken cannot express."""
    if not is_over_bytes(spec) or pattern is None or steps(spec["normalizer"]):
        return "is not one expression that splits text, and merges of its bytes"
    renamed = next((theirs for ours, theirs in tokenizer.special_names.items() if ours != theirs), None)
    if renamed is not None:
        return f"has {renamed} where nanochat looks for a name of its own"
    size = max([*spec["model"]["vocab"].values(), *specials.values()]) + 1
    if size != tokenizer.vocab_size:
        return f"has {size} tokens for a model with {tokenizer.vocab_size}"
    return None
