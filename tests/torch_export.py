"""A folder as `--format=torch` writes it: a tiny network that knows a few answers by heart."""

import itertools
import json
import string
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
from torch_parity import SPECIAL_IDS

from samosa_jax.config import ModelConfig
from samosa_jax.convert.pytorch.network import Network, NetworkConfig
from samosa_jax.convert.pytorch_sources import chat_program, samosa_config

STORY = "the cat and the dog saw the red sun and the blue sea, " * 2 + "the end."
CALL = '{"tool": "calculator", "arguments": {"expression": "2+3"}}'
ANSWERS = {
    "Who?": "I am small: 你好世界.",
    "Sum?": f"<think>I add.</think>So:<|python_start|>{CALL}<|python_end|>",
    "Tale?": STORY,
    "Red?": "\x1b[31mred\x07 done",
}
MERGES = ["t h", "th e", "▁ the", "a n", "an d", "▁ and", "r e", "re d", "c a", "ca t"]
MAX_STEPS = 1500
LEARNED = 0.1  # nats at the hardest token


def make_tokenizer() -> Tokenizer:
    """BPE with byte fallback over ASCII and a few merges; special tokens have the ids of SPECIAL_IDS."""
    bytes_ = [f"<0x{value:02X}>" for value in range(256)]
    merges = [(one, other) for one, other in (merge.split() for merge in MERGES)]
    pieces = ["<unk>", "<s>", "</s>", *SPECIAL_IDS, *bytes_, "▁", *string.printable[:95].replace(" ", "")]
    pieces += [one + other for one, other in merges]
    vocab = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(
        models.BPE(vocab=vocab, merges=merges, byte_fallback=True, fuse_unk=True, unk_token="<unk>")
    )
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIAL_IDS])
    return tokenizer


def tiny_config(*, context_len: int = 320) -> ModelConfig:
    tokens = make_tokenizer().get_vocab_size()
    return ModelConfig(
        vocab_size=tokens,
        context_len=context_len,
        num_layers=2,
        model_dim=64,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        mlp_dim=128,
        smear=True,
        embedding_norm=True,
    )


def write_folder(folder: Path, config: ModelConfig, network: Network) -> Path:
    folder.mkdir(exist_ok=True)
    values = samosa_config(config, SPECIAL_IDS)
    (folder / "config.json").write_text(json.dumps(values), encoding="utf-8")
    make_tokenizer().save(str(folder / "tokenizer.json"))
    save_file(network.state_dict(), folder / "model.safetensors")
    (folder / "chat.py").write_text(chat_program(), encoding="utf-8")
    return folder


def new_network(config: ModelConfig) -> Network:
    torch.manual_seed(0)
    return Network(NetworkConfig.from_dict(samosa_config(config, SPECIAL_IDS)))


def learned_network(config: ModelConfig) -> Network:
    """One that answers as in ANSWERS, in dialogues of up to two turns."""
    network = new_network(config)
    dialogues = [*itertools.permutations(ANSWERS, 2)]
    rows = [render(dialogue) for dialogue in dialogues]
    longest = max(len(row) for row, _ in rows)
    tokens = torch.zeros(len(rows), longest, dtype=torch.int64)
    said = torch.zeros(len(rows), longest, dtype=torch.bool)
    for number, (row, answered) in enumerate(rows):
        tokens[number, : len(row)] = torch.tensor(row)
        said[number, : len(row)] = torch.tensor(answered)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    hardest = torch.inf
    for _ in range(MAX_STEPS):
        logits = network(tokens[:, :-1])
        nll = torch.nn.functional.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")
        nll = nll[said[:, 1:]]
        hardest = nll.max().item()
        if hardest < LEARNED:
            return network
        optimizer.zero_grad()
        nll.mean().backward()
        optimizer.step()
    raise AssertionError(f"not learned by heart: {hardest:.2f} nats at the hardest token")


def render(questions: Sequence[str]) -> tuple[list[int], list[bool]]:
    """Tokens, and which of them the assistant says."""
    plain, marked = make_tokenizer(), make_tokenizer()
    plain.encode_special_tokens = True
    tokens, said = [SPECIAL_IDS["<|bos|>"]], [False]
    for question in questions:
        asked = [SPECIAL_IDS["<|user_start|>"], *plain.encode(question).ids]
        asked += [SPECIAL_IDS["<|user_end|>"], SPECIAL_IDS["<|assistant_start|>"]]
        answered = [*marked.encode(ANSWERS[question]).ids, SPECIAL_IDS["<|assistant_end|>"]]
        tokens += asked + answered
        said += [False] * len(asked) + [True] * len(answered)
    return tokens, said
