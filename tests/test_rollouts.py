"""Rollouts: calls answered between blocks, what was sampled and what was forced, the same every time."""

from collections.abc import Sequence
from pathlib import Path

import guessing_model
import jax
import numpy as np
import pytest
from scripted_engine import ScriptedEngine
from test_assistant import TOKENIZER
from tiny_training import mesh_of

from samosa_jax.config import RewardConfig, TaskConfig
from samosa_jax.data.chat.conversation import THINK_OPEN
from samosa_jax.errors import UserError
from samosa_jax.evals.generation_tasks import find_generation_task
from samosa_jax.rl.judging import judge
from samosa_jax.rl.policy_batches import Layout, PolicyTokens
from samosa_jax.rl.policy_loss import make_token_log_probs
from samosa_jax.rl.prompts import Prompted, open_mixture
from samosa_jax.rl.rollouts import Answered, Sampler
from samosa_jax.rollout.engine import Engine
from samosa_jax.rollout.request import Prompt
from samosa_jax.rollout.tool_calls import MAX_CALLS
from samosa_jax.rollout.tools.registry import CalculatorTool, Registry
from samosa_jax.tasks.task import Example, answered
from samosa_jax.trained import Trained, open_trained

SUM = Prompted(
    task="arithmetic",
    item="arithmetic/1",
    index=1,
    example=Example(conversation=answered("What is 6*7?", think="A product.", answer="42"), answer="42"),
    score=find_generation_task("arithmetic").score,
)
CALL = '<|python_start|>{"tool": "calculator", "arguments": {"expression": "6*7"}}<|python_end|>'


def sampled_from(*texts: str, thinks: bool = False, context_len: int = 512, samples: int | None = None):
    """The answers of an engine that recites: sample i says text i."""
    scripts = [TOKENIZER.encode_with_specials(text) for text in texts]

    def script(prompt: Prompt, number: int) -> Sequence[int]:
        return scripts[number % len(scripts)]

    filler = TOKENIZER.encode("a")[0]
    engine = ScriptedEngine(script, filler=filler, context_len=context_len, max_batch=2)
    sampler = Sampler(
        engine,
        TOKENIZER,
        Registry([CalculatorTool()]),
        samples=samples or len(texts),
        max_tokens=200,
        temperature=1.0,
        thinks=thinks,
    )
    return sampler.sample([SUM], seed_of_item=len)[0]


def test_a_call_is_answered_and_its_result_is_forced():
    (answer,) = sampled_from(f"{CALL}It is 42.<|assistant_end|>")
    completion = answer.completion
    assert completion.reason == "stop"
    assert completion.text == "It is 42."
    assert [message.role for message in completion.messages] == ["assistant", "tool", "assistant"]
    assert completion.messages[1].text == "42"
    forced = TOKENIZER.decode(answer.tokens[~answer.sampled].tolist(), show_specials=True)
    assert forced == "<|output_start|>42<|output_end|>"
    assert completion.num_tokens == answer.sampled.sum()
    assert (answer.logprobs[~answer.sampled] == 0).all()
    assert (answer.logprobs[answer.sampled] < 0).all()
    judged = judge([SUM], [[answer]], reward=RewardConfig(task=1.0, format=0.5))
    assert judged.totals.tolist() == [[1.5]]
    assert judged.right.all()
    assert judged.ended.all()


def test_bad_calls_get_an_error_and_the_answer_goes_on():
    bad = '<|python_start|>{"tool": "oracle", "arguments": {}}<|python_end|>It is 42.<|assistant_end|>'
    broken = "<|python_start|>{<|python_end|>Hm.<|user_start|>"
    answers = sampled_from(bad, broken, "<|python_end|>No call.<|assistant_end|>")
    assert "there is no tool 'oracle'; known tools: calculator" in answers[0].completion.written
    assert "is not JSON" in answers[1].completion.written
    assert answers[1].completion.reason == "stop"
    judged = judge([SUM], [answers], reward=RewardConfig())
    assert judged.ended.tolist() == [[True, False, True]]  # the second began another's words
    assert judged.right.tolist() == [[True, False, False]]
    assert answers[2].completion.text == "No call."
    assert answers[2].sampled.all()


def test_what_does_not_end_is_cut():
    """At max_tokens, after too many calls, and where a result finds no room."""
    answers = sampled_from("On and on.", CALL * (MAX_CALLS + 3), context_len=4096)
    assert [answer.completion.reason for answer in answers] == ["length", "length"]
    assert answers[0].completion.num_tokens == 200
    many = sampled_from("<|python_start|>1<|python_end|>" * (MAX_CALLS + 3), context_len=4096)[0].completion
    assert many.reason == "length"
    assert many.written.count("are the most in one turn; answer now") == 1
    (tight,) = sampled_from(f"{CALL}It is 42.<|assistant_end|>", context_len=64)
    assert tight.completion.reason == "length"
    assert tight.sampled.all()
    (none, other) = sampled_from("a", context_len=5, samples=2)
    assert none.completion.reason == other.completion.reason == "no room"
    assert len(none.tokens) == 0
    judged = judge([SUM], [[none, other]], reward=RewardConfig())
    assert judged.truncated.all()
    assert not judged.totals.any()


