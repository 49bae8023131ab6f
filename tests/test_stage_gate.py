"""The gate at the end of a run: a damaged checkpoint is stopped, and nothing begins with what was refused."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
import reciting_model
import training_runs

from samosa_jax import train
from samosa_jax.config import EvalConfig
from samosa_jax.errors import UserError
from samosa_jax.evals.gates import Condition, Gate, judge
from samosa_jax.evals.probe_suite import probe_tools
from samosa_jax.evals.probes import load_suite
from samosa_jax.evals.promotion import (
    check_promoted,
    read_promotion,
    write_promotion,
)
from samosa_jax.evals.results import TaskResult, append_result, read_items, read_results
from samosa_jax.rollout.tools.registry import ToolContext
from samosa_jax.stage_gate import check_gate, hold_against_gate
from samosa_jax.trained import open_trained
from samosa_jax.training.checkpoint import seal_digest
from samosa_jax.training.run_folder import RunFolder

ROOT = Path(__file__).parents[1]
SEAL = "a" * 64

PAGES = [
    {"title": "Weather in Seoul", "url": "https://weather.example/seoul", "content": "Seoul: 12 degrees."},
    {"title": "Weather in Oslo", "url": "https://weather.example/oslo", "content": "Oslo: 4 degrees."},
]
SUITE = """
category: identity
probes:
  - name: who
    say: "Who are you?"
    must_pass: true
    checks: {answer_contains: ["{name}"], must_not_call: any}
"""
TOOL_SUITE = """
category: think_tool
probes:
  - name: tip
    say: "A {share}% tip on ${bill}?"
    with: {share: 17, bill: 45}
    compute: {tip: "{share} / 100 * {bill}"}
    think: true
    tools: true
    checks: {must_think: true, must_call: calculator, answer_after_think: true, answer_number: "{tip}"}
  - name: weather
    say: "Weather in Seoul?"
    tools: true
    checks: {must_call: web_search, answer_contains: ["12"], citation_required: true, max_calls: 1}
"""
TURNS_SUITE = """
category: multi_turn
probes:
  - {name: remembers, turns: ["I am Priya.", "What is my name?"], checks: {answer_contains: [Priya]}}
"""
GATE = """
conditions:
  - {task: probes, at_least: 0.95, min_items: 4}
  - {task: probes/think_tool, at_least: 1}
  - {task: probes/must_pass, at_least: 1}
  - {task: probes/artefacts, at_most: 0, min_items: 100}
"""


def call(name: str, **arguments: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def says(content: str, *calls: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **({"tool_calls": list(calls)} if calls else {})}


def asks(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a suite of probes, a gate, and the run of a model that passes it."""
    folder = tmp_path_factory.mktemp("gate")
    probes = folder / "probes"
    probes.mkdir()
    for name, text in {"a": SUITE, "b": TOOL_SUITE, "c": TURNS_SUITE}.items():
        (probes / f"{name}.yaml").write_text(text)
    (probes / "pages.jsonl").write_text("".join(json.dumps(page) + "\n" for page in PAGES))
    (folder / "gate.yaml").write_text(GATE)
    found = probe_tools(load_suite(probes)).call("web_search", {"query": "Seoul weather"}, ToolContext())
    assert not found.is_error
    conversations = [
        [asks("Who are you?"), says("I am samosaChaat.")],
        [
            asks("A 17% tip on $45?"),
            says("<think>I multiply.</think>", call("calculator", expression="17 / 100 * 45")),
            {"role": "tool", "content": "7.65"},
            says("The tip is $7.65."),
        ],
        [
            asks("Weather in Seoul?"),
            says("", call("web_search", query="Seoul weather")),
            {"role": "tool", "content": found.text},
            says("It has 12 degrees, says weather.example."),
        ],
        [asks("I am Priya."), says("Hello Priya."), asks("What is my name?"), says("You are Priya.")],
    ]
    reciting_model.write_run(folder, [{"messages": messages} for messages in conversations])
    return folder


def settings(place: Path) -> EvalConfig:
    persona = str(ROOT / "configs/personas/samosachaat.yaml")
    return EvalConfig(gate=str(place / "gate.yaml"), probes=str(place / "probes"), persona=persona)


