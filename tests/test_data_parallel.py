"""ZeRO-1: what is sent and when, in which precision; and matrices dealt out, each to one device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from tiny_training import (
    LOSS,
    MODEL,
    NETWORK,
    TRANSFORM,
    learning_rate,
    mesh_of,
    new_state,
    ragged_batch,
)

from samosa_jax.model.gpt import Network
from samosa_jax.model.layers import look_up
from samosa_jax.model.params import in_compute_dtype
from samosa_jax.parallel.collectives import by_kind, read_collectives
from samosa_jax.parallel.matrices import spread_over_devices
from samosa_jax.training.losses import make_pretrain_loss
from samosa_jax.training.state import abstract_state, state_shardings
from samosa_jax.training.step import accumulate, make_train_step, put_batch

HALF = Network.build(MODEL, compute_dtype="bfloat16")
HALF_LOSS = make_pretrain_loss(HALF, z_loss=1e-3, chunk_tokens=24)
CAST = functools.partial(in_compute_dtype, info=NETWORK.info, dtype="bfloat16")


def half_step(mesh: jax.sharding.Mesh) -> jax.stages.Wrapped:
    return make_train_step(
        HALF_LOSS,
        TRANSFORM,
        learning_rate=learning_rate,
        shardings=state_shardings(NETWORK.info, TRANSFORM, mesh=mesh),
        cast=CAST,
    )


def arguments(mesh: jax.sharding.Mesh, num_microbatches: int):
    batch = jax.tree.map(lambda array: np.concatenate([array, array]), ragged_batch())
    return (
        abstract_state(NETWORK, TRANSFORM, mesh=mesh),
        put_batch(batch, num_microbatches=num_microbatches, mesh=mesh),
        None,
    )


@functools.cache
def traffic():
    mesh = mesh_of(data=8)
    text = half_step(mesh).lower(*arguments(mesh, 2)).compile().as_text()
    assert text is not None
    return by_kind(read_collectives(text)), text


def test_parameters_are_gathered_and_gradients_scattered_once_whatever_the_microbatches():
    found, text = traffic()
    assert " while(" in text  # over microbatches
    assert not any(kind.in_loop for kind in found.values())
    wide = sum(leaf.num_params for leaf in jax.tree.leaves(NETWORK.info))
    assert found["reduce-scatter"].wire_bytes == wide * 4 * 7 // 8
    # In bfloat16, which XLA for CPU may widen on the way.
    assert found["all-gather"].wire_bytes in (wide * 2 * 7 // 8, wide * 4 * 7 // 8)
    # Six stacks of two layers on eight devices: joined by shape, an eighth of 8 + 8 matrices there and back.
    assert found["all-to-all"].wire_bytes == 2 * (8 * 32 * 32 + 8 * 32 * 64) * 4 // 8 * 7 // 8
    assert found["all-reduce"].wire_bytes < 1000  # scalars
    assert len(found) == 4


@pytest.mark.parametrize("sizes", [{"data": 8}, {"data": 2, "fsdp": 2, "tensor": 2}], ids=str)
def test_microbatches_of_replicas_add_up(sizes):
    """Two microbatches of eight replicas against one of one device, in float32: the same step."""
    results = []
    for mesh, num_microbatches in ((mesh_of(), 1), (mesh_of(**sizes), 2)):
        step = make_train_step(
            LOSS,
            TRANSFORM,
            learning_rate=learning_rate,
            shardings=state_shardings(NETWORK.info, TRANSFORM, mesh=mesh),
        )
        _, batch, frozen = arguments(mesh, num_microbatches)
        results.append(jax.device_get(step(new_state(mesh), batch, frozen)))
    (alone, expected), (together, found) = results
    assert found.tokens == expected.tokens
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-5)
    np.testing.assert_allclose(found.grad_norm, expected.grad_norm, rtol=1e-4)
    for ours, theirs in zip(jax.tree.leaves(together.params), jax.tree.leaves(alone.params), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-4 * np.abs(theirs).max() + 1e-9)


def test_bfloat16_gradients_are_summed_in_float32():
    params = jax.jit(NETWORK.init)(jax.random.key(0))
    batch = jax.tree.map(lambda array: np.stack([array] * 3), ragged_batch())
    once = jax.tree.map(lambda array: array[:1], batch)
    gradient = jax.jit(lambda loss, params, batch: accumulate(loss, params, batch, None)[1], static_argnums=0)
    exact = gradient(LOSS, params, once)
    single, thrice = gradient(HALF_LOSS, CAST(params), once), gradient(HALF_LOSS, CAST(params), batch)
    assert single["head"].dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(thrice)} == {jnp.dtype("float32")}
    for one, three, expected in zip(*map(jax.tree.leaves, (single, thrice, exact)), strict=True):
        # In bfloat16 a third of the sums of three would have been rounded.
        np.testing.assert_allclose(three, 3 * one.astype(jnp.float32), rtol=1e-6)
        assert jnp.linalg.norm(one - expected) < 0.02 * jnp.linalg.norm(expected) + 1e-6


def test_a_token_that_comes_often_counts_every_time():
    table = jnp.ones((4, 2), jnp.bfloat16)
    tokens = jnp.zeros((2, 2000), jnp.int32)

    def total(table):
        return jnp.sum(look_up(table, tokens, axis=0).astype(jnp.float32))

    gradient = jax.grad(total)(table)
    assert gradient.dtype == jnp.bfloat16
    np.testing.assert_allclose(gradient[0].astype(np.float32), 4000, rtol=2**-8)
    naive = jax.grad(lambda table: jnp.sum(table.at[tokens].get(mode="clip").astype(jnp.float32)))(table)
    assert naive[0, 0] < 300  # 256 + 1 is 256 in bfloat16
    np.testing.assert_array_equal(gradient[1:], 0)


def test_every_matrix_goes_to_one_device_whole():
    mesh = mesh_of(data=4, fsdp=2)
    shapes = {"wide": (3, 4, 6), "tall": (3, 6, 4), "even": (8, 4, 6), "lone": (1, 5, 5)}
    stacks = {
        name: jax.random.normal(jax.random.key(index), shape)
        for index, (name, shape) in enumerate(sorted(shapes.items()))
    }
    turned = {name: name == "tall" for name in shapes}
    seen = []

    def squared(stack):  # of every matrix: (X X^T) X, transposed with X
        seen.append(stack.shape)
        return stack @ stack.mT @ stack

    alone = spread_over_devices(squared, stacks, split_last=turned)
    assert sorted(seen) == sorted(shapes.values())
    seen.clear()
    with jax.set_mesh(mesh):
        placed = jax.device_put(stacks, NamedSharding(mesh, PartitionSpec()))
        spread = jax.jit(lambda stacks: spread_over_devices(squared, stacks, split_last=turned))(placed)
    # On each of eight devices one of "even", one of the six joined, and in one the lone one.
    assert sorted(seen) == [(1, 4, 6), (1, 4, 6), (1, 5, 5)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-5), spread, alone)
