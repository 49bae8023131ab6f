"""Assistants whose model says what it is told to, a listener that checks what it hears, and a tool."""

import json
import queue
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from scripted_engine import ScriptedEngine
from test_tokenizer import make_model

from samosa_jax.data.chat.conversation import Conversation, Message
from samosa_jax.data.tokenizer import SentencePieceTokenizer
from samosa_jax.rollout.assistant import Assistant
from samosa_jax.rollout.events import Ended, Event, TextDelta
from samosa_jax.rollout.request import Prompt, Sampling
from samosa_jax.rollout.tools.registry import ToolContext

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
    def is_instant(self) -> bool:
        return False

    @property
    def schema(self) -> Mapping[str, Any]:
        parameters = {"type": "object", "properties": {"text": {"type": "string"}}}
        return {"type": "function", "function": {"name": self.name, "parameters": parameters}}

    def run(self, arguments: Mapping[str, Any], context: ToolContext) -> str:
        return self.act(arguments)


@contextmanager
def opened_assistants() -> Iterator[Callable[..., Assistant]]:
    """Makes assistants that are closed afterwards."""
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
