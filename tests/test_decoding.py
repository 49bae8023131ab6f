"""Token after token with a cache: the same logits as reading everything at once, whatever the network is."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_model import BASE, EXTRAS, make_params
from tiny_training import mesh_of

from samosa_jax.config import ModelConfig
from samosa_jax.model.decoding import Cache, decode, prefill
from samosa_jax.model.gpt import Network

T = 16
LENGTHS = np.array([3, 9, 1, 6], np.int32)  # of the prompts
NETWORKS = {
    "windows and extras": dataclasses.replace(EXTRAS, num_layers=3, window=5, window_pattern="SSL"),
    "no qk norm, swiglu, tied": dataclasses.replace(BASE, qk_norm=False, mlp="swiglu", tie_embeddings=True),
    "scanned, remat": dataclasses.replace(BASE, unroll_layers=False, backout=True, remat="full"),
    "one key head": dataclasses.replace(BASE, num_kv_heads=1),
}


def dialogue() -> tuple[np.ndarray, np.ndarray]:
    """Tokens (4, T) and turn positions, turns beginning at other places in each row."""
    rng = np.random.default_rng(0)
    turns = np.stack([np.arange(T) % length for length in (4, 7, 5, T)])
    return rng.integers(0, BASE.vocab_size, (4, T)).astype(np.int32), turns.astype(np.int32)


def full_logits(network: Network, params: Any, tokens: np.ndarray, turns: np.ndarray) -> jax.Array:
    position = jnp.broadcast_to(jnp.arange(T, dtype=jnp.int32), tokens.shape)
    return jax.jit(network.logits)(
        params,
        jnp.asarray(tokens),
        k_lo=jnp.zeros_like(position),
        k_hi=position + 1,
        position=position,
        turn_position=jnp.asarray(turns),
    )


def incremental_logits(
    network: Network, params: Any, tokens: np.ndarray, turns: np.ndarray, *, capacity: int = T
) -> list[np.ndarray]:
    """For every row the logits from its last prompt token on, made with a cache."""
    width = int(LENGTHS.max())
    prompts = np.where(np.arange(width) < LENGTHS[:, None], tokens[:, :width], 47)  # padded with anything

    @jax.jit
    def begin(params: Any) -> tuple[jax.Array, Cache]:
        hidden, cache = prefill(
            network,
            params,
            jnp.asarray(prompts),
            lengths=jnp.asarray(LENGTHS),
            turn_position=jnp.asarray(turns[:, :width]),
            capacity=capacity,
        )
        return network.project(params, hidden), cache

    @jax.jit
    def go_on(params: Any, cache: Cache, token: jax.Array, turn: jax.Array) -> tuple[jax.Array, Cache]:
        hidden, cache = decode(network, params, cache, token, turn_position=turn)
        return network.project(params, hidden), cache

    logits, cache = begin(params)
    found = [[row] for row in np.asarray(logits)]
    rows = np.arange(len(tokens))
    for _ in range(T - width):
        at = np.asarray(cache.lengths)
        logits, cache = go_on(params, cache, tokens[rows, at], turns[rows, at])
        for row, value in zip(found, np.asarray(logits), strict=True):
            row.append(value)
    return [np.stack(row) for row in found]


@pytest.mark.parametrize("config", NETWORKS.values(), ids=NETWORKS)
def test_incremental_decoding_equals_the_full_forward(config: ModelConfig):
    network = Network.build(config)
    params = make_params(network)
    tokens, turns = dialogue()
    expected = np.asarray(full_logits(network, params, tokens, turns))
    for row, logits in enumerate(incremental_logits(network, params, tokens, turns)):
        start = LENGTHS[row] - 1
        np.testing.assert_allclose(
            logits, expected[row, start : start + len(logits)], atol=2e-5, rtol=2e-4, err_msg=f"row {row}"
        )


def test_turns_matter_to_hirope():
    network = Network.build(EXTRAS)
    params = make_params(network)
    tokens, turns = dialogue()
    one = incremental_logits(network, params, tokens, turns)
    other = incremental_logits(
        network, params, tokens, np.broadcast_to(np.arange(T, dtype=np.int32), turns.shape)
    )
    assert np.abs(one[0] - other[0]).max() > 1e-3
    np.testing.assert_allclose(one[3], other[3], atol=1e-6)  # whose turn has no end


def test_more_room_changes_nothing():
    network = Network.build(EXTRAS)
    params = make_params(network)
    tokens, turns = dialogue()
    exact = incremental_logits(network, params, tokens, turns)
    roomy = incremental_logits(network, params, tokens, turns, capacity=3 * T)
    for one, other in zip(exact, roomy, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    with pytest.raises(ValueError, match="capacity is 5; it must be at least 9"):
        incremental_logits(network, params, tokens, turns, capacity=5)


def test_on_a_mesh_it_says_the_same():
    network = Network.build(EXTRAS)
    params = make_params(network)
    tokens, turns = dialogue()
    alone = incremental_logits(network, params, tokens, turns)
    with jax.set_mesh(mesh_of(data=2, tensor=2)):
        spread = incremental_logits(network, params, tokens, turns)
    for one, other in zip(alone, spread, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)


def test_bfloat16_is_near():
    network = Network.build(BASE, compute_dtype="bfloat16")
    params = make_params(network)
    tokens, turns = dialogue()
    expected = np.asarray(full_logits(network, params, tokens, turns))
    for row, logits in enumerate(incremental_logits(network, params, tokens, turns)):
        start = LENGTHS[row] - 1
        difference = np.abs(logits - expected[row, start : start + len(logits)])
        assert difference.max() < 0.15 * np.abs(expected).max()
