"""A network in JAX and in PyTorch with the same parameters, of which none is zero."""

import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from samosa_jax.config import ModelConfig
from samosa_jax.convert.names import samosa_layout
from samosa_jax.convert.pytorch import network as pytorch
from samosa_jax.convert.pytorch_sources import samosa_config
from samosa_jax.data.tokenizer import SPECIAL_TOKENS
from samosa_jax.model.gpt import Network
from samosa_jax.model.params import ParamInfo, Params

torch.set_num_threads(1)  # networks of this size only wait for other threads
SPECIAL_IDS = {name: i for i, name in enumerate(SPECIAL_TOKENS, start=3)}
BASE = ModelConfig(
    vocab_size=150,
    context_len=32,
    num_layers=3,
    model_dim=32,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    mlp_dim=48,
)
TURNS = ("<|bos|>", "<|user_start|>", "<|assistant_start|>", "<|user_start|>", "<|assistant_start|>")
TURN_STARTS = (0, 1, 6, 11, 15)  # where these stand in a row; the first question belongs to the first turn
NEW_TURNS = (0, 6, 11, 15)
ROW = 24


def random_params(network: Network, *, seed: int = 0) -> Params:
    """Parameters as large as they may be in a trained model; the same for the same path and shape."""

    def draw(info: ParamInfo) -> np.ndarray:
        rng = np.random.default_rng([seed, zlib.crc32(info.path.encode())])
        values = 0.5 * np.asarray(rng.standard_normal(info.shape), np.float32)
        if info.reduction_axis and info.group == "matrix":
            values = 2 * values / np.sqrt(info.fan_in)
        elif "scale" in info.path.split("/")[-1] or not info.shape:
            values = 0.7 + 0.4 * values
        return np.asarray(values, np.float32)

    return jax.tree.map(draw, network.info)


def to_torch(config: ModelConfig, params: Params) -> pytorch.Network:
    """The same network in PyTorch."""
    settings = pytorch.NetworkConfig.from_dict(samosa_config(config, SPECIAL_IDS))
    model = pytorch.Network(settings)
    model.load_state_dict(state_dict(config, params))
    return model.eval()


def state_dict(config: ModelConfig, params: Params) -> dict[str, torch.Tensor]:
    tensors = samosa_layout(config, Network.build(config).info).to_foreign(params)
    return {name: torch.from_numpy(tensor.copy()) for name, tensor in tensors.items()}


def dialogues(config: ModelConfig, *, rows: int = 2, length: int = ROW) -> np.ndarray:
    """Tokens (rows, length) of random text with the marks of turns."""
    tokens = np.random.default_rng(1).integers(20, config.vocab_size, (rows, length))
    for mark, place in zip(TURNS, TURN_STARTS, strict=True):
        tokens[:, place] = SPECIAL_IDS[mark]
    return tokens


def jax_logits(network: Network, params: Params, tokens: np.ndarray) -> np.ndarray:
    """Of dialogues as above, float32 (rows, length, vocab_size)."""
    place = np.arange(tokens.shape[1])
    starts = np.maximum.accumulate(np.where(np.isin(place, NEW_TURNS), place, 0))
    arrays: Mapping[str, Any] = {
        name: jnp.broadcast_to(jnp.asarray(values, jnp.int32), tokens.shape)
        for name, values in {
            "k_lo": place * 0,
            "k_hi": place + 1,
            "position": place,
            "turn_position": place - starts,
        }.items()
    }
    return np.asarray(jax.jit(network.logits)(params, jnp.asarray(tokens, jnp.int32), **arrays))


def assert_close(found: torch.Tensor | np.ndarray, expected: np.ndarray, *, relative: float = 1e-5) -> None:
    """Within a share of the largest number."""
    found = found.detach().numpy() if isinstance(found, torch.Tensor) else found
    np.testing.assert_allclose(found, expected, atol=relative * np.abs(expected).max(), rtol=0)