def test_a_gate_lets_the_model_pass_and_stops_it_once_damaged(place: Path) -> None:
    run, config = place / "runs" / "reciter", settings(place)
    check_gate(config)
    verdict = hold_against_gate(run, config)
    assert verdict.passed, [read_items(run, one) for one in read_results(run)][:1]
    good = open_trained(run)
    promotion = read_promotion(run)
    assert promotion is not None
    assert (promotion.passed, promotion.checkpoint) == (True, seal_digest(good.folder))
    check_promoted(good.folder)

    # Killed between the results of a suite, the next command makes those that are missing, and no others.
    evals = RunFolder(run).evals
    lines = evals.read_text().splitlines(keepends=True)
    evals.write_text("".join(line for line in lines if '"probes/think_tool"' not in line))
    assert hold_against_gate(run, config).passed
    made = [one.task for one in read_results(run)]
    assert (made.count("probes"), made.count("probes/think_tool"), made.count("probes/artefacts")) == (
        2,
        1,
        1,
    )
    evals.write_text("".join(lines))

    # Noise on one matrix of one layer, as large as the weights themselves.
    leaves, structure = jax.tree.flatten(good.params)
    largest = max(range(len(leaves)), key=lambda at: leaves[at].size)
    noise = jax.random.normal(jax.random.key(0), leaves[largest].shape) * jnp.std(leaves[largest])
    leaves[largest] = leaves[largest] + noise
    params = jax.tree.unflatten(structure, leaves)
    damaged = training_runs.save_run(run, good.config, good.tokenizer, params, step=2)
    # What is damaged rambles on to the end of its context: a hundred such samples take a while.
    (place / "quick.yaml").write_text(GATE.replace("  - {task: probes/artefacts", "  # {"))
    config = dataclasses.replace(config, gate=str(place / "quick.yaml"))
    said: list[str] = []
    verdict = hold_against_gate(run, config, say=said.append)
    assert not verdict.passed
    failed = [line for line in said if line.startswith("probes: ")]
    (result,) = [one for one in read_results(run) if one.task == "probes" and one.step == 2]
    assert len(failed) == result.counts["failed"]
    assert all(" fails " in line for line in failed)
    assert verdict.stop_line.startswith(f"STOP {config.gate}: probes is ")
    assert "below 0.95" in verdict.stop_line
    with pytest.raises(UserError, match=r"was refused by .*: probes is .*--init_from_refused"):
        check_promoted(damaged)
    refusal = read_promotion(run)
    assert refusal is not None
    assert (refusal.passed, refusal.step) == (False, 2)
    # The verdict is of that checkpoint alone: the one before has none any more, and its run asked for none.
    check_promoted(good.folder)
    waiting = dataclasses.replace(good.config, eval=config)
    unjudged = training_runs.save_run(run, waiting, good.tokenizer, good.params, step=3)
    with pytest.raises(UserError, match="has not been judged by"):
        check_promoted(unjudged)
    # What every result says of itself leads back to what was measured.
    for one in read_results(run):
        assert len(read_items(run, one)) == one.num_items
        assert one.settings["config"]
    assert {one.checkpoint for one in read_results(run)} == {promotion.checkpoint, refusal.checkpoint}


def test_a_verdict_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    assert read_promotion(tmp_path) is None
    (tmp_path / "PROMOTION").write_text("perhaps\n")
    with pytest.raises(UserError, match="no verdict can be read"):
        read_promotion(tmp_path)
    gate = Gate(path="gate.yaml", conditions=(Condition(task="probes", at_least=0.95),))
    write_promotion(tmp_path, judge(gate, [], checkpoint=SEAL), step=3, checkpoint=SEAL)
    found = read_promotion(tmp_path)
    assert found is not None
    assert (found.passed, found.reason, found.step) == (False, "probes was not evaluated", 3)


def test_going_on_from_a_checkpoint_keeps_its_results(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    own = TaskResult(
        task="probes",
        metric="pass_rate",
        value=1.0,
        low=0.5,
        high=1.0,
        num_items=4,
        higher_is_better=True,
        settings={},
        definition=1,
        step=0,
        checkpoint=SEAL,
        time="2026-01-01T00:00:00+00:00",
        seconds=1.0,
    )
    for step in (5, 10, 15):
        with folder.evals.open("a") as file:
            file.write(json.dumps({"step": step, "val/bpb": 1.0}) + "\n")
        append_result(tmp_path, dataclasses.replace(own, step=step))
    folder.cut_back(10)
    kept = [json.loads(line) for line in folder.evals.read_text().splitlines()]
    assert [(record["step"], "task" in record) for record in kept] == [(5, False), (5, True), (10, True)]


def test_training_ends_at_its_gate_and_nothing_begins_with_what_it_refused(tmp_path: Path) -> None:
    data = training_runs.write_dataset(tmp_path)
    gate = tmp_path / "gate.yaml"
    gate.write_text("conditions: [{task: bpb, at_most: 99}, {task: spelling, at_least: 0.5}]")
    shape = {"model.context_len": 128, "train.num_steps": 4, "schedule.warmup_steps": 0}
    gated = {**shape, "name": "gated", "eval.gate": gate, "eval.gate_limit": 4}
    for text, says in [
        ("[]", "expected a list of conditions"),
        ("conditions: [{task: cor, at_least: 0}]", "'cor' is no task; did you mean core"),
        ("conditions: [{task: probes/identty, at_least: 0}]", "did you mean probes/identity?"),
    ]:
        (tmp_path / "wrong.yaml").write_text(text)
        wrong = {**gated, "eval.gate": tmp_path / "wrong.yaml", "eval.probes": ROOT / "configs/probes"}
        with pytest.raises(UserError) as error:
            train.main(training_runs.flags(data, tmp_path / "runs", wrong))
        assert says in str(error.value)
    assert not (tmp_path / "runs").exists()
    refused = training_runs.run(training_runs.flags(data, tmp_path / "runs", gated))
    assert refused.returncode == 3, refused.stderr
    assert f"STOP {gate}: spelling is 0 (" in refused.stdout.splitlines()[-1]
    assert re.search(r"^bpb +at most 99 +\S+ \(.*\) +passed$", refused.stdout, re.MULTILINE)
    promotion = (tmp_path / "runs" / "gated" / "PROMOTION").read_text()
    assert promotion.startswith("refused: spelling is 0 (")
    after = {**shape, "name": "after", "init_from": tmp_path / "runs" / "gated"}
    stopped = training_runs.run(training_runs.flags(data, tmp_path / "runs", after))
    assert stopped.returncode == 2
    assert "was refused by" in stopped.stderr
    assert len(stopped.stderr.strip().splitlines()) == 1
    overruled = {**after, "init_from_refused": "true"}
    assert training_runs.run(training_runs.flags(data, tmp_path / "runs", overruled)).returncode == 0