def test_a_thought_that_was_begun_for_it_is_of_the_prompt():
    (answer,) = sampled_from("Hm.</think>It is 42.<|assistant_end|>", thinks=True)
    assert answer.prompt.tokens[-1] == TOKENIZER.special_ids[THINK_OPEN]
    assert answer.completion.messages[-1].think == "Hm."
    judged = judge([SUM], [[answer]], reward=RewardConfig(task=0, format=1))
    assert judged.totals.tolist() == [[1.0]]


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trained, Path]:
    run, questions = guessing_model.write(tmp_path_factory.mktemp("guesser"))
    return open_trained(run, devices=jax.devices()[:1]), questions


def test_the_sampler_agrees_with_the_trainer_and_with_itself(taught: tuple[Trained, Path]):
    """Tool calls included; the same again from the engine that was used before, and from a new one."""
    trained, questions = taught
    source = open_mixture([TaskConfig(name="gsm8k")], seed=0, data_dir=questions)
    prompted = source.prompts(0, 4)

    def sampler(engine: Engine) -> Sampler:
        return Sampler(
            engine,
            trained.tokenizer,
            Registry([CalculatorTool()]),
            samples=4,
            max_tokens=60,
            temperature=1.0,
            thinks=False,
        )

    def tokens_of(groups: list[list[Answered]]) -> PolicyTokens:
        return PolicyTokens.of([answer for group in groups for answer in group])

    engine = Engine(trained.network, None, mesh=mesh_of(), max_batch=8, prefix_bytes=0)
    with pytest.raises(ValueError, match="has no parameters"):
        sampler(engine).sample(prompted, seed_of_item=len)
    engine = Engine(trained.network, None, mesh=mesh_of(), max_batch=8, prefix_bytes=0)
    found: list[PolicyTokens] = []
    compiled_in: list[int] = []  # rollouts done before

    def hear(event: str, duration_secs: float, **_: str | int) -> None:
        if event.endswith("backend_compile_duration"):
            compiled_in.append(len(found))

    jax.monitoring.register_event_duration_secs_listener(hear)
    for _ in range(2):
        engine.update(trained.params)
        found.append(tokens_of(sampler(engine).sample(prompted, seed_of_item=len)))
        engine.release()
    jax.monitoring.unregister_event_duration_listener(hear)
    assert set(compiled_in) == {0}  # other parameters need no other programs
    for first, second in zip(*found, strict=True):
        np.testing.assert_array_equal(first, second)
    held = sum(array.nbytes for array in jax.live_arrays())
    engine.update(trained.params)
    other = tokens_of(sampler(engine).sample(prompted, seed_of_item=lambda item: 8))
    assert not np.array_equal(other.tokens, found[0].tokens)

    engine.release()
    assert sum(array.nbytes for array in jax.live_arrays()) == held  # no second copy of the weights is kept
    engine.update(trained.params)

    tokens = found[0]
    groups = sampler(engine).sample(prompted, seed_of_item=len)
    calls = [answer for group in groups for answer in group if not answer.sampled.all()]
    assert calls, "no answer called a tool"
    log_probs = make_token_log_probs(trained.network, chunk_tokens=64, mesh=mesh_of())
    layout = Layout.of(tokens.bounds, np.arange(16), rows=4, context_len=trained.network.config.context_len)
    values = np.zeros(len(tokens.tokens), np.float32)
    batch = layout.batch(tokens, weights=tokens.sampled)
    layout.collect(jax.device_get(log_probs(trained.params, batch)), into=values)
    gap = np.abs(values - tokens.logprobs)[tokens.sampled]
    assert gap.max() < 1e-4
    judged = judge(prompted, groups, reward=RewardConfig())
    assert 0 < judged.right.mean() < 1


def test_prompts_are_those_of_the_seed_and_the_rollout(taught: tuple[Trained, Path]):
    _, questions = taught
    tasks = [TaskConfig(name="gsm8k", weight=3), TaskConfig(name="arithmetic", weight=1)]
    source = open_mixture(tasks, seed=1, data_dir=questions)
    first = [source.prompts(rollout, 8) for rollout in range(3)]
    again = open_mixture(tasks, seed=1, data_dir=questions)
    again.restore(source.state())
    for rollout in (2, 0):
        found = [(one.item, one.example) for one in again.prompts(rollout, 8)]
        assert found == [(one.item, one.example) for one in first[rollout]]
    items = [one.item for rollout in first for one in rollout]
    assert len(set(items)) == 24
    assert sum(item.startswith("gsm8k/") for item in items) == 18
    # Six rows: each once before any comes again.
    rows = [one.example.answer for rollout in first for one in rollout if one.task == "gsm8k"]
    totals = sorted(str(guessing_model.total(expression)) for expression in guessing_model.SUMS)
    assert sorted(rows[:6]) == sorted(rows[6:12]) == totals
    other = open_mixture(tasks, seed=2, data_dir=questions)
    assert [one.example for one in other.prompts(0, 8)] != [one.example for one in first[0]]
    with pytest.raises(UserError, match="are not those that this run was trained on"):
        again.restore({"examples": {"gsm8k": "other", "arithmetic": "made"}})
    with pytest.raises(
        UserError, match=r"rl.tasks has 'arithmetics', which is no task; did you mean arithmetic"
    ):
        open_mixture([TaskConfig(name="arithmetics")], seed=0, data_dir=None)
    with pytest.raises(UserError, match=r"rl.data_dir: .* has no gsm8k/train.jsonl"):
        open_mixture([TaskConfig(name="gsm8k")], seed=0, data_dir=questions / "gsm8k")
