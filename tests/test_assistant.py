"""Answers as events: text, thoughts, stop strings, forced beginnings, choices, what does not fit."""

from collections.abc import Callable, Iterator

import pytest
from scripted_assistant import (
    ASKED,
    CALL,
    END,
    GREEDY,
    TOKENIZER,
    EchoTool,
    Listener,
    answered,
    opened_assistants,
    scripted,
)
from scripted_engine import ScriptedEngine

from samosa_jax.data.chat.conversation import Conversation, Message, ToolCall
from samosa_jax.data.chat.template import render
from samosa_jax.rollout.assistant import Assistant
from samosa_jax.rollout.events import TextDelta
from samosa_jax.rollout.request import Sampling
from samosa_jax.rollout.tools.registry import CalculatorTool, Registry


@pytest.fixture
def open_assistant() -> Iterator[Callable[..., Assistant]]:
    with opened_assistants() as open_one:
        yield open_one


def test_an_answer_with_a_thought(open_assistant: Callable[..., Assistant]) -> None:
    assistant = open_assistant(scripted(f"<think>Hm.</think>Hello there.{END}never read"))
    listener, ended = answered(assistant)
    assert ended.reason == "stop"
    assert ended.messages == (Message(role="assistant", think="Hm.", text="Hello there."),)
    assert (listener.text("think"), listener.text()) == ("Hm.", "Hello there.")
    prompt = render(ASKED, TOKENIZER, for_answer=True).tokens
    assert ended.generation.prompt.tokens.tolist() == prompt.tolist()
    assert ended.usage.prompt_tokens == len(prompt) == assistant.num_prompt_tokens(ASKED)
    assert ended.usage.completion_tokens == len(
        TOKENIZER.encode_with_specials(f"<think>Hm.</think>Hello there.{END}")
    )
    stats = assistant.stats()
    assert (stats.running, stats.waiting) == (0, 0)
    assert stats.engines[0].ended == 1
    assert stats.generated_tokens == ended.usage.completion_tokens
    assert stats.prompt_tokens == len(prompt)


def test_the_next_prompt_has_the_very_tokens_of_the_answer(open_assistant: Callable[..., Assistant]) -> None:
    by_byte = [token for byte in b"Hello there." for token in TOKENIZER.encode(bytes([byte]))]
    assert by_byte != TOKENIZER.encode("Hello there.")
    engine = ScriptedEngine(lambda prompt, number: by_byte, filler=TOKENIZER.special_ids[END])
    assistant = open_assistant(engine)
    _, ended = answered(assistant)
    more = Conversation(messages=(*ASKED.messages, *ended.messages, Message(role="user", text="And?")))
    read = [*ended.generation.prompt.tokens, *ended.generation.tokens]
    assert assistant.num_prompt_tokens(more) > len(render(more, TOKENIZER, for_answer=True).tokens)
    answered(assistant, more)
    assert engine.submitted[1].tokens[: len(read)].tolist() == read


def test_a_mark_out_of_place_does_not_stop_the_answer(open_assistant: Callable[..., Assistant]) -> None:
    assistant = open_assistant(scripted(f"It is<|python_end|> 5.{END}"))
    _, ended = answered(assistant, tools_run=False)
    assert ended.messages == (Message(role="assistant", text="It is 5."),)


def test_a_stop_string_ends_the_answer_before_it(open_assistant: Callable[..., Assistant]) -> None:
    engine = scripted("<think>A STOP here.</think>One two STOP three" + " more" * 100)
    assistant = open_assistant(engine)
    listener, ended = answered(assistant, stop=("never", "o STOP"))
    assert (ended.reason, listener.text()) == ("stop", "One tw")
    assert ended.messages == (Message(role="assistant", think="A STOP here.", text="One tw"),)
    assert engine.num_places_taken == 0
    # What was cut off is not told again.
    more = Conversation(messages=(*ASKED.messages, *ended.messages, *ASKED.messages))
    assert assistant.num_prompt_tokens(more) == len(render(more, TOKENIZER, for_answer=True).tokens)


def test_the_ends_of_an_answer(open_assistant: Callable[..., Assistant]) -> None:
    assistant = open_assistant(scripted("words " * 50, f"me.<|user_start|>and you<|user_end|>{END}"))
    listener, ended = answered(assistant, sampling=Sampling(max_tokens=7))
    assert ended.reason == "length"
    assert ended.usage.completion_tokens == 7
    assert listener.text() == ended.messages[0].text == TOKENIZER.decode(ended.generation.tokens)
    _, ended = answered(assistant)
    assert (ended.reason, ended.messages[0].text) == ("stop", "me.")


