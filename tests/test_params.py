"""Parameters: golden tables of the presets, first values, and the formulas of `sizes` against the tree."""

import dataclasses
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh

from samosa_jax.command_line import load_config
from samosa_jax.config import ModelConfig
from samosa_jax.model.gpt import Network
from samosa_jax.model.params import ParamInfo, Uniform, num_params_by_group
from samosa_jax.parallel.sharding import param_spec
from samosa_jax.sizes import parameter_counts

GOLDEN = Path(__file__).parent / "golden"
CONFIGS = Path(__file__).parents[1] / "configs"
PRESETS = (
    "nanolm_10m",
    "matilda_114m",
    "matilda_152m",
    "matilda_363m",
    "novamind_256m",
    "llm_d20_561m",
    "samosa_d24",
    "samosa_d32",
)
TINY = ModelConfig(
    vocab_size=100,
    context_len=16,
    num_layers=3,
    model_dim=32,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    mlp_dim=48,
)
ALL_EXTRAS = {
    "embedding_norm": True,
    "value_embeddings": True,
    "residual_scalars": True,
    "x0_scalars": True,
    "smear": True,
    "backout": True,
    "norm_scale": True,
    "qk_norm_scale": True,
}


def infos(config: ModelConfig) -> dict[str, ParamInfo]:
    return {info.path: info for info in jax.tree.leaves(Network.build(config).info)}


def init(config: ModelConfig, seed: int = 0) -> dict[str, np.ndarray]:
    params = jax.jit(Network.build(config).init)(jax.random.key(seed))
    flat = jax.tree_util.tree_flatten_with_path(params)[0]
    return {"/".join(key.key for key in path): np.asarray(leaf) for path, leaf in flat}


def table(config: ModelConfig) -> str:
    """What the golden files hold: a line per parameter, placed on a small mesh that divides the model."""
    tensor = 2 if config.num_kv_heads % 2 == 0 else 1
    mesh = AbstractMesh((2, 2, tensor), ("data", "fsdp", "tensor"))
    rows = [("path", "dims", "shape", "group", "init", "sharding")]
    for info in infos(config).values():
        shape = " ".join(str(size) for size in info.shape)
        spec = " ".join(axis or "-" for axis in param_spec(info, mesh))
        rows.append((info.path, info.dims, shape, info.group, str(info.init), spec))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    total = sum(info.num_params for info in infos(config).values())
    footer = [f"total {total}", f"sharding on a mesh of data=2 fsdp=2 tensor={tensor}"]
    return "\n".join(line.rstrip() for line in lines + footer) + "\n"


@pytest.mark.parametrize("preset", PRESETS)
def test_preset_matches_its_golden_table(preset):
    """SAMOSA_UPDATE_GOLDEN=1 writes the files anew; read the diff before you commit it."""
    found = table(load_config(CONFIGS / f"{preset}.yaml").model)
    golden = GOLDEN / f"params_{preset}.txt"
    if os.environ.get("SAMOSA_UPDATE_GOLDEN") == "1":
        golden.write_text(found)
    assert found == golden.read_text()


SWITCHES = [
    {},
    {"tie_embeddings": True},
    {"mlp": "swiglu"},
    {"vocab_size": 129},
    {"num_kv_heads": 1},
    {"norm_scale": True, "qk_norm": False},
    *({name: True} for name in ALL_EXTRAS),
    ALL_EXTRAS,
]


@pytest.mark.parametrize("switches", SWITCHES, ids=lambda switches: "+".join(switches) or "plain")
def test_formulas_agree_with_the_tree(switches):
    config = dataclasses.replace(TINY, **switches)
    formulas = dataclasses.asdict(parameter_counts(config))
    assert {group: count for group, count in formulas.items() if count} == num_params_by_group(
        Network.build(config).info
    )


@pytest.mark.parametrize("preset", PRESETS)
def test_formulas_agree_with_the_presets(preset):
    model = load_config(CONFIGS / f"{preset}.yaml").model
    counts = num_params_by_group(Network.build(model).info)
    assert sum(counts.values()) == parameter_counts(model).total


def test_dims_give_the_matrix_view():
    found = infos(dataclasses.replace(TINY, **ALL_EXTRAS))
    query, output, head = (found[p] for p in ("blocks/attention/query", "blocks/attention/output", "head"))
    assert (query.reduction_axis, query.output_axis, query.fan_in) == ((1,), (2, 3), 32)
    assert (output.reduction_axis, output.output_axis, output.fan_in) == ((1, 2), (3,), 4 * 8)
    assert (head.letters, head.reduction_axis, head.output_axis, head.fan_in) == (("V", "D"), (1,), (0,), 32)
    assert query.batch_axis == (0,)
    scale = found["final_norm/scale"]
    assert (scale.reduction_axis, scale.output_axis, scale.fan_in) == ((), (), 1)


def test_only_matrices_of_layers_are_in_the_matrix_group():
    for info in infos(dataclasses.replace(TINY, **ALL_EXTRAS)).values():
        is_scale = info.path.endswith("_scale")
        is_layer_matrix = info.path.startswith(("blocks/attention/", "blocks/mlp/")) and not is_scale
        assert (info.group == "matrix") == is_layer_matrix
        if is_layer_matrix:
            assert info.reduction_axis
            assert info.output_axis
            assert info.letters[0] == "L"


