"""Samples during training: what is drawn, from which randomness, and that no mesh changes it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from one_layer import MODEL

from samosa_jax.config import MeshConfig
from samosa_jax.errors import UserError
from samosa_jax.model.gpt import Network
from samosa_jax.model.params import Params
from samosa_jax.parallel.mesh import make_mesh
from samosa_jax.parallel.sharding import param_shardings
from samosa_jax.rollout.sample import choose_tokens, make_sampler

BOS = 1
PROMPTS = [[BOS, 5, 9], [BOS, 40]]
CONFIG = dataclasses.replace(MODEL, vocab_size=64, context_len=16, num_layers=2, init_std=0.4)
NETWORK = Network.build(CONFIG)


@pytest.fixture(scope="module")
def params() -> Params:
    return jax.jit(NETWORK.init)(jax.random.key(3))


def sampler(*, end_ids: list[int], temperature: float = 1.0, seed: int = 0, max_tokens: int = 6):
    return make_sampler(
        NETWORK,
        prompts=PROMPTS,
        end_ids=end_ids,
        max_tokens=max_tokens,
        temperature=temperature,
        top_k=0,
        seed=seed,
        mesh=make_mesh(MeshConfig(), devices=jax.devices()[:1]),
    )


@jax.jit
def all_logits(params: Params, tokens: jax.Array) -> jax.Array:
    position = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
    return NETWORK.logits(
        params,
        tokens,
        k_lo=jnp.zeros_like(position),
        k_hi=position + 1,
        position=position,
        turn_position=position,
    )


def test_greedy_is_the_largest_logit_of_the_whole_text_so_far(params: Params):
    sampled = sampler(temperature=0.0, end_ids=[63])(params, 0)
    for prompt, continuation in zip(PROMPTS, sampled, strict=True):
        text = list(prompt)
        for _ in range(6):
            padded = np.zeros((1, CONFIG.context_len), np.int32)
            padded[0, : len(text)] = text
            text.append(int(jnp.argmax(all_logits(params, jnp.asarray(padded))[0, len(text) - 1])))
        assert continuation == text[len(prompt) :]
    assert sampled[0] != sampled[1]


@pytest.fixture(scope="module")
def texts(params: Params) -> list[list[int]]:
    """What seed 0 and step 5 give on one device, with an id for <|bos|> that does not come up."""
    return sampler(end_ids=[63])(params, 5)


def test_seed_and_step_decide_the_samples_and_the_mesh_does_not(params: Params, texts: list[list[int]]):
    one = sampler(end_ids=[63])
    assert one(params, 5) == texts
    assert one(params, 6) != texts
    assert sampler(seed=1, end_ids=[63])(params, 5) != texts
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2), devices=jax.devices())
    spread = jax.device_put(params, param_shardings(NETWORK.info, mesh))
    many = make_sampler(
        NETWORK, prompts=PROMPTS, end_ids=[63], max_tokens=6, temperature=1.0, top_k=0, seed=0, mesh=mesh
    )
    assert many(spread, 5) == texts


def test_a_text_ends_before_the_next_bos(params: Params, texts: list[list[int]]):
    full = texts[0]
    ended = sampler(end_ids=[full[3]])(params, 5)[0]
    assert ended == full[: full.index(full[3])]
    assert len(full) == 6


def test_top_k_and_temperature_shape_the_distribution():
    logits = jnp.broadcast_to(jnp.log(jnp.array([0.5, 0.3, 0.15, 0.05])), (4_000, 4))
    keys = jax.random.split(jax.random.key(0), 4_000)

    def shares(*, temperature: float, top_k: int) -> np.ndarray:
        drawn = choose_tokens(logits, keys, temperature=temperature, top_k=top_k)
        return np.bincount(np.asarray(drawn), minlength=4) / 4_000

    np.testing.assert_allclose(shares(temperature=1.0, top_k=0), [0.5, 0.3, 0.15, 0.05], atol=0.03)
    np.testing.assert_allclose(shares(temperature=1.0, top_k=2), [0.625, 0.375, 0, 0], atol=0.03)
    np.testing.assert_allclose(shares(temperature=1.0, top_k=1), [1, 0, 0, 0])
    np.testing.assert_allclose(shares(temperature=0.0, top_k=0), [1, 0, 0, 0])
    squared = np.array([0.25, 0.09, 0.0225, 0.0025])
    np.testing.assert_allclose(shares(temperature=0.5, top_k=0), squared / squared.sum(), atol=0.03)


def test_a_prompt_that_does_not_fit_is_refused():
    with pytest.raises(
        UserError, match=r"sample.max_tokens 14 that is 17, more than model.context_len \(16\)"
    ):
        sampler(end_ids=[BOS], max_tokens=14)
