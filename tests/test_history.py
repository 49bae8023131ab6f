"""What a model is told of the past: the oldest turns go first, and its own words are those it wrote."""

import re
from collections.abc import Sequence
from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_tokenizer import make_model

from samosa_jax.data.chat.conversation import Conversation, Message, ToolCall, parse_prompt, to_json
from samosa_jax.data.chat.template import render
from samosa_jax.data.tokenizer import SentencePieceTokenizer
from samosa_jax.rollout.history import ExactHistory, fit
from samosa_jax.rollout.request import Prompt
from samosa_jax.rollout.turn import Call, Turn
from samosa_jax.tasks.tool_schemas import CALCULATOR_SCHEMA

TOKENIZER = SentencePieceTokenizer(make_model())
SYSTEM = Message(role="system", text="Be brief.")
CALL = ToolCall("calculator", {"expression": "2+3"})

words = st.text("ab é\n", max_size=6)
answers = st.one_of(
    st.builds(lambda text: [Message(role="assistant", text=text)], words),
    st.builds(
        lambda think, text, result: [
            Message(role="assistant", think=think, text=text, tool_call=CALL),
            Message(role="tool", text=result),
            Message(role="assistant", text=text),
        ],
        st.none() | words,
        words,
        words,
    ),
)
turns = st.builds(lambda text, rest: [Message(role="user", text=f"{text}?"), *rest], words, answers)
conversations = st.builds(
    lambda system, turns, last, tools: Conversation(
        messages=(*system, *chain.from_iterable(turns), Message(role="user", text=f"{last}!")), tools=tools
    ),
    st.sampled_from([(), (SYSTEM,)]),
    st.lists(turns, max_size=4),
    words,
    st.sampled_from([(), (CALCULATOR_SCHEMA,)]),
)


def num_tokens(conversation: Conversation) -> int:
    return len(render(conversation, TOKENIZER, for_answer=True).tokens)


def user(text: str) -> Message:
    return Message(role="user", text=text)


def without_oldest(conversation: Conversation, count: int) -> Conversation:
    messages = list(conversation.messages)
    head = [messages.pop(0)] if messages[0].role == "system" else []
    users = [i for i, message in enumerate(messages) if message.role == "user"]
    return Conversation(messages=(*head, *messages[users[count] :]), tools=conversation.tools)


@given(conversation=conversations, max_tokens=st.integers(1, 400), max_turns=st.none() | st.integers(1, 4))
def test_as_few_of_the_oldest_turns_are_dropped_as_need_be(
    conversation: Conversation, max_tokens: int, max_turns: int | None
) -> None:
    fitted = fit(conversation, TOKENIZER, max_tokens=max_tokens, max_turns=max_turns)
    num_turns = sum(message.role == "user" for message in conversation.messages)
    candidates = [without_oldest(conversation, count) for count in range(num_turns)]
    wanted = next(
        (
            count
            for count, candidate in enumerate(candidates)
            if num_tokens(candidate) <= max_tokens and num_turns - count <= (max_turns or num_turns)
        ),
        num_turns - 1,
    )
    assert fitted.num_dropped_turns == wanted
    assert fitted.conversation == candidates[wanted]


def test_a_conversation_without_a_user_is_left_as_it_is() -> None:
    for messages in ((), (SYSTEM,), (SYSTEM, user("Hi " * 90))):
        conversation = Conversation(messages=messages)
        fitted = fit(conversation, TOKENIZER, max_tokens=1, max_turns=1)
        assert fitted.conversation == conversation
        assert fitted.num_dropped_turns == 0


def spoken(text: str) -> list[int]:
    """Tokens of a text that encoding it would not give: one for every byte."""
    tokens: list[int] = []
    for byte in text.encode():
        tokens += TOKENIZER.encode(bytes([byte]))
    assert TOKENIZER.decode(tokens) == text
    assert tokens != TOKENIZER.encode(text)
    return tokens


def read(tokens: Sequence[int]) -> Turn:
    turn = Turn(TOKENIZER)
    for token in tokens:
        turn.read(token)
    return turn


