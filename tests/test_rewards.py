"""Rewards: each part on answers that do and do not earn it, on published labels, and on a real model."""

import gzip
import json
import queue
from pathlib import Path

import pytest
import serving
from hypothesis import given
from hypothesis import strategies as st

from samosa_jax.config.rl import RewardConfig, RlConfig
from samosa_jax.data.chat.conversation import Conversation, Message, ToolCall
from samosa_jax.errors import ConfigError, UserError
from samosa_jax.evals.asking import Reason
from samosa_jax.evals.generation_tasks import find_generation_task, open_items
from samosa_jax.rl.rewards import (
    PARTS,
    Completion,
    Reward,
    RewardFunction,
    completion_of,
    make_reward,
    marks_of,
    mean_parts,
)
from samosa_jax.rollout.assistant import Assistant
from samosa_jax.rollout.events import Ended, Event
from samosa_jax.rollout.request import Sampling
from samosa_jax.rollout.tools.registry import CalculatorTool, Registry
from samosa_jax.rollout.tools.sandbox import protections
from samosa_jax.rollout.turn import UNREADABLE
from samosa_jax.tasks import gsm8k
from samosa_jax.tasks.catalog import make_task
from samosa_jax.tasks.task import Example, answered, answered_with_tool
from samosa_jax.tasks.tool_schemas import CALCULATOR, PYTHON, WEB_SEARCH
from samosa_jax.trained import make_engines, open_trained

THOUGHT = ("<think>", "</think>")
CALL = ("<|python_start|>", "<|python_end|>", "<|output_start|>", "<|output_end|>")
END = ("<|assistant_end|>",)
CALCULATE = ToolCall(CALCULATOR, {"expression": "6*7"})
SUM = Example(
    conversation=answered_with_tool(
        "What is 6*7?", think="A product.", call=CALCULATE, result="42", answer="42"
    ),
    answer="42",
)
PLAIN = Example(conversation=answered("Capital of France?", think="Easy.", answer="Paris."), answer="Paris")


def said(
    *messages: Message, marks: tuple[str, ...] = END, reason: Reason = "stop", num_tokens: int = 9
) -> Completion:
    return Completion(
        item="1", sample=0, messages=messages, written="", reason=reason, num_tokens=num_tokens, marks=marks
    )


def words(text: str) -> Completion:
    return said(Message(role="assistant", text=text))


def with_calls(*names: str, result: str = "42", text: str = "It is 42.") -> Completion:
    messages: list[Message] = []
    for name in names:
        messages.append(Message(role="assistant", tool_call=ToolCall(name, {"expression": "6*7"})))
        messages.append(Message(role="tool", text=result))
    return said(*messages, Message(role="assistant", text=text), marks=CALL * len(names) + END)


def length_reward(free: int, limit: int) -> RewardFunction:
    return make_reward({"length": 1.0}, score=gsm8k.score, length_free=free, length_limit=limit)


