"""Parameters to tensors of others and back, bit for bit, and what is refused by name on the way."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="torch is not installed: layouts are not held against PyTorch's")

import jax
import jax.numpy as jnp
import numpy as np
import tiny_training
import torch

from samosa_jax.command_line import load_config
from samosa_jax.config import ModelConfig, OptimizerConfig
from samosa_jax.config.architecture import NoTwin, find_twin
from samosa_jax.convert.layout import Layout
from samosa_jax.convert.names import llama_layout, nanochat_layout, samosa_layout, stock_layout
from samosa_jax.convert.pytorch.network import Network as TorchNetwork
from samosa_jax.convert.pytorch.network import NetworkConfig
from samosa_jax.convert.pytorch_sources import samosa_config
from samosa_jax.convert.safetensors_files import open_tensors
from samosa_jax.convert.safetensors_writing import write_tensors
from samosa_jax.data.tokenizer import SPECIAL_TOKENS
from samosa_jax.errors import UserError
from samosa_jax.model.gpt import Network
from samosa_jax.model.params import Params
from samosa_jax.parallel.mesh import make_mesh
from samosa_jax.training.losses import make_pretrain_loss
from samosa_jax.training.optim import make_optimizer
from samosa_jax.training.schedules import make_schedule
from samosa_jax.training.state import create_state, state_shardings
from samosa_jax.training.step import make_train_step, put_batch

BASE = ModelConfig(
    vocab_size=67,
    context_len=16,
    num_layers=3,
    model_dim=32,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    mlp_dim=48,
)
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "tied": {"tie_embeddings": True},
    "swiglu": {"mlp": "swiglu"},
    "norm_scale": {"norm_scale": True, "embedding_norm": True},
    "qk_norm_scale": {"qk_norm_scale": True},
    "no_qk_norm": {"qk_norm": False},
    "value_embeddings": {"value_embeddings": True},
    "residual_scalars": {"residual_scalars": True},
    "x0_scalars": {"x0_scalars": True},
    "smear": {"smear": True},
    "backout": {"backout": True},
    "even_layers": {"num_layers": 4, "value_embeddings": True},
    "all": {
        **dict.fromkeys(("value_embeddings", "residual_scalars", "x0_scalars", "smear", "backout"), True),
        "norm_scale": True,
        "embedding_norm": True,
        "qk_norm_scale": True,
        "position": "hirope",
        "mlp": "swiglu",
        "window_pattern": "SL",
        "window": 5,
    },
}
PRESETS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))
STOCK: dict[str, dict[str, Any]] = {
    "llama": {"mlp": "swiglu", "qk_norm": False, "norm_scale": True},
    "llama_without_scales": {"mlp": "swiglu", "qk_norm": False, "tie_embeddings": True},
    "qwen3": {"mlp": "swiglu", "norm_scale": True, "qk_norm_scale": True},
    "qwen3_with_a_gain": {"mlp": "swiglu", "qk_gain": 1.2},
    "nanochat": {"embedding_norm": True, "soft_cap": 15.0},
}


def network_of(options: Mapping[str, Any]) -> Network:
    return Network.build(dataclasses.replace(BASE, **options))


def tiny(path: Path) -> ModelConfig:
    """A preset at the smallest width that its options allow, all of its proportions of heads kept."""
    model = load_config(path).model
    num_layers, heads = 3, model.num_heads // model.num_kv_heads
    return dataclasses.replace(
        model,
        depth=None,
        vocab_size=67,
        context_len=16,
        num_layers=num_layers,
        model_dim=8 * heads * 4,
        num_heads=heads,
        num_kv_heads=1,
        head_dim=8,
        mlp_dim=48,
        window=None,
    )


def random_params(network: Network) -> Params:
    """Every number different, so that no transposition goes unseen; rows of no token zero."""
    rng = np.random.default_rng(0)

    def values(info: Any) -> np.ndarray:
        numbers = rng.standard_normal(info.shape).astype(np.float32)
        if "V" in info.letters:
            numbers[(slice(None),) * info.letters.index("V") + (slice(network.config.vocab_size, None),)] = 0
        return numbers

    return jax.tree.map(values, network.info)


def assert_there_and_back(layout: Layout, params: Params) -> dict[str, np.ndarray]:
    tensors = layout.to_foreign(params)
    assert {name: tensor.shape for name, tensor in tensors.items()} == layout.shapes()
    back = layout.to_params(tensors, source="here")
    jax.tree.map(np.testing.assert_array_equal, back, params)
    return tensors


@pytest.mark.parametrize("config", [*OPTIONS, *PRESETS], ids=lambda config: getattr(config, "stem", config))
def test_every_option_and_preset_goes_there_and_back(config: str | Path):
    model = tiny(config) if isinstance(config, Path) else dataclasses.replace(BASE, **OPTIONS[config])
    network = Network.build(model)
    tensors = assert_there_and_back(samosa_layout(model, network.info), random_params(network))
    special_ids = {name: number for number, name in enumerate(SPECIAL_TOKENS)}
    with torch.device("meta"):
        theirs = TorchNetwork(NetworkConfig.from_dict(samosa_config(model, special_ids)))
    wanted = {name: tuple(tensor.shape) for name, tensor in theirs.state_dict().items()}
    assert {name: tensor.shape for name, tensor in tensors.items()} == wanted
    if not isinstance(find_twin(model), NoTwin):
        assert_there_and_back(stock_layout(model, network.info), random_params(network))


def test_presets_with_a_twin():
    """Which of the presets need no code of ours elsewhere."""
    twins = {path.stem: find_twin(tiny(path)) for path in PRESETS}
    assert {name: twin for name, twin in twins.items() if not isinstance(twin, NoTwin)} == {
        "llm_d20_561m": "nanochat",
        "matilda_114m": "qwen3",
        "matilda_363m": "qwen3",
        "nanolm_10m": "llama",
    }


@pytest.mark.parametrize("name", STOCK)
def test_stock_tables_have_a_row_for_every_token_and_no_more(name: str):
    network = network_of(STOCK[name])
    params = random_params(network)
    tensors = assert_there_and_back(stock_layout(network.config, network.info), params)
    table = tensors["model.embed_tokens.weight"]
    np.testing.assert_array_equal(table, params["embedding"][: BASE.vocab_size])
    assert BASE.vocab_size % 64


def test_a_linear_weight_lies_as_torch_has_it():
    network = network_of({})
    params = random_params(network)
    tensors = samosa_layout(network.config, network.info).to_foreign(params)
    weight = params["blocks"]["attention"]["output"][1]  # (N, H, D)
    x = np.random.default_rng(1).standard_normal((5, *weight.shape[:2])).astype(np.float32)
    linear = torch.nn.functional.linear(
        torch.tensor(x.reshape(5, -1)), torch.tensor(tensors["model.layers.1.self_attn.o_proj.weight"])
    )
    np.testing.assert_allclose(linear.numpy(), np.einsum("bnh,nhd->bd", x, weight), rtol=1e-5, atol=1e-5)


def test_halves_of_heads_are_swapped_for_nanochat():
    network = network_of(STOCK["nanochat"])
    params = random_params(network)
    info = network.info
    tensors = nanochat_layout(network.config, info).to_foreign(params)
    plain = samosa_layout(network.config, info).to_foreign(params)
    for name, is_turned in (("q", True), ("k", True), ("v", False)):
        key = f"model.layers.0.self_attn.{name}_proj.weight"
        heads, ours = tensors[key].reshape(-1, 8, 32), plain[key].reshape(-1, 8, 32)
        swapped = np.concatenate([ours[:, 4:], ours[:, :4]], axis=1)
        np.testing.assert_array_equal(heads, swapped if is_turned else ours)
        assert (heads != ours).any() == is_turned


def test_norms_without_scales_become_ones_and_the_gain():
    network = network_of(STOCK["qwen3_with_a_gain"])
    layout = llama_layout(network.config, network.info)
    tensors = layout.to_foreign(random_params(network))
    np.testing.assert_array_equal(tensors["model.norm.weight"], np.ones(32, np.float32))
    np.testing.assert_array_equal(
        tensors["model.layers.2.self_attn.k_norm.weight"], np.full(8, 1.2, np.float32)
    )
    tensors["model.layers.2.self_attn.k_norm.weight"] = np.full(8, 1.1, np.float32)
    with pytest.raises(
        UserError, match=r"here: tensor model\.layers\.2\.self_attn\.k_norm\.weight is not 1\.2"
    ):
        layout.to_params(tensors, source="here")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model.norm.weight": None}, "tensor model.norm.weight is missing (1 of 11 are)"),
        ({"model.extra": np.zeros(3)}, "tensor model.extra (1 in all) belongs to nothing in samosa"),
        (
            {"lm_head.weight": np.zeros((67, 32), np.float32)},
            "tensor lm_head.weight is (67, 32), expected (128, 32)",
        ),
        (
            {"model.norm.weight": np.full(32, np.nan, np.float32)},
            "tensor model.norm.weight holds numbers that are not finite",
        ),
    ],
)
def test_what_does_not_belong_is_named(change: dict[str, Any], says: str):
    network = network_of({"norm_scale": True, "num_layers": 1})
    layout = samosa_layout(network.config, network.info)
    tensors = layout.to_foreign(random_params(network)) | change
    given = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    with pytest.raises(UserError) as caught:
        layout.to_params(given, source="exports/x")
    assert str(caught.value).startswith(f"exports/x: {says}")


def test_a_head_that_should_repeat_the_embedding_is_compared():
    network = network_of({"tie_embeddings": True, "mlp": "swiglu"})
    layout = llama_layout(network.config, network.info)
    tensors = layout.to_foreign(random_params(network))
    table = tensors["model.embed_tokens.weight"]
    layout.to_params({**tensors, "lm_head.weight": table}, source="here")
    with pytest.raises(UserError, match=r"tensor lm_head\.weight differs from model\.embed_tokens\.weight"):
        layout.to_params({**tensors, "lm_head.weight": table + 1}, source="here")


def test_rows_of_no_token_are_not_dropped_silently():
    network = network_of(STOCK["qwen3"])
    params = random_params(network)
    params["head"][70] = 1.0
    with pytest.raises(UserError, match="parameter head is not zero in the rows from 67 on"):
        llama_layout(network.config, network.info).to_foreign(params)


@pytest.mark.parametrize("options", [{"value_embeddings": True}, {"tie_embeddings": True}], ids=str)
def test_rows_of_no_token_stay_zero_through_training(options: dict[str, Any]):
    """From the first values through steps of Muon, Adam, weight decay and the z-loss."""
    network = Network.build(dataclasses.replace(tiny_training.MODEL, **options))
    size = network.config.vocab_size
    decayed = dataclasses.replace(tiny_training.ADAMW, weight_decay=0.1)
    groups = dict.fromkeys(("embedding", "value_embedding", "head"), decayed)
    optimizer = make_optimizer(
        OptimizerConfig(**groups), tiny_training.SCHEDULE, num_steps=60, info=network.info
    )
    mesh = make_mesh(tiny_training.MeshConfig(data=1), devices=jax.devices()[:1])
    state = create_state(network, optimizer, mesh=mesh, seed=0)
    step = make_train_step(
        make_pretrain_loss(network, z_loss=1e-2, chunk_tokens=24),
        optimizer,
        learning_rate=lambda count: 0.02 * make_schedule(tiny_training.SCHEDULE, num_steps=60)(count),
        shardings=state_shardings(network.info, optimizer, mesh=mesh),
    )
    tables = {info.path: info for info in jax.tree.leaves(network.info) if "V" in info.letters}
    assert len(tables) == (3 if "value_embeddings" in options else 1)
    before = {path: np.asarray(table_rows(state.params, info)) for path, info in tables.items()}
    with jax.set_mesh(mesh):
        for seed in range(3):
            batch = put_batch(tiny_training.ragged_batch(seed), num_microbatches=1, mesh=mesh)
            state, _ = step(state, batch, None)
    for path, info in tables.items():
        after = np.asarray(table_rows(state.params, info))
        assert not before[path][size:].any()
        assert not after[size:].any(), path
        assert (after[:size] != before[path][:size]).any(), path


def table_rows(params: Params, info: Any) -> jax.Array:
    """A table with its tokens in front."""
    for name in info.path.split("/"):
        params = params[name]
    return jnp.moveaxis(jnp.asarray(params), info.letters.index("V"), 0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_shards_hold_what_one_file_would(tmp_path: Path, dtype: str):
    network = network_of(OPTIONS["all"])
    layout = samosa_layout(network.config, network.info)
    params = random_params(network)
    numbers = np.dtype(jnp.dtype(dtype))
    for folder, limit in (("one", 10**9), ("many", 20_000)):
        (tmp_path / folder).mkdir()
        write_tensors(
            tmp_path / folder,
            layout.stream(params),
            shapes=layout.shapes(),
            dtype=numbers,
            shard_bytes=limit,
        )
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["model.safetensors"]
    shards = sorted((tmp_path / "many").glob("*.safetensors"))
    assert len(shards) > 3
    assert shards[1].name == f"model-00002-of-{len(shards):05d}.safetensors"
    assert all(path.stat().st_size < 20_000 + 4096 for path in shards)
    one, many = open_tensors(tmp_path / "one"), open_tensors(tmp_path / "many")
    assert set(one) == set(many) == set(layout.shapes())
    for name, tensor in layout.to_foreign(params).items():
        np.testing.assert_array_equal(one[name], tensor.astype(numbers))
        np.testing.assert_array_equal(many[name], one[name])
    if dtype == "float32":
        jax.tree.map(np.testing.assert_array_equal, layout.to_params(many, source="here"), params)
