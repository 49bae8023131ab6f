"""A conversation with a model: what was said, how answers are drawn, and how long they took."""

import contextlib
import json
import os
import queue
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from samosa_jax.chat_input import on_signal
from samosa_jax.chat_screen import AnswerView
from samosa_jax.data.chat.conversation import (
    Conversation,
    ConversationError,
    Message,
    check,
    parse_conversation,
    to_json,
)
from samosa_jax.data.chat.reading import read_conversations
from samosa_jax.data.tokenizer import Tokenizer
from samosa_jax.errors import UserError
from samosa_jax.rollout.assistant import Assistant
from samosa_jax.rollout.events import Ended, Event
from samosa_jax.rollout.history import fit
from samosa_jax.rollout.request import Sampling

SECONDS_BETWEEN_TICKS = 0.03
SAVED_AS = (".jsonl", ".json")  # what `samosa prepare chat` reads


@dataclass(frozen=True, kw_only=True)
class Answered:
    """One answer, and its times in seconds since the question was put."""

    ended: Ended
    num_dropped_turns: int  # oldest ones that the model was not told of
    context_was_full: bool  # and so it was told of fewer than max_turns
    is_kept: bool  # as a part of the conversation
    first_seconds: float
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        """After the first token; 0 where there is none."""
        seconds = self.seconds - self.first_seconds
        return (self.ended.usage.completion_tokens - 1) / seconds if seconds > 0 else 0.0


