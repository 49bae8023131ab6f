"""Going on from a base model: a new schedule, old and new text, moments kept or not, a longer context."""

import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import training_runs

from samosa_jax import train
from samosa_jax.beginning import make_state
from samosa_jax.command_line import load_config, parse_config
from samosa_jax.config import Config
from samosa_jax.errors import ConfigError, UserError
from samosa_jax.stages import build
from samosa_jax.training.checkpoint import step_folder
from samosa_jax.training.resume import Origin, inherited_values

STEPS = 6
BASE = {
    "train.num_steps": STEPS,
    "train.device_batch_size": 1,
    "schedule.warmup_steps": 2,
    "schedule.kind": "constant",
    "eval.max_tokens": 64,
    "sample.prompts": [],
}
LONGER = {"name": "longer", "model.context_len": 64, "train.batch_tokens": 512, "train.num_steps": 3}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return training_runs.write_dataset(tmp_path_factory.mktemp("dataset"))


@pytest.fixture(scope="module")
def base(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    out_dir = tmp_path_factory.mktemp("runs")
    train.main(training_runs.flags(data, out_dir, BASE))
    return out_dir / "base"


def adam_counts(state: Any) -> set[int]:
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {int(leaf) for path, leaf in leaves if jax.tree_util.keystr(path).endswith(".count")}


def test_training_goes_on_at_a_longer_context(base: Path, data: Path, tmp_path: Path, capsys: Any):
    new = tmp_path / "new"
    tokenizer = training_runs.Tokenizer.load(data / "tokenizer")
    texts = [training_runs.make_text(seed) for seed in range(1_000, 1_100)]
    training_runs.write_shards(new, tokenizer, tokenizer_folder=data / "tokenizer", texts=texts)
    line = training_runs.flags(
        data,
        base.parent,
        {
            **BASE,
            **LONGER,
            "data": f"{data}=0.25,{new}=0.75",
            "init_from": base,
            "init_optimizer": "kept",
            "model.rope_scaling_type": "yarn",
            "schedule.warmup_steps": 2,
        },
    )
    train.main(line)
    said = " ".join(capsys.readouterr().out.split())
    assert (
        f"begins with {step_folder(base / 'checkpoints', STEPS)}, optimizer state kept; "
        "model.context_len 32 -> 64; model.rope_scaling_type none -> yarn; "
        "model.rope_scaling_factor 1.0 -> 2.0" in said
    )
    assert f"{data}, 25.0% of the rows" in said
    run = base.parent / "longer"
    config = load_config(run / "config.yaml")
    assert (config.model.rope_scaling_factor, config.model.original_context_len) == (2.0, 32)
    before, after = (
        [line for line in training_runs.records(one / "metrics.jsonl") if "train/loss" in line]
        for one in (base, run)
    )
    assert after[0]["train/lr"] == pytest.approx(config.optimizer.matrix.lr / 2)  # warmed up again
    assert after[1]["train/lr"] == pytest.approx(config.optimizer.matrix.lr)
    assert after[0]["train/loss"] < before[0]["train/loss"] - 0.1
    stored = training_runs.stored_arrays(step_folder(run / "checkpoints", 3) / "optimizer")
    counts = {int(array) for path, array in stored.items() if "count" in path}
    assert counts == {STEPS + 3}
    (step,) = [int(array) for path, array in stored.items() if path == "['step']"]
    assert step == 3


def test_moments_are_those_of_the_base_or_none(base: Path, data: Path):
    line = training_runs.flags(data, base.parent, {**BASE, "init_from": base, "name": "next"})
    machinery = build(parse_config(line).config)
    folder = step_folder(base / "checkpoints", STEPS)
    origin = Origin(folder=folder, fingerprint="")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Some donated buffers were not usable")
        states = [
            make_state(machinery, seed=0, folder=None, origin=origin, keep_optimizer=keep)
            for keep in (False, True)
        ]
    fresh, kept = states
    assert adam_counts(fresh.opt_state) == {0}
    assert adam_counts(kept.opt_state) == {STEPS}
    assert [int(state.step) for state in states] == [0, 0]
    stored = training_runs.stored_arrays(folder / "optimizer")
    moments = jax.tree.leaves(kept.opt_state)
    found = sorted(float(np.abs(np.asarray(leaf)).sum()) for leaf in moments if leaf.ndim)
    expected = sorted(
        float(np.abs(array).sum()) for path, array in stored.items() if "opt_state" in path and array.ndim
    )
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert max(expected) > 0
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(fresh.opt_state) if leaf.ndim)
    assert jax.tree.map(lambda x: x.sharding, kept.step) == jax.tree.map(lambda x: x.sharding, fresh.step)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"optimizer.matrix.kind": "adamw"},
            r"init_optimizer is kept, but optimizer.matrix.kind is adamw, and .* has the moments of muon",
        ),
        (
            {"optimizer.clip_norm": "null"},
            r"optimizer.clip_norm is None, and .* was trained with 1.0; set init_optimizer=fresh",
        ),
        ({"init_from": ""}, r"init_from names no run whose moments"),
        ({"lora.rank": 4}, r"lora.rank is 4: adapters are new"),
    ],
)
def test_moments_that_are_not_there_are_refused(
    changes: dict[str, Any], says: str, base: Path, data: Path, tmp_path: Path
):
    values = {**BASE, "init_from": base, "name": "refused", "init_optimizer": "kept", **changes}
    with pytest.raises(UserError, match=says):
        train.main(training_runs.flags(data, tmp_path, values))
    assert not (tmp_path / "refused").exists()


