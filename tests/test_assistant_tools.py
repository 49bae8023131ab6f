"""Tools in the middle of an answer: run here or by the asker, failing, flooding, called too often."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from scripted_assistant import (
    ASKED,
    CALL,
    END,
    GREEDY,
    SECONDS,
    TOKENIZER,
    EchoTool,
    Listener,
    answered,
    calls,
    opened_assistants,
    scripted,
)

from samosa_jax.data.chat.conversation import Conversation, Message, ToolCall
from samosa_jax.data.chat.template import render
from samosa_jax.rollout.assistant import Assistant
from samosa_jax.rollout.events import ToolCalled, ToolReturned
from samosa_jax.rollout.tool_calls import CUT, MAX_CALLS
from samosa_jax.rollout.tools.registry import CalculatorTool, Registry
from samosa_jax.rollout.turn import INTERRUPTED, UNREADABLE
from samosa_jax.tasks.tool_schemas import CALCULATOR_SCHEMA


@pytest.fixture
def open_assistant() -> Iterator[Callable[..., Assistant]]:
    with opened_assistants() as open_one:
        yield open_one


@pytest.mark.parametrize("tools", [(), (CALCULATOR_SCHEMA,)])
def test_a_tool_runs_here_and_the_turn_goes_on(
    open_assistant: Callable[..., Assistant], tools: tuple[Mapping[str, Any], ...]
) -> None:
    engine = scripted(f"<think>Add.</think>{CALL}It is 5.{END}")
    assistant = open_assistant(engine, registry=Registry([CalculatorTool()]))
    asked = Conversation(messages=ASKED.messages, tools=tools)
    listener, ended = answered(assistant, asked)
    assert ended.reason == "stop"
    assert ended.messages == (
        Message(role="assistant", think="Add.", tool_call=ToolCall("calculator", {"expression": "2+3"})),
        Message(role="tool", text="5"),
        Message(role="assistant", text="It is 5."),
    )
    (called,) = listener.of(ToolCalled)
    (returned,) = listener.of(ToolReturned)
    assert (called.name, json.loads(called.arguments), called.runs_here) == (
        "calculator",
        {"expression": "2+3"},
        True,
    )
    assert (returned.call_id, returned.result.text, returned.result.is_error) == (called.call_id, "5", False)
    kinds = [type(event).__name__ for event in listener.events]
    assert kinds.index("ToolCalled") < kinds.index("ToolReturned") < len(kinds) - 2
    # All of it, forced or not, stands in the answer's tokens as the template would have it.
    whole = Conversation(messages=(*asked.messages, *ended.messages), tools=tools)
    tokens = [*ended.generation.prompt.tokens, *ended.generation.tokens]
    assert tokens == render(whole, TOKENIZER).tokens.tolist()
    num_forced = ended.generation.sampled.count(False)
    assert num_forced == 2 + len(TOKENIZER.encode("5"))
    assert ended.usage.prompt_tokens == len(ended.generation.prompt) + num_forced
    # The next turn's prompt begins with the tokens that the engine has.
    more = Conversation(messages=(*whole.messages, Message(role="user", text="Sure?")), tools=tools)
    answered(assistant, more)
    assert engine.submitted[-1].tokens[: len(tokens)].tolist() == tokens


def test_calls_of_the_asker_end_the_turn(open_assistant: Callable[..., Assistant]) -> None:
    engine = scripted(f"Let me see.{CALL}", f"It is 5.{END}")
    assistant = open_assistant(engine, registry=Registry([CalculatorTool()]))
    conversation = Conversation(messages=ASKED.messages, tools=(CALCULATOR_SCHEMA,))
    listener, ended = answered(assistant, conversation, tools_run=False)
    assert ended.reason == "tool_calls"
    (called,) = listener.of(ToolCalled)
    assert not called.runs_here
    assert ended.messages[-1].tool_call == ToolCall("calculator", {"expression": "2+3"})
    assert engine.num_places_taken == 0
    result = Message(role="tool", text="5")
    more = Conversation(messages=(*conversation.messages, *ended.messages, result), tools=conversation.tools)
    _, second = answered(assistant, more, tools_run=False)
    assert second.messages == (Message(role="assistant", text="It is 5."),)
    assert engine.submitted[1].tokens.tolist() == render(more, TOKENIZER, for_answer=True).tokens.tolist()


@pytest.mark.parametrize("tools_run", [True, False])
@pytest.mark.parametrize(
    ("call", "name", "complaint"),
    [
        (calls("teleport", to="Mars"), "teleport", "error: there is no tool 'teleport'; known tools: "),
        ('<|python_start|>{"tool": <|python_end|>', UNREADABLE, "error: the call is not JSON"),
        ("<|python_start|><|python_end|>", UNREADABLE, "error: the call is empty"),
    ],
)
def test_a_call_that_nobody_can_answer_gets_an_error_and_the_turn_goes_on(
    open_assistant: Callable[..., Assistant], call: str, name: str, complaint: str, tools_run: bool
) -> None:
    assistant = open_assistant(scripted(f"{call}Sorry.{END}"), registry=Registry([CalculatorTool()]))
    conversation = Conversation(messages=ASKED.messages, tools=(CALCULATOR_SCHEMA,))
    listener, ended = answered(assistant, conversation, tools_run=tools_run)
    assert ended.reason == "stop"
    assert listener.of(ToolCalled)[0].name == name
    assert listener.of(ToolCalled)[0].runs_here
    result = listener.of(ToolReturned)[0].result
    assert result.is_error
    assert result.text.startswith(complaint)
    assert [message.text for message in ended.messages] == ["", result.text, "Sorry."]


def test_a_tool_that_fails_or_hangs_is_an_error_for_the_model(
    open_assistant: Callable[..., Assistant],
) -> None:
    released = threading.Event()

    def act(arguments: Mapping[str, Any]) -> str:
        if arguments.get("text") == "hang":
            released.wait(SECONDS)
        raise ZeroDivisionError

    script = f"{calls('echo', text='fail')}{calls('echo', text='hang')}Never mind.{END}"
    assistant = open_assistant(scripted(script), registry=Registry([EchoTool(act)]), tool_seconds=0.1)
    listener, ended = answered(assistant)
    released.set()
    failed, hung = listener.of(ToolReturned)
    assert failed.result.text == "error: echo failed (ZeroDivisionError)"
    assert hung.result.text == "error: echo did not answer within 0.1 seconds"
    assert ended.messages[-1].text == "Never mind."


def test_other_answers_go_on_while_a_tool_runs(open_assistant: Callable[..., Assistant]) -> None:
    released = threading.Event()

    def act(arguments: Mapping[str, Any]) -> str:
        assert released.wait(SECONDS)
        return "done"

    engine = scripted(f"{calls('echo')}Good.{END}", f"Hello.{END}")
    assistant = open_assistant(engine, registry=Registry([EchoTool(act)]), tool_seconds=SECONDS)
    slow = Listener()
    assistant.answer(ASKED, GREEDY, slow)
    slow.until(lambda event: isinstance(event, ToolCalled))
    assert assistant.stats().running == 1
    _, quick = answered(assistant)
    assert quick.messages[0].text == "Hello."
    released.set()
    assert slow.wait()[0].messages[-1].text == "Good."


def test_a_flood_is_cut_so_that_half_of_the_room_is_left(open_assistant: Callable[..., Assistant]) -> None:
    engine = scripted(f"{calls('echo')}Enough.{END}", context_len=200)
    flood = "na\u00efve \N{SLIGHTLY SMILING FACE} " * 400
    assistant = open_assistant(engine, registry=Registry([EchoTool(lambda arguments: flood)]))
    listener, ended = answered(assistant)
    told = listener.of(ToolReturned)[0].result.text
    assert told.endswith(CUT)
    assert flood.startswith(told.removesuffix(CUT))
    assert ended.messages[1] == Message(role="tool", text=told)
    assert ended.messages[-1].text == "Enough."
    room = 200 - len(ended.generation.prompt) - len(TOKENIZER.encode_with_specials(calls("echo")))
    assert room // 2 - 8 <= ended.generation.sampled.count(False) <= room // 2


def test_without_room_for_a_result_the_turn_ends(open_assistant: Callable[..., Assistant]) -> None:
    script = TOKENIZER.encode_with_specials(calls("echo"))
    length = len(render(ASKED, TOKENIZER, for_answer=True).tokens) + len(script) + 20
    engine = scripted(calls("echo"), context_len=length)
    assistant = open_assistant(engine, registry=Registry([EchoTool(lambda arguments: "yes")]))
    _, ended = answered(assistant)
    assert ended.reason == "length"
    assert [message.text for message in ended.messages] == ["", INTERRUPTED, ""]
    assert engine.num_places_taken == 0


def test_a_turn_has_so_many_calls_and_no_more(open_assistant: Callable[..., Assistant]) -> None:
    engine = scripted(calls("echo") * 40, context_len=10_000)
    assistant = open_assistant(engine, registry=Registry([EchoTool(lambda arguments: "yes")]))
    listener, ended = answered(assistant)
    results = [returned.result.text for returned in listener.of(ToolReturned)]
    assert results[:MAX_CALLS] == ["yes"] * MAX_CALLS
    assert results[MAX_CALLS:] == ["error: 16 calls of tools are the most in one turn; answer now"]
    assert ended.reason == "length"
    assert ended.messages[-1] == Message(role="assistant")
