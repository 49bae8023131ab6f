"""Which models have a twin among stock architectures, and `model.architecture=hf`, which asks for one."""

import dataclasses
from typing import Any

import pytest

from samosa_jax.command_line import parse_config
from samosa_jax.config import Config, ModelConfig
from samosa_jax.config.architecture import NoTwin, find_twin
from samosa_jax.errors import ConfigError
from samosa_jax.explain import explain, explanation

LLAMA = ModelConfig(mlp="swiglu", qk_norm=False, norm_scale=True)
QWEN3 = ModelConfig(mlp="swiglu", norm_scale=True, qk_norm_scale=True)
NANOCHAT = ModelConfig(mlp="relu2", embedding_norm=True)


def config_of(*argv: str) -> Config:
    return parse_config(argv).config


@pytest.mark.parametrize(
    ("model", "change", "twin"),
    [
        (LLAMA, {}, "llama"),
        (LLAMA, {"norm_scale": False, "tie_embeddings": True}, "llama"),
        (LLAMA, {"head_dim": 128, "num_kv_heads": 2}, "llama"),
        (QWEN3, {}, "qwen3"),
        (QWEN3, {"qk_norm_scale": False, "qk_gain": 1.2, "norm_scale": False}, "qwen3"),
        (QWEN3, {"window_pattern": "SSL", "window": 64, "remat": "full", "init": "gpt2"}, "qwen3"),
        (QWEN3, {"num_heads": 5, "num_kv_heads": 5}, "qwen3"),
        (NANOCHAT, {}, "nanochat"),
        (NANOCHAT, {"soft_cap": 15.0, "num_kv_heads": 2, "tie_embeddings": True}, "nanochat"),
    ],
)
def test_a_twin_is_found(model: ModelConfig, change: dict[str, Any], twin: str):
    assert find_twin(dataclasses.replace(model, **change)) == twin


@pytest.mark.parametrize(
    ("model", "option", "value"),
    [
        *(
            (QWEN3, option, True)
            for option in ("value_embeddings", "residual_scalars", "x0_scalars", "smear", "backout")
        ),
        (LLAMA, "position", "hirope"),
        (LLAMA, "soft_cap", 15.0),
        (LLAMA, "embedding_norm", True),
        (LLAMA, "window_pattern", "SL"),
        (LLAMA, "num_heads", 18),
        (QWEN3, "soft_cap", 15.0),
        (QWEN3, "embedding_norm", True),
        (QWEN3, "qk_gain", 1.2),
        (NANOCHAT, "norm_scale", True),
        (NANOCHAT, "qk_norm", False),
        (NANOCHAT, "qk_norm_scale", True),
        (NANOCHAT, "qk_gain", 1.2),
        (NANOCHAT, "embedding_norm", False),
        (NANOCHAT, "window_pattern", "SL"),
    ],
)
def test_an_option_without_a_twin_is_named(model: ModelConfig, option: str, value: Any):
    changed = dataclasses.replace(model, **{option: value})
    found = find_twin(changed)
    assert isinstance(found, NoTwin)
    assert (found.option, found.value) == (option, value)
    with pytest.raises(ConfigError) as caught:
        dataclasses.replace(changed, architecture="hf")
    assert str(caught.value).startswith(f"model.{option} is {value}: ")
    assert "\n" not in str(caught.value)
    assert "model.architecture is hf" in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "twin"),
    [
        ([], "qwen3"),
        (["--model.qk_norm=false"], "llama"),
        (["--model.mlp=relu2"], "nanochat"),
        (["--model.window_pattern=SSSL"], "qwen3"),
        (["--model.tie_embeddings"], "qwen3"),
        (["--model.qk_norm_scale=false", "--model.qk_gain=1.2"], "qwen3"),
    ],
)
def test_hf_chooses_what_has_a_twin_below_all_that_is_given(flags: list[str], twin: str):
    for depth in ([], ["--depth=8"]):
        model = config_of("--model.architecture=hf", *depth, *flags).model
        assert find_twin(model) == twin
        assert model.norm_scale == (twin != "nanochat")
    assert find_twin(config_of().model) != "qwen3"


def test_hf_takes_part_in_the_dial():
    model = config_of("--model.architecture=hf", "--depth=12").model
    assert (model.mlp, model.qk_norm_scale, model.embedding_norm) == ("swiglu", True, False)
    assert model.mlp_dim == 2048  # 8/3 of the width, as for any swiglu
    assert model.num_layers == 12


def test_a_file_stands_above_what_hf_chooses(tmp_path):
    (tmp_path / "a.yaml").write_text("model: {architecture: hf, norm_scale: false}\n")
    assert not config_of(f"--config={tmp_path / 'a.yaml'}").model.norm_scale
    (tmp_path / "b.yaml").write_text("model: {architecture: hf, soft_cap: 15.0}\n")
    with pytest.raises(ConfigError, match="Qwen3 does not cap logits; set it to null"):
        config_of(f"--config={tmp_path / 'b.yaml'}")


def test_explain_says_what_hf_chose():
    config = config_of("--model.architecture=hf", "--model.norm_scale=false")
    rows = {row.key: row for row in explain(config)}
    assert rows["model.mlp"].value == "swiglu"
    assert rows["model.norm_scale"].set_by_user
    text = explanation(config)
    assert "arXiv:2505.09388" in text
    assert "architecture=hf" in text
    assert "architecture=hf" not in explanation(config_of("--depth=4"))


def test_a_resolved_configuration_resolves_to_itself(tmp_path, capsys):
    with pytest.raises(SystemExit):
        config_of("--model.architecture=hf", "--depth=4", "--print_config")
    (tmp_path / "resolved.yaml").write_text(capsys.readouterr().out)
    assert config_of(f"--config={tmp_path / 'resolved.yaml'}") == config_of(
        "--model.architecture=hf", "--depth=4"
    )