def test_an_imported_model_has_no_moments(base: Path, data: Path, tmp_path: Path):
    line = training_runs.flags(data, tmp_path, {**BASE, "name": "imported"})
    config = parse_config(line).config
    params = build(config).network.init(jax.random.key(0))
    tokenizer = training_runs.Tokenizer.load(data / "tokenizer")
    folder = training_runs.save_run(
        tmp_path / "imported", config, tokenizer, params, data={"imported": {"path": "llama"}}
    )
    values = {**BASE, "init_from": folder, "name": "next", "init_optimizer": "kept"}
    with pytest.raises(
        UserError, match=r"init_optimizer is kept, but .* is an imported model, which has none"
    ):
        train.main(training_runs.flags(data, tmp_path, values))


def test_the_scaling_follows_from_both_contexts(base: Path, data: Path, tmp_path: Path):
    def resolve(origin: Path, **model: Any) -> Config:
        flags = [f"--model.{name}={value}" for name, value in model.items()]
        train = ["--train.batch_tokens=4096", "--train.device_batch_size=1"]
        line = [f"--init_from={origin}", *train, *flags]
        return parse_config(line, inherit=inherited_values).config

    def scaling(config: Config) -> tuple[Any, ...]:
        model = config.model
        return model.rope_scaling_type, model.rope_scaling_factor, model.original_context_len

    assert scaling(resolve(base, context_len=256)) == ("none", 1.0, None)
    yarn = resolve(base, context_len=256, rope_scaling_type="yarn")
    assert scaling(yarn) == ("yarn", 8.0, 32)
    assert yarn.model.num_layers == 2
    params = build(yarn).network.init(jax.random.key(0))
    tokenizer = training_runs.Tokenizer.load(data / "tokenizer")
    training_runs.save_run(tmp_path / "yarn", yarn, tokenizer, params)
    assert scaling(resolve(tmp_path / "yarn")) == ("yarn", 8.0, 32)
    assert scaling(resolve(tmp_path / "yarn", context_len=128)) == ("yarn", 8.0, 32)
    assert scaling(resolve(tmp_path / "yarn", rope_scaling_type="none")) == ("none", 1.0, None)
    with pytest.raises(ConfigError, match=r"reach 256; raise model.rope_scaling_factor"):
        resolve(tmp_path / "yarn", context_len=512)
    with pytest.raises(ConfigError, match=r"model.rope_scaling_factor is 1.0; rope_scaling_type=yarn needs"):
        resolve(base, rope_scaling_type="yarn")
