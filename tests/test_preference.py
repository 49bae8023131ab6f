"""DPO: loss, metrics and gradients against torch's, however the pairs are packed and spread over devices."""

import dataclasses
import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loss_gradients import assert_close, run
from one_layer import MODEL
from tiny_training import mesh_of

from samosa_jax.data.batch import Batch
from samosa_jax.data.chat.preference_batch import PreferenceBatch
from samosa_jax.model.gpt import Network
from samosa_jax.model.lora import Adapters, make_lora_loss
from samosa_jax.training.losses import LossFn, sharded_token_nll
from samosa_jax.training.preference import Reference, make_dpo_loss, make_reference_log_probs, pair_loss
from samosa_jax.training.step import accumulate, put_batch

VOCAB_SIZE, LENGTH, NUM_PAIRS = 61, 31, 8
NETWORK = Network.build(dataclasses.replace(MODEL, vocab_size=VOCAB_SIZE, context_len=LENGTH))
PLAIN: dict[str, Any] = {
    "beta": 0.3,
    "label_smoothing": 0.0,
    "loss_type": "sigmoid",
    "length_normalized": False,
    "chunk_tokens": 7,
}
Pair = tuple[
    tuple[np.ndarray, int], tuple[np.ndarray, int]
]  # chosen and rejected: tokens, prompt's among them


def make_pairs() -> list[Pair]:
    """Prompts of 1 to 3 tokens with answers of 1 to 4."""
    rng = np.random.default_rng(0)
    pairs = []
    for _ in range(NUM_PAIRS):
        prompt = rng.integers(0, VOCAB_SIZE, rng.integers(1, 4))
        answers = [rng.integers(0, VOCAB_SIZE, rng.integers(1, 5)) for _ in range(2)]
        chosen, rejected = ((np.concatenate([prompt, answer]), len(prompt)) for answer in answers)
        pairs.append((chosen, rejected))
    return pairs


PAIRS = make_pairs()


def pack(rows: list[list[Pair]], *, places: int) -> PreferenceBatch:
    """One row for each list of pairs, with room for `places` pairs in each."""
    shape = (len(rows), LENGTH)
    batch = Batch(
        tokens=np.zeros(shape, np.int32),
        targets=np.zeros(shape, np.int32),
        weights=np.zeros(shape, np.float32),
        k_lo=np.zeros(shape, np.int32),
        k_hi=np.zeros(shape, np.int32),
        position=np.zeros(shape, np.int32),
        turn_position=np.zeros(shape, np.int32),
    )
    packed = PreferenceBatch(
        batch=batch,
        sequence=np.full(shape, -1, np.int32),
        pairs=np.zeros((len(rows), places), np.float32),
    )
    for row, pairs in enumerate(rows):
        packed.pairs[row, : len(pairs)] = 1
        start = 0
        for number, (tokens, num_prompt) in enumerate(answer for pair in pairs for answer in pair):
            length = len(tokens) - 1
            here, place = (row, slice(start, start + length)), np.arange(length)
            batch.tokens[here], batch.targets[here] = tokens[:-1], tokens[1:]
            batch.weights[here] = place >= num_prompt - 1
            batch.k_lo[here], batch.k_hi[here] = start, start + place + 1
            batch.position[here] = batch.turn_position[here] = place
            packed.sequence[here] = number
            start += length
    return packed


TWO_A_ROW = pack([PAIRS[row : row + 2] for row in range(0, NUM_PAIRS, 2)], places=3)
ONE_A_ROW = pack([[pair] for pair in PAIRS], places=1)


@pytest.fixture(scope="module")
def policy():
    return jax.jit(NETWORK.init)(jax.random.key(0))


@pytest.fixture(scope="module")
def frozen():
    return jax.jit(NETWORK.init)(jax.random.key(1))


@functools.cache
def dpo(*, reference: Reference = "frozen", **change) -> LossFn:
    return make_dpo_loss(NETWORK, **PLAIN | change, reference=reference)


@jax.jit
def plain_log_probs(params) -> jax.Array:
    """(pairs, 2), every answer in a row of its own, from all logits at once."""
    answers = [answer for pair in PAIRS for answer in pair]
    tokens = np.array([np.pad(tokens, (0, 8 - len(tokens))) for tokens, _ in answers])
    place = np.broadcast_to(np.arange(7), (len(answers), 7))
    counts = [(num_prompt - 1 <= place[0]) & (place[0] < len(tokens) - 1) for tokens, num_prompt in answers]
    logits = NETWORK.logits(
        params,
        jnp.asarray(tokens[:, :-1]),
        k_lo=jnp.zeros_like(place),
        k_hi=jnp.asarray(place + 1),
        position=jnp.asarray(place),
        turn_position=jnp.asarray(place),
    )
    log_probs = jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[:, 1:, None], axis=-1)[..., 0]
    return jnp.sum(log_probs * np.array(counts), axis=-1).reshape(-1, 2)


OPTIONS = [
    {},
    {"beta": 1.0, "label_smoothing": 0.2},
    {"length_normalized": True},
    {"loss_type": "ipo", "length_normalized": True},
]


