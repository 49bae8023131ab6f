"""The pretraining loss: sums against the logits written out, weights, z-loss, and shards of a mesh."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from one_layer import MODEL

from samosa_jax.config import MeshConfig
from samosa_jax.data.batch import Batch
from samosa_jax.model.gpt import Network
from samosa_jax.parallel.mesh import make_mesh
from samosa_jax.training.losses import make_pretrain_loss, sharded_cross_entropy

NETWORK = Network.build(MODEL)


@pytest.fixture(scope="module")
def params():
    return jax.jit(NETWORK.init)(jax.random.key(0))


def make_batch(weights: np.ndarray) -> Batch:
    rows, length = weights.shape
    tokens = np.random.default_rng(0).integers(0, 61, (rows, length + 1)).astype(np.int32)
    position = np.broadcast_to(np.arange(length, dtype=np.int32), (rows, length))
    return Batch(
        tokens=tokens[:, :-1],
        targets=tokens[:, 1:],
        weights=weights.astype(np.float32),
        k_lo=np.zeros_like(position),
        k_hi=position + 1,
        position=position,
        turn_position=position,
    )


WEIGHTS = np.random.default_rng(1).choice([0.0, 0.5, 1.0], size=(2, 12))


@pytest.mark.parametrize("z_loss", [0.0, 0.1])
def test_sums_are_those_of_the_logits(params, z_loss):
    batch = make_batch(WEIGHTS)
    output = jax.jit(make_pretrain_loss(NETWORK, z_loss=z_loss, chunk_tokens=7))(params, batch, None)
    logits = NETWORK.logits(
        params,
        jnp.asarray(batch.tokens),
        k_lo=jnp.asarray(batch.k_lo),
        k_hi=jnp.asarray(batch.k_hi),
        position=jnp.asarray(batch.position),
        turn_position=jnp.asarray(batch.turn_position),
    )
    lse = np.asarray(jax.nn.logsumexp(logits, axis=-1))
    nll = lse - np.take_along_axis(np.asarray(logits), batch.targets[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(output.metrics["nll"], np.sum(WEIGHTS * nll), rtol=1e-5)
    np.testing.assert_allclose(output.sum, np.sum(WEIGHTS * (nll + z_loss * lse**2)), rtol=1e-5)
    np.testing.assert_allclose(output.weight, WEIGHTS.sum())
    assert ("z_loss" in output.metrics) == bool(z_loss)
    if z_loss:
        np.testing.assert_allclose(output.metrics["z_loss"], np.sum(WEIGHTS * z_loss * lse**2), rtol=1e-4)


def test_without_supervised_token_loss_and_gradient_are_zero(params):
    loss_fn = make_pretrain_loss(NETWORK, z_loss=0.1, chunk_tokens=8)
    output, grads = jax.jit(jax.value_and_grad(lambda params, batch: loss_fn(params, batch, None).sum))(
        params, make_batch(np.zeros((2, 12)))
    )
    assert output == 0
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(grads))


@pytest.mark.parametrize("length", [8, 7])  # 7 does not divide over `tensor`
def test_a_mesh_changes_neither_sums_nor_gradients_and_sends_nothing_inside_the_loop(length):
    key = jax.random.key(2)
    hidden = jax.random.normal(key, (4, length, 16))
    head = jax.random.normal(jax.random.fold_in(key, 1), (64, 16))
    targets = jax.random.randint(key, (4, length), 0, 61)
    weights = jax.random.bernoulli(key, 0.7, (4, length)).astype(jnp.float32)

    def total(hidden, head):
        return sharded_cross_entropy(
            hidden, head, targets, weights, vocab_size=61, soft_cap=None, z_loss=0.01, chunk_tokens=2
        ).total

    compute = jax.value_and_grad(total, argnums=(0, 1))
    alone = jax.jit(compute)(hidden, head)
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    with jax.set_mesh(mesh):
        program = jax.jit(compute).lower(hidden, head).compile()
        shared = program(hidden, head)
    for ours, theirs in zip(jax.tree.leaves(shared), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    text = program.as_text() or ""
    computations = {block.split()[0].lstrip("%"): block for block in text.split("\n\n") if block}
    bodies = [computations[name] for name in re.findall(r"body=%([\w.-]+)", text)]
    collectives = ("all-reduce", "all-gather", "all-to-all", "collective-permute")
    assert bodies, "no loop over chunks: this test looks in the wrong place"
    assert not any(word in body for body in bodies for word in collectives)
    assert "all-reduce" in text
