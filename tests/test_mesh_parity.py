"""The same training on every mesh: losses, gradient norms and parameters after three steps."""

import functools
import re

import jax
import numpy as np
import pytest
from samosa_kernels import attention, causal_ranges
from tiny_training import LOSS, NETWORK, TRANSFORM, mesh_of, new_state, new_step, ragged_batch

from samosa_jax.parallel.sharding import batch_sharding, param_shardings
from samosa_jax.training.state import TrainState, state_shardings
from samosa_jax.training.step import put_batch

# Relative, parameters to the largest of their array; 5e-7 and 3e-5 were measured. Sums over devices round
# differently, and Newton-Schulz enlarges small singular values up to a thousandfold, rounding included.
LOSS_TOLERANCE, PARAM_TOLERANCE = 5e-6, 2e-4
MESHES = [
    {"data": 8},
    {"data": 2, "fsdp": 4},
    {"data": 2, "tensor": 4},
    {"data": 2, "fsdp": 2, "tensor": 2},
]


@functools.cache
def first_state() -> TrainState:
    """Off the devices; the last test shows that any mesh would have created the same."""
    return jax.device_get(new_state(mesh_of()))


def train(mesh: jax.sharding.Mesh, *, num_steps: int = 3):
    """(loss and gradient norm of every step, parameters, the state) of a run on this mesh."""
    state = jax.device_put(first_state(), state_shardings(NETWORK.info, TRANSFORM, mesh=mesh))
    step = new_step(mesh)
    numbers = []
    for index in range(num_steps):
        state, metrics = step(state, put_batch(ragged_batch(index), num_microbatches=1, mesh=mesh), None)
        numbers.append((metrics.loss, metrics.grad_norm))
    return np.array(jax.device_get(numbers)), jax.device_get(state.params), state


@pytest.fixture(scope="module")
def alone():
    return train(mesh_of())


@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_training_is_the_same_on_every_mesh(alone, sizes):
    numbers, params, state = train(mesh_of(**sizes))
    np.testing.assert_allclose(numbers, alone[0], rtol=LOSS_TOLERANCE)
    for path, leaf in jax.tree.leaves_with_path(params):
        expected = alone[1]
        for key in path:
            expected = expected[key.key]
        difference = np.abs(leaf - expected).max() / max(np.abs(expected).max(), 1e-6)
        assert difference < PARAM_TOLERANCE, (jax.tree_util.keystr(path), difference)
    assert all(len(leaf.sharding.device_set) == 8 for leaf in jax.tree.leaves(state))
    # The two sides do differ in where things are, and stay where they were created.
    shard = state.params["blocks"]["mlp"]["up"].addressable_shards[0].data
    assert shard.size * 8 == 2 * 32 * 64


@pytest.fixture(scope="module")
def sharded_state():
    return new_state(mesh_of(data=2, fsdp=2, tensor=2))


def test_moments_live_with_their_parameters(sharded_state):
    of_shape = {leaf.shape: leaf.sharding.spec for leaf in jax.tree.leaves(sharded_state.params)}
    moments = [leaf for leaf in jax.tree.leaves(sharded_state.opt_state) if leaf.ndim]
    assert {leaf.shape for leaf in moments} == of_shape.keys()
    for leaf in moments:
        assert leaf.sharding.spec == of_shape[leaf.shape]
    assert any("tensor" in spec for spec in of_shape.values())


def test_first_parameters_do_not_depend_on_the_mesh(alone, sharded_state):
    first = first_state().params
    jax.tree.map(np.testing.assert_array_equal, first, jax.device_get(sharded_state.params))
    # Training moved them by far more than the tolerance above.
    moved = np.abs(alone[1]["head"] - first["head"]).max() / np.abs(alone[1]["head"]).max()
    assert moved > 100 * PARAM_TOLERANCE


def gathers(function, *arguments) -> list[str]:
    text = jax.jit(function).lower(*arguments).compile().as_text()
    assert text is not None
    return [line.split("metadata")[0] for line in text.splitlines() if re.search(r"= .*\ball-gather", line)]


def test_attention_gathers_nothing():
    """Queries, keys and values stay where they are, in the forward and in the backward."""
    mesh = mesh_of(data=8)
    params = jax.device_put(first_state().params, param_shardings(NETWORK.info, mesh))
    rows = jax.tree.map(lambda array: array[0], put_batch(ragged_batch(), num_microbatches=1, mesh=mesh))
    with jax.set_mesh(mesh):
        assert not gathers(jax.grad(lambda params: LOSS(params, rows, None).sum), params)

    def attend(q):  # by automatic sharding, which the model keeps its attention from
        return attention(q, q, q, causal_ranges(*q.shape[:2]), window=None).out

    assert gathers(attend, jax.device_put(np.ones((8, 1024, 8, 64), np.float32), batch_sharding(mesh)))
