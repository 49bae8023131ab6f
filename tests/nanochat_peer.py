"""Runs nanochat's own code, from a checkout of it, on a small checkpoint.

    PYTHONPATH=CHECKOUT python -O tests/nanochat_peer.py write FOLDER        # model, meta, tokens, logits
    PYTHONPATH=CHECKOUT python -O tests/nanochat_peer.py read FOLDER STEP    # tokens.npy -> logits.npy

`-O` because older revisions assert that their angles are bfloat16, where the comparison needs float32.
"""

import dataclasses
import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

# Of the checkout that PYTHONPATH names.
checkpoint_manager: Any = importlib.import_module("nanochat.checkpoint_manager")
gpt: Any = importlib.import_module("nanochat.gpt")

STEP = 12
SHAPE = {
    "sequence_len": 1280,
    "vocab_size": 500,  # padded to 512 by most revisions
    "n_layer": 4,
    "n_head": 4,
    "n_kv_head": 2,
    "n_embd": 64,
    "window_pattern": "SSL",
}
NUM_TOKENS = 700  # more than any window of 1280: 384, 512 or 640 tokens before the query


def main() -> None:
    action, folder = sys.argv[1], Path(sys.argv[2])
    if action == "write":
        known = {field.name for field in dataclasses.fields(gpt.GPTConfig)}
        shape = {name: value for name, value in SHAPE.items() if name in known}
        model = randomized(gpt.GPT(gpt.GPTConfig(**shape)))
        checkpoint_manager.save_checkpoint(
            str(folder), STEP, model.state_dict(), None, {"step": STEP, "model_config": shape}
        )
        tokens = np.random.default_rng(0).integers(0, SHAPE["vocab_size"], (2, NUM_TOKENS))
        np.save(folder / "tokens.npy", tokens)
    else:
        state, _, meta = checkpoint_manager.load_checkpoint(
            str(folder), int(sys.argv[3]), torch.device("cpu")
        )
        model = gpt.GPT(gpt.GPTConfig(**meta["model_config"]))
        model.load_state_dict(state, strict=True, assign=True)
        in_float32(model)
    with torch.inference_mode():
        logits = model(torch.from_numpy(np.load(folder / "tokens.npy"))).numpy()
    np.save(folder / "logits.npy", logits)


def randomized(model: Any) -> Any:
    """With every parameter random, in float32: as trained, nothing is zero or one."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        fan_in = parameter.shape[-1] if parameter.ndim > 1 else 4
        parameter.data = torch.randn(parameter.shape, generator=generator) * fan_in**-0.5
    return in_float32(model)


def in_float32(model: Any) -> Any:
    """With angles that are not rounded to bfloat16, computed by nanochat's own method."""
    rounded = torch.Tensor.bfloat16
    torch.Tensor.bfloat16 = torch.Tensor.float
    try:
        model.cos, model.sin = model._precompute_rotary_embeddings(
            model.rotary_seq_len, SHAPE["n_embd"] // SHAPE["n_head"], device=torch.device("cpu")
        )
    finally:
        torch.Tensor.bfloat16 = rounded
    return model.eval()


if __name__ == "__main__":
    main()
