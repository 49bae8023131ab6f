"""A conversation reads back as it was written, is refused when it makes no sense, and renders as it says."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from samosa_jax.data import corpus
from samosa_jax.data.chat.conversation import (
    Conversation,
    ConversationError,
    Message,
    ToolCall,
    check,
    parse_conversation,
    split_think,
    to_json,
)
from samosa_jax.data.chat.template import Rendered, Role, render, render_text
from samosa_jax.data.tokenizer import SPECIAL_TOKENS, SentencePieceTokenizer, Tokenizer
from samosa_jax.data.tokenizer_training import TokenizerOptions, count_words, draw_sample, train_model

CHARACTERS = st.characters(codec="utf-8")
# Spellings of special tokens, the tokenizer's own mark for a space, JSON, and blanks at the ends.
TRICKY = (
    "<|assistant_end|>",
    "<|bos|>x<|user_start|>",
    " \u2581a",
    '{"a": "\\n"}',
    "  b \n",
    "é\u3000",
    "1\t\n\n2",
)
ANY_TEXT = st.text(CHARACTERS, max_size=12) | st.sampled_from(TRICKY)


def json_objects(text: st.SearchStrategy[str]) -> st.SearchStrategy[dict[str, Any]]:
    leaf = st.none() | st.booleans() | st.integers(-9, 9) | text
    return st.dictionaries(text, leaf | st.lists(leaf, max_size=2) | st.dictionaries(text, leaf), max_size=2)


@st.composite
def spoken(draw: st.DrawFn, text: st.SearchStrategy[str], *, call: ToolCall | None = None) -> Message:
    """A message of the assistant, in the form that parsing gives."""
    think = draw(st.none() | text.map(str.strip))
    said = draw(text)
    return Message(
        role="assistant", text=said if think is None else said.strip(), think=think, tool_call=call
    )


@st.composite
def conversations(draw: st.DrawFn, text: st.SearchStrategy[str] = ANY_TEXT) -> Conversation:
    """Sound conversations with everything one can have."""
    messages = [Message(role="system", text=draw(text))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        messages.append(Message(role="user", text=draw(text)))
        for _ in range(draw(st.integers(0, 2))):
            call = ToolCall(draw(st.sampled_from(["search", "été"])), draw(json_objects(text)))
            messages += (draw(spoken(text, call=call)), Message(role="tool", text=draw(text)))
        messages.append(draw(spoken(text)))
    tools = draw(st.lists(json_objects(text), max_size=2))
    found = Conversation(messages=tuple(messages), tools=tuple(tools))
    try:
        check(found)
    except ConversationError:
        assume(False)
    return found


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return small_tokenizer()


def small_tokenizer(vocab_size: int = 800) -> Tokenizer:
    sample = draw_sample(list(corpus.documents(max_bytes=150_000)), max_bytes=1_000_000, seed=0)
    return SentencePieceTokenizer(
        train_model(count_words(sample.blocks).counts, TokenizerOptions(vocab_size=vocab_size))
    )


@given(conversations())
def test_canonical_json_gives_the_same_conversation_back(conversation: Conversation):
    written = json.dumps(to_json(conversation), ensure_ascii=False)
    assert parse_conversation(json.loads(written)) == conversation


def test_every_variant_of_openai_gives_the_same_conversation():
    call = ToolCall("add", {"a": 1})
    expected = Conversation(
        messages=(
            Message(role="system", text="Be kind."),
            Message(role="user", text="1+1?"),
            Message(role="assistant", text="So:", think="easy", tool_call=call),
            Message(role="tool", text="2"),
            Message(role="assistant", text="2."),
        ),
        tools=({"type": "function"},),
    )
    system, user, result, answer = (
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "1+1?"},
        {"role": "tool", "content": "2"},
        {"role": "assistant", "content": "2."},
    )
    calls = {"tool_calls": [{"id": "x", "function": {"name": "add", "arguments": {"a": 1}}}]}
    as_text = {"tool_calls": [{"function": {"name": "add", "arguments": '{"a":1}'}}]}
    thought = "<think>\neasy\n</think>\n\nSo:"
    said = {"role": "assistant", "content": thought}
    variants = (
        [system, user, said | calls, result, answer],
        [system, user, said | as_text, result, answer],
        [
            system,
            user,
            {"role": "assistant", "content": " So: ", "reasoning_content": "easy "} | calls,
            result,
            answer,
        ],
        [
            system | {"role": "developer"},
            user | {"content": [{"type": "text", "text": "1+"}, {"type": "text", "text": "1?"}]},
            {"role": "assistant"}
            | {"content": [{"type": "thinking", "thinking": "easy"}, {"type": "text", "text": "So:"}]}
            | calls,
            result,
            answer,
        ],
        [
            system,
            user,
            said | {"function_call": {"name": "add", "arguments": '{"a": 1}'}},
            result | {"role": "function", "name": "add"},
            answer,
        ],
    )
    for messages in variants:
        for tools in ([{"type": "function"}], '[{"type": "function"}]'):
            assert parse_conversation({"messages": messages, "tools": tools}) == expected, messages


def test_several_calls_in_one_message_are_each_followed_by_their_result():
    def call(name: str, **more: str) -> dict[str, Any]:
        return {"function": {"name": name, "arguments": {}}, **more}

    def read(calls: list[Any], results: list[Any]) -> list[str]:
        messages = [
            {"role": "user", "content": "?"},
            {"role": "assistant", "content": "", "tool_calls": calls},
            *results,
            {"role": "assistant", "content": "done"},
        ]
        found = parse_conversation({"messages": messages}).messages[1:-1]
        return [message.tool_call.name if message.tool_call else message.text for message in found]

    first, second = {"role": "tool", "content": "one"}, {"role": "tool", "content": "two"}
    assert read([call("a"), call("b")], [first, second]) == ["a", "one", "b", "two"]
    assert read(
        [call("a", id="1"), call("b", id="2")],
        [second | {"tool_call_id": "2"}, first | {"tool_call_id": "1"}],
    ) == ["a", "one", "b", "two"]
    with pytest.raises(ConversationError, match="calls 2 tools and 1 results follow"):
        read([call("a"), call("b")], [first])


def test_calculations_of_nanochat_stand_before_calls_of_the_same_message():
    parts = [
        {"type": "text", "text": "2*3 = "},
        {"type": "python", "text": "2*3"},
        {"type": "python_output", "text": "6"},
        {"type": "text", "text": "now look:"},
    ]
    calls = [{"function": {"name": "search", "arguments": {}}}]
    found = parse_conversation(
        {
            "messages": [
                {"role": "user", "content": "?"},
                {"role": "assistant", "content": parts, "tool_calls": calls},
                {"role": "tool", "content": "found"},
                {"role": "assistant", "content": "ok"},
            ]
        }
    )
    calculator = ToolCall("calculator", {"expression": "2*3"})
    assert found.messages[1:] == (
        Message(role="assistant", text="2*3 = ", tool_call=calculator),
        Message(role="tool", text="6"),
        Message(role="assistant", text="now look:", tool_call=ToolCall("search", {})),
        Message(role="tool", text="found"),
        Message(role="assistant", text="ok"),
    )


USER, ANSWER = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}


def calling(arguments: Any) -> dict[str, Any]:
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"function": {"name": "f", "arguments": arguments}}],
    }


@pytest.mark.parametrize(
    ("messages", "reason", "text"),
    [
        ([], "no assistant turn", "it has no messages"),
        ([USER], "no assistant turn", "no message is the assistant's"),
        ([USER, ANSWER, USER], "no last answer", "it ends with the user, not with an answer"),
        ([USER, calling({})], "no last answer", "it ends with the call of a tool"),
        ([USER, {"role": "narrator", "content": "x"}], "unknown role", "message 1 has the role 'narrator'"),
        ([ANSWER], "wrong order", "message 0: the assistant speaks before the user"),
        ([USER, USER, ANSWER], "wrong order", "message 1 is the second user message in a row"),
        ([USER, ANSWER, ANSWER], "wrong order", "message 2 is the second assistant message in a row"),
        ([USER, ANSWER, {"role": "system", "content": "x"}], "wrong order", "only the first may be one"),
        (
            [USER, {"role": "tool", "content": "x"}, ANSWER],
            "wrong order",
            "no tool result, as none was called",
        ),
        (
            [USER, calling({}), USER, ANSWER],
            "tool call without result",
            "message 2 is the user; expected the result",
        ),
        ([USER | {"content": " \n"}, ANSWER], "empty message", "message 0 is empty"),
        ([USER, ANSWER | {"content": " "}], "empty message", "message 1: the assistant says nothing"),
        ([USER, calling("{not json")], "tool call is not JSON", "message 1: the arguments of f: not JSON"),
        ([USER, calling("[1]")], "tool call is not JSON", "the arguments of f are no JSON object"),
        ([USER, ANSWER | {"content": "<think>a"}], "unbalanced think", "<think> is not balanced"),
        ([USER, ANSWER | {"content": "a</think>b"}], "unbalanced think", "found </think>"),
        ([USER, ANSWER | {"content": "a<think>b</think>"}], "unbalanced think", "a thought comes first"),
        (
            [USER, ANSWER | {"reasoning_content": "a</think>"}],
            "unbalanced think",
            "message 1: a <think> mark",
        ),
        (
            [USER, ANSWER | {"content": "<think>a</think>b", "reasoning_content": "c"}],
            "unbalanced think",
            "message 1 thinks twice",
        ),
        (
            [USER, ANSWER | {"content": [{"type": "image"}]}],
            "malformed",
            "message 1 has a part of type 'image'",
        ),
        ([USER, ANSWER | {"content": None}], "malformed", "message 1 has no content"),
        (["hi", ANSWER], "malformed", 'message 0 is no object with a "role"'),
        ([USER, {"role": "assistant", "tool_calls": [3]}], "malformed", "a tool call without a name"),
    ],
)
def test_a_conversation_without_sense_is_refused(messages: list[Any], reason: str, text: str):
    with pytest.raises(ConversationError) as caught:
        parse_conversation({"messages": messages})
    assert text in str(caught.value)
    assert caught.value.reason == reason


@given(st.none() | ANY_TEXT | st.lists(ANY_TEXT) | json_objects(ANY_TEXT), ANY_TEXT)
def test_json_of_another_kind_is_refused(value: Any, content: str):
    for wrong in (
        value,
        {"messages": value},
        {"messages": [value, {"role": "assistant", "content": content}]},
    ):
        with pytest.raises(ConversationError):
            parse_conversation(wrong)


@given(
    st.lists(st.sampled_from(["role", "content", "tool_calls", "user", "assistant", "tool", 0, None, [], {}]))
)
def test_any_message_parses_or_is_refused(words: list[Any]):
    raw = {str(key): value for key, value in zip(words[::2], words[1::2], strict=False)}
    answer = {"role": "assistant", "tool_calls": words, "content": words}
    for messages in ([USER, raw], [raw, answer], [USER, answer, raw, raw]):
        with pytest.raises(ConversationError):
            parse_conversation({"messages": messages})


def test_a_thought_is_parted_from_the_answer():
    assert split_think("plain ") == (None, "plain ")
    assert split_think("\n<think>\n a\nb </think>\n\nanswer\n") == ("a\nb", "answer")


def test_roles_and_turns_of_an_example_counted_by_hand(tokenizer: Tokenizer):
    call = ToolCall("f", {})
    conversation = Conversation(
        messages=(
            Message(role="system", text="s"),
            Message(role="user", text="a"),
            Message(role="assistant", text="b", think="c", tool_call=call),
            Message(role="tool", text="d"),
            Message(role="assistant", text="e"),
            Message(role="user", text="f"),
            Message(role="assistant", text="g"),
        )
    )
    words = {letter: tokenizer.encode(letter) for letter in "sabcdefg"}
    assert all(len(ids) == 1 for ids in words.values())
    special = tokenizer.special_ids
    expected: list[tuple[int, Role, bool]] = []

    def add(role: Role, *tokens: str, begins_turn: bool = False) -> None:
        for token in tokens:
            ids = [special[token]] if token in special else tokenizer.encode(token)
            expected.extend((i, role, begins_turn) for i in ids)

    add(Role.STRUCTURE, "<|bos|>", begins_turn=True)
    add(Role.HUMAN, "<|user_start|>")
    add(Role.SYSTEM, "s\n\n")
    add(Role.HUMAN, "a", "<|user_end|>")
    add(Role.STRUCTURE, "<|assistant_start|>", begins_turn=True)
    add(Role.THINK, "<think>", "c", "</think>")
    add(Role.ASSISTANT, "b")
    add(Role.TOOL_CALL, "<|python_start|>", '{"tool": "f", "arguments": {}}', "<|python_end|>")
    add(Role.TOOL_RESULT, "<|output_start|>", "d", "<|output_end|>")
    add(Role.ASSISTANT, "e", "<|assistant_end|>")
    add(Role.HUMAN, "<|user_start|>", begins_turn=True)
    add(Role.HUMAN, "f", "<|user_end|>")
    add(Role.STRUCTURE, "<|assistant_start|>", begins_turn=True)
    add(Role.ASSISTANT, "g", "<|assistant_end|>")
    rendered = render(conversation, tokenizer)
    assert [*zip(rendered.tokens, rendered.roles, rendered.begins_turn, strict=True)] == expected
    system_tokens = len(tokenizer.encode("s\n\n"))
    call_tokens = len(tokenizer.encode(call.text()))
    answer_starts = 4 + system_tokens
    second_question = answer_starts + 12 + call_tokens
    assert np.flatnonzero(rendered.begins_turn).tolist() == [
        0,
        answer_starts,
        second_question,
        second_question + 3,
    ]


def decoded(rendered: Rendered, role: Role, tokenizer: Tokenizer) -> str:
    return tokenizer.decode(rendered.tokens[rendered.roles == role])


@given(conversation=conversations())
def test_the_tokens_of_a_role_are_what_that_role_said(tokenizer: Tokenizer, conversation: Conversation):
    rendered = render(conversation, tokenizer)
    messages = conversation.messages
    said = {
        Role.HUMAN: [message.text.strip() for message in messages if message.role == "user"],
        Role.ASSISTANT: [message.text for message in messages if message.role == "assistant"],
        Role.THINK: [message.think or "" for message in messages],
        Role.TOOL_CALL: [message.tool_call.text() for message in messages if message.tool_call],
        Role.TOOL_RESULT: [message.text for message in messages if message.role == "tool"],
        Role.STRUCTURE: [],
    }
    for role, texts in said.items():
        assert decoded(rendered, role, tokenizer) == "".join(texts)
    assert tokenizer.decode(rendered.tokens, show_specials=True) == render_text(conversation)
    # Special tokens come from the template alone, however many the text spells.
    users = sum(message.role == "user" for message in messages)
    calls = sum(message.tool_call is not None for message in messages)
    thoughts = sum(message.think is not None for message in messages)
    specials = np.isin(rendered.tokens, list(tokenizer.special_ids.values()))
    assert specials.sum() == 1 + 4 * users + 4 * calls + 2 * thoughts


@given(conversation=conversations())
def test_turns_of_user_and_assistant_alternate(tokenizer: Tokenizer, conversation: Conversation):
    rendered = render(conversation, tokenizer)
    names = [SPECIAL_TOKENS[0], "<|assistant_start|>"]
    turns = [*rendered.tokens[rendered.begins_turn]]
    users = sum(message.role == "user" for message in conversation.messages)
    expected = [*names, *["<|user_start|>", "<|assistant_start|>"] * (users - 1)]
    assert turns == [tokenizer.special_ids[name] for name in expected]


@given(conversation=conversations())
def test_a_prompt_renders_to_the_beginning_of_the_conversation(
    tokenizer: Tokenizer, conversation: Conversation
):
    whole = render(conversation, tokenizer)
    for index, message in enumerate(conversation.messages):
        if message.role in ("user", "tool"):
            prompt = replace(conversation, messages=conversation.messages[: index + 1])
            begin = render(prompt, tokenizer, for_answer=True)
            for part, full in zip(begin, whole, strict=True):
                np.testing.assert_array_equal(part, full[: len(part)])
            assert len(begin.tokens) < len(whole.tokens)
