"""What the dial derives, what stands above it, and that its formulas of size are the network's own."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest

from samosa_jax import dial
from samosa_jax.command_line import load_config, parse_config
from samosa_jax.config import Config, ModelConfig
from samosa_jax.errors import ConfigError
from samosa_jax.explain import explain, explanation
from samosa_jax.sizes import (
    flops_per_token,
    parameter_counts,
    scaling_parameters,
    state_bytes,
)

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))


def config_of(*argv: str) -> Config:
    return parse_config(argv).config


@pytest.mark.parametrize(
    ("depth", "shape", "batch_tokens", "num_steps"),
    [
        (4, (4, 256, 4, 64, 1_024), 2**18, 880),  # 20 x 11 534 336 tokens
        (5, (5, 320, 5, 64, 1_280), 2**18, 1_269),
        (12, (12, 768, 6, 128, 3_072), 2**19, 4_200),  # 20 x 110 100 480 tokens
        (24, (24, 1_536, 12, 128, 6_144), 2**20, 13_920),  # 20 x 729 808 896 tokens
    ],
)
def test_depth_sets_shape_batch_and_length(
    depth: int, shape: tuple[int, ...], batch_tokens: int, num_steps: int
) -> None:
    config = config_of(f"--model.depth={depth}")
    model = config.model
    assert (model.num_layers, model.model_dim, model.num_heads, model.head_dim, model.mlp_dim) == shape
    assert model.num_kv_heads == model.num_heads
    assert config.train.batch_tokens == batch_tokens
    assert config.train.num_steps == num_steps
    assert config.train.horizon == "chinchilla"


def test_rates_at_the_reference_and_away_from_it() -> None:
    reference = config_of("--model.depth=12", "--horizon=ratio", "--train.horizon_value=12")
    assert reference.train.batch_tokens == dial.REFERENCE_BATCH
    groups = {name: group.lr for name, group in reference.optimizer.groups.items()}
    assert groups == {
        "matrix": 0.02,
        "embedding": 0.3,
        "value_embedding": 0.15,
        "head": 0.008,
        "residual": 0.005,
        "scalar": 0.02,
    }
    assert reference.optimizer.matrix.weight_decay == 0.28

    large = config_of("--model.depth=24", "--horizon=ratio", "--train.horizon_value=12").optimizer
    assert large.matrix.lr == pytest.approx(0.02 * math.sqrt(2), rel=1e-5)  # twice the batch
    assert large.head.lr == pytest.approx(0.008 * math.sqrt(2) * math.sqrt(768 / 1_536), rel=1e-5)
    assert large.residual.lr == pytest.approx(0.005 * math.sqrt(2), rel=1e-5)
    tokens_ratio = 729_808_896 / 110_100_480
    assert large.matrix.weight_decay == pytest.approx(0.28 * math.sqrt(2) / tokens_ratio, rel=1e-5)


def test_adamw_on_matrices_has_a_rate_of_its_own() -> None:
    adamw = config_of("--model.depth=12", "--optimizer.matrix.kind=adamw").optimizer.matrix
    assert adamw.lr == 6e-4
    assert adamw.weight_decay < config_of("--model.depth=12").optimizer.matrix.weight_decay


def test_weight_decay_stays_bounded_in_tiny_runs() -> None:
    config = config_of("--model.depth=2", "--train.num_steps=30", "--schedule.warmup_steps=0")
    assert config.optimizer.matrix.weight_decay == dial.WEIGHT_DECAY_LIMIT
    assert config.optimizer.matrix.weight_decay * config.optimizer.matrix.lr < 0.1


def test_batch_for_a_number_of_steps_solves_the_law() -> None:
    """With steps given, the batch is the one that is best for the tokens that it itself makes."""
    train = config_of("--model.depth=12", "--train.num_steps=3000").train
    tokens = train.num_steps * train.batch_tokens
    best = dial.REFERENCE_BATCH * (tokens / dial.REFERENCE_TOKENS) ** dial.BATCH_EXPONENT
    assert abs(math.log2(train.batch_tokens / best)) <= 0.5
    assert config_of("--model.depth=12", "--train.num_steps=200").train.batch_tokens < train.batch_tokens


def test_swiglu_keeps_the_parameters_of_relu2() -> None:
    relu2, swiglu = config_of("--depth=12").model, config_of("--depth=12", "--model.mlp=swiglu").model
    assert (relu2.mlp_dim, swiglu.mlp_dim) == (3_072, 2_048)
    assert parameter_counts(relu2).matrix == parameter_counts(swiglu).matrix


def test_batches_are_whole_rows_for_any_context() -> None:
    train = config_of("--depth=8", "--model.context_len=700").train
    rows = train.batch_tokens / 700
    assert rows == 2 ** round(math.log2(rows))


@pytest.mark.parametrize(
    ("flags", "tokens"),
    [
        (["--horizon=tokens", "--train.horizon_value=5e7"], 5e7),
        (["--horizon=ratio", "--train.horizon_value=3"], 3 * (10_616_832 + 12_582_912)),
        (["--horizon=chinchilla"], 20 * (10_616_832 + 12_582_912)),
        (["--horizon=flops", "--train.horizon_value=1e15"], 1e15 / 167_522_304),
    ],
)
def test_horizon_sets_the_steps_without_depth(flags: list[str], tokens: float) -> None:
    config = config_of(*flags)
    assert flops_per_token(config.model) == 6 * (10_616_832 + 12_582_912) + 12 * 6 * 6 * 64 * 1_024
    assert config.train.num_steps == round(tokens / config.train.batch_tokens)
    assert config.train.batch_tokens == Config().train.batch_tokens
    assert config.optimizer == Config().optimizer


def test_steps_that_contradict_the_horizon_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"train\.num_steps is 100, but train.horizon=chinchilla makes it 880"
    ):
        config_of("--depth=4", "--horizon=chinchilla", "--train.num_steps=100")
    assert config_of("--depth=4", "--horizon=chinchilla", "--train.num_steps=880").train.num_steps == 880
    assert config_of("--depth=4", "--train.num_steps=100").train.horizon == "steps"


def test_files_and_flags_stand_above_the_dial(tmp_path: Path) -> None:
    file = tmp_path / "wide.yaml"
    file.write_text("model: {depth: 12, model_dim: 1024}\noptimizer: {head: {lr: 0.5}}\n")
    from_file = config_of(f"--config={file}")
    assert from_file.model.model_dim == 1_024
    assert from_file.model.num_heads == 8  # what follows from the width follows from the width that was set
    assert from_file.model.mlp_dim == 4_096
    assert from_file.optimizer.head.lr == 0.5
    assert from_file.optimizer.embedding.lr == pytest.approx(
        0.3 * math.sqrt(from_file.train.batch_tokens / 2**19) * math.sqrt(768 / 1_024), rel=1e-5
    )
    assert config_of(f"--config={file}", "--model.model_dim=512").model.num_heads == 4
    assert config_of("--depth=5", "--model.head_dim=128").model.model_dim == 384  # 320, up to whole heads


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--depth=0"], "model.depth is 0"),
        (["--depth=4", "--model.head_dim=0"], "model.head_dim is 0"),
        (["--depth=4", "--model.model_dim=0"], "model.model_dim is 0"),
        (["--depth=4", "--model.context_len=0"], "model.context_len is 0"),
        (["--depth=4", "--train.num_steps=0"], "train.num_steps is 0"),
        (["--horizon=tokens"], "needs train.horizon_value above 0"),
        (["--horizon=chinchilla", "--train.batch_tokens=0"], "train.batch_tokens is 0"),
        (["--horizon=chinchilla", "--model.num_kv_heads=4"], "not a multiple of model.num_kv_heads"),
    ],
)
def test_nothing_is_derived_from_the_impossible(flags: list[str], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config_of(*flags)
    assert says in str(caught.value)


def test_explain_names_every_derived_value_with_its_source() -> None:
    config = config_of("--depth=12", "--optimizer.head.lr=0.5")
    rows = {row.key: row for row in explain(config)}
    assert set(rows) == {rule.key for rule in (*dial.SHAPE_RULES, *dial.TRAINING_RULES)}
    assert all(row.formula and row.sources for row in rows.values())
    assert rows["optimizer.head.lr"].set_by_user
    assert rows["optimizer.head.lr"].value == 0.5
    assert [key for key, row in rows.items() if row.set_by_user] == ["optimizer.head.lr"]
    text = explanation(config)
    assert f"parameters: {parameter_counts(config.model).total}\n" in text
    assert "set; would be" in text
    assert "arXiv:2505.13738" in text
    assert "nothing is derived" in explanation(Config())


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_parameter_formula_is_the_networks_own(path: Path) -> None:
    assert_counts_agree(load_config(path).model)


SMALL: dict[str, Any] = {
    "vocab_size": 100,
    "context_len": 32,
    "num_layers": 3,
    "model_dim": 48,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 12,
    "mlp_dim": 80,
}


@pytest.mark.parametrize(
    "switch",
    [
        {},
        {"mlp": "swiglu"},
        {"tie_embeddings": True},
        {"norm_scale": True},
        {"qk_norm_scale": True},
        {"norm_scale": True, "embedding_norm": True, "qk_norm": False},
        {"embedding_norm": True},
        {"value_embeddings": True},
        {"residual_scalars": True},
        {"x0_scalars": True},
        {"smear": True},
        {"backout": True},
        {"num_kv_heads": 4},
        {"head_dim": 16},
        {"vocab_size": 129},
    ],
    ids=lambda switch: "+".join(switch) or "plain",
)
def test_parameter_formula_follows_every_switch(switch: dict[str, Any]) -> None:
    model = ModelConfig(**{**SMALL, **switch})
    assert_counts_agree(model)
    without_effect = switch in ({}, {"embedding_norm": True})
    assert (parameter_counts(model) == parameter_counts(ModelConfig(**SMALL))) == without_effect


def assert_counts_agree(model: ModelConfig) -> None:
    from samosa_jax.model.gpt import Network
    from samosa_jax.model.params import num_params_by_group

    counted = num_params_by_group(Network.build(model).info)
    stated = {name: count for name, count in dataclasses.asdict(parameter_counts(model)).items() if count}
    assert counted == stated


def test_flops_count_windows_gates_and_the_tied_head() -> None:
    full = ModelConfig(**SMALL)
    matrices = 3 * (2 * 48 * 4 * 12 + 2 * 48 * 2 * 12 + 2 * 48 * 80)
    assert scaling_parameters(full) == matrices + 128 * 48
    assert flops_per_token(full) == 6 * (matrices + 128 * 48) + 12 * 4 * 12 * (3 * 32)
    windowed = dataclasses.replace(full, window_pattern="SL", window=8)
    assert flops_per_token(full) - flops_per_token(windowed) == 12 * 4 * 12 * (32 - 8)
    assert flops_per_token(dataclasses.replace(full, tie_embeddings=True)) == flops_per_token(full)
    gated = dataclasses.replace(full, value_embeddings=True, smear=True)
    assert flops_per_token(gated) - flops_per_token(full) == 6 * (2 * 12 * 2 + 24)


def test_bytes_of_the_state() -> None:
    model = ModelConfig(**SMALL)
    counts = parameter_counts(model)
    tables = counts.embedding + counts.head
    assert state_bytes(counts, Config().optimizer) == 8 * counts.matrix + 12 * tables