def remembered(history: ExactHistory, conversation: Conversation, tokens: Sequence[int]) -> Conversation:
    """The conversation with what these tokens say, and whatever the history remembers of them."""
    turn = read(tokens)
    messages = turn.finish()
    history.remember(conversation, messages, turn.exact)
    return Conversation(messages=(*conversation.messages, *messages), tools=conversation.tools)


def with_user(conversation: Conversation, text: str = "And then?") -> Conversation:
    return Conversation(messages=(*conversation.messages, user(text)), tools=conversation.tools)


def assert_equal(prompt: Prompt, other: Prompt) -> None:
    assert prompt.tokens.tolist() == other.tokens.tolist()
    assert prompt.begins_turn.tolist() == other.begins_turn.tolist()


@given(conversation=conversations)
def test_without_memory_the_prompt_is_the_rendered_one(conversation: Conversation) -> None:
    rendered = Prompt.of(render(conversation, TOKENIZER, for_answer=True))
    assert_equal(ExactHistory(TOKENIZER).prompt(conversation), rendered)


@pytest.mark.parametrize("think", [None, "Thinking hard."])
def test_the_next_prompt_begins_with_the_tokens_of_prompt_and_answer(think: str | None) -> None:
    history = ExactHistory(TOKENIZER)
    conversation = Conversation(messages=(SYSTEM, user("Hi")), tools=(CALCULATOR_SCHEMA,))
    special = TOKENIZER.special_ids
    seen: list[int] = []
    for text in (" Hello there.\n", "Well then"):
        tokens = spoken(text)
        if think is not None:
            tokens = [special["<think>"], *spoken(think), special["</think>"], *tokens]
        prompt = history.prompt(conversation)
        assert prompt.tokens[: len(seen)].tolist() == seen
        seen = [*prompt.tokens.tolist(), *tokens, special["<|assistant_end|>"]]
        conversation = with_user(remembered(history, conversation, tokens))
    prompt = history.prompt(conversation)
    assert prompt.tokens[: len(seen)].tolist() == seen
    # Turns begin where they do in the rendered prompt.
    rendered = render(conversation, TOKENIZER, for_answer=True)
    assert prompt.tokens[prompt.begins_turn].tolist() == rendered.tokens[rendered.begins_turn].tolist()
    # What comes back through JSON has lost white space at the ends, and is known all the same.
    if think is not None:
        through_json = parse_prompt(to_json(conversation))
        assert through_json != conversation
        assert_equal(history.prompt(through_json), prompt)


@given(
    tokens=st.lists(
        st.sampled_from(sorted(TOKENIZER.special_ids.values())) | st.integers(0, TOKENIZER.vocab_size - 1),
        max_size=30,
    )
)
def test_whatever_was_written_the_model_is_told_what_its_messages_say(tokens: list[int]) -> None:
    history = ExactHistory(TOKENIZER)
    conversation = with_user(remembered(history, Conversation(messages=(user("Hi"),)), tokens))
    told = TOKENIZER.decode(history.prompt(conversation).tokens, show_specials=True)
    rendered = TOKENIZER.decode(render(conversation, TOKENIZER, for_answer=True).tokens, show_specials=True)
    calls = iter([message.tool_call for message in conversation.messages if message.tool_call])

    def as_rendered(found: re.Match[str]) -> str:
        """A call, which may have been laid out in another way."""
        call = next(calls)
        assert Call.read(found[1]).arguments == call.arguments
        return f"<|python_start|>{call.text()}<|python_end|>"

    told = re.sub(r"<\|python_start\|>(.*?)<\|python_end\|>", as_rendered, told, flags=re.DOTALL)
    assert told == rendered


