"""Small models of other programs as they lie on disk: random numbers, real layouts, a real tokenizer."""

import json
import random
from pathlib import Path
from typing import Any

import tokenizers
import torch
import training_runs
import transformers
from tokenizers import decoders, models, pre_tokenizers, trainers

VOCAB_SIZE = 600
NUM_RESERVED = 16  # tokens that no text spells, as Llama 3 has them
SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0},
    "bos_token_id": 0,
    "eos_token_id": 1,
}


def write_tokenizer(folder: Path, *, vocab_size: int = VOCAB_SIZE, num_reserved: int = NUM_RESERVED) -> None:
    """tokenizer.json of a byte-level BPE of that many tokens, the first of which are special."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    reserved = [f"<|reserved_special_token_{i}|>" for i in range(num_reserved)]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|begin_of_text|>", "<|end_of_text|>", *reserved],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    draw = random.Random(0)
    strange = [" ".join("".join(draw.choices("etaoinsh", k=5)) for _ in range(20)) for _ in range(50)]
    texts = [*(training_runs.make_text(seed) for seed in range(200)), *strange]
    tokenizer.train_from_iterator(texts, trainer)
    assert tokenizer.get_vocab_size() == vocab_size
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


def randomize(model: Any, *, seed: int = 0) -> None:
    """Gives every parameter random numbers: as trained, no scale is one, and logits are far from equal."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.2 * noise if parameter.ndim == 1 else noise * parameter.shape[-1] ** -0.5)


def write_hf(
    folder: Path,
    kind: str,
    *,
    dtype: torch.dtype = torch.float32,
    max_shard_size: str = "5GB",
    num_reserved: int = NUM_RESERVED,
    **options: Any,
) -> Any:
    """A folder of transformers' Llama, Qwen3 or NanoChat; returns the model, in float32."""
    make = getattr(transformers, f"{kind}Config")
    values = {**SHAPE, "hidden_act": "relu2" if kind == "NanoChat" else "silu", **options}
    kind_of_model = getattr(transformers, f"{kind}ForCausalLM")
    model = kind_of_model(make(**values))
    randomize(model)
    model.to(dtype).save_pretrained(folder, max_shard_size=max_shard_size)
    write_tokenizer(folder, num_reserved=num_reserved)
    return kind_of_model.from_pretrained(folder, dtype=torch.float32).eval()
