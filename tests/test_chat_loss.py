"""The loss of conversations by tag, and what is measured on held-out ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_training import LOSS, MODEL, NETWORK, mesh_of, ragged_batch

from samosa_jax.data.chat.pipeline import TAGS, ChatBatch
from samosa_jax.data.chat.template import Role
from samosa_jax.errors import UserError
from samosa_jax.evals.held_out import make_chat_evaluation
from samosa_jax.model.params import Params
from samosa_jax.training.chat_loss import make_chat_loss
from samosa_jax.training.metrics import METRICS
from samosa_jax.training.step_report import _arrays


@pytest.fixture(scope="module")
def params() -> Params:
    return jax.jit(NETWORK.init)(jax.random.key(1))


def chat_batch(seed: int = 0) -> ChatBatch:
    rows = ragged_batch(seed)
    roles = np.random.default_rng(seed).integers(0, len(Role), rows.tokens.shape).astype(np.uint8)
    return ChatBatch(rows._replace(weights=np.where(roles == 0, 0, rows.weights)), roles)


def weighted(batch: ChatBatch, weights: np.ndarray) -> ChatBatch:
    return batch._replace(rows=batch.rows._replace(weights=weights))


def test_it_is_the_pretraining_loss_told_apart_by_tag(params: Params):
    batch = chat_batch()
    loss_fn = make_chat_loss(NETWORK, z_loss=1e-3, chunk_tokens=24)
    (value, found), gradient = jax.jit(
        jax.value_and_grad(lambda p: (lambda o: (o.sum, o))(loss_fn(p, batch, None)), has_aux=True)
    )(params)
    (plain, expected), same = jax.jit(
        jax.value_and_grad(lambda p: (lambda o: (o.sum, o))(LOSS(p, batch.rows, None)), has_aux=True)
    )(params)
    np.testing.assert_allclose(value, plain, rtol=1e-6)
    np.testing.assert_allclose(found.weight, expected.weight)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), gradient, same)
    parts = {name: float(part) for name, part in found.metrics.items() if name.startswith("loss_part_")}
    assert len(parts) == len(TAGS)
    assert min(parts.values()) > 0
    np.testing.assert_allclose(sum(parts.values()), found.metrics["nll"], rtol=1e-5)
    assert all(f"train/{name}" in METRICS for name in parts)
    without = batch._replace(
        rows=batch.rows._replace(weights=np.where(batch.roles == 4, 0, batch.rows.weights))
    )
    assert float(jax.jit(loss_fn)(params, without, None).metrics["loss_part_think"]) == 0


def test_a_batch_without_a_supervised_token_is_no_division_by_zero(params: Params):
    batch = chat_batch()
    nothing = weighted(batch, np.zeros_like(batch.rows.weights))
    output = jax.jit(make_chat_loss(NETWORK, z_loss=0.0, chunk_tokens=24))(params, nothing, None)
    assert float(output.sum) == float(output.weight) == 0


@pytest.mark.parametrize("devices", [1, 4])
def test_held_out_loss_by_tag(params: Params, devices: int):
    batches = []
    for seed in (0, 1):
        batch = chat_batch(seed)
        batches.append(
            batch._replace(rows=batch.rows._replace(weights=(batch.roles != 0).astype(np.float32)))
        )
    found = make_chat_evaluation(NETWORK, chunk_tokens=24, mesh=mesh_of(data=devices))(params, batches)
    nats, counts = np.zeros(len(Role)), np.zeros(len(Role))
    for batch in batches:
        rows = jax.tree.map(jnp.asarray, batch.rows)
        logits = NETWORK.logits(
            params,
            rows.tokens,
            k_lo=rows.k_lo,
            k_hi=rows.k_hi,
            position=rows.position,
            turn_position=rows.turn_position,
        )
        nll = jax.nn.logsumexp(logits, -1) - jnp.take_along_axis(logits, rows.targets[..., None], -1)[..., 0]
        assert logits.shape[-1] == MODEL.vocab_size
        for role in Role:
            nats[role] += float(jnp.sum(jnp.where(batch.roles == role, nll, 0)))
            counts[role] += int((batch.roles == role).sum())
    spoken = [Role.ASSISTANT, Role.THINK, Role.TOOL_CALL]
    assert found["val/loss"] == pytest.approx(nats[spoken].sum() / counts[spoken].sum(), rel=1e-4)
    for role in TAGS:
        name = f"val/loss_{role.name.lower()}"
        assert found[name] == pytest.approx(nats[role] / counts[role], rel=1e-4)
        assert name in METRICS


def test_without_a_word_of_the_assistant_nothing_is_measured(params: Params):
    batch = chat_batch()
    silent = batch._replace(roles=np.full_like(batch.roles, Role.HUMAN))
    measure = make_chat_evaluation(NETWORK, chunk_tokens=24, mesh=mesh_of())
    with pytest.raises(UserError, match="hold no word of the assistant"):
        measure(params, [silent])


def test_a_bad_step_keeps_every_array_of_its_batch():
    names = {".".join(place): array.shape for place, array in _arrays(chat_batch())}
    assert set(names) == {f"rows.{name}" for name in chat_batch().rows._fields} | {"roles"}
