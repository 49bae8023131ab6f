"""The network in PyTorch gives the logits of ours, whatever the options, and so does its cache."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch not found: pip install torch to compare with it")

import torch
from torch_parity import BASE, ROW, SPECIAL_IDS, assert_close, dialogues, jax_logits, random_params, to_torch

from samosa_jax.command_line import load_config
from samosa_jax.config import ModelConfig
from samosa_jax.convert.pytorch.network import KeyValueCache, NetworkConfig
from samosa_jax.convert.pytorch_sources import WITHOUT_EFFECT, samosa_config
from samosa_jax.model.gpt import Network

EVERYTHING = dataclasses.replace(
    BASE,
    norm_scale=True,
    embedding_norm=True,
    qk_norm_scale=True,
    qk_gain=1.2,
    position="hirope",
    window=5,
    window_pattern="SL",
    soft_cap=5.0,
    value_embeddings=True,
    residual_scalars=True,
    x0_scalars=True,
    smear=True,
    backout=True,
)
WINDOW = {"window": 5, "window_pattern": "SSL"}
HIROPE = {"position": "hirope", "hirope_local_base": 3.0, "hirope_global_base": 50.0}
YARN = {"rope_scaling_type": "yarn", "rope_scaling_factor": 128.0, "original_context_len": 64}
# Option -> its value, and what else is set for both sides of the comparison.
OPTIONS: dict[str, tuple[Any, dict[str, Any]]] = {
    "vocab_size": (130, {}),
    "num_layers": (4, {"value_embeddings": True}),  # other layers have value embeddings then
    "num_kv_heads": (1, {}),
    "mlp": ("swiglu", {}),
    "tie_embeddings": (True, {}),
    "norm_scale": (True, {"embedding_norm": True}),
    "norm_eps": (0.1, {}),
    "embedding_norm": (True, {}),
    "qk_norm": (False, {}),
    "qk_norm_scale": (True, {}),
    "qk_gain": (1.5, {}),
    "position": ("hirope", {}),
    "rope_base": (5.0, {}),
    "hirope_local_base": (7.0, HIROPE),
    "hirope_global_base": (7.0, HIROPE),
    "rope_scaling_type": ("llama3", YARN),
    "rope_scaling_factor": (16.0, {**YARN, **HIROPE}),
    "original_context_len": (8, {**YARN, "rope_scaling_type": "llama3"}),
    "window": (3, WINDOW),
    "window_pattern": ("SL", WINDOW),
    "soft_cap": (2.0, {}),
    "value_embeddings": (True, {}),
    "residual_scalars": (True, {}),
    "x0_scalars": (True, {}),
    "smear": (True, {"embedding_norm": True}),
    "backout": (True, {}),
}
# Sizes of matrices, which no tensor would fit; the context says how wide a window is that is not given.
SIZES = {"context_len", "model_dim", "num_heads", "head_dim", "mlp_dim"}
CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))


@functools.cache
def expected_logits(config: ModelConfig) -> np.ndarray:
    network = Network.build(config)
    return jax_logits(network, random_params(network), dialogues(config))


def logits(config: ModelConfig) -> torch.Tensor:
    model = to_torch(config, random_params(Network.build(config)))
    return model(torch.from_numpy(dialogues(config)))


def test_every_option_is_compared():
    known = {field.name for field in dataclasses.fields(ModelConfig)}
    assert known == {*OPTIONS, *SIZES, *WITHOUT_EFFECT}
    marks = {"bos_token_id", "user_start_token_id", "assistant_start_token_id"}
    assert {field.name for field in dataclasses.fields(NetworkConfig)} == {*OPTIONS, *SIZES, *marks}


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_changes_both_networks_alike(option: str):
    value, others = OPTIONS[option]
    without = dataclasses.replace(BASE, **others)
    config = dataclasses.replace(without, **{option: value})
    expected = expected_logits(config)
    found = logits(config)
    assert_close(found, expected)
    if option != "vocab_size":  # of which the shape of the logits tells
        change = (found - logits(without)).abs().max()
        assert change > 1e-2 * np.abs(expected).max()


def test_all_options_at_once():
    assert_close(logits(EVERYTHING), expected_logits(EVERYTHING))


def test_the_window_follows_from_the_context_where_none_is_given():
    config = dataclasses.replace(BASE, context_len=600, window_pattern="SSL")
    settings = to_torch(config, random_params(Network.build(config))).config
    assert settings.layer_windows == list(config.layer_windows) == [256, 256, None]


@pytest.mark.parametrize("path", CONFIGS, ids=[path.stem for path in CONFIGS])
def test_every_preset_at_a_tiny_width(path: Path):
    preset = load_config(path).model
    config = tiny(preset)
    assert_close(logits(config), expected_logits(config))


def tiny(preset: ModelConfig) -> ModelConfig:
    """The same options and the same ratio of heads, a few layers, little width."""
    pattern = len(preset.window_pattern)
    return dataclasses.replace(
        preset,
        depth=None,
        vocab_size=150,
        context_len=32,
        num_layers=pattern if pattern > 1 else 3,
        model_dim=32,
        num_heads=preset.num_heads // preset.num_kv_heads,
        num_kv_heads=1,
        head_dim=8,
        mlp_dim=48,
        window=5 if "S" in preset.window_pattern else None,
    )


@pytest.mark.parametrize("chunks", [(9, 1, 1, 4, 1, 8), (3, 1, 20), (1,) * ROW], ids=str)
def test_with_a_cache_it_says_the_same(chunks: tuple[int, ...]):
    model = to_torch(EVERYTHING, random_params(Network.build(EVERYTHING)))
    tokens = torch.from_numpy(dialogues(EVERYTHING))
    cache = KeyValueCache(capacity=ROW)
    ends = np.cumsum(chunks)
    with torch.no_grad():
        found = torch.cat([model(tokens[:, :end], cache=cache) for end in ends], dim=1)
    assert_close(found, expected_logits(EVERYTHING))


def test_a_cache_goes_back():
    model = to_torch(EVERYTHING, random_params(Network.build(EVERYTHING)))
    tokens = torch.from_numpy(dialogues(EVERYTHING))
    cache = KeyValueCache(capacity=ROW)
    with torch.no_grad():
        model(tokens.flip(1), cache=cache)
        cache.truncate(0)
        model(torch.cat([tokens[:, :9], tokens[:, :7]], dim=1), cache=cache)
        cache.truncate(9)
        assert cache.get_seq_length() == 9
        found = model(tokens, cache=cache)
    assert_close(found, expected_logits(EVERYTHING)[:, 9:])


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(side: str):
    model = to_torch(EVERYTHING, random_params(Network.build(EVERYTHING)))
    tokens = dialogues(EVERYTHING)
    padding = np.full((2, 5), tokens[0, 1])  # a mark that would begin a turn
    on_left = side == "left"
    padded = np.concatenate([padding, tokens] if on_left else [tokens, padding], axis=1)
    is_token = np.ones_like(padded, bool)
    own = slice(5, None) if on_left else slice(0, ROW)
    is_token[1] = False
    is_token[1, own] = True
    padded[0, :ROW] = tokens[0]  # the first row has no padding, only text behind it
    is_token[0] = True
    found = model(torch.from_numpy(padded), torch.from_numpy(is_token))
    assert torch.isfinite(found).all()
    assert_close(found[1, own], expected_logits(EVERYTHING)[1])
    assert_close(found[0, :ROW], expected_logits(EVERYTHING)[0])
    unmarked = model(torch.from_numpy(padded))
    if on_left:
        assert (unmarked[1, own] - found[1, own]).abs().max() > 1e-2


def test_padded_rows_go_on_with_a_cache():
    model = to_torch(EVERYTHING, random_params(Network.build(EVERYTHING)))
    tokens = torch.from_numpy(dialogues(EVERYTHING))
    padded = torch.nn.functional.pad(tokens, (3, 0))
    is_token = torch.arange(ROW + 3) >= torch.tensor([[3], [3]])
    cache = KeyValueCache(capacity=ROW + 3)
    parts = [model(padded[:, :end], is_token[:, :end], cache).detach() for end in (10, 11, 12, ROW + 3)]
    assert_close(torch.cat(parts, dim=1)[:, 3:], expected_logits(EVERYTHING))


def test_every_parameter_has_a_gradient():
    model = to_torch(EVERYTHING, random_params(Network.build(EVERYTHING)))
    model(torch.from_numpy(dialogues(EVERYTHING))).square().mean().backward()
    without = [name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()]
    assert without == []


def test_in_bfloat16_it_is_near():
    model = to_torch(EVERYTHING, random_params(Network.build(EVERYTHING))).to(torch.bfloat16)
    found = model(torch.from_numpy(dialogues(EVERYTHING)))
    assert found.dtype == torch.float32
    assert_close(found, expected_logits(EVERYTHING), relative=0.1)


def test_a_configuration_without_a_field_is_refused():
    values = samosa_config(BASE, SPECIAL_IDS)
    del values["soft_cap"]
    with pytest.raises(ValueError, match="the configuration has no soft_cap"):
        NetworkConfig.from_dict(values)
