"""Rows of every published format become the conversations they stand for; bad ones are named and counted."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samosa_jax.data.chat.conversation import (
    Conversation,
    ConversationError,
    Message,
    ToolCall,
    check,
    parse_conversation,
    to_json,
)
from samosa_jax.data.chat.formats import FORMATS, detect
from samosa_jax.data.chat.preferences import PreferencePair

TOOL = {"name": "find", "description": "", "parameters": {}}


def user(text: str) -> Message:
    return Message(role="user", text=text)


def says(text: str, think: str | None = None, call: ToolCall | None = None) -> Message:
    return Message(role="assistant", text=text, think=think, tool_call=call)


def system(text: str) -> Message:
    return Message(role="system", text=text)


def result(text: str) -> Message:
    return Message(role="tool", text=text)


def sum_of(expression: str) -> ToolCall:
    return ToolCall("calculator", {"expression": expression})


HI = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
HUMAN = {"from": "human", "value": "hi"}
GPT = {"from": "gpt", "value": "ho"}
PLAIN = (user("hi"), says("ho"))

# (format, row in its true schema, messages it stands for)
ROWS: list[tuple[str, Any, tuple[Message, ...]]] = [
    ("messages", {"messages": HI, "source": "smol-magpie-ultra"}, PLAIN),
    (
        "messages",
        {
            "problem": "hi",
            "solution": "long",
            "answer": "ho",
            "messages": [HI[0], {"role": "assistant", "content": "<think>\nhm\n</think>\n\nho"}],
        },
        (user("hi"), says("ho", think="hm")),
    ),
    ("message_list", HI, PLAIN),
    ("alpaca", {"instruction": "hi", "input": "", "output": "ho"}, PLAIN),
    (
        "alpaca",
        {
            "instruction": "Sum.",
            "input": "1 2",
            "output": "3",
            "system": "Be kind.",
            "history": [["hi", "ho"]],
        },
        (system("Be kind."), *PLAIN, user("Sum.\n\n1 2"), says("3")),
    ),
    (
        "dolly",
        {"instruction": "Who?", "context": "Ann ran.", "response": "Ann", "category": "closed_qa"},
        (user("Who?\n\nAnn ran."), says("Ann")),
    ),
    (
        "sharegpt",
        {
            "conversations": [
                HUMAN,
                {"from": "function_call", "value": '{"name": "find", "arguments": {"q": "x"}}'},
                {"from": "observation", "value": '{"found": 1}'},
                GPT,
            ],
            "tools": json.dumps([TOOL]),
            "system": "Be kind.",
        },
        (
            system("Be kind."),
            user("hi"),
            says("", call=ToolCall("find", {"q": "x"})),
            result('{"found": 1}'),
            says("ho"),
        ),
    ),
    (
        "sharegpt",
        {
            "system": "Think between <|begin_of_thought|> and <|end_of_thought|>.",
            "conversations": [
                {"from": "user", "value": "hi"},
                {
                    "from": "assistant",
                    "value": "<|begin_of_thought|>\n\nhm\n\n<|end_of_thought|>\n\n"
                    "<|begin_of_solution|>\n\nho\n\n<|end_of_solution|>",
                },
            ],
        },
        (user("hi"), says("ho", think="hm")),
    ),
    (
        "samosachaat",
        {
            "conversation": [
                {"role": "user", "content": "hi"},
                {
                    "role": "assistant",
                    "content": "<think>look</think>\n"
                    '<|python_start|>{"tool":"web_search","arguments":{"query":"x"}}<|python_end|>\n'
                    "<|output_start|>found<|output_end|>\nIt is 2+3=<|python_start|>2+3<|python_end|>"
                    "<|output_start|>5<|output_end|>5.",
                },
            ],
            "checks": {"tool": True},
        },
        (
            user("hi"),
            says("", think="look", call=ToolCall("web_search", {"query": "x"})),
            result("found"),
            says("\nIt is 2+3=", call=sum_of("2+3")),
            result("5"),
            says("5."),
        ),
    ),
    (
        "gsm8k",
        {"question": "Clips?", "answer": "48/2 = <<48/2=24>>24 in May.\nSo $<<48+24=72.00>>72.\n#### 72"},
        (
            user("Clips?"),
            says("48/2 = ", call=sum_of("48/2")),
            result("24"),
            says("24 in May.\nSo $", call=sum_of("48+24")),
            result("72.00"),
            says("72.\n#### 72"),
        ),
    ),
    ("gsm8k", {"question": "hi", "answer": "One.\n#### 1"}, (user("hi"), says("One.\n#### 1"))),
    ("question_answer", {"question": "hi", "answer": "ho"}, PLAIN),
    ("prompt_completion", {"prompt": "hi", "completion": "ho"}, PLAIN),
    ("prompt_completion", {"prompt": HI[:1], "completion": HI[1:]}, PLAIN),
    ("prompt_response", {"prompt": "hi", "response": "ho"}, PLAIN),
    ("problem_solution", {"source": "amc", "problem": "hi", "solution": "ho"}, PLAIN),
    (
        "open_math_reasoning",
        {"expected_answer": "ho", "problem": "hi", "generated_solution": "<think>\nhm\n</think>\nho"},
        (user("hi"), says("ho", think="hm")),
    ),
    (
        "limo",
        {"question": "hi", "solution": "hm", "answer": "7"},
        (user("hi"), says("\\boxed{7}", think="hm")),
    ),
    (
        "open_thoughts",
        {"problem": "hi", "deepseek_reasoning": "hm", "deepseek_solution": "ho", "domain": "math"},
        (user("hi"), says("ho", think="hm")),
    ),
    (
        "mmlu",
        {"question": "1+1?", "subject": "s", "choices": ["1", "2"], "answer": 1},
        (user("1+1?\nA. 1\nB. 2\n\nAnswer with the letter alone."), says("B")),
    ),
    (
        "mmlu_train",
        {"train": {"question": "1+1?", "subject": "", "choices": ["1", "2"], "answer": 0}},
        (user("1+1?\nA. 1\nB. 2\n\nAnswer with the letter alone."), says("A")),
    ),
    (
        "arc",
        {"question": "1+1?", "choices": {"text": ["1", "2"], "label": ["1", "2"]}, "answerKey": "2"},
        (user("1+1?\nA. 1\nB. 2\n\nAnswer with the letter alone."), says("B")),
    ),
    ("daily_dialog", {"dialog": ["hi ", " ho ", " bye "], "act": [1, 2, 3], "emotion": [0, 0, 0]}, PLAIN),
]


@pytest.mark.parametrize(("name", "row", "expected"), ROWS)
def test_a_row_becomes_the_conversation_it_stands_for(name: str, row: Any, expected: tuple[Message, ...]):
    known = detect(row)
    assert known is not None
    assert known.name == name
    found = known.convert(row)
    assert isinstance(found, Conversation)
    assert found.messages == expected


SIDES = {"chosen": "good", "rejected": "bad"}
PAIRS: list[tuple[str, Any, tuple[Message, ...]]] = [
    ("prompt_pair", {"prompt": "hi", **SIDES}, (user("hi"),)),
    ("prompt_pair", {"prompt": HI + HI[:1], **SIDES}, (*PLAIN, user("hi"))),
    (
        "instruction_pair",
        {"instruction": "Sum.", "input": "1 2", "output": "good", **SIDES},
        (user("Sum.\n\n1 2"),),
    ),
    (
        "conversations_pair",
        {
            "conversations": [HUMAN, GPT, HUMAN],
            "chosen": {"from": "gpt", "value": "good"},
            "rejected": {"from": "gpt", "value": "bad"},
        },
        (*PLAIN, user("hi")),
    ),
    (
        "messages_pair",
        {
            "prompt": "hi",
            "prompt_id": "0",
            "chosen": [HI[0], {"role": "assistant", "content": "good"}],
            "rejected": [HI[0], {"role": "assistant", "content": "bad"}],
            "messages": [HI[0], {"role": "assistant", "content": "good"}],
            "score_chosen": 8.0,
        },
        (user("hi"),),
    ),
    (
        "messages_pair",
        {
            "source": "Dove",
            "conversation": [{"input": "hi", "output": "ho"}],
            "prompt": "hi",
            "chosen": [*HI, HI[0], {"role": "assistant", "content": "good"}],
            "rejected": [*HI, HI[0], {"role": "assistant", "content": "bad"}],
            "rating_chosen": 5,
        },
        (*PLAIN, user("hi")),
    ),
    (
        "messages_pair",
        {
            "prompt": HI[:1],
            "chosen": [{"role": "assistant", "content": "good"}],
            "rejected": [{"role": "assistant", "content": "bad"}],
        },
        (user("hi"),),
    ),
    (
        "orca_pair",
        {"system": "Be kind.", "input": "hi", **SIDES, "status": "tie"},
        (system("Be kind."), user("hi")),
    ),
    ("question_pair", {"system": "", "question": "hi", **SIDES}, (user("hi"),)),
]


@pytest.mark.parametrize(("name", "row", "prompt"), PAIRS)
def test_a_row_becomes_the_preference_pair_it_stands_for(name: str, row: Any, prompt: tuple[Message, ...]):
    known = detect(row)
    assert known is not None
    assert known.name == name
    pair = known.convert(row)
    assert isinstance(pair, PreferencePair)
    assert pair.prompt.messages == prompt
    assert pair.chosen.messages == (*prompt, says("good"))
    assert pair.rejected.messages == (*prompt, says("bad"))


def test_every_format_of_the_table_has_an_example_here():
    by_file = {"oasst_tree", "oasst_messages", "message_rows"}
    assert {known.name for known in FORMATS} == {name for name, _, _ in ROWS + PAIRS} | by_file


def test_tools_of_sharegpt_become_openais():
    row = {"conversations": [HUMAN, GPT], "tools": json.dumps([TOOL, {"type": "function", "function": TOOL}])}
    known = detect(row)
    assert known is not None
    converted = known.convert(row)
    assert isinstance(converted, Conversation)
    assert converted.tools == ({"type": "function", "function": TOOL},) * 2


VALUES = st.recursive(
    st.sampled_from([None, 0, True, "", "user", "gpt", "#### 1\n#### 2", "<think>", "<|python_start|>{"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "from", "value", "content", "text", "replies", "label"]), inner
        )
    ),
    max_leaves=6,
)


@given(st.sampled_from(ROWS + PAIRS), st.data())
def test_a_damaged_row_is_read_or_refused(example: tuple[str, Any, Any], data: st.DataObject):
    row = example[1]
    if isinstance(row, list):
        damaged: Any = [*row, data.draw(VALUES)]
    else:
        damaged = row | {data.draw(st.sampled_from(sorted(row))): data.draw(VALUES)}
    known = detect(damaged)
    if known is None or known.gather is not None:
        return
    try:
        found = known.convert(damaged)
    except ConversationError:
        return
    for side in (found.chosen, found.rejected) if isinstance(found, PreferencePair) else (found,):
        check(side)
        assert parse_conversation(to_json(side)) == side
