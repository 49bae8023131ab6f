"""Reading the tokens of an answer: well-formed ones, and whatever else a model may write."""

import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_tokenizer import make_model

from samosa_jax.data.chat.conversation import Conversation, ConversationError, Message, ToolCall, check
from samosa_jax.data.chat.template import render, render_text
from samosa_jax.data.tokenizer import SPECIAL_TOKENS, SentencePieceTokenizer
from samosa_jax.rollout.events import TextDelta
from samosa_jax.rollout.turn import INTERRUPTED, UNREADABLE, Call, Turn

TOKENIZER = SentencePieceTokenizer(make_model())
CALL = '{"tool": "calculator", "arguments": {"expression": "2+3"}}'
USER = Message(role="user", text="Well?")

marks = st.sampled_from(SPECIAL_TOKENS)
ordinary = st.sampled_from(["Hello", " there", CALL, '{"tool": ', "é", "🙂", "\n", " ", "<think>", "2+2", ""])
whole_call = st.just(f"<|python_start|>{CALL}<|python_end|>")
texts = st.lists(marks | ordinary | whole_call, max_size=12).map("".join)
any_tokens = st.lists(
    st.sampled_from(sorted(TOKENIZER.special_ids.values())) | st.integers(0, TOKENIZER.vocab_size - 1),
    max_size=40,
)


def ids(text: str) -> list[int]:
    return TOKENIZER.encode_with_specials(text)


def assistant(text: str = "", think: str | None = None, call: ToolCall | None = None) -> Message:
    return Message(role="assistant", text=text, think=think, tool_call=call)


def read(tokens: Sequence[int], *, stop: Sequence[str] = (), reads_marks: bool = True) -> Turn:
    turn = Turn(TOKENIZER, stop=stop, reads_marks=reads_marks)
    for token in tokens:
        turn.read(token)
    return turn


def joined(deltas: Sequence[TextDelta], kind: str) -> str:
    return "".join(delta.text for delta in deltas if delta.kind == kind)


def finished(text: str, *, stop: Sequence[str] = ()) -> tuple[Message, ...]:
    """The messages; what was shown must be what they say."""
    turn = read(ids(text), stop=stop)
    messages = turn.finish()
    assert_shown(messages, turn.take_deltas())
    return messages


def assert_shown(messages: Sequence[Message], deltas: Sequence[TextDelta]) -> None:
    spoken = [message for message in messages if message.role == "assistant"]
    assert joined(deltas, "text") == "".join(message.text for message in spoken)
    assert joined(deltas, "think") == "".join(message.think or "" for message in spoken)


def assert_valid_history(messages: Sequence[Message]) -> None:
    """It can stand in a conversation that goes on; the model may have said nothing."""
    conversation = Conversation(messages=(USER, *messages))
    try:
        check(conversation)
    except ConversationError as error:
        if error.reason != "empty message":
            raise
    render(Conversation(messages=(*conversation.messages, USER)), TOKENIZER, for_answer=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Hello.<|assistant_end|>", assistant("Hello.")),
        ("<think>Hm.</think>Hello.<|assistant_end|>", assistant("Hello.", "Hm.")),
        ("<think></think>Hello.<|assistant_end|>", assistant("Hello.", "")),
        ("Hello", assistant("Hello")),
        ("<|assistant_end|>", assistant()),
        ("", assistant()),
        # Misbehaviour.
        ("<think>Hm.<|assistant_end|>", assistant("", "Hm.")),
        ("Hm.</think>Hello.", assistant("Hm.Hello.")),
        ("<think>Hm.<think> So.</think>Hello.</think>", assistant("Hello.", "Hm. So.")),
        ("Hello.<think>Late.</think> Bye.", assistant("Hello. Bye.", "Late.")),
        ("<think>One.</think><think>Two.</think>Hello.", assistant("Hello.", "One.Two.")),
        ("Hello.<|user_start|>And you?<|user_end|>", assistant("Hello.")),
        ("Hello.<|user_end|>Lost", assistant("Hello.")),
        ("Hello.<|bos|>Another document", assistant("Hello.")),
        ("Hello<|assistant_start|> there", assistant("Hello there")),
        ("4<|python_end|> is right", assistant("4 is right")),
        ("<|output_start|>7<|output_end|> is right", assistant("7 is right")),
        (f"Let me see. <|python_start|>{CALL}", assistant(f"Let me see. {CALL}")),
        ("It is <|python_start|>four.<|assistant_end|>", assistant("It is four.")),
        ("<think>Hm <|python_start|>four<|assistant_end|>", assistant("four", "Hm ")),
        ("<|python_start|>a<|python_start|>b<think>c", assistant("abc")),
    ],
)
def test_one_message(text: str, message: Message) -> None:
    assert finished(text) == (message,)
    assert_valid_history((message,))


