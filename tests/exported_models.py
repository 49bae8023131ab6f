"""Small models to export, each with numbers that make every one of its options count."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import training_runs

from samosa_jax.config import ModelConfig
from samosa_jax.convert.exported import Dtype, ExportedModel, as_written
from samosa_jax.convert.questions import Answers, Questions
from samosa_jax.convert.reading import READERS
from samosa_jax.data import tokenizer_training
from samosa_jax.data.tokenizer import Tokenizer
from samosa_jax.data.tokenizer_training import TokenizerOptions, draw_sample
from samosa_jax.model.gpt import Network
from samosa_jax.model.params import Params

BASE = ModelConfig(
    vocab_size=610,  # no multiple of 64
    context_len=64,
    num_layers=2,
    model_dim=48,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,  # heads wider together than the model
    mlp_dim=80,
    init="gpt2",
    init_std=0.2,
    rope_base=10_000.0,
)
EXTRAS = ("value_embeddings", "residual_scalars", "x0_scalars", "smear", "backout")
# The options of every stock architecture, and of one that is none.
KINDS: Mapping[str, Mapping[str, Any]] = {
    "llama": {"mlp": "swiglu", "qk_norm": False, "norm_scale": True, "model_dim": 32, "tie_embeddings": True},
    "qwen3": {"mlp": "swiglu", "norm_scale": True, "qk_norm_scale": True},
    "nanochat": {"embedding_norm": True, "soft_cap": 15.0},
    "samosa": {
        **dict.fromkeys(EXTRAS, True),
        "embedding_norm": True,
        "position": "hirope",
        "qk_gain": 1.2,
        "soft_cap": 15.0,
        "window_pattern": "SL",
        "window": 9,
    },
}

YARN = {"rope_scaling_type": "yarn", "rope_scaling_factor": 4.0, "original_context_len": 16}


def train_tokenizer(*, vocab_size: int = BASE.vocab_size, seed: int = 0) -> Tokenizer:
    sample = draw_sample(
        [training_runs.make_text(seed + i) for i in range(60)] + ["äöüéñ你好 0123456789 \u0416\n\t,.!?"],
        max_bytes=1 << 16,
        seed=seed,
    )
    return tokenizer_training.train(sample, TokenizerOptions(vocab_size=vocab_size), inputs=["made up"])


def params_of(network: Network, *, seed: int = 0) -> Params:
    """Random numbers; scales, gains and gates are none that would do nothing. Rows of no token are zero."""
    rng = np.random.default_rng(seed)

    def values(info: Any) -> jax.Array:
        numbers = rng.standard_normal(info.shape).astype(np.float32)
        if info.group in ("residual", "scalar"):
            return jnp.asarray(0.5 + 0.3 * numbers)
        if "V" in info.letters:
            numbers[(slice(None),) * info.letters.index("V") + (slice(network.config.vocab_size, None),)] = 0
        return jnp.asarray(0.2 * numbers)

    return jax.tree.map(values, network.info)


def model_of(
    options: Mapping[str, Any], tokenizer: Tokenizer, *, dtype: Dtype = "float32", name: str = "small"
) -> ExportedModel:
    network = Network.build(dataclasses.replace(BASE, **options))
    return as_written(network, params_of(network), tokenizer, name=name, dtype=dtype)


def read_here(format: str, folder: Path, questions: Questions) -> Answers:
    """As `read_in_fresh_process`, without the process."""
    return READERS[format](folder, questions)


def rotate_head(weight: np.ndarray, *, head_dim: int) -> np.ndarray:
    """Of a projection (heads * H, D) with its first two heads in each other's place."""
    heads = weight.reshape(-1, head_dim, weight.shape[1]).copy()
    heads[[0, 1]] = heads[[1, 0]]
    return heads.reshape(weight.shape)