def test_init_follows_its_description():
    config = dataclasses.replace(TINY, model_dim=256, num_heads=16, num_kv_heads=8, head_dim=16, **ALL_EXTRAS)
    values, described = init(config), infos(config)
    assert {path: value.shape for path, value in values.items()} == {
        path: info.shape for path, info in described.items()
    }
    assert all(value.dtype == np.float32 for value in values.values())
    reading_std = 256**-0.5
    for path, std in {
        "embedding": 0.8,
        "head": 0.001,
        "blocks/attention/query": reading_std,
        "blocks/attention/value": reading_std,
        "blocks/mlp/up": 0.4 * reading_std,
        "value_embeddings/table": reading_std,
    }.items():
        of_tokens, _ = split_rows(values[path], described[path])
        np.testing.assert_allclose(of_tokens.std(), std, rtol=0.03, err_msg=path)
    for path in ("blocks/attention/output", "blocks/mlp/down", "smear/scale"):
        assert not values[path].any(), path
    np.testing.assert_allclose(values["blocks/residual_scale"], [1.15, 1.10, 1.05], rtol=1e-6)
    np.testing.assert_allclose(values["blocks/x0_scale"], [0.2, 0.125, 0.05], rtol=1e-6)
    np.testing.assert_allclose(values["backout"], 0.2, rtol=1e-6)
    assert described["smear/gate"].init == Uniform(0.0, 0.02)
    assert values["value_embeddings/gate"].min() >= 0
    assert values["value_embeddings/gate"].max() <= 0.02


def split_rows(values: np.ndarray, info: ParamInfo) -> tuple[np.ndarray, np.ndarray]:
    """What stands for tokens, and the rows of a table beyond those."""
    axis = info.letters.index("V") if "V" in info.letters else 0
    size = TINY.vocab_size if "V" in info.letters else info.shape[0]
    of_tokens, beyond = np.split(values, [size], axis=axis)
    return of_tokens, beyond


def test_rows_that_stand_for_no_token_are_zero():
    config = dataclasses.replace(TINY, **ALL_EXTRAS)
    values, described = init(config), infos(config)
    for path in ("embedding", "head", "value_embeddings/table"):
        of_tokens, beyond = split_rows(values[path], described[path])
        assert of_tokens.any(axis=-1).all(), path
        assert beyond.size, path
        assert not beyond.any(), path


def test_gpt2_init_scales_what_writes_into_the_residual():
    config = dataclasses.replace(TINY, init="gpt2", init_std=0.05, model_dim=256, mlp_dim=512)
    values = init(config)
    np.testing.assert_allclose(values["blocks/mlp/up"].std(), 0.05, rtol=0.03)
    np.testing.assert_allclose(values["blocks/mlp/down"].std(), 0.05 / 6**0.5, rtol=0.03)
    np.testing.assert_allclose(values["blocks/attention/output"].std(), 0.05 / 6**0.5, rtol=0.03)
    np.testing.assert_allclose(values["head"][: TINY.vocab_size].std(), 0.05, rtol=0.03)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("scheme", ["gpt2", "zero_out"])
def test_first_prediction_is_near_uniform(scheme, tied):
    """At the first step the loss is log(vocab_size): nothing is known, and no token predicts itself."""
    config = dataclasses.replace(
        TINY, init=scheme, tie_embeddings=tied, model_dim=256, vocab_size=512, num_layers=4, mlp_dim=1024
    )
    network = Network.build(config)
    tokens = jax.random.randint(jax.random.key(1), (4, 16), 0, 512)
    position = jnp.broadcast_to(jnp.arange(16), (4, 16))
    logits = network.logits(
        jax.jit(network.init)(jax.random.key(0)),
        tokens,
        k_lo=jnp.zeros_like(position),
        k_hi=position + 1,
        position=position,
        turn_position=position,
    )
    log_probs = jax.nn.log_softmax(logits)
    loss = -jnp.take_along_axis(log_probs[:, :-1], tokens[:, 1:, None], axis=-1).mean()
    assert abs(loss - np.log(512)) < 0.3
    itself = jnp.take_along_axis(log_probs, tokens[..., None], axis=-1).mean()
    assert abs(itself + np.log(512)) < (3.5 if scheme == "gpt2" and tied else 1.1)


def test_a_feature_leaves_the_other_parameters_as_they_were():
    plain, full = init(TINY), init(dataclasses.replace(TINY, **ALL_EXTRAS))
    assert set(plain) < set(full)
    for path, value in plain.items():
        np.testing.assert_array_equal(value, full[path], err_msg=path)


def test_parameters_differ_by_path_and_seed():
    first, second = init(TINY), init(TINY, seed=1)
    assert not np.array_equal(first["blocks/attention/query"], second["blocks/attention/query"])
    assert not np.array_equal(first["blocks/attention/key"], first["blocks/attention/value"])