@pytest.mark.parametrize("change", OPTIONS, ids=str)
def test_loss_and_gradients_are_those_of_the_formula_in_torch(change, policy, frozen):
    torch = pytest.importorskip("torch", reason="the formula is computed by torch: pip install torch")
    options = PLAIN | change
    beta, smoothing = options["beta"], options["label_smoothing"]
    log_probs, pull_back = jax.vjp(plain_log_probs, policy)
    pi = torch.tensor(np.asarray(log_probs), dtype=torch.float64, requires_grad=True)
    ref = torch.tensor(np.asarray(plain_log_probs(frozen)), dtype=torch.float64)
    lengths = torch.tensor([[len(tokens) - prompt for tokens, prompt in pair] for pair in PAIRS])
    scores = (pi - ref) / (lengths if options["length_normalized"] else 1)
    delta = scores[:, 0] - scores[:, 1]
    if options["loss_type"] == "ipo":
        losses = (delta - 1 / (2 * beta)) ** 2
    else:
        odds = torch.sigmoid(beta * delta)
        losses = -torch.log(odds) * (1 - smoothing) - torch.log(1 - odds) * smoothing
    losses.sum().backward()
    rewards = beta * (pi - ref).detach()
    chosen, rejected = rewards[:, 0].sum(), rewards[:, 1].sum()

    output, gradients = run(dpo(**change), policy, TWO_A_ROW, frozen)
    np.testing.assert_allclose(output.sum, losses.sum().item(), rtol=1e-5)
    assert output.weight == NUM_PAIRS
    expected = {
        "rewards/chosen": chosen,
        "rewards/rejected": rejected,
        "rewards/margins": chosen - rejected,
        "rewards/accuracies": (rewards[:, 0] > rewards[:, 1]).sum(),
        "logps/chosen": pi[:, 0].sum(),
        "logps/rejected": pi[:, 1].sum(),
    }
    assert output.metrics.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(output.metrics[name], value.item(), rtol=1e-4, err_msg=name)
    assert 0 < output.metrics["rewards/accuracies"] < NUM_PAIRS
    assert pi.grad is not None
    (formula_gradients,) = pull_back(jnp.asarray(pi.grad.numpy(), jnp.float32))
    assert_close(gradients, formula_gradients)
    if change:
        other, other_gradients = run(dpo(), policy, TWO_A_ROW, frozen)
        assert abs(other.sum - output.sum) > 0.05
        assert np.abs(other_gradients["head"] - gradients["head"]).max() > 1e-3


@pytest.mark.parametrize("delta", [-400.0, -1.0, 0.0, 2.0, 400.0])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_loss_of_a_pair_far_from_its_reference(delta, label_smoothing):
    """-log sigmoid(x) is x less than -log sigmoid(-x): no overflow, and a slope that does not vanish."""
    loss, slope = jax.value_and_grad(pair_loss)(
        delta, beta=0.5, label_smoothing=label_smoothing, loss_type="sigmoid"
    )
    expected = np.logaddexp(0, -0.5 * delta) + label_smoothing * 0.5 * delta
    np.testing.assert_allclose(loss, expected, rtol=1e-6, atol=1e-30)
    expected_slope = 0.5 * (label_smoothing - 1 / (1 + np.exp(0.5 * delta)))
    np.testing.assert_allclose(slope, expected_slope, rtol=1e-5, atol=1e-30)


def test_packing_changes_nothing(policy, frozen):
    loss_fn = dpo(length_normalized=True)
    whole, apart = (run(loss_fn, policy, batch, frozen) for batch in (TWO_A_ROW, ONE_A_ROW))
    assert_close(apart, whole)
    assert TWO_A_ROW.sequence.max() > ONE_A_ROW.sequence.max()  # they do differ
    fewer, _ = run(loss_fn, policy, pack([*([pair] for pair in PAIRS[1:]), []], places=1), frozen)
    assert fewer.weight == NUM_PAIRS - 1
    assert abs(fewer.sum - whole[0].sum) > 0.01


def test_precomputed_reference_is_that_of_the_frozen_parameters(policy, frozen):
    reference = make_reference_log_probs(NETWORK, chunk_tokens=7, mesh=mesh_of())(frozen, TWO_A_ROW)
    np.testing.assert_allclose(reference[:, :2].reshape(-1, 2), plain_log_probs(frozen), rtol=1e-5)
    assert not reference[:, 2].any()  # no row has a third pair
    unread = np.array(reference)
    unread[:, 2] = np.nan
    found = run(dpo(reference="precomputed"), policy, TWO_A_ROW._replace(reference=unread))
    assert_close(found, run(dpo(), policy, TWO_A_ROW, frozen))
    forgotten = TWO_A_ROW._replace(reference=np.full_like(unread, np.nan))
    assert np.isnan(run(dpo(reference="precomputed"), policy, forgotten)[0].sum)  # not quietly another loss
    with pytest.raises(ValueError, match="no reference log-probabilities"):
        run(dpo(reference="precomputed"), policy, TWO_A_ROW)


