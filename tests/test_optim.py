"""The optimizer against NumPy's singular value decomposition, optax's AdamW and decay worked out by hand."""

import dataclasses
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from samosa_jax.config import GroupConfig, OptimizerConfig, ScheduleConfig
from samosa_jax.model.params import Constant, Group, ParamInfo
from samosa_jax.training.optim import (
    POLAR_EXPRESS,
    from_matrices,
    make_optimizer,
    polar_express,
    scale_by_muon,
    take_step,
    to_matrices,
)

CONSTANT = ScheduleConfig(kind="constant", warmup_steps=0)


def param(path: str, dims: str, shape: tuple[int, ...], group: Group = "matrix") -> ParamInfo:
    return ParamInfo(path=path, dims=dims, shape=shape, group=group, init=Constant(0.0))


QUERY = param("query", "L D -> N H", (3, 12, 2, 4))
OUTPUT = param("output", "L N H -> D", (3, 2, 4, 12))
UP = param("up", "L D -> F", (3, 12, 40))
HEAD = param("head", "V <- D", (20, 12), "head")


def normal(seed: int, shape: tuple[int, ...]) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


def update(transform: optax.GradientTransformation, *arguments: Any, **extra: Any) -> tuple[Any, Any]:
    return optax.with_extra_args_support(transform).update(*arguments, **extra)


def polar_factor(matrix: np.ndarray) -> np.ndarray:
    u, _, vt = np.linalg.svd(matrix.astype(np.float64), full_matrices=False)
    return u @ vt


# Each layer's matrix, rows contracted and columns coming out, by hand; and dims that would be wrong.
LAYER_MATRIX = {
    "query": (QUERY, lambda layer: layer.reshape(12, 8), "L D N -> H"),
    "output": (OUTPUT, lambda layer: layer.reshape(8, 12), "L N -> H D"),
    "up": (UP, lambda layer: layer, "D L -> F"),
}


@pytest.mark.parametrize("name", LAYER_MATRIX)
def test_muon_takes_the_polar_factor_of_every_layers_matrix(name):
    weight, layer_matrix, wrong_dims = LAYER_MATRIX[name]
    muon = scale_by_muon(weight, beta=0.9, newton_schulz_steps=10)
    grad = normal(1, weight.shape)
    moved = np.asarray(jax.jit(muon.update)(grad, muon.init(grad))[0])
    rows, columns = layer_matrix(np.asarray(grad)[0]).shape
    for layer in range(3):
        expected = np.sqrt(max(1, columns / rows)) * polar_factor(layer_matrix(np.asarray(grad)[layer]))
        np.testing.assert_allclose(layer_matrix(moved[layer]), expected, atol=2e-3)
    wrong = scale_by_muon(param("wrong", wrong_dims, weight.shape), beta=0.9, newton_schulz_steps=10)
    assert np.abs(np.asarray(jax.jit(wrong.update)(grad, wrong.init(grad))[0]) - moved).max() > 0.05


