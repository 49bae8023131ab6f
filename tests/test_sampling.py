"""Tokens drawn from logits: by the distribution of the definition, within all limits."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samosa_jax.rollout import sampling
from samosa_jax.rollout.request import Sampling
from samosa_jax.rollout.sampling import Rules, draw, invert, keep_likely, log_probs, penalize

V = 600  # more than two blocks, and none of them full
NEUTRAL = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0} | dict.fromkeys(
    ("repetition_penalty",), 1.0
)


def rules(num_rows: int, **values: Any) -> Rules:
    given = {**NEUTRAL, "presence_penalty": 0.0, "frequency_penalty": 0.0, **values}
    arrays = {name: jnp.broadcast_to(jnp.asarray(value), (num_rows,)) for name, value in given.items()}
    return Rules(**arrays)


def some_logits(num_rows: int, seed: int = 0) -> jax.Array:
    return 4 * jax.random.normal(jax.random.key(seed), (num_rows, V))


def kept_by_definition(weights: np.ndarray, *, top_k: int, top_p: float, min_p: float) -> np.ndarray:
    """Which tokens of one row stay, by sorting and adding up in float64."""
    kept = np.ones(len(weights), bool)
    if top_k:
        kept &= weights >= np.sort(weights)[::-1][min(top_k, len(weights)) - 1]
    if top_p < 1:
        falling = np.sort(np.where(kept, weights, 0.0))[::-1].astype(np.float64)
        enough = int((np.cumsum(falling) < top_p * falling.sum()).sum())
        kept &= weights >= falling[min(enough, len(weights) - 1)]
    return kept & (weights >= min_p)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    top_k=st.sampled_from([0, 1, 2, 7, 50, V - 1, V, 10 * V]),
    top_p=st.sampled_from([1.0, 0.999, 0.9, 0.5, 0.01]),
    min_p=st.sampled_from([0.0, 0.001, 0.05, 0.5, 1.0]),
    spread=st.sampled_from([0.0, 0.01, 3.0, 40.0]),
)
def test_limits_keep_what_their_definition_keeps(seed, top_k, top_p, min_p, spread):
    logits = spread * np.random.default_rng(seed).normal(size=(1, V)).astype(np.float32)
    weights = np.exp(logits - logits.max())
    expected = kept_by_definition(weights[0], top_k=top_k, top_p=top_p, min_p=min_p)
    limits = {
        "top_k": jnp.array([top_k]),
        "top_p": jnp.array([top_p], jnp.float32),
        "min_p": jnp.array([min_p], jnp.float32),
    }
    kept = np.asarray(keep_likely(jnp.asarray(weights), **limits))[0]
    # A sum of float32 may stop one token from where exact arithmetic does.
    wrong = (kept > 0) != (expected & (weights[0] > 0))
    assert weights[0][wrong].sum() <= 2e-6 * weights.sum() + (weights[0][wrong].max(initial=0) * (top_p < 1))
    if top_p == 1:
        assert not wrong.any()
    assert kept[weights[0].argmax()] == 1


@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.3])
@pytest.mark.parametrize("top_k", [V, 40, 1])
def test_sorting_finds_the_thresholds_of_bisection(top_k: int, top_p: float):
    logits = some_logits(5)
    weights = jnp.exp(logits - logits.max(axis=-1, keepdims=True))
    bits = jax.lax.bitcast_convert_type(weights, jnp.int32)
    k, p = jnp.full(5, top_k), jnp.full(5, top_p, jnp.float32)

    def kept(find: Any) -> np.ndarray:
        thresholds = jnp.maximum(*find(weights, bits, k, p))
        return np.asarray(bits >= thresholds[:, None])

    one, other = kept(sampling._bisected), kept(sampling._sorted)
    assert (one != other).sum() <= 1  # sums of another order
    assert one.sum() == 5 * V or (top_k, top_p) != (V, 1.0)


def test_tokens_come_as_often_as_softmax_says():
    logits = some_logits(1)[:, :40] / 3
    num_draws = 40_000
    uniform = (jnp.arange(num_draws) + 0.5) / num_draws
    tokens = jax.vmap(lambda u: draw(logits, u[None], rules(1, temperature=0.7), filters=False)[0])(uniform)
    found = np.bincount(np.asarray(tokens), minlength=40) / num_draws
    expected = np.asarray(jax.nn.softmax(logits[0] / 0.7))
    np.testing.assert_allclose(found, expected, atol=2 / num_draws)
    assert np.abs(found - np.asarray(jax.nn.softmax(logits[0]))).max() > 0.01


@settings(max_examples=60)
@given(
    weights=st.lists(st.sampled_from([0.0, 0.0, 1e-30, 1e-3, 0.5, 1.0]), min_size=V, max_size=V).filter(any),
    uniform=st.sampled_from([0.0, 1e-7, 0.25, 0.5, 0.999_999_9, float(np.nextafter(np.float32(1), 0))]),
)
def test_what_has_no_weight_is_never_chosen(weights, uniform):
    token = int(invert(jnp.array([weights], jnp.float32), jnp.array([uniform], jnp.float32))[0])
    assert weights[token] > 0


def test_each_row_has_its_own_rules():
    logits = some_logits(1).repeat(4, axis=0)
    likeliest = int(logits[0].argmax())
    mixed = rules(
        4,
        temperature=jnp.array([0.0, 1.0, 1.0, 1.0]),
        top_k=jnp.array([0, 1, 0, 3]),
        top_p=jnp.array([1.0, 1.0, 0.001, 1.0]),
    )
    tokens = draw(logits, jnp.full(4, 0.999), mixed, filters=True)
    assert tokens[:3].tolist() == [likeliest] * 3
    assert int(tokens[3]) in np.argsort(logits[3])[-3:]
    assert int(draw(logits, jnp.full(4, 0.999), rules(4), filters=False)[0]) != likeliest


def test_penalties_are_those_of_their_definitions():
    logits = jnp.array([[2.0, -2.0, 1.0, 1.0, 1.0]])
    said = jnp.array([[0, 0, 3, 0, 1]])
    in_prompt = jnp.array([[True, True, False, False, False]])

    def after(**values: float) -> list[float]:
        return penalize(logits, rules(1, **values), said_BV=said, in_prompt_BV=in_prompt)[0].tolist()

    assert after() == logits[0].tolist()
    assert after(repetition_penalty=2.0) == [1.0, -4.0, 0.5, 1.0, 0.5]
    assert after(presence_penalty=0.5) == [2.0, -2.0, 0.5, 1.0, 0.5]
    assert after(frequency_penalty=0.5) == [2.0, -2.0, -0.5, 1.0, 0.5]


def test_log_probabilities_are_of_the_logits():
    logits = some_logits(3)
    tokens = jnp.array([0, 5, V - 1])
    expected = jax.nn.log_softmax(logits)[jnp.arange(3), tokens]
    np.testing.assert_allclose(log_probs(logits, tokens), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": -0.1}, "temperature is -0.1; it must be at least 0 and at most 100"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_p": 0.0}, "top_p is 0.0; it must be above 0 and at most 1"),
        ({"top_k": -1}, "top_k is -1; it must be at least 0"),
        ({"min_p": 1.5}, "min_p is 1.5"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0; it must be above 0"),
        ({"frequency_penalty": float("inf")}, "frequency_penalty is inf"),
        ({"max_tokens": 0}, "max_tokens is 0; it must be at least 1"),
        ({"top_logprobs": 21}, "top_logprobs is 21; it must be at least 0 and at most 20"),
        ({"seed": 2**70}, "seed is"),
    ],
)
def test_impossible_values_are_named(values: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        Sampling(**values)
