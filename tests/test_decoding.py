"""Token after token with a cache: the same logits as reading everything at once, whatever the network is."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_model import BASE, EXTRAS, make_params
from tiny_training import mesh_of

from samosa_jax.config import ModelConfig
from samosa_jax.model.cache import (
    Cache,
    cache_bytes,
    can_go_back,
    empty_cache,
    place_row,
    resize,
    take_rows,
)
from samosa_jax.model.decoding import decode, extend, lay_out, prefill
from samosa_jax.model.gpt import Network

T = 16
LENGTHS = np.array([3, 9, 1, 6], np.int32)  # of the prompts
NETWORKS = {
    "windows and extras": dataclasses.replace(EXTRAS, num_layers=3, window=5, window_pattern="SSL"),
    "no qk norm, swiglu, tied": dataclasses.replace(BASE, qk_norm=False, mlp="swiglu", tie_embeddings=True),
    "scanned, remat": dataclasses.replace(BASE, unroll_layers=False, backout=True, remat="full"),
    "yarn": dataclasses.replace(
        EXTRAS, rope_scaling_type="yarn", rope_scaling_factor=8.0, original_context_len=256
    ),
    "one key head": dataclasses.replace(BASE, num_kv_heads=1),
}


lay_out_jit = jax.jit(lay_out, static_argnums=0)
prefill_jit = jax.jit(prefill, static_argnums=0, static_argnames="capacity")
extend_jit = jax.jit(extend, static_argnums=0)
decode_jit = jax.jit(decode, static_argnums=0)


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
    network: Network,
    params: Any,
    tokens: np.ndarray,
    turns: np.ndarray,
    *,
    capacity: int = T,
    chunks: Sequence[tuple[int, ...]] = (),
) -> list[np.ndarray]:
    """For every row the logits from its last prompt token on, made with a cache.

    Of each of the chunks, a row reads as many tokens at once as stand there for it.
    """
    width = int(LENGTHS.max())
    prompts = np.where(np.arange(width) < LENGTHS[:, None] - 1, tokens[:, :width], 47)  # padded with anything

    weights = lay_out_jit(network, params)
    cache = prefill_jit(
        network,
        weights,
        prompts,
        lengths=LENGTHS - 1,
        turn_position=turns[:, :width],
        capacity=capacity,
    )
    rows = np.arange(len(tokens))
    for counts in chunks:
        places = np.asarray(cache.lengths)[:, None] + np.arange(max(counts))
        places = np.minimum(places, T - 1)
        chunk, turn = tokens[rows[:, None], places], turns[rows[:, None], places]
        cache = extend_jit(
            network, weights, cache, chunk, counts=np.array(counts, np.int32), turn_position=turn
        )
    found: list[list[np.ndarray]] = [[] for _ in rows]
    while int(cache.lengths.max()) < min(T, capacity):
        at = np.asarray(cache.lengths)
        logits, cache = decode_jit(network, weights, cache, tokens[rows, at], turn_position=turns[rows, at])
        for row, value in zip(found, np.asarray(logits), strict=True):
            row.append(value)
    return [np.stack(row) for row in found]


def assert_follows(
    found: list[np.ndarray],
    expected: np.ndarray,
    starts: Sequence[int] | np.ndarray,
    *,
    atol: float,
    rtol: float = 0.0,
) -> None:
    for row, (logits, start) in enumerate(zip(found, starts, strict=True)):
        np.testing.assert_allclose(
            logits, expected[row, start : start + len(logits)], err_msg=f"row {row}", atol=atol, rtol=rtol
        )


@pytest.mark.parametrize("config", NETWORKS.values(), ids=NETWORKS)
def test_incremental_decoding_equals_the_full_forward(config: ModelConfig):
    network = Network.build(config)
    params = make_params(network)
    tokens, turns = dialogue()
    expected = np.asarray(full_logits(network, params, tokens, turns))
    found = incremental_logits(network, params, tokens, turns)
    assert_follows(found, expected, LENGTHS - 1, atol=2e-5, rtol=2e-4)


@pytest.mark.parametrize("config", NETWORKS.values(), ids=NETWORKS)
def test_reading_more_at_once_equals_the_full_forward(config: ModelConfig):
    network = Network.build(config)
    params = make_params(network)
    tokens, turns = dialogue()
    expected = np.asarray(full_logits(network, params, tokens, turns))
    chunks = [(2, 0, 7, 1), (3, 1, 4, 4)]  # less and more than a window, and nothing
    found = incremental_logits(network, params, tokens, turns, chunks=chunks)
    assert_follows(found, expected, LENGTHS - 1 + np.sum(chunks, axis=0), atol=2e-5, rtol=2e-4)


def test_a_window_keeps_no_more_than_it_sees():
    network = Network.build(NETWORKS["windows and extras"])
    for capacity, places in ((T, [5, 5, T]), (4, [4, 4, 4])):
        cache = empty_cache(network.config, num_rows=2, capacity=capacity, dtype=jnp.dtype("float32"))
        assert [keys.shape[2] for keys in cache.keys] == places
        assert cache.capacity == capacity
        total = sum(x.nbytes for x in jax.tree.leaves(cache))
        kept = cache_bytes(network.config, num_rows=2, capacity=capacity, dtype=jnp.dtype("float32"))
        assert kept == total


def test_rows_move_and_grow_and_pause():
    """Whatever is done between two tokens, a row says what it says alone."""
    network = Network.build(NETWORKS["windows and extras"])
    params = make_params(network)
    tokens, turns = dialogue()
    expected = np.asarray(full_logits(network, params, tokens, turns))
    weights = lay_out_jit(network, params)

    def read(tokens: np.ndarray, turns: np.ndarray, lengths: list[int]) -> Cache:
        begun = prefill_jit(
            network, weights, tokens, lengths=np.array(lengths), turn_position=turns, capacity=4
        )
        return resize(begun, network.config, T)

    cache = read(tokens[:, :4], turns[:, :4], [2, 4, 1, 3])
    cache = take_rows(cache, jnp.array([3, 1, 1, 0, 2]))
    other = read(tokens[2:3, :4], turns[2:3, :4], [3])
    cache = place_row(cache, other, rows=jnp.array([2, 4, 0], jnp.int32), count=jnp.int32(2))
    order = np.array([3, 1, 2, 0, 2])
    lengths = np.array([3, 4, 3, 2, 3])
    for step in range(8):
        active = np.arange(5) != step % 5
        logits, cache = decode_jit(
            network,
            weights,
            cache,
            tokens[order, lengths],
            turn_position=turns[order, lengths],
            active=active,
        )
        for row in np.flatnonzero(active):
            np.testing.assert_allclose(logits[row], expected[order[row], lengths[row]], atol=2e-5, rtol=2e-4)
        lengths = lengths + active
        np.testing.assert_array_equal(cache.lengths, lengths)


def test_going_back_is_possible_while_nothing_was_overwritten():
    config = NETWORKS["windows and extras"]
    going_back = functools.partial(can_go_back, config, capacity=T)
    assert going_back(length=5, to=1)
    assert not going_back(length=6, to=4)
    assert going_back(length=6, to=5)
    assert can_go_back(BASE, length=T, to=0, capacity=T)


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
    found = incremental_logits(network, params, tokens, turns)
    assert_follows(found, expected, LENGTHS - 1, atol=0.15 * np.abs(expected).max())