@pytest.mark.parametrize("weight", [QUERY, OUTPUT, UP, param("last", "L F -> D", (2, 6, 3))])
def test_matrices_and_back(weight):
    x = normal(2, weight.shape)
    matrices = to_matrices(x, weight)
    assert matrices.shape == (weight.shape[0], weight.fan_in, x[0].size // weight.fan_in)
    np.testing.assert_array_equal(from_matrices(matrices, weight), x)


def test_first_update_is_that_of_optax():
    muon = scale_by_muon(UP, beta=0.95, newton_schulz_steps=5)
    theirs = optax.contrib.scale_by_muon(
        ns_coeffs=tuple(polar_express(5)),
        ns_steps=5,
        beta=0.95,
        weight_dimension_numbers=optax.contrib.MuonDimensionNumbers((1,), (2,)),
    )
    grad = normal(3, UP.shape)
    ours = update(muon, grad, muon.init(grad))[0]
    expected = update(theirs, grad, theirs.init(grad))[0]
    np.testing.assert_allclose(ours, np.sqrt(40 / 12) * expected, atol=2e-4)


def test_momentum_is_nesterovs():
    muon = scale_by_muon(UP, beta=0.5, newton_schulz_steps=10)
    first, second = normal(4, UP.shape), normal(5, UP.shape)
    state = muon.init(first)
    _, state = update(muon, first, state)
    direction, state = update(muon, second, state)
    momentum = 0.5 * (0.5 * first) + 0.5 * second
    blend = np.asarray(0.5 * momentum + 0.5 * second)
    expected = np.sqrt(40 / 12) * np.stack([polar_factor(layer) for layer in blend])
    np.testing.assert_allclose(direction, expected, atol=2e-3)
    plain = np.sqrt(40 / 12) * np.stack([polar_factor(layer) for layer in np.asarray(momentum)])
    assert np.abs(plain - expected).max() > 0.05


def optimal_quintic(low: float, high: float) -> tuple[float, float, float]:
    """The odd quintic nearest to 1 on low..high, by Remez exchange, as in the Polar Express paper."""
    if low / high >= 1 - 5e-6:
        return 15 / 8 / high, -10 / 8 / high**3, 3 / 8 / high**5
    a = b = c = 0.0
    inner, outer = (3 * low + high) / 4, (low + 3 * high) / 4
    for _ in range(50):  # far past convergence
        points = np.array([low, inner, outer, high])
        system = np.stack([points, points**3, points**5, np.array([1, -1, 1, -1])], axis=1)
        a, b, c, _ = np.linalg.solve(system, np.ones(4))
        root = np.sqrt(9 * b * b - 20 * a * c)
        inner, outer = np.sqrt((-3 * b - root) / (10 * c)), np.sqrt((-3 * b + root) / (10 * c))
    return a, b, c


def test_polar_express_table_is_what_the_papers_algorithm_gives():
    low, high = 1e-3, 1.0
    for row in POLAR_EXPRESS:
        a, b, c = optimal_quintic(max(low, 0.02407327424182761 * high), high)
        at_low, at_high = (a * x + b * x**3 + c * x**5 for x in (low, high))
        scale = 2 / (at_low + at_high)
        np.testing.assert_allclose(row, (a * scale, b * scale, c * scale), rtol=1e-7)
        low, high = at_low * scale, 2 - at_low * scale


def test_polar_express_brings_singular_values_to_one():
    values = np.geomspace(0.005, 1, 200)
    for a, b, c in polar_express(5):
        values = a * values + b * values**3 + c * values**5
    assert values.min() > 0.7
    assert values.max() < 1.2
    assert polar_express(12)[8:] == [POLAR_EXPRESS[-1]] * 4


def test_decoupled_decay_is_optaxs_adamw():
    group = GroupConfig(lr=0.1, beta1=0.8, beta2=0.95, eps=1e-8, weight_decay=0.3)
    config = OptimizerConfig(head=group, decay="decoupled", clip_norm=None)
    ours = make_optimizer(config, CONSTANT, num_steps=9, info={"head": HEAD})
    theirs = optax.adamw(0.1, b1=0.8, b2=0.95, eps=1e-8, weight_decay=0.3)
    params: Any = {"head": normal(6, HEAD.shape)}
    expected: Any = params
    our_state, their_state = ours.init(params), theirs.init(params)
    for step in range(3):
        grads = {"head": normal(7 + step, HEAD.shape)}
        updates, our_state = update(ours, grads, our_state, params, step=step)
        params = cast(Any, optax.apply_updates(params, updates))
        updates, their_state = update(theirs, grads, their_state, expected)
        expected = cast(Any, optax.apply_updates(expected, updates))
    np.testing.assert_allclose(params["head"], expected["head"], rtol=1e-5, atol=1e-6)


def test_cautious_decay_only_where_it_agrees_with_the_direction():
    params, directions = jnp.array([1.0, 1.0, -2.0, -2.0]), jnp.array([0.5, -0.5, 0.5, -0.5])
    group = GroupConfig(lr=0.1, weight_decay=0.2)
    found = {}
    for decay in ("cautious", "decoupled"):
        transform = take_step(group, decay=decay, factor=lambda step: jnp.float32(0.25), scale=2.0)
        found[decay] = update(transform, directions, transform.init(params), params, step=0)[0]
    np.testing.assert_allclose(found["decoupled"], -0.05 * np.array([0.7, -0.3, 0.1, -0.9]), rtol=1e-6)
    np.testing.assert_allclose(found["cautious"], -0.05 * np.array([0.7, -0.5, 0.5, -0.9]), rtol=1e-6)


def test_every_group_has_its_own_rate_and_the_schedule_scales_all():
    groups: tuple[Group, ...] = ("embedding", "value_embedding", "head", "residual", "scalar")
    info = {name: param(name, "V -> D", (4, 4), name) for name in groups}
    config = OptimizerConfig(clip_norm=None)
    optimizer = make_optimizer(
        config, ScheduleConfig(kind="linear", warmup_steps=0, final_frac=0), num_steps=4, info=info
    )
    params = {name: jnp.zeros((4, 4)) for name in groups}
    grads = {name: jnp.ones((4, 4)) for name in groups}
    for step, factor in ((0, 1.0), (3, 0.25)):
        updates, _ = update(optimizer, grads, optimizer.init(params), params, step=step)
        for name in groups:  # Adam's first direction is the gradient's sign
            np.testing.assert_allclose(updates[name], -factor * config.groups[name].lr, rtol=1e-5)


def test_clipping_is_by_the_global_norm():
    info = {"embedding": param("e", "V -> D", (3, 4), "embedding"), "head": HEAD}
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), info)
    grads = {"embedding": 30 * jnp.ones((3, 4)), "head": 4e-9 * jnp.ones(HEAD.shape)}
    heads = {}
    for clip in (None, 1.0):
        config = OptimizerConfig(head=GroupConfig(lr=1.0, eps=1e-10), clip_norm=clip)
        optimizer = make_optimizer(config, CONSTANT, num_steps=9, info=info)
        extra = {"step": 0, "grad_norm": optax.tree.norm(grads)}
        heads[clip] = update(optimizer, grads, optimizer.init(params), params, **extra)[0]["head"]
    # Adam's eps gives the scale of the head's tiny gradient away, divided by the norm of the embedding's.
    norm = 30 * np.sqrt(12)
    for clip, small in ((None, 4e-9), (1.0, 4e-9 / norm)):
        np.testing.assert_allclose(heads[clip], -small / (small + 1e-10), rtol=1e-3)


def test_matrix_group_may_be_adamw():
    config = OptimizerConfig(matrix=GroupConfig(kind="adamw", lr=0.01), clip_norm=None)
    optimizer = make_optimizer(config, CONSTANT, num_steps=9, info={"up": UP})
    grads = {"up": normal(8, UP.shape)}
    moved = update(optimizer, grads, optimizer.init(grads), grads, step=0)[0]["up"]
    np.testing.assert_allclose(np.abs(moved), 0.01, rtol=1e-3)


def test_state_holds_no_moment_of_another_group():
    info = {"up": UP, "head": HEAD, "swapped": dataclasses.replace(UP, path="swapped")}
    optimizer = make_optimizer(OptimizerConfig(), CONSTANT, num_steps=9, info=info)
    state = optimizer.init(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), info))
    numbers = sum(leaf.size for leaf in jax.tree.leaves(state) if leaf.ndim)
    assert numbers == 2 * 3 * 12 * 40 + 2 * 20 * 12
