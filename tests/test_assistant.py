"""Answers as events: text, tools, stop strings, cancelling, failures; with scripted and with real engines."""

import json
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from scripted_engine import ScriptedEngine
from test_tokenizer import make_model

from samosa_jax.data.chat.conversation import Conversation, Message, ToolCall
from samosa_jax.data.chat.template import render
from samosa_jax.data.tokenizer import SentencePieceTokenizer
from samosa_jax.rollout.assistant import Assistant
from samosa_jax.rollout.events import Ended, Event, TextDelta, ToolCalled, ToolReturned
from samosa_jax.rollout.request import Prompt, Sampling
from samosa_jax.rollout.tool_calls import CUT, MAX_CALLS
from samosa_jax.rollout.tools.registry import CalculatorTool, Registry, ToolContext
from samosa_jax.rollout.turn import INTERRUPTED, UNREADABLE
from samosa_jax.tasks.tool_schemas import CALCULATOR_SCHEMA

TOKENIZER = SentencePieceTokenizer(make_model())
SECONDS = 20.0  # that nothing here takes
GREEDY = Sampling(temperature=0)
ASKED = Conversation(messages=(Message(role="user", text="Well?"),))
END = "<|assistant_end|>"


def calls(name: str, **arguments: object) -> str:
    return f"<|python_start|>{json.dumps({'tool': name, 'arguments': arguments})}<|python_end|>"


CALL = calls("calculator", expression="2+3")


ENDLESS = {"filler": TOKENIZER.encode(" word")[0], "context_len": 10**9}  # an answer goes on for ever


def scripted(*answers: str, filler: int = TOKENIZER.special_ids[END], **options: Any) -> ScriptedEngine:
    """Its model gives these answers in turn, the last one again and again."""
    said = iter(range(10**9))

    def script(prompt: Prompt, number: int) -> list[int]:
        return TOKENIZER.encode_with_specials(answers[min(next(said), len(answers) - 1)])

    return ScriptedEngine(script, filler=filler, **options)


@dataclass
class Listener:
    """Collects events; checks that nothing follows an end."""

    choices: int = 1
    events: list[Event] = field(default_factory=list)
    _queue: "queue.SimpleQueue[Event]" = field(default_factory=queue.SimpleQueue)

    def __call__(self, event: Event) -> None:
        self._queue.put(event)

    def until(self, wanted: Callable[[Event], bool]) -> Event:
        while True:
            event = self._queue.get(timeout=SECONDS)
            self.events.append(event)
            if wanted(event):
                return event

    def wait(self) -> list[Ended]:
        """The ends, by choice, when all have come."""
        ends = [event for event in self.events if isinstance(event, Ended)]
        while len(ends) < self.choices:
            end = self.until(lambda event: isinstance(event, Ended))
            assert isinstance(end, Ended)
            ends.append(end)
        assert sorted(end.choice for end in ends) == list(range(self.choices))
        assert self._queue.empty()
        for end in ends:
            own = [event for event in self.events if event.choice == end.choice]
            assert own[-1] is end
        return sorted(ends, key=lambda end: end.choice)

    def of(self, kind: type, choice: int = 0) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind) and event.choice == choice]

    def text(self, kind: str = "text", choice: int = 0) -> str:
        return "".join(delta.text for delta in self.of(TextDelta, choice) if delta.kind == kind)


@dataclass(frozen=True)
class EchoTool:
    """Does with a call what a test wants."""

    act: Callable[[Mapping[str, Any]], str]
    name: str = "echo"

    @property
    def schema(self) -> Mapping[str, Any]:
        parameters = {"type": "object", "properties": {"text": {"type": "string"}}}
        return {"type": "function", "function": {"name": self.name, "parameters": parameters}}

    def run(self, arguments: Mapping[str, Any], context: ToolContext) -> str:
        return self.act(arguments)


@pytest.fixture
def open_assistant() -> Iterator[Callable[..., Assistant]]:
    """Makes assistants that are closed after the test."""
    opened: list[Assistant] = []

    def make(*engines: ScriptedEngine, **options: Any) -> Assistant:
        opened.append(Assistant(engines, TOKENIZER, **options))
        return opened[-1]

    yield make
    for assistant in opened:
        assistant.close()


def answered(
    assistant: Assistant, conversation: Conversation = ASKED, **options: Any
) -> tuple[Listener, Ended]:
    listener = Listener()
    assistant.answer(conversation, options.pop("sampling", GREEDY), listener, **options)
    return listener, listener.wait()[0]


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


def test_a_mark_out_of_place_does_not_stop_the_answer(open_assistant: Callable[..., Assistant]) -> None:
    assistant = open_assistant(scripted(f"It is<|python_end|> 5.{END}"))
    _, ended = answered(assistant, tools_run=False)
    assert ended.messages == (Message(role="assistant", text="It is 5."),)


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
