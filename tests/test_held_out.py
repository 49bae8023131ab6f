"""pass@k on held-out prompts while training: which prompts, what is recorded, a real engine that answers."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest
from test_tokenizer import make_model

from samosa_jax.config import (
    CurriculumConfig,
    HeldOutConfig,
    MeshConfig,
    ModelConfig,
    RewardConfig,
    TaskConfig,
)
from samosa_jax.data.tokenizer import SentencePieceTokenizer
from samosa_jax.errors import ConfigError, UserError
from samosa_jax.evals.generation import pass_at_k
from samosa_jax.evals.generation_tasks import find_generation_task, open_items
from samosa_jax.evals.intervals import mean_interval
from samosa_jax.model.gpt import Network
from samosa_jax.parallel.mesh import make_mesh
from samosa_jax.rl.graded_prompts import open_source
from samosa_jax.rl.held_out import make_held_out_evaluation, open_held_out, passes
from samosa_jax.rl.judging import Judged
from samosa_jax.rl.prompts import Prompted
from samosa_jax.rl.rollouts import Sampler
from samosa_jax.rollout.engine import Engine
from samosa_jax.rollout.tools.registry import CalculatorTool, Registry
from samosa_jax.training.metrics import METRICS

TASKS = (TaskConfig(name="sums", levels=(1, 3)), TaskConfig(name="identity"))


def held_out(prompts: int = 20) -> list[Prompted]:
    return open_held_out(TASKS, prompts=prompts, data_dir=None, flag="rl.data_dir")


def judged(prompted: list[Prompted], right: np.ndarray) -> Judged:
    zeros = np.zeros(right.shape)
    return Judged(
        prompted=prompted,
        groups=[],
        rewards=[],
        totals=right * 0.5,
        right=right,
        truncated=zeros.astype(bool),
        ended=zeros.astype(bool),
        num_tokens=zeros.astype(np.int64) + 7,
    )


def test_prompts_are_held_out_and_those_that_evaluate_asks() -> None:
    prompted = held_out()
    assert [one.task for one in prompted] == ["sums"] * 20 + ["identity"] * 20
    assert len({one.item for one in prompted}) == 40
    assert [one.example for one in prompted] == [one.example for one in held_out()]
    items = open_items(find_generation_task("sums"), data_dir=None, levels=(1, 3), limit=20)
    assert [one.example for one in prompted[:20]] == [item.example for item in items]
    trained = open_source(TASKS, CurriculumConfig(), seed=0, data_dir=None).prompts(0, 600)
    asked = {one.example.prompt.messages[-1].text for one in trained}
    assert not asked & {one.example.prompt.messages[-1].text for one in prompted}


def test_files_give_their_test_rows(test_data: Path) -> None:
    prompted = open_held_out((TaskConfig(name="gsm8k"),), prompts=5, data_dir=test_data, flag="rl.data_dir")
    assert [one.item for one in prompted] == [f"gsm8k/{number}" for number in range(1, 6)]
    with pytest.raises(UserError, match=r"rl\.data_dir: .* is no folder"):
        open_held_out((TaskConfig(name="gsm8k"),), prompts=5, data_dir=test_data / "none", flag="rl.data_dir")


def test_pass_at_k_with_intervals_of_all_and_of_every_part() -> None:
    prompted = held_out()
    right = np.random.default_rng(0).random((40, 4)) < np.linspace(0, 1, 40)[:, None]
    record = passes(judged(prompted, right), (1, 4))
    for k in (1, 4):
        expected = mean_interval([pass_at_k(4, int(row.sum()), k) for row in right])
        assert record[f"eval/pass@{k}"] == expected.value
        assert record[f"eval/pass@{k}_low"] == expected.low < expected.value < expected.high
        assert record[f"eval/pass@{k}_high"] == expected.high
    assert record["eval/pass@1"] == pytest.approx(right.mean())
    assert record["eval/pass@4"] == pytest.approx(right.any(axis=1).mean())
    assert record["by_task"]["sums"]["pass@1"] == pytest.approx(right[:20].mean())
    levels = np.array([one.example.checks.get("level") for one in prompted])
    assert record["by_level"].keys() == {"sums/1", "sums/3"}
    assert record["by_level"]["sums/3"]["pass@1"] == pytest.approx(right[levels == 3].mean())
    assert record["eval/reward"] == pytest.approx(right.mean() / 2)
    assert (record["eval/mean_length"], record["prompts"], record["samples"]) == (7, 40, 4)
    assert {name for name in record if "/" in name} <= METRICS.keys()


def test_tasks_without_levels_have_no_part_by_level() -> None:
    prompted = held_out()[20:]
    record = passes(judged(prompted, np.ones((20, 1), bool)), (1,))
    assert "by_level" not in record
    assert record["eval/pass@1"] == record["eval/pass@1_high"] == 1.0


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"samples": 4}, "at temperature 0, where all answers are alike"),
        ({"ks": (1, 2)}, "none above rl.held_out.samples"),
        ({"ks": ()}, "give some of 1, 2, 4"),
        ({"samples": 3, "temperature": 1.0, "ks": (3,)}, "give some of 1, 2, 4"),
        ({"temperature": -1.0}, "must be finite and not negative"),
    ],
)
def test_wrong_settings_are_named(wrong: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        dataclasses.replace(HeldOutConfig(), **wrong)


def test_an_engine_answers_and_gives_the_parameters_back() -> None:
    tokenizer = SentencePieceTokenizer(make_model())
    model = ModelConfig(
        vocab_size=tokenizer.vocab_size,
        context_len=128,
        num_layers=1,
        model_dim=32,
        num_heads=2,
        num_kv_heads=2,
        head_dim=16,
        mlp_dim=64,
    )
    network = Network.build(model, compute_dtype="float32")
    mesh = make_mesh(MeshConfig(data=1), devices=jax.devices()[:1])
    engine = Engine(network, None, mesh=mesh, max_batch=8, prefix_bytes=0)
    sampler = Sampler(
        engine,
        tokenizer,
        Registry([CalculatorTool()]),
        samples=2,
        max_tokens=6,
        temperature=1.0,
        thinks=False,
    )
    prompted = held_out(4)
    evaluate = make_held_out_evaluation(
        prompted, sampler, engine, reward=RewardConfig(), ks=(1, 2), whole=lambda params: params
    )
    params = jax.jit(network.init)(jax.random.key(0))
    record = evaluate(params)
    assert record == evaluate(params)  # the same random numbers
    assert (record["prompts"], record["samples"]) == (8, 2)
    assert 0 < record["eval/mean_length"] <= 6
    assert record["eval/pass@1"] == 0.0  # an untrained model
    assert 0 < record["eval/pass@1_high"] < 0.5
