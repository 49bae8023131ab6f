"""Meshes and placement: the same numbers on every mesh, and one clear line for a mesh that cannot be."""

import functools
import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from samosa_jax.config import Config, MeshConfig, ModelConfig, TrainConfig
from samosa_jax.errors import ConfigError
from samosa_jax.mesh_sizes import check_mesh
from samosa_jax.model.gpt import Network
from samosa_jax.parallel.mesh import make_mesh
from samosa_jax.parallel.sharding import (
    PARAM_AXES,
    activation_spec,
    batch_sharding,
    constrain,
    master_spec,
    param_shardings,
    param_spec,
    partition_spec,
)

# Everything that is placed by its own rule: one key head for many, gates, value tables, windows.
CONFIG = ModelConfig(
    vocab_size=100,
    context_len=16,
    num_layers=2,
    model_dim=32,
    num_heads=8,
    num_kv_heads=8,
    head_dim=4,
    mlp_dim=48,
    value_embeddings=True,
    residual_scalars=True,
    x0_scalars=True,
    smear=True,
    backout=True,
    norm_scale=True,
    qk_norm_scale=True,
    window_pattern="SL",
    window=6,
    init="gpt2",
    init_std=0.2,
)
ONE_KEY_HEAD = ModelConfig(
    vocab_size=100,
    context_len=16,
    num_layers=2,
    model_dim=32,
    num_heads=8,
    num_kv_heads=1,
    head_dim=4,
    mlp_dim=48,
    mlp="swiglu",
    tie_embeddings=True,
    init="gpt2",
    init_std=0.2,
)
ABSTRACT = AbstractMesh((2, 2, 2), ("data", "fsdp", "tensor"))


def batch() -> dict[str, jax.Array]:
    """Eight rows of two documents each, the border in another place in every row."""
    start = np.arange(3, 11)[:, None]
    column = np.tile(np.arange(16), (8, 1))
    lo = np.where(column >= start, start, 0)
    arrays = {
        "tokens": np.random.default_rng(0).integers(0, 100, (8, 16)),
        "k_lo": lo,
        "k_hi": column + 1,
        "position": column - lo,
        "turn_position": (column - lo) % 5,
    }
    return {name: jnp.asarray(array, jnp.int32) for name, array in arrays.items()}


def loss_and_gradients(network: Network, params, arrays) -> tuple[jax.Array, jax.Array, dict]:
    def loss(params):
        hidden = network.hidden(params, **arrays)
        return jnp.mean(jnp.square(network.project(params, hidden))), hidden

    (value, hidden), gradients = jax.value_and_grad(loss, has_aux=True)(params)
    return value, hidden, gradients


@functools.cache
def on_one_device(config: ModelConfig):
    network = Network.build(config)
    params = jax.jit(network.init)(jax.random.key(0))
    return network, params, jax.jit(loss_and_gradients, static_argnums=0)(network, params, batch())


@pytest.mark.parametrize(
    ("config", "sizes"),
    [
        (CONFIG, (8, 1, 1)),
        (CONFIG, (2, 4, 1)),
        (CONFIG, (2, 2, 2)),
        (CONFIG, (1, 1, 8)),
        (ONE_KEY_HEAD, (2, 2, 2)),
    ],
    ids=["8x1x1", "2x4x1", "2x2x2", "1x1x8", "one_key_head-2x2x2"],
)
def test_same_numbers_on_every_mesh(config, sizes):
    network, params, (value, hidden, gradients) = on_one_device(config)
    mesh = make_mesh(MeshConfig(data=sizes[0], fsdp=sizes[1], tensor=sizes[2]))
    shardings = param_shardings(network.info, mesh)
    with jax.set_mesh(mesh):
        placed = jax.jit(network.init, out_shardings=shardings)(jax.random.key(0))
        jax.tree.map(np.testing.assert_array_equal, placed, params)
        arrays = jax.device_put(batch(), batch_sharding(mesh))
        found = jax.jit(loss_and_gradients, static_argnums=0, out_shardings=(None, None, shardings))(
            network, placed, arrays
        )
    query = found[2]["blocks"]["attention"]["query"]
    num_shards = query.size // query.addressable_shards[0].data.size
    assert num_shards == sizes[1] * sizes[2]
    np.testing.assert_allclose(found[0], value, rtol=1e-5)
    np.testing.assert_allclose(found[1], hidden, atol=2e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * float(jnp.abs(b).max()) + 1e-7),
        found[2],
        gradients,
    )


def test_mesh_takes_what_is_left():
    assert dict(make_mesh(MeshConfig(data=-1, fsdp=2, tensor=2)).shape) == {"data": 2, "fsdp": 2, "tensor": 2}
    one = make_mesh(MeshConfig(), devices=jax.devices()[:1])
    assert one.size == 1


