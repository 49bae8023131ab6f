"""The policy's loss: values and gradients against formulas and torch, whatever counts, splits or devices."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_gradients import assert_close, run
from one_layer import MODEL
from tiny_training import mesh_of

from samosa_jax.data.batch import Batch
from samosa_jax.model.gpt import Network
from samosa_jax.rl.advantages import Normalization, group_advantages, token_weights
from samosa_jax.rl.policy_loss import (
    PolicyBatch,
    bounded_log_ratio,
    clipped_gain,
    is_clipped_high,
    is_clipped_low,
    k3,
    make_policy_loss,
    make_token_log_probs,
    skip_empty,
)
from samosa_jax.training.losses import LossFn
from samosa_jax.training.step import accumulate, put_batch

VOCAB_SIZE, LENGTH = MODEL.vocab_size, MODEL.context_len
PROMPTS, SAMPLES = 2, 4
MAX_TOKENS = 10
NETWORK = Network.build(MODEL)
PLAIN: dict[str, Any] = {
    "clip_low": None,
    "clip_high": None,
    "kl_coef": 0.0,
    "reference": "frozen",
    "chunk_tokens": 7,
}
DAPO: dict[str, Any] = {"clip_low": 0.2, "clip_high": 0.28}
OPTIONS: list[dict[str, Any]] = [{}, DAPO, {**DAPO, "kl_coef": 0.3}]

RNG = np.random.default_rng(0)
TOKENS = RNG.integers(0, VOCAB_SIZE, (PROMPTS * SAMPLES, LENGTH + 1)).astype(np.int32)
# Of every answer, in a row of its own: prompt, tokens sampled, and amid them one that a tool returned.
PROMPT_LENGTHS = np.repeat([2, 4], SAMPLES)
ANSWER_LENGTHS = np.array([3, 5, 8, 2, 6, 4, 3, 7])
REWARDS = np.array([[1.0, 0.0, 0.0, 1.0], [0.2, 1.1, 0.1, 0.1]])
PLACE = np.broadcast_to(np.arange(LENGTH, dtype=np.int32), (PROMPTS * SAMPLES, LENGTH))
FIRST = PROMPT_LENGTHS[:, None] - 1  # place whose target is the answer's first token
END = FIRST + ANSWER_LENGTHS[:, None]
FORCED = FIRST + 1
SAMPLED = (PLACE >= FIRST) & (PLACE < END) & (PLACE != FORCED)
NUM_TOKENS = SAMPLED.sum(axis=1)


def make_batch(*, normalization: Normalization = "batch", **fields: Any) -> PolicyBatch:
    counts = np.ones((PROMPTS, SAMPLES), bool)
    weights = token_weights(
        NUM_TOKENS.reshape(PROMPTS, SAMPLES), counts, normalization=normalization, max_tokens=MAX_TOKENS
    )
    advantages = group_advantages(REWARDS, kind="std").values
    batch = Batch(
        tokens=TOKENS[:, :-1],
        targets=TOKENS[:, 1:],
        weights=(weights.reshape(-1, 1) * SAMPLED).astype(np.float32),
        k_lo=np.zeros_like(PLACE),
        k_hi=PLACE + 1,
        position=PLACE,
        turn_position=PLACE,
    )
    whole = {
        "advantages": np.where(SAMPLED, advantages.reshape(-1, 1), 0.0).astype(np.float32),
        "sampler": np.zeros(PLACE.shape, np.float32),
    }
    return PolicyBatch(batch=batch, **whole | fields)


@pytest.fixture(scope="module")
def policy():
    return jax.jit(NETWORK.init)(jax.random.key(0))


@pytest.fixture(scope="module")
def frozen():
    return jax.jit(NETWORK.init)(jax.random.key(1))


@jax.jit
def plain_log_probs(params) -> jax.Array:
    """Of every target, from all logits at once: (rows, LENGTH)."""
    logits = NETWORK.logits(
        params,
        jnp.asarray(TOKENS[:, :-1]),
        k_lo=jnp.zeros_like(PLACE),
        k_hi=jnp.asarray(PLACE + 1),
        position=jnp.asarray(PLACE),
        turn_position=jnp.asarray(PLACE),
    )
    return jnp.take_along_axis(jax.nn.log_softmax(logits), TOKENS[:, 1:, None], axis=-1)[..., 0]


@pytest.fixture(scope="module")
def old(policy) -> np.ndarray:
    """Log-probabilities of a policy some updates ago: ratios on both sides of every bound."""
    gap = np.random.default_rng(1).normal(0, 0.3, PLACE.shape)
    return (np.asarray(plain_log_probs(policy)) + gap).astype(np.float32)


@functools.cache
def loss_of(**change) -> LossFn:
    return make_policy_loss(NETWORK, **PLAIN | change)


@pytest.mark.parametrize("normalization", ["sequence", "group", "batch", "constant"])
@pytest.mark.parametrize("change", OPTIONS, ids=str)
def test_loss_and_gradients_are_those_of_the_formula_in_torch(
    change, normalization, policy, frozen, old
) -> None:
    """From rewards on, with loops over answers instead of weights."""
    torch = pytest.importorskip("torch", reason="the formula is computed by torch: pip install torch")
    options = PLAIN | change
    log_probs, pull_back = jax.vjp(plain_log_probs, policy)
    new = torch.tensor(np.asarray(log_probs), dtype=torch.float64, requires_grad=True)
    before = torch.tensor(old, dtype=torch.float64)
    ref = torch.tensor(np.asarray(plain_log_probs(frozen)), dtype=torch.float64)
    rewards = torch.tensor(REWARDS)
    by_group: list[Any] = []
    for group in range(PROMPTS):
        spread = rewards[group].std(correction=0) + 1e-6
        answers = []
        for sample in range(SAMPLES):
            row = group * SAMPLES + sample
            kept = torch.tensor(SAMPLED[row])
            ratio = torch.exp(new[row] - before[row])[kept]
            advantage = (rewards[group, sample] - rewards[group].mean()) / spread
            gain = ratio * advantage
            if options["clip_low"] is not None:
                bounded = ratio.clamp(1 - options["clip_low"], 1 + options["clip_high"])
                gain = torch.minimum(gain, bounded * advantage)
            gap = (ref[row] - new[row])[kept]
            answers.append(options["kl_coef"] * (gap.exp() - gap - 1) - gain)
        by_group.append(answers)
    flat = [losses for answers in by_group for losses in answers]
    loss = {
        "sequence": lambda: torch.stack([losses.mean() for losses in flat]).mean(),
        "group": lambda: torch.stack([torch.cat(answers).mean() for answers in by_group]).mean(),
        "batch": lambda: torch.cat(flat).mean(),
        "constant": lambda: torch.stack([losses.sum() / MAX_TOKENS for losses in flat]).mean(),
    }[normalization]()
    loss.backward()

    output, gradients = run(
        loss_of(**change), policy, make_batch(normalization=normalization, old=old), frozen
    )
    assert output.weight == NUM_TOKENS.sum()
    np.testing.assert_allclose(output.sum / output.weight, loss.item(), rtol=1e-5, atol=1e-6)
    assert new.grad is not None
    (formula_gradients,) = pull_back(jnp.asarray(new.grad.numpy(), jnp.float32))
    assert_close(jax.tree.map(lambda gradient: gradient / output.weight, gradients), formula_gradients)


def test_metrics_are_sums_over_the_tokens_that_count(policy, frozen, old) -> None:
    new = np.asarray(plain_log_probs(policy), np.float64)
    sampler = (new + 0.01 * np.cos(PLACE)).astype(np.float32)
    batch = make_batch(old=old, sampler=sampler, normalization="sequence")
    output, _ = run(loss_of(**DAPO, kl_coef=0.3), policy, batch, frozen)
    log_ratio = new - old
    ratio = np.exp(log_ratio)
    advantages = batch.advantages
    gap = np.asarray(plain_log_probs(frozen), np.float64) - new
    expected = {
        "rl/entropy": -new,
        "rl/ratio": ratio,
        "rl/clip_low": (ratio < 0.8) & (advantages < 0),
        "rl/clip_high": (ratio > 1.28) & (advantages > 0),
        "rl/approx_kl": ratio - 1 - log_ratio,
        "rl/logprob_gap": np.abs(new - sampler),
        "rl/kl": np.exp(gap) - gap - 1,
    }
    assert output.metrics.keys() == expected.keys()
    for name, values in expected.items():
        assert values[SAMPLED].sum() > 0
        np.testing.assert_allclose(output.metrics[name], values[SAMPLED].sum(), rtol=2e-4, err_msg=name)


@pytest.mark.parametrize(
    ("ratio", "advantage", "gain", "slope", "low", "high"),
    [
        (1.0, 2.0, 2.0, 2.0, False, False),
        (1.25, 2.0, 2.5, 2.0, False, False),
        (1.5, 2.0, 2.56, 0.0, False, True),  # likelier by enough
        (0.5, 2.0, 1.0, 2.0, False, False),  # better, and too rare: all of the slope
        (0.9, -2.0, -1.8, -2.0, False, False),
        (0.5, -2.0, -1.6, 0.0, True, False),  # rarer by enough
        (1.5, -2.0, -3.0, -2.0, False, False),
        (3.0, 0.0, 0.0, 0.0, False, False),
    ],
)
def test_clipping_by_hand(ratio, advantage, gain, slope, low, high) -> None:
    """Between 0.8 and 1.28."""
    value, found = jax.value_and_grad(clipped_gain)(ratio, advantage, low=0.2, high=0.28)
    np.testing.assert_allclose([value, found], [gain, slope], rtol=1e-6)
    of_token = jnp.float32(ratio), jnp.float32(advantage)
    assert bool(is_clipped_low(*of_token, 0.2)) == low
    assert bool(is_clipped_high(*of_token, 0.28)) == high
    free, free_slope = jax.value_and_grad(clipped_gain)(ratio, advantage, low=None, high=None)
    np.testing.assert_allclose([free, free_slope], [ratio * advantage, advantage], rtol=1e-6)


def test_k3_by_hand() -> None:
    found = k3(jnp.array([0.0, np.log(2), -np.log(2), 1e-4]))
    np.testing.assert_allclose(found, [0, 0.5 - 1 + np.log(2), 2 - 1 - np.log(2), 5e-9], rtol=1e-2)
    np.testing.assert_allclose(found[1:3], [0.193147, 0.306853], rtol=1e-5)


@settings(deadline=None)  # the first call compiles
@given(st.integers(0, 2**32 - 1))
def test_k3_is_never_negative_and_its_mean_is_the_divergence(seed: int) -> None:
    draw = np.random.default_rng(seed)
    pi, ref = draw.dirichlet(np.ones(5), 2).astype(np.float32) + 1e-3
    pi, ref = pi / pi.sum(), ref / ref.sum()
    values = np.asarray(k3(jnp.log(pi) - jnp.log(ref)))
    assert (values >= -1e-6).all()
    np.testing.assert_allclose((pi * values).sum(), (pi * np.log(pi / ref)).sum(), atol=1e-5)


def test_on_policy_the_gradient_is_the_plain_policy_gradient(policy, frozen) -> None:
    """-A * grad log pi, whether the old policy is left out or is the policy itself, clipped or not."""
    batch = make_batch(normalization="constant")
    advantages, weights = batch.advantages, batch.batch.weights

    def reinforce(params):
        return -jnp.sum(weights * advantages * plain_log_probs(params))

    expected = jax.grad(reinforce)(policy)
    same = np.asarray(plain_log_probs(policy))
    for change, given_old in [({}, None), ({}, same), (DAPO, same)]:
        output, gradients = run(loss_of(**change), policy, batch._replace(old=given_old), frozen)
        assert_close(gradients, expected)
        np.testing.assert_allclose(output.sum, -(weights * advantages).sum(), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(output.metrics["rl/ratio"], NUM_TOKENS.sum(), rtol=1e-6)
        assert output.metrics["rl/clip_low"] == output.metrics["rl/clip_high"] == 0
        assert abs(output.metrics["rl/approx_kl"]) < 1e-6


def test_a_step_makes_better_answers_likelier(policy, frozen) -> None:
    batch = make_batch()
    _, gradients = run(loss_of(), policy, batch, frozen)
    moved = jax.tree.map(lambda weight, gradient: weight - 1e-3 * gradient, policy, gradients)
    change = np.where(SAMPLED, plain_log_probs(moved) - plain_log_probs(policy), 0.0)
    assert (change * batch.advantages).sum() > 0.01


def test_tokens_that_do_not_count_leave_no_trace(policy, frozen, old) -> None:
    loss_fn = loss_of(**DAPO, kl_coef=0.3, reference="precomputed")
    reference = np.asarray(plain_log_probs(frozen))
    clean = make_batch(old=old, reference=reference, sampler=old)

    def spoil(values: np.ndarray) -> np.ndarray:
        return np.where(SAMPLED, values, np.nan).astype(np.float32)

    spoilt = PolicyBatch(
        batch=clean.batch._replace(targets=np.where(SAMPLED, clean.batch.targets, -1)),
        advantages=spoil(clean.advantages),
        sampler=spoil(old),
        old=spoil(old),
        reference=spoil(reference),
    )
    assert not SAMPLED.all()
    found, expected = (run(loss_fn, policy, batch, frozen) for batch in (spoilt, clean))
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    # And one that counts does leave one.
    fewer = np.where(PLACE == FIRST, 0, clean.batch.weights).astype(np.float32)
    other, _ = run(loss_fn, policy, clean._replace(batch=clean.batch._replace(weights=fewer)), frozen)
    assert other.weight == NUM_TOKENS.sum() - len(NUM_TOKENS)
    assert abs(other.sum - expected[0].sum) > 0.01


def test_a_batch_in_which_nothing_counts_weighs_nothing(policy, frozen, old) -> None:
    batch = make_batch(old=old)
    empty = batch._replace(batch=batch.batch._replace(weights=np.zeros_like(batch.batch.weights)))
    found = run(loss_of(**DAPO, kl_coef=0.3), policy, empty, frozen)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(found))  # NaN would be true


@pytest.mark.parametrize("change", OPTIONS, ids=str)
def test_ratios_far_out_stay_finite(change, policy, frozen) -> None:
    far = np.where(PLACE % 2, 1e4, -1e4).astype(np.float32)
    output, gradients = run(loss_of(**change), policy, make_batch(old=far), frozen)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((output, gradients)))
    assert jax.grad(lambda x: jnp.exp(bounded_log_ratio(x)))(1e4) == 0


@pytest.fixture(scope="module")
def log_probs_of() -> Callable[[Any, Batch], jax.Array]:
    return make_token_log_probs(NETWORK, chunk_tokens=7, mesh=mesh_of())


def test_a_precomputed_reference_is_that_of_the_frozen_parameters(policy, frozen, old, log_probs_of) -> None:
    batch = make_batch(old=old)
    reference = np.asarray(log_probs_of(frozen, batch.batch))
    np.testing.assert_allclose(reference[SAMPLED], plain_log_probs(frozen)[SAMPLED], rtol=1e-5)
    assert not reference[~SAMPLED].any()
    precomputed = loss_of(**DAPO, kl_coef=0.3, reference="precomputed")
    found = run(precomputed, policy, batch._replace(reference=reference), frozen)
    assert_close(found, run(loss_of(**DAPO, kl_coef=0.3), policy, batch, frozen))
    with pytest.raises(ValueError, match="no reference log-probabilities"):
        run(precomputed, policy, batch, frozen)


def test_a_first_pass_is_what_the_policy_is(policy, frozen, log_probs_of) -> None:
    batch = make_batch()
    first = np.asarray(log_probs_of(policy, batch.batch))
    output, _ = run(loss_of(**DAPO), policy, batch._replace(old=first, sampler=first), frozen)
    assert output.metrics["rl/logprob_gap"] / output.weight < 1e-6
    assert output.metrics["rl/ratio"] / output.weight == pytest.approx(1.0, abs=1e-6)


def test_microbatches_add_up(policy, frozen, old) -> None:
    loss_fn = loss_of(**DAPO, kl_coef=0.3)
    batch = make_batch(normalization="sequence", old=old)
    split = put_batch(batch, num_microbatches=4, mesh=mesh_of())
    assert split.advantages.shape == (4, 2, LENGTH)
    found = jax.jit(functools.partial(accumulate, loss_fn))(policy, split, frozen)
    assert_close(found, run(loss_fn, policy, batch, frozen))


def test_padding_microbatches_are_skipped_and_change_nothing(policy, frozen, old) -> None:
    loss_fn = loss_of(**DAPO, kl_coef=0.3)
    batch = make_batch(normalization="sequence", old=old)
    padded = jax.tree.map(lambda array: np.concatenate([array, np.zeros_like(array)]), batch)
    split = put_batch(padded, num_microbatches=4, mesh=mesh_of())
    with_skips = jax.jit(functools.partial(accumulate, skip_empty(loss_fn)))
    assert_close(with_skips(policy, split, frozen), run(loss_fn, policy, batch, frozen))
    # What is skipped is not computed at all: not even NaN among its parameters' products.
    empty = jax.tree.map(lambda array: array[2:], split)
    broken = jax.tree.map(lambda param: jnp.full_like(param, jnp.nan), policy)
    output, gradients = with_skips(broken, empty, frozen)
    assert not output.sum
    assert not output.weight
    assert not any(np.any(gradient) for gradient in jax.tree.leaves(gradients))


def test_a_mesh_changes_nothing(policy, frozen, old) -> None:
    loss_fn = loss_of(**DAPO, kl_coef=0.3)
    batch = make_batch(old=old)
    alone = run(loss_fn, policy, batch, frozen)
    mesh = mesh_of(data=2, fsdp=2, tensor=2)
    placed = jax.tree.map(lambda array: array[0], put_batch(batch, num_microbatches=1, mesh=mesh))
    assert placed.advantages.addressable_shards[0].data.shape == (2, LENGTH)
    with jax.set_mesh(mesh):
        assert_close(jax.device_get(run(loss_fn, policy, placed, frozen)), jax.device_get(alone))
        assert_close(jax.device_get(run(skip_empty(loss_fn), policy, placed, frozen)), jax.device_get(alone))
    log_probs = make_token_log_probs(NETWORK, chunk_tokens=7, mesh=mesh)(frozen, placed.batch)
    np.testing.assert_allclose(log_probs[SAMPLED], plain_log_probs(frozen)[SAMPLED], rtol=1e-5)