class Session:
    """The conversation so far, which only whole turns join.

    Attributes:
        conversation: it ends with the assistant's answer, or holds the system message alone.
        sampling, max_turns: of the answers to come.
        answers: those given, in order.
    """

    def __init__(
        self,
        assistant: Assistant,
        tokenizer: Tokenizer,
        *,
        sampling: Sampling,
        max_turns: int,
        system: str = "",
        tools: tuple[Mapping[str, Any], ...] = (),
    ) -> None:
        self.conversation = Conversation(messages=(), tools=tools)
        self.sampling = sampling
        self.max_turns = max_turns
        self.answers: list[Answered] = []
        self._assistant = assistant
        self._tokenizer = tokenizer
        self._own_files: set[Path] = set()
        self.set_system(system)

    @property
    def context_len(self) -> int:
        return self._assistant.context_len

    @property
    def system(self) -> str:
        messages = self.conversation.messages
        return messages[0].text if messages and messages[0].role == "system" else ""

    @property
    def num_turns(self) -> int:
        return sum(message.role == "user" for message in self.conversation.messages)

    def last_turn(self) -> tuple[str, tuple[Message, ...]]:
        """The last question, and all that answers it. Raises ValueError before the first."""
        messages = self.conversation.messages
        asked = max(number for number, message in enumerate(messages) if message.role == "user")
        return messages[asked].text, messages[asked + 1 :]

    def set_system(self, text: str) -> None:
        """Puts a system message at the head of the conversation, or takes it away."""
        said = tuple(message for message in self.conversation.messages if message.role != "system")
        head = (Message(role="system", text=text),) if text.strip() else ()
        self.conversation = replace(self.conversation, messages=head + said)

    def reset(self) -> None:
        """Forgets what was said, but for the system message."""
        messages = tuple(message for message in self.conversation.messages if message.role == "system")
        self.conversation = replace(self.conversation, messages=messages)

    def warm_up(self) -> None:
        """Returns at once; what a first short answer needs is compiled while the user is still typing."""
        greeting = Conversation(messages=(Message(role="user", text="Hello"),))
        self._assistant.answer(greeting, replace(self.sampling, max_tokens=2), lambda event: None)

    def ask(self, question: str, view: AnswerView) -> Answered:
        """Shows the answer while it is given; Ctrl-C ends it.

        Raises:
            UserError: the question alone is longer than the context.
        """
        asked = (*self.conversation.messages, Message(role="user", text=question))
        num_turns = self.num_turns + 1
        # An answer has a quarter of the context at least.
        room = self.context_len - min(
            self.sampling.max_tokens or self.context_len, max(1, self.context_len // 4)
        )
        fitted = fit(
            replace(self.conversation, messages=asked),
            self._tokenizer,
            max_tokens=room,
            max_turns=self.max_turns,
        )
        began = time.monotonic()
        first_seconds: float | None = None
        ended: Ended | None = None
        for event in self._events(fitted.conversation, view):
            if first_seconds is None:
                first_seconds = time.monotonic() - began
            if isinstance(event, Ended):
                ended = event
        assert ended is not None  # the last event always is
        assert first_seconds is not None
        messages = asked + ended.messages
        is_kept = ended.reason != "error" and _is_whole(messages)
        if is_kept:
            self.conversation = replace(self.conversation, messages=messages)
        answered = Answered(
            ended=ended,
            num_dropped_turns=fitted.num_dropped_turns,
            context_was_full=fitted.num_dropped_turns > max(0, num_turns - self.max_turns),
            is_kept=is_kept,
            first_seconds=first_seconds,
            seconds=time.monotonic() - began,
        )
        self.answers.append(answered)
        return answered

    def _events(self, conversation: Conversation, view: AnswerView) -> Iterator[Event]:
        # None stands for Ctrl-C: a signal handler may put into a SimpleQueue, but do little else.
        events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        with on_signal(signal.SIGINT, lambda: events.put(None)), view:
            try:
                job = self._assistant.answer(conversation, self.sampling, events.put)
            except ValueError as error:
                raise UserError(f"{error}; ask something shorter") from error
            event: Event | None = None
            while not isinstance(event, Ended):
                view.tick()
                try:
                    event = events.get(timeout=SECONDS_BETWEEN_TICKS)
                except queue.Empty:
                    continue
                if event is None:
                    job.cancel()
                else:
                    view.add(event)
                    yield event

    def save(self, path: Path) -> Path:
        """Writes the conversation as the one row of a file that `samosa prepare chat` reads.

        Raises:
            UserError: there is nothing to save, the file is somebody else's, or cannot be written.
        """
        path = _at_home(path)
        if not path.name:
            raise UserError(f"{path} is no name of a file")
        path = path if path.suffix else path.with_suffix(SAVED_AS[0])
        if path.suffix not in SAVED_AS:
            raise UserError(f"{path}: conversations are saved as {' or '.join(SAVED_AS)}")
        if not self.num_turns:
            raise UserError("there is nothing to save yet")
        try:
            is_anothers = path.exists() and path.resolve() not in self._own_files
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror}") from error
        if is_anothers:
            raise UserError(f"{path} exists already; choose another name")
        value = to_json(self.conversation)
        try:
            parse_conversation(value)
        except ConversationError as error:
            raise UserError(
                f"this conversation cannot be written so that it reads the same: {error}"
            ) from error
        temporary = path.with_name(f"{path.name}.tmp")
        try:
            temporary.write_text(json.dumps(value, ensure_ascii=False) + "\n", encoding="utf-8")
            os.replace(temporary, path)
        except (OSError, UnicodeEncodeError) as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise UserError(f"{path} cannot be written: {getattr(error, 'strerror', error)}") from error
        self._own_files.add(path.resolve())
        return path

    def load(self, path: Path, row: int = 1) -> None:
        """Goes on with one conversation of a file that `samosa prepare chat` reads; rows count from 1.

        Raises:
            UserError: the file is not there, or has no such conversation; nothing has changed then.
        """
        path = _at_home(path)
        try:
            is_file = path.is_file()
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}") from error
        if not is_file:
            raise UserError(f"{path} is no file")
        example = next(read_conversations([path], first_row=row), None)
        if example is None:
            raise UserError(f"{path} has no conversation in row {row} or after it")
        self.conversation = example.value
        if (
            path.suffix in SAVED_AS
            and row == 1
            and next(read_conversations([path], first_row=2), None) is None
        ):
            self._own_files.add(path.resolve())


def _at_home(path: Path) -> Path:
    """With the home folder for a leading ~. Raises UserError for the home of nobody."""
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise UserError(f"{path}: there is no such home folder") from error


def _is_whole(messages: tuple[Message, ...]) -> bool:
    """Whether a conversation can go on after them."""
    try:
        check(Conversation(messages=messages))
    except ConversationError:
        return False
    return True