def calling(text: str, result: str | None, then: str = "") -> tuple[Turn, tuple[Message, ...]]:
    turn = read(ids(text))
    if result is not None:
        assert turn.call is not None
        for token in ids(f"<|output_start|>{result}<|output_end|>"):
            turn.read(token, sampled=False)
    for token in ids(then):
        turn.read(token)
    return turn, turn.finish()


def test_a_call_its_result_and_what_follows() -> None:
    text = f"<think>Add.</think>Let me see.<|python_start|>{CALL}<|python_end|>"
    turn, messages = calling(text, "5", "<think>Good.</think>It is 5.<|assistant_end|>")
    call = ToolCall("calculator", {"expression": "2+3"})
    assert messages == (
        assistant("Let me see.", "Add.", call),
        Message(role="tool", text="5"),
        assistant("It is 5.", "Good."),
    )
    assert_shown(messages, turn.take_deltas())
    assert_valid_history(messages)
    # Rendering says what was read.
    whole = f"{text}<|output_start|>5<|output_end|><think>Good.</think>It is 5.<|assistant_end|>"
    assert render_text(Conversation(messages=(USER, *messages))).endswith(f"<|assistant_start|>{whole}")
    assert turn.exact == {0: tuple(ids(text)), 2: tuple(ids("<think>Good.</think>It is 5."))}


def test_the_call_is_known_as_soon_as_it_is_closed_and_text_before_it_is_out() -> None:
    turn = read(ids(f"Well, EN<|python_start|>{CALL}"), stop=["END"])
    assert turn.call is None
    turn.read(TOKENIZER.special_ids["<|python_end|>"])
    call = turn.call
    assert call == Call(CALL, "calculator", {"expression": "2+3"})
    assert call is not None
    assert json.loads(call.arguments_text) == {"expression": "2+3"}
    assert joined(turn.take_deltas(), "text") == "Well, EN"
    assert turn.finish(awaits_result=True)[-1].tool_call == ToolCall("calculator", {"expression": "2+3"})


def test_a_call_within_a_thought_ends_it() -> None:
    turn, messages = calling(f"<think>Hm<|python_start|>{CALL}<|python_end|>", "5", "</think>5.")
    assert [(message.role, message.think, message.text) for message in messages] == [
        ("assistant", "Hm", ""),
        ("tool", None, "5"),
        ("assistant", None, "5."),
    ]
    assert turn.exact == {}


@pytest.mark.parametrize("then", ["", "It is 5.", "<|output_start|>7<|output_end|>"])
def test_a_call_without_result_gets_one_that_says_so(then: str) -> None:
    _, messages = calling(f"<|python_start|>{CALL}<|python_end|>", None, then)
    assert [message.role for message in messages] == ["assistant", "tool", "assistant"]
    assert messages[1].text == INTERRUPTED
    assert messages[2].text == TOKENIZER.decode(ids(then))
    assert_valid_history(messages)


def test_a_result_that_is_cut_off_is_still_one() -> None:
    turn = read(ids(f"<|python_start|>{CALL}<|python_end|>"))
    for token in ids("<|output_start|>long res"):
        turn.read(token, sampled=False)
    assert turn.finish()[1:] == (Message(role="tool", text="long res"), assistant())


@pytest.mark.parametrize(
    "text",
    [
        '{"tool": ',
        "",
        '{"arguments": {}}',
        '{"tool": "f", "arguments": {"x": NaN}}',
        '{"tool": "f", "arguments": {"x": "\\ud800"}}',
        "{" * 3000,
        '{"a":' * 3000,
        '{"tool": "f", "arguments": {"x": ' + "[" * 80 + "]" * 80 + "}}",
    ],
)
def test_a_call_that_is_none_says_why(text: str) -> None:
    call = Call.read(text)
    assert call.name == UNREADABLE
    assert call.problem
    assert "\n" not in call.problem
    assert call.arguments_text == text
    _, messages = calling(f"<|python_start|>{text}<|python_end|>", f"error: {call.problem}", "Sorry.")
    assert_valid_history(messages)