def test_exact_answer_agrees_with_the_published_labels_of_gsm8k(test_data: Path) -> None:
    reward = make_reward({"exact_answer": 1.0, "task": 1.0}, score=gsm8k.score, length_free=1, length_limit=2)
    disagreements, count = [], 0
    with gzip.open(test_data / "gsm8k/example_model_solutions.jsonl.gz", "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            row = json.loads(line)
            solution = row["ground_truth"].replace("\nA: ", "\n#### ")
            example = gsm8k.example_of({"question": row["question"], "answer": solution}, f"row {number}")
            for model, answer in row.items():
                if not isinstance(answer, dict):
                    continue
                count += 1
                earned = reward(example, words(answer["solution"]))
                label = float(answer["is_correct"])
                if earned != Reward({"exact_answer": label, "task": label}, 2 * label):
                    disagreements.append((number, model, earned, answer["solution"][-60:]))
    assert count == 4 * 1319
    assert not disagreements


@given(
    st.integers(-(10**9), 10**9), st.sampled_from(["{:,}", "{}", "{}.00", "#### {:,}", "7 less is ${:,}."])
)
def test_a_number_is_the_same_however_it_is_written(number: int, form: str) -> None:
    example = Example(conversation=PLAIN.conversation, answer=str(number))
    part = PARTS["exact_answer"]
    assert part(example, words(form.format(number).replace("$-", "-$"))) == 1.0
    assert part(example, words(form.format(number + 1).replace("$-", "-$"))) == 0.0


@pytest.mark.parametrize(
    ("text", "earned"),
    [
        ("Paris", 1),
        (" paris. ", 1),
        ("I think so.\n#### Paris", 1),
        ("Paris or Lyon", 0),
        ("Lyon", 0),
        ("Paris\n#### Lyon", 0),
        ("", 0),
    ],
)
def test_an_exact_answer_that_is_no_number(text: str, earned: float) -> None:
    assert PARTS["exact_answer"](PLAIN, words(text)) == earned


@pytest.mark.parametrize(
    ("marks", "earned"),
    [
        (END, 1),
        (THOUGHT + END, 1),
        (THOUGHT + CALL + END, 1),
        (THOUGHT + CALL + THOUGHT + END, 1),
        (CALL + END, 1),
        ((), 0),  # no end
        (("<think>", *END), 0),
        ((*CALL, "<think>", *END), 0),
        (("</think>", *END), 0),
        (THOUGHT * 2 + END, 0),
        (("<think>", *CALL, "</think>", *END), 0),  # a call inside a thought
        (("<|python_start|>", *END), 0),
        (("<|python_end|>", *END), 0),
        ((*CALL[:2], *END), 0),  # a call without its result
        (("<|bos|>",), 0),  # another end than the assistant's own
        (("<|user_start|>",), 0),
    ],
)
def test_format_asks_for_marks_in_order(marks: tuple[str, ...], earned: float) -> None:
    answer = said(Message(role="assistant", text="It is 42."), marks=marks)
    assert PARTS["format"](SUM, answer) == earned


def test_format_asks_for_an_end_words_and_no_more_calls_than_due() -> None:
    part = PARTS["format"]
    assert part(SUM, with_calls(CALCULATOR)) == 1.0
    assert part(SUM, with_calls(CALCULATOR, CALCULATOR)) == 0.0
    assert part(SUM, with_calls(CALCULATOR, text=" \n")) == 0.0
    assert part(SUM, with_calls(UNREADABLE)) == 0.0
    assert part(SUM, said(Message(role="assistant", text="It is"), reason="length")) == 0.0
    call = Message(role="assistant", text="I ask.", tool_call=CALCULATE)
    assert part(SUM, said(call, marks=CALL[:2], reason="tool_calls")) == 0.0
    solution = "6*7 = <<6*7=42>>42, 42+1 = <<42+1=43>>43\n#### 43"
    two_steps = gsm8k.example_of({"question": "How many?", "answer": solution}, "row 1")
    assert part(two_steps, with_calls(CALCULATOR, CALCULATOR)) == 1.0
    assert part(two_steps, with_calls(*3 * [CALCULATOR])) == 0.0


def test_tool_choice_wants_the_tools_that_are_due_alone() -> None:
    part = PARTS["tool_choice"]
    for example, calls, earned in [
        (SUM, (CALCULATOR,), 1),
        (SUM, (CALCULATOR, CALCULATOR), 1),  # how often is a matter of format
        (SUM, (), 0),
        (SUM, (PYTHON,), 0),
        (SUM, (CALCULATOR, WEB_SEARCH), 0),
        (PLAIN, (), 1),
        (PLAIN, (WEB_SEARCH,), 0),
        # What the checks say goes before what the solution does.
        (Example(conversation=SUM.conversation, answer="42", checks={"tool": None}), (), 1),
        (Example(conversation=PLAIN.conversation, answer="42", checks={"tool": WEB_SEARCH}), (), 0),
    ]:
        assert part(example, with_calls(*calls)) == earned, (calls, earned)


def test_answer_contains_is_the_share_of_phrases() -> None:
    part = PARTS["answer_contains"]
    example = Example(conversation=PLAIN.conversation, answer="", checks={"mentions": ["Paris", "Seine"]})
    for text, earned in [("PARIS, on the Seine", 1.0), ("Paris", 0.5), ("Parisian", 0.0), ("", 0.0)]:
        assert part(example, words(text)) == earned
    assert part(PLAIN, words("Paris")) is None


def test_citation_is_due_where_a_search_is() -> None:
    part = PARTS["citation"]
    page = {"url": "https://www.example.org/rain", "title": "Rain in May", "snippet": "It rained."}
    found = json.dumps({"results": [page]})
    example = Example(conversation=PLAIN.conversation, answer="", checks={"tool": WEB_SEARCH})
    for text, earned in [
        ("It rained (www.example.org).", 1),
        ("As 'Rain in May' says", 1),
        ("It rained.", 0),
    ]:
        assert part(example, with_calls(WEB_SEARCH, result=found, text=text)) == earned
    assert part(example, words("It rained (www.example.org).")) == 0.0  # made up: nothing was searched
    assert part(PLAIN, words("Paris")) is None


def test_length_pays_for_short_answers_but_not_for_silence() -> None:
    reward = length_reward(10, 20)
    text = Message(role="assistant", text="It is 42.")
    for num_tokens, earned in [(1, 1.0), (10, 1.0), (15, 0.5), (20, 0.0), (90, 0.0)]:
        assert reward(SUM, said(text, num_tokens=num_tokens)).total == pytest.approx(earned)
    assert reward(SUM, words("")).total == 0.0
    assert reward(SUM, said(text, reason="length")).total == 0.0


def test_code_is_judged_by_running_it(test_data: Path) -> None:
    if any(not found.is_active for found in protections()):
        pytest.skip("the sandbox does not hold on this kernel: code that was published is not run here")
    task = find_generation_task("humaneval")
    example = open_items(task, data_dir=test_data, limit=1)[0].example
    part = PARTS["code"]
    for text, earned in [(example.answer_text, 1.0), ("    return True\n", 0.0)]:
        assert part(example, words(text)) == earned
    assert part(SUM, words("42")) is None


def test_parts_are_weighted_and_those_that_do_not_apply_are_left_out() -> None:
    weights = {"exact_answer": 2.0, "format": 0.5, "tool_choice": 0.0, "citation": 1.0}
    reward = make_reward(weights, score=gsm8k.score, length_free=1, length_limit=2)
    right, wrong = with_calls(CALCULATOR), with_calls(CALCULATOR, CALCULATOR, text="41")
    assert reward(SUM, right) == Reward({"exact_answer": 1.0, "format": 1.0}, 2.5)
    assert reward(SUM, wrong) == Reward({"exact_answer": 0.0, "format": 0.0}, 0.0)
    assert reward(SUM, right) == reward(SUM, right)
    never_begun = said(marks=(), reason="no room", num_tokens=0)
    everything = make_reward(
        dict.fromkeys([*PARTS, "task", "length"], 1.0), score=gsm8k.score, length_free=1, length_limit=2
    )
    example = Example(
        conversation=PLAIN.conversation, answer="", checks={"tool": None, "mentions": ["Paris"]}
    )
    assert everything(example, never_begun).total == 0.0
    searched = Reward({"exact_answer": 1.0, "citation": 1.0}, 3.0)
    means = mean_parts([reward(SUM, right), reward(SUM, wrong), searched])
    assert means == pytest.approx(
        {"exact_answer": 2 / 3, "format": 0.5, "citation": 1.0, "total": 5.5 / 3}, rel=1e-12
    )


@pytest.mark.parametrize("name", ["arithmetic", "spelling", "temporal", "joint_think_tool", "multi_turn"])
def test_solutions_of_made_tasks_earn_all_that_applies(name: str) -> None:
    task = make_task(name)
    reward = make_reward(
        {"task": 1.0, "format": 1.0, "tool_choice": 1.0, "answer_contains": 1.0},
        score=task.score,
        length_free=1,
        length_limit=2,
    )
    for example in task.examples("train", 0, 12):
        marks: tuple[str, ...] = ()
        for message in example.solution:
            if message.role == "assistant":
                marks += (THOUGHT if message.think else ()) + (CALL if message.tool_call else ())
        earned = reward(example, said(*example.solution, marks=marks + END))
        assert set(earned.parts.values()) == {1.0}, (example, earned)
        silent = reward(example, said(Message(role="assistant", text=""), marks=()))
        assert silent.parts["task"] == silent.parts["format"] == 0.0


def test_mistakes_are_named() -> None:
    with pytest.raises(UserError, match="'formt' is no part of a reward; did you mean format"):
        make_reward({"formt": 1.0}, score=gsm8k.score, length_free=1, length_limit=2)
    with pytest.raises(ConfigError, match=r"rl\.reward has no weight above 0"):
        RewardConfig(task=0.0, format=0.0)
    with pytest.raises(ConfigError, match=r"rl\.reward\.code is -1\.0"):
        RewardConfig(code=-1.0)
    with pytest.raises(ConfigError, match=r"rl\.reward\.length_free is 300"):
        RewardConfig(length_free=300)
    for wrong, says in [
        ({"samples": 1}, "rl.samples is 1"),
        ({"clip_low": None}, "give both"),
        ({"clip_low": 1.0}, "rl.clip_low is 1.0"),
        ({"clip_high": -0.1}, "rl.clip_high is -0.1"),
        ({"kl_coef": -1.0}, "rl.kl_coef is -1.0"),
        ({"truncated": "soft_penalty", "soft_penalty_tokens": 999}, "rl.soft_penalty_tokens is 999"),
    ]:
        with pytest.raises(ConfigError, match=says):
            RlConfig(**wrong)


def test_the_configuration_names_every_part() -> None:
    config = RewardConfig()
    make_reward(
        config.weights(),
        score=gsm8k.score,
        length_free=config.length_free,
        length_limit=config.length_limit,
    )
    assert set(config.weights()) == {"task", "length", *PARTS}


def test_an_answer_of_a_real_model(tmp_path: Path) -> None:
    """It thinks, calls the calculator, and says what came out: with the marks that its tokens are."""
    trained = open_trained(serving.write_run(tmp_path))
    ended: queue.SimpleQueue[Ended] = queue.SimpleQueue()

    def listen(event: Event) -> None:
        if isinstance(event, Ended):
            ended.put(event)

    conversation = Conversation(messages=(Message(role="user", text="What is 6*7? <think>"),))
    completions = []
    with Assistant(
        make_engines(trained, max_batch=4), trained.tokenizer, registry=Registry([CalculatorTool()])
    ) as assistant:
        for forced_start, max_tokens in [("", None), ("<think>", None), ("", 6)]:
            sampling = Sampling(temperature=0.0, max_tokens=max_tokens)
            assistant.answer(conversation, sampling, listen, tools_run=True, forced_start=forced_start)
            event = ended.get(timeout=60)
            completions.append(
                completion_of(event, trained.tokenizer, item="1", sample=0, forced_start=forced_start)
            )
    reward = make_reward(
        {"exact_answer": 1.0, "format": 1.0, "tool_choice": 1.0},
        score=gsm8k.score,
        length_free=1,
        length_limit=2,
    )
    for completion in completions[:2]:
        assert completion.marks == THOUGHT + CALL + END
        assert reward(SUM, completion).parts == {"exact_answer": 1.0, "format": 1.0, "tool_choice": 1.0}
    assert completions[2].reason == "length"
    assert reward(SUM, completions[2]).total == 0.0
    literal = trained.tokenizer.encode("<think>")
    assert marks_of(literal, trained.tokenizer.special_ids) == ()
