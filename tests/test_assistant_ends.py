"""How answers end when something else ends them: cancelled, an engine or listener that fails, closing."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest
from scripted_assistant import (
    ASKED,
    CALL,
    END,
    ENDLESS,
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
from scripted_engine import ScriptedEngine

from samosa_jax.data.chat.conversation import Conversation, Message
from samosa_jax.rollout.assistant import Assistant
from samosa_jax.rollout.events import Ended, Event, TextDelta, ToolCalled
from samosa_jax.rollout.request import Prompt, Sampling
from samosa_jax.rollout.tools.registry import CalculatorTool, Registry
from samosa_jax.rollout.turn import INTERRUPTED


@pytest.fixture
def open_assistant() -> Iterator[Callable[..., Assistant]]:
    with opened_assistants() as open_one:
        yield open_one


def test_cancelling_frees_the_place_and_keeps_what_was_said(open_assistant: Callable[..., Assistant]) -> None:
    engine = scripted("", max_batch=1, **ENDLESS)
    assistant = open_assistant(engine)
    first, second = Listener(), Listener()
    job = assistant.answer(ASKED, GREEDY, first)
    first.until(lambda event: isinstance(event, TextDelta))
    waiting = assistant.answer(ASKED, GREEDY, second)
    waiting.cancel()  # before it had a place
    (ended,) = second.wait()
    assert (ended.reason, ended.messages) == ("cancelled", (Message(role="assistant"),))
    job.cancel()
    job.cancel()
    (ended,) = first.wait()
    assert ended.reason == "cancelled"
    assert ended.messages[0].text == first.text()
    assert (engine.num_places_taken, engine.num_waiting) == (0, 0)
    job.cancel()
    assert answered(assistant, sampling=Sampling(max_tokens=2))[1].reason == "length"


def test_cancelling_while_a_tool_runs(open_assistant: Callable[..., Assistant]) -> None:
    released = threading.Event()

    def act(arguments: Mapping[str, Any]) -> str:
        released.wait(SECONDS)
        return "late"

    engine = scripted(calls("echo"), f"Hello.{END}")
    assistant = open_assistant(engine, registry=Registry([EchoTool(act)]), tool_seconds=SECONDS)
    listener = Listener()
    job = assistant.answer(ASKED, GREEDY, listener)
    listener.until(lambda event: isinstance(event, ToolCalled))
    job.cancel()
    (ended,) = listener.wait()
    assert [message.text for message in ended.messages] == ["", INTERRUPTED, ""]
    released.set()
    answered(assistant)
    assert len(listener.events) == 2
    assert listener.wait() == [ended]  # and nothing more came


def test_an_engine_that_fails_ends_its_answers_and_serves_again(
    open_assistant: Callable[..., Assistant], caplog: pytest.LogCaptureFixture
) -> None:
    engine = scripted(f"Hello there.{END}")
    assistant = open_assistant(engine)
    engine.go.clear()
    listeners = [Listener(choices=2), Listener(choices=1)]
    for listener in listeners:
        assistant.answer(ASKED, GREEDY, listener, choices=listener.choices)
    engine.failures.append(RuntimeError("out of\nmemory"))
    engine.go.set()
    ends = [end for listener in listeners for end in listener.wait()]
    failed = [end for end in ends if end.reason == "error"]
    assert failed  # those that had been submitted when it failed
    assert {end.error for end in failed} == {"RuntimeError: out of memory"}
    assert "the engine failed" in caplog.text
    assert engine.num_places_taken == 0
    assert answered(assistant)[1].messages[0].text == "Hello there."


def test_an_engine_that_goes_on_failing_is_tried_again_only_for_somebody(
    open_assistant: Callable[..., Assistant],
) -> None:
    engine = scripted(f"Hello there.{END}")
    assistant = open_assistant(engine)
    engine.failures += [RuntimeError(str(number)) for number in range(3)]
    assert answered(assistant)[1].error == "RuntimeError: 0"
    deadline = time.monotonic() + SECONDS
    while len(engine.failures) > 1:  # one step more, for nobody
        assert time.monotonic() < deadline
        time.sleep(0.005)
    time.sleep(0.05)
    assert answered(assistant)[1].error == "RuntimeError: 2"
    assert answered(assistant)[1].reason == "stop"


def test_a_request_that_the_engine_refuses_ends_at_once(
    open_assistant: Callable[..., Assistant], caplog: pytest.LogCaptureFixture
) -> None:
    def script(prompt: Prompt, number: int) -> Sequence[int]:
        raise MemoryError("too much")

    assistant = open_assistant(ScriptedEngine(script, filler=TOKENIZER.special_ids[END]))
    listener = Listener(choices=2)
    job = assistant.answer(ASKED, GREEDY, listener, choices=2)
    for ended in listener.wait():
        assert (ended.reason, ended.error) == ("error", "MemoryError: too much")
        assert ended.messages == (Message(role="assistant"),)
    assert "the engine refused" in caplog.text
    job.cancel()
    assert_idle(assistant)


def test_a_listener_that_fails_ends_its_own_answer(
    open_assistant: Callable[..., Assistant], caplog: pytest.LogCaptureFixture
) -> None:
    assistant = open_assistant(scripted("word " * 50))
    heard: list[Event] = []

    def fail(event: Event) -> None:
        heard.append(event)
        raise OSError("gone")

    assistant.answer(ASKED, GREEDY, fail)
    _, ended = answered(assistant)
    assert ended.reason == "stop"
    assert [type(event).__name__ for event in heard] == ["TextDelta", "Ended"]
    assert isinstance(heard[-1], Ended)
    assert (heard[-1].reason, heard[-1].error) == ("error", "OSError: gone")
    assert "an answer failed" in caplog.text


def test_a_stream_ends_with_its_answers_and_cancels_when_closed(
    open_assistant: Callable[..., Assistant],
) -> None:
    engine = scripted(f"Hello.{END}", f"Hi.{END}", "", **ENDLESS)
    assistant = open_assistant(engine)
    with assistant.stream(ASKED, GREEDY, choices=2) as stream:
        events = list(stream)
    assert sum(isinstance(event, Ended) for event in events) == 2
    assert next(stream, None) is None
    stream = assistant.stream(ASKED, GREEDY)
    assert isinstance(next(stream), TextDelta)
    stream.close()
    assert next(stream, None) is None
    dropped = assistant.stream(ASKED, GREEDY)
    next(dropped)
    del dropped
    assert_idle(assistant)
    assert engine.num_places_taken == 0
    with pytest.raises(ValueError, match="choices is 0"):
        assistant.stream(ASKED, GREEDY, choices=0)


def assert_idle(assistant: Assistant) -> None:
    deadline = time.monotonic() + SECONDS
    while assistant.stats().running + assistant.stats().waiting:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_closing_waits_for_answers_as_long_as_it_is_told() -> None:
    engine = scripted(f"Hello there.{END}")
    assistant = Assistant([engine], TOKENIZER)
    listener = Listener()
    assistant.answer(ASKED, GREEDY, listener)
    assistant.close(drain_seconds=SECONDS)
    assert listener.wait()[0].reason == "stop"
    with pytest.raises(RuntimeError, match="closed"):
        assistant.answer(ASKED, GREEDY, listener)
    assistant.close()


def test_closing_cancels_what_does_not_end() -> None:
    with Assistant([scripted("", max_batch=1, **ENDLESS)], TOKENIZER) as assistant:
        listeners = [Listener(), Listener(choices=2)]
        for listener in listeners:
            assistant.answer(ASKED, GREEDY, listener, choices=listener.choices)
        listeners[0].until(lambda event: isinstance(event, TextDelta))
    assert {end.reason for listener in listeners for end in listener.wait()} == {"cancelled"}


def test_a_job_goes_to_the_engine_that_knows_its_beginning_unless_it_is_busy(
    open_assistant: Callable[..., Assistant],
) -> None:
    engines = [scripted("", **ENDLESS) for _ in range(2)]
    assistant = open_assistant(*engines)
    long = "What do you know about it? " * 10
    conversations = [
        Conversation(messages=(Message(role="user", text=f"{name} {long}"),)) for name in ("Anna:", "Tom:")
    ]

    def ask(conversation: Conversation) -> list[int]:
        assistant.answer(conversation, GREEDY, Listener())
        return [engine.running + engine.waiting for engine in assistant.stats().engines]

    assert ask(conversations[0]) == [1, 0]
    assert ask(conversations[1]) == [1, 1]  # the least busy
    assert ask(conversations[1]) == [1, 2]  # which knows it now
    assert ask(conversations[1]) == [1, 3]
    assert ask(conversations[1]) == [2, 3]  # and has too much to do
    assert ask(conversations[0]) == [3, 3]
    assert assistant.stats().running + assistant.stats().waiting == 6


def test_many_askers_at_once_lose_nothing(open_assistant: Callable[..., Assistant]) -> None:
    def script(prompt: Prompt, number: int) -> Sequence[int]:
        question = TOKENIZER.decode(prompt.tokens)
        return TOKENIZER.encode_with_specials(f"<think>{number}</think>{question} {CALL}{question}{END}")

    engines = [
        ScriptedEngine(script, filler=TOKENIZER.special_ids[END], max_batch=3, context_len=2_000)
        for _ in range(2)
    ]
    assistant = open_assistant(*engines, registry=Registry([CalculatorTool()]))
    listeners = [Listener(choices=1 + number % 3) for number in range(24)]

    def ask(numbers: Sequence[int]) -> None:
        for number in numbers:
            conversation = Conversation(messages=(Message(role="user", text=f"Question {number}"),))
            job = assistant.answer(conversation, GREEDY, listeners[number], choices=listeners[number].choices)
            if number % 8 == 5:
                job.cancel()

    threads = [threading.Thread(target=ask, args=(range(first, 24, 4),)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, listener in enumerate(listeners):
        for end in listener.wait():
            spoken = "".join(message.text for message in end.messages if message.role == "assistant")
            assert listener.text(choice=end.choice) == spoken
            if number % 8 != 5:
                assert end.reason == "stop"
                assert spoken == f"Question {number} Question {number}"
                assert listener.text("think", end.choice) == str(end.choice)
    assert_idle(assistant)
    assert sum(engine.ended for engine in assistant.stats().engines) == sum(
        listener.choices for listener in listeners
    )
