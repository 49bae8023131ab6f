"""`Assistant`: conversations in, events out.

    with Assistant(engines, tokenizer, registry=Registry([CalculatorTool()])) as assistant:
        for event in assistant.stream(conversation, Sampling(temperature=0.7)):
            ...

It joins engines, text and tools, and may be used by any thread.
"""

import queue
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from samosa_jax.data.chat.conversation import Conversation
from samosa_jax.data.chat.template import render
from samosa_jax.data.tokenizer import Tokenizer
from samosa_jax.rollout.answering import EngineStats, EngineThread, Request
from samosa_jax.rollout.engine_contract import Engine
from samosa_jax.rollout.events import Ended, Event
from samosa_jax.rollout.history import ExactHistory
from samosa_jax.rollout.request import Prompt, Sampling
from samosa_jax.rollout.text_stream import TextStream
from samosa_jax.rollout.tool_calls import TOOL_SECONDS
from samosa_jax.rollout.tools.registry import Registry
from samosa_jax.rollout.turn import CALL_END, END_MARKS

MAX_TOOLS_AT_ONCE = 16
MIN_SHARED_TOKENS = 32  # for fewer, an engine that has read them is not worth waiting for
KNOWN_PROMPTS = 4  # for every answer that an engine decodes at once, prompts that it may still hold


class Job:
    """A request that is being answered."""

    def __init__(self, cancel: Callable[[], None]) -> None:
        self._cancel = cancel

    def cancel(self) -> None:
        """Ends what has not ended, soon and with the reason "cancelled". From any thread, at any time."""
        self._cancel()


class EventStream(Iterator[Event]):
    """The events of one job, until all its choices have ended. Closing or dropping it cancels the job."""

    def __init__(self, begin: Callable[[Callable[[Event], None]], Job], *, choices: int) -> None:
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._num_open = choices
        job = begin(self._events.put)
        self._cancel = weakref.finalize(self, job.cancel)
        self._cancel.atexit = False

    def __next__(self) -> Event:
        if self._num_open == 0:
            raise StopIteration
        event = self._events.get()
        self._num_open -= isinstance(event, Ended)
        return event

    def close(self) -> None:
        """Cancels the job; no more events follow."""
        self._num_open = 0
        self._cancel()

    def __enter__(self) -> "EventStream":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


@dataclass(frozen=True)
class Stats:
    """Of every engine, and of all together."""

    engines: tuple[EngineStats, ...]

    @property
    def running(self) -> int:
        return sum(engine.running for engine in self.engines)

    @property
    def waiting(self) -> int:
        return sum(engine.waiting for engine in self.engines)

    @property
    def generated_tokens(self) -> int:
        return sum(engine.generated_tokens for engine in self.engines)

    @property
    def prompt_tokens(self) -> int:
        return sum(engine.prompt_tokens for engine in self.engines)

    @property
    def cached_tokens(self) -> int:
        return sum(engine.cached_tokens for engine in self.engines)


class _Replica:
    """An engine's thread, and the tokens it has read lately and so may hold."""

    def __init__(self, thread: EngineThread) -> None:
        self.thread = thread
        self._read: deque[np.ndarray] = deque(maxlen=KNOWN_PROMPTS * thread.max_batch)

    def remember(self, tokens: np.ndarray) -> None:
        self._read.append(tokens)

    def num_shared(self, tokens: np.ndarray) -> int:
        """Tokens at the beginning that it has read."""
        return max((_num_equal(tokens, read) for read in tuple(self._read)), default=0)