def test_a_policy_that_is_its_reference_has_loss_log_2_and_a_step_raises_its_margin(policy):
    before, gradients = run(dpo(), policy, TWO_A_ROW, policy)
    np.testing.assert_allclose(before.sum, NUM_PAIRS * np.log(2), rtol=1e-6)
    assert before.metrics["rewards/margins"] == before.metrics["rewards/accuracies"] == 0
    moved = jax.tree.map(lambda weight, gradient: weight - 0.01 * gradient, policy, gradients)
    after, _ = run(dpo(), moved, TWO_A_ROW, policy)
    assert after.sum < before.sum
    assert after.metrics["rewards/margins"] > 0.01
    assert after.metrics["rewards/accuracies"] > NUM_PAIRS / 2


def test_the_reference_of_adapters_is_the_model_without_them(policy):
    adapters = Adapters(NETWORK.info, rank=2, targets=("attention",)).init(jax.random.key(2))
    output, gradients = run(make_lora_loss(dpo(), scale=1.0), adapters, TWO_A_ROW, policy)
    np.testing.assert_allclose(output.sum, NUM_PAIRS * np.log(2), rtol=1e-6)
    assert jax.tree.structure(gradients) == jax.tree.structure(adapters)
    assert np.abs(gradients["blocks"]["attention"]["value"]["B"]).max() > 1e-3


@pytest.mark.parametrize("change", OPTIONS, ids=str)
def test_rows_without_pairs_weigh_nothing(change, policy, frozen):
    empty = pack([[]] * len(TWO_A_ROW.pairs), places=3)
    output, gradients = run(dpo(**change), policy, empty, frozen)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves((output, gradients)))  # NaN would be true


def test_tokens_that_do_not_count_leave_no_trace(policy, frozen):
    clean = run(dpo(), policy, TWO_A_ROW, frozen)
    batch = TWO_A_ROW.batch
    targets = np.where(batch.weights > 0, batch.targets, -1)
    spoilt = TWO_A_ROW._replace(batch=batch._replace(targets=targets, weights=0.25 * batch.weights))
    found = run(dpo(), policy, spoilt, frozen)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(clean), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert (targets < 0).any()


def test_microbatches_add_up(policy, frozen):
    batch = put_batch(TWO_A_ROW, num_microbatches=2, mesh=mesh_of())
    assert batch.pairs.shape == (2, 2, 3)
    found = jax.jit(functools.partial(accumulate, dpo()))(policy, batch, frozen)
    assert_close(found, run(dpo(), policy, TWO_A_ROW, frozen))


def test_a_mesh_changes_nothing(policy, frozen):
    loss_fn = dpo(length_normalized=True)
    alone = run(loss_fn, policy, ONE_A_ROW, frozen)
    mesh = mesh_of(data=2, fsdp=2, tensor=2)
    placed = jax.tree.map(lambda array: array[0], put_batch(ONE_A_ROW, num_microbatches=1, mesh=mesh))
    assert placed.sequence.addressable_shards[0].data.shape == (2, LENGTH)
    with jax.set_mesh(mesh):
        assert_close(jax.device_get(run(loss_fn, policy, placed, frozen)), jax.device_get(alone))
    reference = make_reference_log_probs(NETWORK, chunk_tokens=7, mesh=mesh)(frozen, placed)
    np.testing.assert_allclose(reference[:, 0], plain_log_probs(frozen), rtol=1e-5)


def test_token_nll_on_a_mesh_sends_nothing_inside_its_loops():
    length = 8  # divides over `tensor`, as LENGTH does not
    key = jax.random.key(2)
    hidden = jax.random.normal(key, (4, length, 16))
    head = jax.random.normal(jax.random.fold_in(key, 1), (64, 16))
    targets = jax.random.randint(key, (4, length), 0, 61)
    cotangents = jax.random.normal(jax.random.fold_in(key, 2), (4, length))

    def compute(hidden, head):
        nll, pull_back = jax.vjp(
            lambda hidden, head: sharded_token_nll(
                hidden, head, targets, vocab_size=61, soft_cap=None, chunk_tokens=2
            ),
            hidden,
            head,
        )
        return nll, *pull_back(cotangents)

    alone = jax.jit(compute)(hidden, head)
    with jax.set_mesh(mesh_of(data=2, fsdp=2, tensor=2)):
        program = jax.jit(compute).lower(hidden, head).compile()
        shared = program(hidden, head)
    for ours, theirs in zip(shared, alone, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    text = program.as_text() or ""
    computations = {block.split()[0].lstrip("%"): block for block in text.split("\n\n") if block}
    bodies = [computations[name] for name in re.findall(r"body=%([\w.-]+)", text)]
    collectives = ("all-reduce", "all-gather", "all-to-all", "collective-permute")
    assert len(bodies) >= 2, "no loops over chunks: this test looks in the wrong place"
    assert not any(word in body for body in bodies for word in collectives)
    assert "all-reduce" in text
