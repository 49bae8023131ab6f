"""Adapters: what they add to a model, what of it is trained, and where they live on a mesh."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_training import LOSS, MODEL, NETWORK, SCHEDULE, mesh_of, ragged_batch

from samosa_jax.config import GroupConfig, OptimizerConfig
from samosa_jax.errors import ConfigError
from samosa_jax.model.layers import linear
from samosa_jax.model.lora import Adapters, lora_info, make_lora_loss, merge_lora
from samosa_jax.model.params import num_params_by_group
from samosa_jax.parallel.sharding import param_shardings
from samosa_jax.training.optim import make_optimizer
from samosa_jax.training.state import TrainState, state_shardings
from samosa_jax.training.step import make_train_step, put_batch

RANK, SCALE = 4, 2.0
ALL = ("attention", "mlp")
BATCH = ragged_batch()


@pytest.fixture(scope="module")
def base():
    return base_params()


def base_params():
    """With a head that tells tokens apart, as after pretraining: the first one is all but zero."""
    params = jax.jit(NETWORK.init)(jax.random.key(0))
    return {**params, "head": 200 * params["head"]}


def first_adapters(targets=ALL):
    return Adapters(NETWORK.info, rank=RANK, targets=targets).init(jax.random.key(1))


@pytest.fixture(scope="module")
def adapters():
    """With a B that is not zero, as after some steps."""
    return jax.tree.map(
        lambda leaf: 0.1 * jax.random.normal(jax.random.key(leaf.size), leaf.shape), first_adapters()
    )


def by_path(tree) -> list[tuple[str, jax.Array]]:
    return [
        ("/".join(key.key for key in path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]


def test_adapters_that_begin_leave_the_model_as_it_is(base, adapters):
    begun = first_adapters()
    merged = merge_lora(base, begun, scale=SCALE)
    assert jax.tree.structure(merged) == jax.tree.structure(base)
    jax.tree.map(np.testing.assert_array_equal, merged, base)
    for path, leaf in jax.tree_util.tree_leaves_with_path(begun):
        contracted = leaf[0].size // RANK
        expected = 1 / np.sqrt(contracted) if path[-1].key == "A" else 0.0
        np.testing.assert_allclose(np.std(leaf), expected, rtol=0.2)
    trained = merge_lora(base, adapters, scale=SCALE)
    same = jax.tree.map(lambda left, right: (left == right).all(), trained, base)
    changed = {path for path, is_same in by_path(same) if not is_same}
    assert changed == {leaf.path for leaf in jax.tree.leaves(NETWORK.info) if leaf.group == "matrix"}


@pytest.mark.parametrize(
    ("module", "name"), [("attention", "query"), ("attention", "output"), ("mlp", "up"), ("mlp", "down")]
)
def test_merged_weights_are_the_adapter_applied(base, adapters, module, name):
    weight, adapter = (tree["blocks"][module][name] for tree in (base, adapters))
    merged = merge_lora(base, adapters, scale=SCALE)["blocks"][module][name]
    for layer in range(MODEL.num_layers):
        contracted = adapter["A"].shape[1:-1]
        x = jax.random.normal(jax.random.key(layer), (2, 5, *contracted))
        bypass = linear(linear(x, adapter["A"][layer]), adapter["B"][layer])
        expected = linear(x, weight[layer]) + SCALE * bypass
        np.testing.assert_allclose(linear(x, merged[layer]), expected, rtol=1e-4, atol=1e-5)
        assert np.abs(bypass).max() > 0.1


def test_merged_weights_add_nothing_but_a_change_of_the_rank(base, adapters):
    merged = merge_lora(base, adapters, scale=SCALE)
    difference = np.asarray(merged["blocks"]["attention"]["query"] - base["blocks"]["attention"]["query"])
    for layer in difference:
        assert np.linalg.matrix_rank(layer.reshape(MODEL.model_dim, -1), tol=1e-4) == RANK


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (("attention/query",), {"attention/query"}),
        (("query", "v*"), {"attention/query", "attention/value"}),
        (("attention",), {f"attention/{name}" for name in ("query", "key", "value", "output")}),
        (("mlp/*",), {"mlp/up", "mlp/down"}),
        (
            ("*",),
            {f"attention/{name}" for name in ("query", "key", "value", "output")} | {"mlp/up", "mlp/down"},
        ),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, tuple) else "",
)
def test_targets_and_the_number_of_trainable_parameters(targets, expected):
    info = lora_info(NETWORK.info, rank=RANK, targets=targets)
    adapters = first_adapters(targets)
    found = {path.removeprefix("blocks/").rpartition("/")[0] for path, _ in by_path(adapters)}
    assert found == expected
    assert {leaf.path: leaf.shape for leaf in jax.tree.leaves(info)} == {
        path: leaf.shape for path, leaf in by_path(adapters)
    }
    sides = {
        leaf.path: (leaf.fan_in, leaf.num_params // leaf.fan_in // MODEL.num_layers)
        for leaf in jax.tree.leaves(NETWORK.info)
        if leaf.group == "matrix"
    }
    formula = sum(MODEL.num_layers * RANK * sum(sides[f"blocks/{path}"]) for path in expected)
    assert num_params_by_group(info) == {"matrix": formula}
    assert formula < sum(MODEL.num_layers * int(np.prod(side)) for side in sides.values())


def test_an_adapter_does_not_depend_on_which_others_there_are():
    few, all_of_them = first_adapters(("query",)), first_adapters()
    query = few["blocks"]["attention"]["query"]["A"]
    np.testing.assert_array_equal(query, all_of_them["blocks"]["attention"]["query"]["A"])
    assert (query[0] != query[1]).any()


def test_refusals_say_why():
    with pytest.raises(
        ConfigError,
        match=r"lora\.targets has 'querry', which .* one of blocks/attention/key, blocks/attention/",
    ):
        lora_info(NETWORK.info, rank=RANK, targets=("mlp", "querry"))
    with pytest.raises(ConfigError, match="'embedding', which names no matrix that can be adapted"):
        lora_info(NETWORK.info, rank=RANK, targets=("embedding",))
    with pytest.raises(ConfigError, match=r"lora\.rank is 0; it must be at least 1"):
        lora_info(NETWORK.info, rank=0, targets=ALL)


INFO = lora_info(NETWORK.info, rank=RANK, targets=ALL)
LORA_LOSS = make_lora_loss(LOSS, scale=SCALE)
NUM_STEPS = 30


def adapter_optimizer(matrix: GroupConfig) -> optax.GradientTransformationExtraArgs:
    return make_optimizer(OptimizerConfig(matrix=matrix), SCHEDULE, num_steps=NUM_STEPS, info=INFO)


ADAMW = adapter_optimizer(GroupConfig(lr=0.02))


@functools.cache
def train(optimizer, **sizes: int):
    """(losses, trained state) of adapters."""
    mesh = mesh_of(**sizes)
    shardings = state_shardings(INFO, optimizer, mesh=mesh)
    frozen = jax.device_put(base_params(), param_shardings(NETWORK.info, mesh))

    def create() -> TrainState:
        params = first_adapters()
        return TrainState(
            step=jnp.int32(0), params=params, opt_state=optimizer.init(params), bad_steps=jnp.int32(0)
        )

    state = jax.jit(create, out_shardings=shardings)()
    step = make_train_step(
        LORA_LOSS, optimizer, learning_rate=lambda step: jnp.float32(0.02), shardings=shardings
    )
    batch = put_batch(BATCH, num_microbatches=1, mesh=mesh)
    losses = []
    for _ in range(NUM_STEPS):
        state, metrics = step(state, batch, frozen)
        losses.append(float(metrics.loss))
    return losses, state


def test_training_moves_the_adapters_and_lowers_the_loss():
    losses, state = train(ADAMW)
    assert losses[-1] < losses[0] - 0.3
    begun = first_adapters()
    moved = jax.tree.map(lambda new, old: float(np.abs(new - old).max()), state.params, begun)
    assert min(jax.tree.leaves(moved)) > 1e-3
    # Moments exist for adapters alone.
    moments = [leaf.shape for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]
    assert sorted(moments) == sorted(2 * [leaf.shape for leaf in jax.tree.leaves(begun)])


def test_muon_takes_adapters_too():
    losses, _ = train(adapter_optimizer(GroupConfig(kind="muon", lr=0.02, beta1=0.9)))
    assert losses[-1] < losses[0] - 0.3


def test_gradients_are_those_of_the_merged_model_through_the_product(base, adapters):
    """The chain rule by hand, and nothing for the base, which is an argument like the batch."""

    def loss_sum(adapters):
        return LORA_LOSS(adapters, BATCH, base).sum

    def merged_sum(params):
        return LOSS(params, BATCH, None).sum

    gradients = jax.jit(jax.grad(loss_sum))(adapters)
    of_merged = jax.jit(jax.grad(merged_sum))(merge_lora(base, adapters, scale=SCALE))
    assert jax.tree.structure(gradients) == jax.tree.structure(adapters)
    up, adapter = (tree["blocks"]["mlp"]["up"] for tree in (of_merged, adapters))
    expected = {
        "A": SCALE * np.einsum("ldf,lrf->ldr", up, adapter["B"]),
        "B": SCALE * np.einsum("ldr,ldf->lrf", adapter["A"], up),
    }
    for name, gradient in expected.items():
        found = gradients["blocks"]["mlp"]["up"][name]
        np.testing.assert_allclose(found, gradient, rtol=1e-3, atol=1e-5 * np.abs(gradient).max())
        assert np.abs(gradient).max() > 1e-3


def test_adapters_live_on_a_mesh_with_their_weights():
    losses, state = train(ADAMW, data=2, fsdp=2, tensor=2)
    np.testing.assert_allclose(losses, train(ADAMW)[0], rtol=1e-3)
    attention = state.params["blocks"]["attention"]
    specs = {
        name: tuple(tuple(attention[name][side].sharding.spec) for side in "AB")
        for name in ("query", "output")
    }
    assert specs == {
        "query": (("data", "fsdp", None), ("data", None, "tensor", None)),
        "output": (("data", "tensor", None, None), ("data", None, "fsdp")),
    }
