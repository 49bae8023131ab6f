"""Our tokenizers as transformers reads them: tokenizer.json, tokenizer_config.json, chat_template.jinja.

Text that spells no special token has the same ids on both sides, and decodes to itself. No code of ours is
needed to load them: `AutoTokenizer.from_pretrained(folder)`.
"""

import json
from pathlib import Path
from typing import Any

from samosa_jax.convert.bpe_merges import find_merges
from samosa_jax.data.chat.template import TEMPLATE_FILE, chat_template_text
from samosa_jax.data.imported_tokenizer import ImportedTokenizer
from samosa_jax.data.tokenizer import BOS, SPACE_MARK, SPECIAL_TOKENS, SentencePieceTokenizer, Tokenizer
from samosa_jax.data.tokenizer_training import WHITESPACE_RUNS
from samosa_jax.errors import UserError

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
EOS = "<|assistant_end|>"
PAD = "<|pad|>"
# `tokenizer.WORD` for the library's regular expressions; what stands alone has byte tokens only. Spaces stay
# spaces, so that the character with which sentencepiece writes them is one of these too.
WORD_PATTERN = r" *[^ \n\t\x00" + SPACE_MARK + r"]+| +|\n+|\t+|[\x00" + SPACE_MARK + "]"


def write_tokenizer(tokenizer: Tokenizer, folder: Path, *, context_len: int) -> list[Path]:
    """Writes the three files into an existing folder, and gives their paths.

    Args:
        context_len: tokens that the model was trained with; transformers warns of longer text.

    Raises:
        UserError: the tokenizer has something that tokenizer.json cannot express, which is named.
    """
    contents = {
        TOKENIZER_FILE: tokenizer_json(tokenizer),
        CONFIG_FILE: _as_json(tokenizer_config(tokenizer, context_len=context_len)),
        TEMPLATE_FILE: chat_template(tokenizer).encode(),
    }
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    return [folder / name for name in contents]


def tokenizer_json(tokenizer: Tokenizer) -> bytes:
    """Contents of tokenizer.json, for `tokenizers.Tokenizer.from_str` from version 0.20 on."""
    if isinstance(tokenizer, SentencePieceTokenizer):
        return _as_json(_from_sentencepiece(tokenizer))
    return tokenizer.model  # an imported tokenizer is one already


def tokenizer_config(tokenizer: Tokenizer, *, context_len: int) -> dict[str, Any]:
    """What transformers wants to know besides: the roles of tokens, and that decoding mends nothing."""
    names = _names(tokenizer)
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": names[BOS],
        "eos_token": names[EOS],
        "pad_token": _pad_name(tokenizer),
        "model_max_length": context_len,
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
    }


def chat_template(tokenizer: Tokenizer) -> str:
    """The one template, with the names that this tokenizer has for the special tokens."""
    text = chat_template_text()
    for ours, theirs in _names(tokenizer).items():
        text = text.replace(ours, theirs)
    return text


def begin_with(name: str, token_id: int) -> dict[str, Any]:
    """A post-processor that puts this token before every text, as documents begin in training."""
    first = {"SpecialToken": {"id": name, "type_id": 0}}
    a, b = ({"Sequence": {"id": which, "type_id": place}} for place, which in enumerate("AB"))
    return {
        "type": "TemplateProcessing",
        "single": [first, a],
        "pair": [first, a, b],
        "special_tokens": {name: {"id": name, "ids": [token_id], "tokens": [name]}},
    }


def added_token(name: str, token_id: int) -> dict[str, Any]:
    """A special token, found in text exactly as it is spelled."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token_id, "content": name} | flags | {"special": True}


def _pad_name(tokenizer: Tokenizer) -> str:
    """What batches are filled up with: a token of no text, and none that the model has to learn to write.

    sentencepiece's unknown token is such a one here, as bytes stand for what it does not know. The end of an
    answer is not: who leaves padding out of a loss would leave out that too.
    """
    if isinstance(tokenizer, ImportedTokenizer):
        return tokenizer.pad_name
    if isinstance(tokenizer, SentencePieceTokenizer):
        pieces = tokenizer.pieces
        return PAD if PAD not in pieces else pieces[tokenizer.unknown_id]
    raise TypeError(f"no padding is known for a {type(tokenizer).__name__}")


def _from_sentencepiece(tokenizer: SentencePieceTokenizer) -> dict[str, Any]:
    pieces = tokenizer.pieces
    specials = {i: name for name, i in tokenizer.special_ids.items()} | {
        tokenizer.unknown_id: _pad_name(tokenizer)
    }
    texts = [specials.get(i) or piece.replace(SPACE_MARK, " ") for i, piece in enumerate(pieces)]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [added_token(specials[i], i) for i in sorted(specials)],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"Regex": WORD_PATTERN},
            "behavior": "Isolated",
            "invert": False,
        },
        "post_processor": begin_with(BOS, tokenizer.bos_id),
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": {text: i for i, text in enumerate(texts)},
            "merges": [list(pair) for pair in [*_run_merges(texts), *_learned_merges(tokenizer)]],
        },
    }


def _learned_merges(tokenizer: SentencePieceTokenizer) -> list[tuple[str, str]]:
    scores = {piece.replace(SPACE_MARK, " "): score for piece, score in tokenizer.scores().items()}
    merged = {text: score for text, score in scores.items() if len(text) > 1 and text not in WHITESPACE_RUNS}
    by_score: dict[float, str] = {}
    for text, score in merged.items():
        other = by_score.setdefault(score, text)
        if other != text:
            raise UserError(
                f"tokens {other!r} and {text!r} of the sentencepiece model have the same score {score}, "
                "which tokenizer.json cannot express; use a tokenizer of train_tokenizer"
            )
    ranks = {text: rank for rank, text in enumerate(sorted(merged, key=merged.__getitem__, reverse=True))}
    return find_merges(merged, ranks)


def _run_merges(texts: list[str]) -> list[tuple[str, str]]:
    """Line breaks and tabs are cut into fours and a rest: merging to twos, fours, then threes does that."""
    doubles = [(run[: len(run) // 2], run[len(run) // 2 :]) for run in WHITESPACE_RUNS if len(run) in (2, 4)]
    triples = [(run[:2], run[2:]) for run in WHITESPACE_RUNS if len(run) == 3]
    missing = [run for run in WHITESPACE_RUNS if run not in texts]
    if missing:
        raise UserError(
            f"the sentencepiece model has no token {missing[0]!r}; use a tokenizer of train_tokenizer"
        )
    return [*doubles, *triples]


def _names(tokenizer: Tokenizer) -> dict[str, str]:
    if isinstance(tokenizer, ImportedTokenizer):
        return tokenizer.special_names
    return {name: name for name in SPECIAL_TOKENS}


def _as_json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
