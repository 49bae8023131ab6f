"""Conversations that the assistant is to answer, as programs write them."""

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
    check_order,
    parse_conversation,
    parse_prompt,
    to_json,
)

CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}


def prompt(*messages: dict[str, Any]) -> Conversation:
    return parse_prompt({"messages": list(messages)})


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def test_it_ends_with_the_user_or_with_a_result():
    assert prompt(user("Hi")).messages == (Message(role="user", text="Hi"),)
    asked = prompt(
        user("Hi"),
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call_1", "content": "2"},
    )
    assert [message.role for message in asked.messages] == ["user", "assistant", "tool"]
    assert asked.messages[1].tool_call == ToolCall("f", {"a": 1})


def test_several_calls_of_one_message_with_all_their_results():
    calls = [CALL, {**CALL, "id": "call_2"}]
    asked = prompt(
        user("Hi"),
        {"role": "assistant", "content": "", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "call_2", "content": "second"},
        {"role": "tool", "tool_call_id": "call_1", "content": "first"},
    )
    assert [message.text for message in asked.messages if message.role == "tool"] == ["first", "second"]


def test_messages_of_one_speaker_in_a_row_are_joined():
    asked = prompt(
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": "Be kind."},
        user("One"),
        user(" "),
        user("two"),
        {"role": "assistant", "content": "Yes."},
        user("Three"),
    )
    assert [(message.role, message.text) for message in asked.messages] == [
        ("system", "Be brief.\n\nBe kind."),
        ("user", "One\n\ntwo"),
        ("assistant", "Yes."),
        ("user", "Three"),
    ]


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([], "it ends with the nothing"),
        ([{"role": "system", "content": "x"}], "it ends with the system message"),
        ([user("x"), {"role": "assistant", "content": "y"}], "it ends with the assistant"),
        (
            [user("x"), {"role": "assistant", "content": "", "tool_calls": [CALL]}],
            "ends with the call of a tool",
        ),
        ([{"role": "assistant", "content": "y"}, user("x")], "the assistant speaks before the user"),
        (
            [user("x"), {"role": "assistant", "content": "", "tool_calls": [CALL]}, user("y")],
            "expected the result",
        ),
        ([user("x"), {"role": "tool", "content": "y"}], "expected no tool result"),
        ([user("x"), {"role": "system", "content": "y"}, user("z")], "only the first may be one"),
        ([user("")], "message 0 is empty"),
        ([{"role": "robot", "content": "x"}], "has the role 'robot'"),
    ],
)
def test_what_cannot_be_answered(messages: list[dict[str, Any]], words: str):
    with pytest.raises(ConversationError, match=words):
        prompt(*messages)


TEXT = st.text(st.characters(codec="utf-8"), min_size=1).filter(str.strip)
TEXT_WITHOUT_MARKS = TEXT.filter(lambda text: "think>" not in text)


@st.composite
def conversations(draw: st.DrawFn) -> Conversation:
    """Turns of any kind, the last of which the assistant has not ended."""
    messages: list[Message] = []
    if draw(st.booleans()):
        messages.append(Message(role="system", text=draw(TEXT)))
    num_turns = draw(st.integers(1, 3))
    for turn in range(num_turns):
        messages.append(Message(role="user", text=draw(TEXT)))
        for _ in range(draw(st.integers(0, 2))):
            call = ToolCall(draw(TEXT), draw(st.dictionaries(TEXT, st.integers() | TEXT, max_size=2)))
            messages.append(Message(role="assistant", text=draw(TEXT_WITHOUT_MARKS), tool_call=call))
            messages.append(Message(role="tool", text=draw(TEXT)))
        if turn + 1 < num_turns:
            messages.append(Message(role="assistant", text=draw(TEXT_WITHOUT_MARKS)))
    return Conversation(messages=tuple(messages))


@given(conversations(), TEXT_WITHOUT_MARKS)
def test_a_prompt_is_what_a_conversation_begins_with(conversation: Conversation, answer: str):
    """Through JSON and back it is the same, and with an answer it is a whole conversation."""
    value = json.loads(json.dumps(to_json(conversation)))
    assert parse_prompt(value) == conversation
    with pytest.raises(ConversationError):
        parse_conversation(value)
    whole = {"messages": [*value["messages"], {"role": "assistant", "content": answer}]}
    assert parse_conversation(whole).messages[:-1] == conversation.messages
    with pytest.raises(ConversationError, match="it ends with the assistant"):
        parse_prompt(whole)


@given(conversations(), st.data())
def test_messages_out_of_order_are_refused(conversation: Conversation, data: st.DataObject):
    """Whatever order is accepted is one that the template can say."""
    shuffled = data.draw(st.permutations(conversation.messages))
    try:
        parsed = parse_prompt(to_json(Conversation(messages=tuple(shuffled))))
    except ConversationError:
        return
    check_order(parsed)
    assert parsed.messages[-1].role in ("user", "tool")