@pytest.mark.parametrize("config", [MeshConfig(data=3), MeshConfig(fsdp=3), MeshConfig(data=2, tensor=2)])
def test_impossible_mesh_is_one_line_with_the_devices(config):
    with pytest.raises(ConfigError, match=r"8 devices|are 8") as raised:
        make_mesh(config)
    assert "\n" not in str(raised.value)


def test_dimension_that_does_not_divide_is_named():
    network = Network.build(ModelConfig(num_heads=3, num_kv_heads=3, model_dim=64, head_dim=4))
    query = network.info["blocks"]["attention"]["query"]
    with pytest.raises(ConfigError, match=r"blocks/attention/query: dimension N of size 3 .* tensor"):
        param_spec(query, ABSTRACT)
    with pytest.raises(ConfigError, match=r"activation \(B T D\): dimension B of size 6"):
        activation_spec("B T D", (6, 16, 32), ABSTRACT)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("valued", [True, False], ids=["valued", "plain"])
def test_the_mesh_check_accepts_what_can_be_placed_and_nothing_else(tied: bool, valued: bool):
    """Asked without JAX, by rules of its own: they must be those by which parameters are placed."""
    seen = set()
    for model_dim, num_kv_heads, vocab_size in itertools.product((96, 128), (1, 2, 6), (100, 192)):
        model = ModelConfig(
            vocab_size=vocab_size,
            context_len=16,
            num_layers=2,
            model_dim=model_dim,
            num_heads=6,
            num_kv_heads=num_kv_heads,
            head_dim=8,
            mlp_dim=48,
            tie_embeddings=tied,
            value_embeddings=valued,
        )
        info = Network.build(model).info
        for fsdp, tensor in itertools.product((1, 2, 3), (1, 2, 3)):
            config = Config(
                model=model,
                mesh=MeshConfig(data=1, fsdp=fsdp, tensor=tensor),
                train=TrainConfig(batch_tokens=16 * fsdp, device_batch_size=1),
            )
            mesh = AbstractMesh((1, fsdp, tensor), ("data", "fsdp", "tensor"))
            accepted = is_accepted(
                lambda config=config: check_mesh(config, config.mesh.fsdp * config.mesh.tensor)
            )
            placed = is_accepted(lambda info=info, mesh=mesh: param_shardings(info, mesh))
            assert accepted == placed, config
            seen.add(accepted)
    assert seen == {True, False}


def is_accepted(ask: Callable[[], object]) -> bool:
    try:
        ask()
    except ConfigError:
        return False
    return True


def test_rules_of_placement():
    info = Network.build(CONFIG).info
    assert param_spec(info["embedding"], ABSTRACT) == PartitionSpec("tensor", "fsdp")
    assert param_spec(info["value_embeddings"]["table"], ABSTRACT) == PartitionSpec(
        None, "fsdp", "tensor", None
    )
    assert param_spec(info["final_norm"]["scale"], ABSTRACT) == PartitionSpec(None)
    assert activation_spec("B T N H", (4, 16, 8, 4), ABSTRACT) == PartitionSpec(
        ("data", "fsdp"), None, "tensor", None
    )
    assert activation_spec("B T K H", (1, 16, 1, 4), ABSTRACT) == PartitionSpec(None, None, None, None)
    first_come = partition_spec("x", letters="VK", shape=(4, 4), mesh=ABSTRACT, table=PARAM_AXES)
    assert first_come == PartitionSpec("tensor", None)


def test_the_optimizers_copy_goes_over_data_along_a_dimension_that_is_whole():
    info = Network.build(CONFIG).info
    block, table = info["blocks"], info["value_embeddings"]["table"]
    two = AbstractMesh((2, 1, 1), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
    assert master_spec(block["mlp"]["up"], two) == PartitionSpec("data", None, None)  # layers
    assert master_spec(table, two) == PartitionSpec(None, "data", None, None)  # rows of the vocabulary
    assert master_spec(info["head"], two) == PartitionSpec("data", None)
    four = AbstractMesh((4, 1, 1), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
    # Two layers do not divide by four: the model's width does.
    assert master_spec(block["attention"]["output"], four) == PartitionSpec(None, None, None, "data")
    assert master_spec(block["attention"]["query_scale"], four) == PartitionSpec(None, None)
    assert master_spec(block["mlp"]["up"], ABSTRACT) == PartitionSpec("data", "fsdp", "tensor")
    assert master_spec(info["embedding"], ABSTRACT) == PartitionSpec("tensor", "fsdp")  # nothing is left
    for leaf in jax.tree.leaves(info):
        alone = AbstractMesh((1, 2, 2), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
        assert master_spec(leaf, alone) == param_spec(leaf, alone)


def test_constrain_pins_only_under_a_mesh():
    x = jnp.ones((8, 2, 4))
    assert constrain(x, "B T D") is x
    mesh = make_mesh(MeshConfig(data=4, tensor=2))
    with jax.set_mesh(mesh):
        placed = jax.jit(lambda x: constrain(x, "B T F"))(x)
    assert placed.addressable_shards[0].data.shape == (2, 2, 2)