def test_a_call_is_told_as_it_was_written() -> None:
    history = ExactHistory(TOKENIZER)
    conversation = Conversation(messages=(user("2+3?"),))
    special = TOKENIZER.special_ids
    call = [special["<|python_start|>"], *TOKENIZER.encode("2+3"), special["<|python_end|>"]]
    turn = read([*spoken("Certainly: "), *call])
    messages = turn.finish(awaits_result=True)
    assert messages[-1].tool_call == CALL
    history.remember(conversation, messages, turn.exact)
    result = Message(role="tool", text="5")
    answered = Conversation(messages=(*conversation.messages, *messages, result))
    prompt = history.prompt(answered)
    assert prompt.tokens.tolist() == [
        *history.prompt(conversation).tokens,
        *spoken("Certainly: "),
        *call,
        *TOKENIZER.encode_with_specials("<|output_start|>5<|output_end|>"),
    ]


@pytest.mark.parametrize(
    "changed",
    [
        Conversation(messages=(user("Hi"), Message(role="assistant", text="Hello There."), user("More"))),
        Conversation(messages=(user("Ho"), Message(role="assistant", text="Hello there."), user("More"))),
        Conversation(
            messages=(SYSTEM, user("Hi"), Message(role="assistant", text="Hello there."), user("More"))
        ),
        Conversation(
            messages=(user("Hi"), Message(role="assistant", text="Hello there."), user("More")),
            tools=(CALCULATOR_SCHEMA,),
        ),
        Conversation(
            messages=(user("Hi"), Message(role="assistant", text="Hello there.", think=""), user("More"))
        ),
    ],
)
def test_what_was_changed_is_rendered_anew(changed: Conversation) -> None:
    history = ExactHistory(TOKENIZER)
    first = Conversation(messages=(user("Hi"),))
    same = with_user(remembered(history, first, spoken("Hello there.")), "More")
    rendered = Prompt.of(render(changed, TOKENIZER, for_answer=True))
    assert_equal(history.prompt(changed), rendered)
    assert len(history.prompt(same)) > len(render(same, TOKENIZER, for_answer=True).tokens)


@pytest.mark.parametrize(
    "answer", ["<think>Hm.", "Hm.</think>Well", "It is <|python_start|>four", "a<|assistant_start|>b"]
)
def test_marks_out_of_place_are_not_told_again(answer: str) -> None:
    history = ExactHistory(TOKENIZER)
    first = Conversation(messages=(user("Hi"),))
    conversation = with_user(remembered(history, first, TOKENIZER.encode_with_specials(answer)))
    rendered = Prompt.of(render(conversation, TOKENIZER, for_answer=True))
    assert_equal(history.prompt(conversation), rendered)


def test_an_incomplete_character_is_told_as_it_was_shown() -> None:
    history = ExactHistory(TOKENIZER)
    first = Conversation(messages=(user("Hi"),))
    conversation = with_user(
        remembered(history, first, TOKENIZER.encode("Fine \N{SLIGHTLY SMILING FACE}")[:-1])
    )
    assert conversation.messages[1].text == "Fine \ufffd"
    assert_equal(history.prompt(conversation), Prompt.of(render(conversation, TOKENIZER, for_answer=True)))


@pytest.mark.parametrize("limit", [{"max_tokens": 24}, {"max_messages": 2}])
def test_what_was_not_used_for_longest_is_forgotten(limit: dict[str, int]) -> None:
    text = "Hello there."  # 12 tokens
    history = ExactHistory(TOKENIZER, **limit)
    conversations = [Conversation(messages=(user(str(number)),)) for number in range(3)]

    def is_known(conversation: Conversation) -> bool:
        told = with_user(
            Conversation(messages=(*conversation.messages, Message(role="assistant", text=text)))
        )
        rendered = render(told, TOKENIZER, for_answer=True).tokens
        return not np.array_equal(history.prompt(told).tokens, rendered)

    for conversation in conversations[:2]:
        remembered(history, conversation, spoken(text))
    assert is_known(conversations[0])  # and so used after the other
    remembered(history, conversations[2], spoken(text))
    assert [is_known(conversation) for conversation in conversations] == [True, False, True]
    remembered(history, conversations[2], spoken(text))
    assert [is_known(conversation) for conversation in conversations] == [True, False, True]
