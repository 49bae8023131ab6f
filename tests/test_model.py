"""The network: what may see what, what every switch does, and rewritings that must leave the numbers."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from samosa_jax.config import ModelConfig
from samosa_jax.errors import ConfigError
from samosa_jax.model.gpt import Network

T = 16
# gpt2 with a wide spread: nothing is zero at the start, so that every path carries signal and gradient.
BASE = ModelConfig(
    vocab_size=50,
    context_len=T,
    num_layers=2,
    model_dim=32,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    mlp_dim=48,
    init="gpt2",
    init_std=0.3,
)
EXTRAS = dataclasses.replace(
    BASE,
    embedding_norm=True,
    value_embeddings=True,
    residual_scalars=True,
    x0_scalars=True,
    smear=True,
    backout=True,
    norm_scale=True,
    qk_norm_scale=True,
    position="hirope",
    soft_cap=15.0,
)


def batch(starts: tuple[int, ...] = (0,), rows: int = 2) -> dict[str, jax.Array]:
    """Rows packed with documents that begin at `starts`; turns of five tokens."""
    column = np.arange(T)
    lo = np.array([max(start for start in starts if start <= i) for i in column])
    arrays = {
        "k_lo": lo,
        "k_hi": column + 1,
        "position": column - lo,
        "turn_position": (column - lo) % 5,
    }
    batched = {name: jnp.asarray(np.tile(array, (rows, 1)), jnp.int32) for name, array in arrays.items()}
    tokens = np.random.default_rng(0).integers(0, BASE.vocab_size, (rows, T))
    return {"tokens": jnp.asarray(tokens, jnp.int32), **batched}


def make_params(network: Network, seed: int = 0) -> dict[str, Any]:
    """First parameters, with the smear scale, which starts at zero, opened."""
    params = jax.jit(network.init)(jax.random.key(seed))
    if "smear" in params:
        params["smear"]["scale"] = jnp.float32(0.7)
    return params


@functools.cache
def logits(config: ModelConfig, starts: tuple[int, ...] = (0,)) -> np.ndarray:
    network = Network.build(config)
    return np.asarray(jax.jit(network.logits)(make_params(network), **batch(starts)))


def loss_gradient(network: Network) -> Any:
    """Function of (params, batch): the gradient of a loss that reads every hidden state."""

    def loss(params, arrays):
        hidden = network.hidden(params, **arrays)
        return jnp.mean(jnp.square(network.project(params, hidden)))

    return jax.jit(jax.grad(loss))


def influence(config: ModelConfig, arrays: dict[str, jax.Array], params: Any = None) -> np.ndarray:
    """(T, T) bool: whether the hidden state at position i has a gradient on what was looked up at position j.

    Every position holds a token of its own, so that a row of a table stands for a position.
    """
    network = Network.build(config)
    params = make_params(network) if params is None else params
    tokens = jnp.arange(10, 10 + T)[None]
    arrays = {name: array[:1] for name, array in arrays.items()} | {"tokens": tokens}
    direction = jax.random.normal(jax.random.key(5), (config.model_dim,))

    def read_off(params):
        return network.hidden(params, **arrays)[0] @ direction

    gradients = jax.jit(jax.jacrev(read_off))(params)
    reach = np.abs(gradients["embedding"]).sum(-1)
    if config.value_embeddings:
        reach += np.abs(gradients["value_embeddings"]["table"]).sum((1, 3, 4))
    return reach[:, 10 : 10 + T] > 0


@pytest.mark.parametrize("config", [BASE, EXTRAS], ids=["base", "extras"])
def test_a_position_sees_its_own_document_up_to_itself(config):
    row, column = np.mgrid[:T, :T]
    np.testing.assert_array_equal(influence(config, batch()), column <= row)
    start = np.searchsorted([5, 11], np.arange(T), side="right")
    same_document = start[:, None] == start
    np.testing.assert_array_equal(influence(config, batch((0, 5, 11))), (column <= row) & same_document)


def test_a_window_hides_what_is_behind_it():
    config = dataclasses.replace(BASE, window_pattern="SL", window=4)
    params = make_params(Network.build(config))
    row, column = np.mgrid[:T, :T]
    np.testing.assert_array_equal(influence(config, batch(), params), column <= row)
    # The last layer is always full; with its attention silenced, the window of the first is all there is.
    output = params["blocks"]["attention"]["output"]
    params["blocks"]["attention"]["output"] = output.at[-1].set(0.0)
    np.testing.assert_array_equal(influence(config, batch(), params), (column <= row) & (column > row - 4))


def test_a_packed_document_reads_as_if_alone():
    packed, alone = logits(EXTRAS, (0, 6)), logits(EXTRAS)
    np.testing.assert_allclose(packed[:, :6], alone[:, :6], atol=1e-5)
    second = {name: array[:, 6:] for name, array in batch((0, 6)).items()}
    second |= {"k_lo": second["k_lo"] - 6, "k_hi": second["k_hi"] - 6}
    network = Network.build(EXTRAS)
    by_itself = jax.jit(network.logits)(make_params(network), **second)
    np.testing.assert_allclose(packed[:, 6:], by_itself, atol=1e-4)
    assert not np.allclose(alone[:, 6:], by_itself, atol=0.1)


def test_padding_is_finite_and_touches_nothing():
    arrays = batch()
    is_padding = jnp.arange(T) >= 10
    padded = {name: jnp.where(is_padding, 0, array) for name, array in arrays.items()}
    network = Network.build(EXTRAS)
    params = make_params(network)
    np.testing.assert_allclose(
        jax.jit(network.logits)(params, **padded)[:, :10], logits(EXTRAS)[:, :10], atol=1e-5
    )
    gradients = loss_gradient(network)(params, padded)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


# Field of ModelConfig -> what it is changed to, on which base, and where the change must show.
Change = tuple[Any, dict[str, Any], str]
HIROPE = {"position": "hirope"}
ZERO_OUT = {"init": "zero_out"}
YARN = {"rope_scaling_type": "yarn", "rope_scaling_factor": 128.0, "original_context_len": 64}
CHANGES: dict[str, Change] = {
    "depth": (2, {}, "nothing"),
    "architecture": ("hf", {"mlp": "swiglu"}, "nothing"),
    "vocab_size": (129, {}, "parameters"),
    "context_len": (8, {"window_pattern": "SL"}, "output"),
    "num_layers": (3, {}, "parameters"),
    "model_dim": (48, {}, "parameters"),
    "num_heads": (2, {}, "parameters"),
    "num_kv_heads": (4, {}, "parameters"),
    "head_dim": (16, {}, "parameters"),
    "mlp": ("swiglu", {}, "parameters"),
    "mlp_dim": (64, {}, "parameters"),
    "tie_embeddings": (True, {}, "parameters"),
    "norm_scale": (True, {}, "parameters"),
    "norm_eps": (0.1, {}, "output"),
    "embedding_norm": (True, {}, "output"),
    "qk_norm": (False, {}, "output"),
    "qk_norm_scale": (True, {}, "parameters"),
    "qk_gain": (1.5, {}, "output"),
    "position": ("hirope", {}, "output"),
    "rope_base": (10.0, {}, "output"),
    "hirope_local_base": (10.0, HIROPE, "output"),
    "hirope_global_base": (10.0, HIROPE, "output"),
    "rope_scaling_type": ("linear", YARN, "output"),
    "rope_scaling_factor": (32.0, YARN, "output"),
    "original_context_len": (512, YARN, "output"),
    "window": (3, {"window_pattern": "SL"}, "output"),
    "window_pattern": ("SL", {"context_len": 8}, "output"),
    "soft_cap": (5.0, {}, "output"),
    "value_embeddings": (True, {}, "parameters"),
    "residual_scalars": (True, {}, "parameters"),
    "x0_scalars": (True, {}, "parameters"),
    "smear": (True, {}, "parameters"),
    "backout": (True, {}, "parameters"),
    "init": ("zero_out", {}, "init"),
    "init_std": (0.1, {}, "init"),
    "embedding_std": (0.3, ZERO_OUT, "init"),
    "remat": ("full", {}, "program"),
    "unroll_layers": (False, {}, "program"),
    "attention": ("reference", {}, "program"),
}


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(ModelConfig)])
def test_every_field_does_something(field):
    value, base, shows_in = CHANGES[field]
    before = dataclasses.replace(BASE, **base)
    after = dataclasses.replace(before, **{field: value})
    networks = [Network.build(before), Network.build(after)]
    if shows_in == "nothing":  # of the network: the dial reads them, and they refuse what contradicts them
        assert networks[0].info == networks[1].info
        contradiction = {"depth": {"num_layers": 3}, "architecture": {"smear": True}}[field]
        dataclasses.replace(before, **contradiction)
        with pytest.raises(ConfigError, match=field):
            dataclasses.replace(after, **contradiction)
        return
    shapes = [jax.tree.map(lambda info: info.shape, network.info) for network in networks]
    assert (shapes[0] != shapes[1]) == (shows_in == "parameters")
    if shows_in == "init":
        assert networks[0].info != networks[1].info
    if shows_in == "output":
        assert not np.allclose(logits(before), logits(after), atol=1e-3)
    if shows_in == "program":
        programs = [
            str(jax.make_jaxpr(loss_gradient(network))(make_params(network), batch())) for network in networks
        ]
        assert programs[0] != programs[1]


def test_a_tied_table_is_one_table():
    """Its gradient is the sum of those that embedding and head would have."""
    tied, untied = Network.build(dataclasses.replace(BASE, tie_embeddings=True)), Network.build(BASE)
    params = make_params(tied)
    assert "head" not in params
    assert tied.head(params) is params["embedding"]
    together = loss_gradient(tied)(params, batch())["embedding"]
    apart = loss_gradient(untied)({**params, "head": params["embedding"]}, batch())
    np.testing.assert_allclose(together, apart["embedding"] + apart["head"], rtol=1e-4, atol=1e-5)
    assert np.abs(apart["embedding"]).max() > 1e-3
    assert np.abs(apart["head"]).max() > 1e-3


def test_soft_cap_bounds_the_logits():
    cap = 2.0
    capped, free = logits(dataclasses.replace(BASE, soft_cap=cap)), logits(BASE)
    assert np.abs(free).max() > cap >= np.abs(capped).max()
    np.testing.assert_allclose(capped, cap * np.tanh(free / cap), atol=1e-5)
    assert capped.shape == (2, T, BASE.vocab_size)
    assert capped.dtype == np.float32


def test_scan_computes_what_the_unrolled_layers_do():
    unrolled = Network.build(dataclasses.replace(BASE, backout=True, residual_scalars=True, x0_scalars=True))
    scanned = Network.build(dataclasses.replace(unrolled.config, unroll_layers=False))
    params = make_params(unrolled)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        loss_gradient(unrolled)(params, batch()),
        loss_gradient(scanned)(params, batch()),
    )


def test_bfloat16_is_near_float32():
    exact = logits(EXTRAS)
    network = Network.build(EXTRAS, compute_dtype="bfloat16")
    params = make_params(network)
    hidden = jax.eval_shape(lambda: network.hidden(params, **batch()))
    assert hidden.dtype == jnp.bfloat16
    rough = np.asarray(jax.jit(network.logits)(params, **batch()))
    assert rough.dtype == np.float32
    error = np.abs(rough - exact).mean() / np.abs(exact).mean()
    assert 1e-4 < error < 0.03
    gradients = loss_gradient(network)(params, batch())
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(gradients))


@functools.cache
def remat_case(remat: str) -> tuple[Any, int]:
    """Gradients, and the bytes of temporaries, of a model whose activations outweigh its parameters.

    With a scan: what XLA for CPU recomputes in unrolled layers it merges again with what it computed before.
    """
    config = dataclasses.replace(
        BASE, context_len=64, num_layers=4, mlp_dim=128, remat=remat, unroll_layers=False
    )
    network = Network.build(config)
    tokens = jax.random.randint(jax.random.key(3), (8, 64), 0, config.vocab_size)
    position = jnp.broadcast_to(jnp.arange(64), (8, 64))
    arrays = {"k_lo": 0 * position, "k_hi": position + 1, "position": position, "turn_position": position}
    params = make_params(network)
    compiled = loss_gradient(network).lower(params, {"tokens": tokens, **arrays}).compile()
    memory = compiled.memory_analysis()
    return compiled(params, {"tokens": tokens, **arrays}), memory.temp_size_in_bytes


@pytest.mark.parametrize(
    ("more", "less"), [("none", "attention"), ("none", "mlp"), ("attention", "full"), ("mlp", "full")]
)
def test_remat_trades_memory_and_leaves_gradients(more, less):
    (gradients, bytes_more), (same, bytes_less) = remat_case(more), remat_case(less)
    assert bytes_less < 0.95 * bytes_more
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), gradients, same)


def test_networks_of_one_configuration_are_one():
    again = Network.build(dataclasses.replace(BASE))
    assert again == Network.build(BASE)
    assert hash(again) == hash(Network.build(BASE))
    assert again != Network.build(BASE, compute_dtype="bfloat16")
    assert again != Network.build(EXTRAS)