class Assistant:
    """Thread-safe. Every engine has a thread of its own, which alone touches it from now on."""

    def __init__(
        self,
        engines: Sequence[Engine],
        tokenizer: Tokenizer,
        *,
        registry: Registry | None = None,
        tool_seconds: float = TOOL_SECONDS,
    ) -> None:
        """tool_seconds: that one call of a tool may take. Raises ValueError without an engine."""
        if not engines:
            raise ValueError("an assistant needs an engine")
        self.context_len = min(engine.context_len for engine in engines)
        self._tokenizer = tokenizer
        self._history = ExactHistory(tokenizer)
        self._tool_pool = ThreadPoolExecutor(MAX_TOOLS_AT_ONCE, thread_name_prefix="tool-call")
        self._choosing = threading.Lock()
        self._replicas = [
            _Replica(
                EngineThread(
                    engine,
                    tokenizer,
                    self._history,
                    registry or Registry(()),
                    self._tool_pool,
                    tool_seconds=tool_seconds,
                    name=f"engine-{number}",
                )
            )
            for number, engine in enumerate(engines)
        ]

    def answer(
        self,
        conversation: Conversation,
        sampling: Sampling,
        on_event: Callable[[Event], None],
        *,
        choices: int = 1,
        stop: Sequence[str] = (),
        tools_run: bool = True,
        forced_start: str = "",
    ) -> Job:
        """Begins to answer a conversation, which ends with the user's or a tool's message.

        Args:
            on_event: called from the engine's thread, and must not block. Each choice has exactly one Ended,
                its last event. If it raises, its choice ends with the reason "error".
            choices: answers, independent of each other.
            stop: strings that end an answer; they are no part of it. Thoughts and calls may have them.
            tools_run: calls of tools in the registry run here, and the turn goes on with their results. Calls
                of the conversation's other tools, and without tools_run of all of these, end the turn. A call
                of a tool that nobody knows, or that is no call, gets a short error, and the turn goes on.
            forced_start: text that the answer begins with, special tokens by name; it is part of the answer.

        Raises:
            ValueError: the prompt does not fit, or an argument is out of range.
            RuntimeError: the assistant is closed.
        """
        forced = tuple(self._tokenizer.encode_with_specials(forced_start))
        for mark in (*END_MARKS, CALL_END):
            if self._tokenizer.special_ids[mark] in forced:
                raise ValueError(f"forced_start has {mark}; an answer cannot begin with its end or a call's")
        request = Request(
            conversation=conversation,
            prompt=self._prompt(conversation, room=self.context_len - len(forced)),
            forced=forced,
            sampling=sampling,
            stop=tuple(stop),
            tools_run=tools_run,
            choices=choices,
            on_event=on_event,
        )
        return self._begin(request)

    def complete(
        self,
        prompt: str | Sequence[int],
        sampling: Sampling,
        on_event: Callable[[Event], None],
        *,
        choices: int = 1,
        stop: Sequence[str] = (),
    ) -> Job:
        """Begins to continue a plain text, or tokens of one; <|bos|> is put before it if it is missing.

        Otherwise like `answer`. Raises ValueError also for tokens that are none of the tokenizer's.
        """
        bos = self._tokenizer.bos_id
        tokens = self._tokenizer.encode(prompt) if isinstance(prompt, str) else list(prompt)
        if tokens and not 0 <= min(tokens) <= max(tokens) < self._tokenizer.vocab_size:
            raise ValueError(
                f"the prompt's tokens lie in {min(tokens)}..{max(tokens)}; "
                f"there are 0..{self._tokenizer.vocab_size - 1}"
            )
        request = Request(
            conversation=None,
            prompt=Prompt.of_tokens(tokens if tokens[:1] == [bos] else [bos, *tokens]),
            forced=(),
            sampling=sampling,
            stop=tuple(stop),
            tools_run=False,
            choices=choices,
            on_event=on_event,
        )
        return self._begin(request)

    def stream(
        self,
        conversation: Conversation,
        sampling: Sampling,
        *,
        choices: int = 1,
        stop: Sequence[str] = (),
        tools_run: bool = True,
        forced_start: str = "",
    ) -> EventStream:
        """As `answer`, its events one after another."""

        def begin(on_event: Callable[[Event], None]) -> Job:
            return self.answer(
                conversation,
                sampling,
                on_event,
                choices=choices,
                stop=stop,
                tools_run=tools_run,
                forced_start=forced_start,
            )

        return EventStream(begin, choices=choices)

    def num_prompt_tokens(self, conversation: Conversation) -> int:
        """Tokens of the prompt that `answer` would make now."""
        return len(self._prompt(conversation, room=self.context_len))

    def stats(self) -> Stats:
        return Stats(tuple(replica.thread.stats() for replica in self._replicas))

    def close(self, *, drain_seconds: float = 0.0) -> None:
        """Waits for running answers, at most so long, then cancels those that are left.

        No answer begins once their end is no longer awaited. When this returns, every choice has had its last
        event; so it must not be called from one.
        """
        deadline = time.monotonic() + drain_seconds
        for replica in self._replicas:
            replica.thread.wait_idle(max(0.0, deadline - time.monotonic()))
        for replica in self._replicas:
            replica.thread.close()
        self._tool_pool.shutdown(wait=False, cancel_futures=True)

    def __enter__(self) -> "Assistant":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _prompt(self, conversation: Conversation, *, room: int) -> Prompt:
        prompt = self._history.prompt(conversation)
        # A model may write with more tokens than its text needs.
        if len(prompt) < room:
            return prompt
        return Prompt.of(render(conversation, self._tokenizer, for_answer=True))

    def _begin(self, request: Request) -> Job:
        if request.choices < 1:
            raise ValueError(f"choices is {request.choices}; it must be at least 1")
        TextStream(request.stop)  # says what is wrong with a stop string
        length = len(request.prompt) + len(request.forced)
        if length >= self.context_len:
            raise ValueError(
                f"the prompt has {length} tokens; the context of {self.context_len} has room for "
                f"{self.context_len - 1} and an answer"
            )
        with self._choosing:
            replica = self._choose(request.prompt.tokens)
            replica.remember(request.prompt.tokens)
            cancel = replica.thread.submit(request)
        return Job(cancel)

    def _choose(self, tokens: np.ndarray) -> _Replica:
        """The replica that has read the longest beginning, unless it is much busier than the least busy."""
        idlest = min(self._replicas, key=lambda replica: replica.thread.load)
        if len(self._replicas) == 1:
            return idlest
        shared = {replica: replica.num_shared(tokens) for replica in self._replicas}
        best = max(self._replicas, key=lambda replica: (shared[replica], -replica.thread.load))
        much = max(1, best.thread.max_batch // 4)
        is_worth_it = shared[best] - shared[idlest] >= MIN_SHARED_TOKENS
        return best if is_worth_it and best.thread.load - idlest.thread.load <= much else idlest


def _num_equal(a: np.ndarray, b: np.ndarray) -> int:
    """Tokens that both begin with."""
    length = min(len(a), len(b))
    differences = np.flatnonzero(a[:length] != b[:length])
    return int(differences[0]) if len(differences) else length