def test_an_answer_begins_as_it_is_forced_to(open_assistant: Callable[..., Assistant]) -> None:
    engine = scripted(f' {{"text": "x"}}}}<|python_end|>Fine.{END}')
    start = '<think>Go.</think><|python_start|>{"tool": "echo", "arguments":'
    assistant = open_assistant(engine, registry=Registry([EchoTool(lambda arguments: arguments["text"])]))
    listener, ended = answered(assistant, forced_start=start)
    assert [message.text for message in ended.messages] == ["", "x", "Fine."]
    assert ended.messages[0].think == listener.text("think") == "Go."
    assert ended.messages[0].tool_call == ToolCall("echo", {"text": "x"})
    rendered = render(ASKED, TOKENIZER, for_answer=True).tokens
    forced = TOKENIZER.encode_with_specials(start)
    assert engine.submitted[0].tokens.tolist() == [*rendered, *forced]
    assert not engine.submitted[0].begins_turn[len(rendered) :].any()
    # What is forced is remembered as part of the answer.
    more = Conversation(messages=(*ASKED.messages, *ended.messages, *ASKED.messages))
    answered(assistant, more)
    told = [*ended.generation.prompt.tokens, *ended.generation.tokens]
    assert engine.submitted[1].tokens[: len(told)].tolist() == told


@pytest.mark.parametrize("mark", ["<|assistant_end|>", "<|user_start|>", "<|python_end|>", "<|bos|>"])
def test_an_answer_cannot_begin_with_an_end(open_assistant: Callable[..., Assistant], mark: str) -> None:
    with pytest.raises(ValueError, match="forced_start has"):
        answered(open_assistant(scripted("")), forced_start=f"a{mark}b")


def test_choices_share_a_prompt_and_end_each_by_itself(open_assistant: Callable[..., Assistant]) -> None:
    engine = scripted(f"One.{END}", f"Two two two.{END}", f"{CALL}Three.{END}")
    assistant = open_assistant(engine, registry=Registry([CalculatorTool()]))
    listener = Listener(choices=3)
    assistant.answer(ASKED, GREEDY, listener, choices=3)
    ends = listener.wait()
    assert [end.messages[-1].text for end in ends] == ["One.", "Two two two.", "Three."]
    assert [listener.text(choice=choice) for choice in range(3)] == ["One.", "Two two two.", "Three."]
    assert len(engine.submitted) == 1


def test_logprobs_come_with_the_text(open_assistant: Callable[..., Assistant]) -> None:
    assistant = open_assistant(scripted(f"Hello there.{END}"))
    listener, _ = answered(assistant, sampling=Sampling(top_logprobs=1))
    entries = [entry for delta in listener.of(TextDelta) for entry in delta.logprobs]
    assert b"".join(entry.bytes for entry in entries) == b"Hello there."
    assert {entry.logprob for entry in entries} == {-0.5}
    assert [entry.top[0].token for entry in entries] == [entry.token for entry in entries]


def test_plain_text_is_continued(open_assistant: Callable[..., Assistant]) -> None:
    engine = scripted(f"a <think>dog {CALL} barks")
    assistant = open_assistant(engine)
    expected = f"a dog {CALL.removeprefix('<|python_start|>').removesuffix('<|python_end|>')} "
    for prompt in ("Once <|bos|>", TOKENIZER.encode("Once <|bos|>"), [TOKENIZER.bos_id, 300]):
        listener = Listener()
        assistant.complete(prompt, GREEDY, listener, stop=["barks"])
        (ended,) = listener.wait()
        assert ended.messages == (Message(role="assistant", text=expected),)
        assert listener.text() == expected
    once = [TOKENIZER.bos_id, *TOKENIZER.encode("Once <|bos|>")]
    assert [prompt.tokens.tolist() for prompt in engine.submitted] == [once, once, [TOKENIZER.bos_id, 300]]
    with pytest.raises(ValueError, match="tokens lie in"):
        assistant.complete([TOKENIZER.vocab_size], GREEDY, Listener())


def test_what_does_not_fit_or_makes_no_sense_is_refused_at_once(
    open_assistant: Callable[..., Assistant],
) -> None:
    length = len(render(ASKED, TOKENIZER, for_answer=True).tokens)
    assistant = open_assistant(scripted("", context_len=length))
    with pytest.raises(ValueError, match=f"has {length} tokens.* room for {length - 1}"):
        answered(assistant)
    wide = open_assistant(scripted(f"Yes{END}", context_len=length + 1))
    assert answered(wide)[1].reason == "length"
    with pytest.raises(ValueError, match="context"):
        answered(wide, forced_start="a")
    with pytest.raises(ValueError, match="stop string is empty"):
        answered(wide, stop=("",))
    with pytest.raises(ValueError, match="choices is 0"):
        answered(wide, choices=0)
    with pytest.raises(ValueError, match="needs an engine"):
        Assistant([], TOKENIZER)


def test_exact_tokens_that_do_not_fit_give_way_to_rendered_ones(
    open_assistant: Callable[..., Assistant],
) -> None:
    by_byte = [token for byte in b"Hello there again." for token in TOKENIZER.encode(bytes([byte]))]
    answer, question = Message(role="assistant", text="Hello there again."), "And then? " * 20
    probe = Conversation(messages=(*ASKED.messages, answer, Message(role="user", text=question)))
    length = len(render(probe, TOKENIZER, for_answer=True).tokens)
    engine = ScriptedEngine(
        lambda prompt, number: by_byte, filler=TOKENIZER.special_ids[END], context_len=length + 1
    )
    assistant = open_assistant(engine)
    _, ended = answered(assistant)
    assert ended.messages == (answer,)
    answered(assistant, probe)
    assert len(engine.submitted[1]) == length
