"""Folders with tokenizers as other models have them: small vocabularies in each family's own layout."""

import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Library

from samosa_jax.data import corpus
from samosa_jax.data.imported_tokenizer import byte_alphabet

LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
NANOCHAT_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*"
    r"|\s*[\r\n]|\s+(?!\S)|\s+"
)
QWEN_PATTERN = LLAMA3_PATTERN.replace(r"\p{N}{1,3}", r"\p{N}")


def texts() -> list[str]:
    return [*corpus.documents(max_bytes=60_000), "déjà vu 日本語 \u0418\u0306 \U0001f600 1234 'RE  x\n\n\ty"]


def llama3(folder: Path) -> Path:
    """Byte-level BPE, whole words looked up first, `<|begin_of_text|>` put before, tokens in reserve."""
    library = _over_bytes(LLAMA3_PATTERN, vocab_size=900)
    names = [
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|reserved_special_token_0|>",
        "<|finetune_right_pad_id|>",
    ]
    names += [f"<|reserved_special_token_{i}|>" for i in range(1, 20)]
    names.insert(6, "<|eot_id|>")
    library.add_special_tokens(names)
    bos = library.token_to_id(names[0])
    library.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single=f"{names[0]} $A", pair=f"{names[0]} $A $B", special_tokens=[(names[0], bos)]
            ),
        ]
    )
    spec = json.loads(library.to_str())
    spec["model"]["ignore_merges"] = True
    config = {"bos_token": names[0], "eos_token": "<|eot_id|>", "pad_token": "<|finetune_right_pad_id|>"}
    return _write(folder, spec, config)


def qwen3(folder: Path) -> Path:
    """Byte-level BPE over NFC; no token of its own for the head of a document; `<think>` is ordinary text."""
    library = _over_bytes(QWEN_PATTERN, vocab_size=900)
    library.normalizer = normalizers.NFC()
    library.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    ordinary = ("<tool_call>", "</tool_call>", "<think>", "</think>")
    library.add_tokens([AddedToken(name, special=False, normalized=False) for name in ordinary])
    config = {"bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    return _write(folder, json.loads(library.to_str()), config)


def llama2(folder: Path, *, by_metaspace: bool = False) -> Path:
    """BPE over characters with byte tokens; a space is U+2581, one is put before the text."""
    library = Library(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    before = (normalizers.Prepend("▁"), normalizers.Replace(" ", "▁"))
    library.normalizer = normalizers.Sequence(list(before))
    specials = ["<unk>", "<s>", "</s>", *(f"<0x{value:02X}>" for value in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=specials, show_progress=False)
    library.train_from_iterator([word for text in texts() for word in text.split()], trainer)
    spec = json.loads(library.to_str())
    spec["added_tokens"] = spec["added_tokens"][:3]  # bytes are ordinary tokens
    spec["decoder"] = {
        "type": "Sequence",
        "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ],
    }
    if by_metaspace:  # the newer way to write the same
        spec["normalizer"] = None
        spec["pre_tokenizer"] = {
            "type": "Metaspace",
            "replacement": "▁",
            "prepend_scheme": "first",
            "split": False,
        }
    return _write(folder, spec, {"bos_token": {"content": "<s>"}, "eos_token": "</s>"})


def nanochat(folder: Path, specials: Sequence[str]) -> Any:
    """A folder with tokenizer.pkl, split as nanochat splits; gives the `tiktoken.Encoding` in it."""
    import tiktoken

    value_of = {character: value for value, character in byte_alphabet().items()}
    vocab = _over_bytes(LLAMA3_PATTERN, vocab_size=900).get_vocab()
    ranks = {bytes(map(value_of.__getitem__, token)): rank for token, rank in vocab.items()}
    encoding = tiktoken.Encoding(
        "rustbpe",
        pat_str=NANOCHAT_PATTERN,
        mergeable_ranks=ranks,
        special_tokens={name: len(ranks) + place for place, name in enumerate(specials)},
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.pkl").write_bytes(pickle.dumps(encoding))
    return encoding


def _over_bytes(pattern: str, *, vocab_size: int) -> Library:
    library = Library(models.BPE())
    library.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    library.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    library.train_from_iterator(texts(), trainer)
    return library


def _write(folder: Path, spec: dict[str, Any], config: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(spec, ensure_ascii=False), encoding="utf-8")
    own = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(own | config), encoding="utf-8")
    return folder