def test_a_stop_string_ends_the_text_and_no_thought() -> None:
    turn = read(ids("<think>One. END of it</think>Two. END of it"), stop=["END"])
    assert turn.is_over
    assert turn.has_stopped
    assert turn.finish() == (assistant("Two. ", "One. END of it"),)
    assert turn.exact == {}


def test_text_held_back_comes_with_the_end() -> None:
    turn = read(ids("Two. EN<|assistant_end|>"), stop=["END"])
    assert joined(turn.take_deltas(), "text") == "Two. "
    assert turn.is_over
    assert not turn.has_stopped
    assert turn.finish() == (assistant("Two. EN"),)
    assert joined(turn.take_deltas(), "text") == "EN"


def test_plain_text_has_no_marks() -> None:
    turn = read(ids(f"a<think>b<|python_start|>{CALL}<|python_end|>c<|user_start|>d"), reads_marks=False)
    assert turn.finish() == (assistant(f"ab{CALL}cd"),)


def test_logprobs_go_with_their_text() -> None:
    tokens = ids("<think>Hm</think>Hello there🙂")
    turn = Turn(TOKENIZER)
    for number, token in enumerate(tokens):
        turn.read(token, logprob=-float(number), top=[(token, -float(number)), (tokens[1], -9.0)])
    turn.finish()
    think, text = turn.take_deltas()
    assert (think.kind, think.text, text.kind, text.text) == ("think", "Hm", "text", "Hello there🙂")
    spoken = [*think.logprobs, *text.logprobs]
    ordinary_tokens = [(i, token) for i, token in enumerate(tokens) if TOKENIZER.decode_bytes([token])]
    assert [entry.logprob for entry in spoken] == [-float(i) for i, _ in ordinary_tokens]
    assert [entry.bytes for entry in spoken] == [
        TOKENIZER.decode_bytes([token]) for _, token in ordinary_tokens
    ]
    assert b"".join(entry.bytes for entry in text.logprobs).decode() == text.text
    assert [entry.top[0].bytes for entry in spoken] == [entry.bytes for entry in spoken]
    assert {len(entry.top) for entry in spoken} == {2}


@given(
    tokens=any_tokens | texts.map(ids), sampled=st.integers(0, 2**40), stop=st.sampled_from([(), ("there",)])
)
def test_no_tokens_make_it_fail_and_messages_are_history(
    tokens: list[int], sampled: int, stop: Sequence[str]
) -> None:
    turn = Turn(TOKENIZER, stop=stop)
    deltas: list[TextDelta] = []
    for number, token in enumerate(tokens):
        turn.read(token, sampled=bool(sampled >> number & 1))
        deltas += turn.take_deltas()
    messages = turn.finish()
    deltas += turn.take_deltas()
    assert messages[-1].role == "assistant"
    assert messages[-1].tool_call is None
    assert_valid_history(messages)
    assert_shown(messages, deltas)
    assert all(delta.text for delta in deltas)


@given(text=texts)
def test_no_text_is_lost(text: str) -> None:
    """All that was written before the end, calls included, is in the messages in this order."""
    tokens = ids(text)
    ends = {TOKENIZER.special_ids[mark] for mark in ("<|assistant_end|>", "<|bos|>")}
    ends |= {TOKENIZER.special_ids[mark] for mark in ("<|user_start|>", "<|user_end|>")}
    length = next((i for i, token in enumerate(tokens) if token in ends), len(tokens))
    turn = Turn(TOKENIZER)
    told: list[str] = []
    for token in tokens:
        waited = turn.call
        turn.read(token)
        told += [delta.text for delta in turn.take_deltas()]
        if turn.call is not None and turn.call is not waited:
            told.append(turn.call.text)
    turn.finish()
    told += [delta.text for delta in turn.take_deltas()]
    assert "".join(told) == TOKENIZER.decode(tokens[:length])


@given(text=texts)
def test_exact_tokens_say_what_the_rendered_message_says(text: str) -> None:
    turn = read(ids(text))
    messages = turn.finish()
    for number, tokens in turn.exact.items():
        message = messages[number]
        rendered = render_text(Conversation(messages=(USER, message)), for_answer=True)
        spoken = rendered.partition("<|assistant_start|>")[2]
        exact = TOKENIZER.decode(tokens, show_specials=True)
        if message.tool_call is None:
            assert exact == spoken
        else:
            before, _, call = exact.partition("<|python_start|>")
            assert before == spoken.partition("<|python_start|>")[0]
            read_again = Call.read(call.removesuffix("<|python_end|>"))
            assert (read_again.name, read_again.arguments) == (
                message.tool_call.name,
                message.tool_call.arguments,
            )
