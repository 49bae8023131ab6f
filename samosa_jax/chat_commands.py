"""What a line that begins with a slash does in a chat."""

import difflib
import json
import shlex
import time
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from rich.table import Table
from rich.text import Text

from samosa_jax.chat_screen import Screen, ThinkMode
from samosa_jax.chat_session import Session
from samosa_jax.chat_text import harmless
from samosa_jax.data.chat.conversation import Message
from samosa_jax.errors import UserError
from samosa_jax.rollout.events import Event, TextDelta, ToolCalled, ToolReturned
from samosa_jax.rollout.tools.registry import ToolResult

OFF = "none"
THINK_MODES: Mapping[str, ThinkMode] = MappingProxyType({mode: mode for mode in typing.get_args(ThinkMode)})


@dataclass(frozen=True)
class Number:
    """A number that a command sets: the field of Sampling, and what makes it from text."""

    field: str
    make: Callable[[str], float]
    may_be_off: bool = False


NUMBERS: Mapping[str, Number] = MappingProxyType(
    {
        "temp": Number("temperature", float),
        "top_k": Number("top_k", int),
        "top_p": Number("top_p", float),
        "max_tokens": Number("max_tokens", int),
        "seed": Number("seed", int, may_be_off=True),
    }
)
HELP: Mapping[str, str] = MappingProxyType(
    {
        "/reset": "forget what was said, but for the system message",
        "/system TEXT": "set the system message; none takes it away; without text: show it",
        "/save FILE": "write the conversation as .jsonl, which `samosa prepare chat` reads",
        "/load FILE [ROW]": "go on with a conversation of a file",
        "/temp NUMBER": "temperature; 0 takes the likeliest token",
        "/top_k NUMBER": "draw among so many of the likeliest; 0: all",
        "/top_p NUMBER": "draw among the likeliest that have this share together; 1: all",
        "/max_tokens NUMBER": "longest answer",
        "/seed NUMBER": "draw the same again for the same question; none: differently every time",
        "/think show|dim|hide": "how thoughts are shown",
        "/stats": "speed, cached tokens, how full the context is",
        "/help": "this list",
        "/quit": "the end, as Ctrl-D",
    }
)
NAMES = tuple(usage.split()[0] for usage in HELP)


class Commands:
    """Runs commands. They print what they have done, and raise UserError in one line if they cannot.

    Attributes:
        think: how thoughts are shown from now on.
    """

    def __init__(self, session: Session, screen: Screen, *, think: ThinkMode) -> None:
        self.think: ThinkMode = think
        self._session = session
        self._screen = screen
        self._actions: Mapping[str, Callable[[str], None]] = {
            "/reset": self._reset,
            "/system": self._system,
            "/save": self._save,
            "/load": self._load,
            "/think": self._think,
            "/stats": self._stats,
            "/help": self._help,
        }

    def run(self, line: str) -> bool:
        """Runs one line; False if it ends the chat. Raises UserError."""
        name, _, rest = line.strip().partition(" ")
        rest = rest.strip()
        if name not in NAMES:
            close = difflib.get_close_matches(name, NAMES, n=1, cutoff=0.6)
            hint = f"did you mean {close[0]}?" if close else "/help lists them"
            raise UserError(f"{name} is no command; {hint}; a line that begins with a blank is sent as it is")
        if name.removeprefix("/") in NUMBERS:
            self._number(name.removeprefix("/"), rest)
        elif name != "/quit":
            self._actions[name](rest)
        return name != "/quit"

    def _reset(self, rest: str) -> None:
        self._session.reset()
        self._screen.say("a new conversation")

    def _system(self, text: str) -> None:
        if text:
            self._session.set_system("" if text == OFF else text)
        system = self._session.system
        self._screen.say(f"system message: {system}" if system else "there is no system message")

    def _save(self, rest: str) -> None:
        default = time.strftime("chat-%Y%m%d-%H%M%S.jsonl")
        path = self._session.save(Path(_words(rest)[0] if rest else default))
        self._screen.say(f"saved {_turns(self._session.num_turns)} to {path}")

    def _load(self, rest: str) -> None:
        words = _words(rest)
        if len(words) not in (1, 2) or not (len(words) == 1 or words[1].isdecimal()):
            raise UserError("/load takes the name of a file, and the number of a row where it has many")
        path = Path(words[0])
        self._session.load(path, int(words[1]) if len(words) == 2 else 1)
        self._screen.say(f"loaded {_turns(self._session.num_turns)} from {path}; the last one:")
        question, answer = self._session.last_turn()
        self._screen.show(Text.assemble(("\u203a ", "cyan"), harmless(question)))
        with self._screen.answer(self.think) as view:
            for event in _events_of(answer):
                view.add(event)

    def _number(self, name: str, text: str) -> None:
        number, sampling = NUMBERS[name], self._session.sampling
        if text:
            try:
                value = None if number.may_be_off and text == OFF else number.make(text)
                sampling = replace(sampling, **{number.field: value})
            except ValueError as error:
                known = str(error).startswith(number.field)
                raise UserError(f"/{name}: {error if known else f'{text!r} is no number for it'}") from error
            self._session.sampling = sampling
        value = getattr(sampling, number.field)
        self._screen.say(f"{name} is {OFF if value is None else value}")

    def _think(self, mode: str) -> None:
        if mode:
            if mode not in THINK_MODES:
                raise UserError(f"/think is {mode!r}; expected one of {', '.join(THINK_MODES)}")
            self.think = THINK_MODES[mode]
        self._screen.say(f"think is {self.think}")

    def _stats(self, rest: str) -> None:
        answers = self._session.answers
        if not answers:
            self._screen.say("there was no answer yet")
            return
        last = answers[-1]
        usage = last.ended.usage
        used, room = usage.prompt_tokens + usage.completion_tokens, self._session.context_len
        for line in (
            f"last answer: {usage.completion_tokens} tokens in {last.seconds:.2f} s, "
            f"{last.tokens_per_second:.0f} tokens/s; the first after {last.first_seconds:.2f} s",
            f"its prompt: {usage.prompt_tokens} tokens, {usage.cached_tokens} of them cached",
            f"context: {used} of {room} tokens ({used / room:.0%}), {_turns(self._session.num_turns)}",
            f"all answers: {len(answers)}, "
            f"{sum(answer.ended.usage.completion_tokens for answer in answers)} tokens",
        ):
            self._screen.say(line)

    def _help(self, rest: str) -> None:
        table = Table.grid(padding=(0, 2))
        for usage, meaning in HELP.items():
            table.add_row(Text(usage, style="cyan"), Text(meaning, style="dim"))
        self._screen.show(table)
        self._screen.say("Ctrl-C stops an answer; Ctrl-D, or Ctrl-C twice at the prompt, ends the chat")


def _events_of(messages: Sequence[Message]) -> Iterator[Event]:
    """The events that showed these messages of the assistant and its tools."""
    for message in messages:
        if message.role == "tool":
            yield ToolReturned(0, "", ToolResult(message.text, message.text.startswith("error: "), 0.0))
            continue
        if message.think is not None:
            yield TextDelta(0, "think", message.think)
        if message.text:
            yield TextDelta(0, "text", message.text)
        if message.tool_call is not None:
            arguments = json.dumps(message.tool_call.arguments, ensure_ascii=False)
            yield ToolCalled(0, "", message.tool_call.name, arguments, runs_here=False)


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UserError(f"{text}: {error}".lower()) from error


def _turns(count: int) -> str:
    return f"{count} turn{'' if count == 1 else 's'}"
