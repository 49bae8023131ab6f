"""The thread that owns one engine: it feeds it, reads what comes out, and answers the calls of tools.

Everything that others ask of an engine goes through the thread's inbox as a function to run there, so that
the engine and the turns need no locks. Tools run elsewhere; their results come back through the inbox, while
the other answers go on.
"""

import logging
import queue
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from uuid import uuid4

import numpy as np

from samosa_jax.data.chat.conversation import Conversation, Message
from samosa_jax.data.tokenizer import Tokenizer
from samosa_jax.rollout.engine_contract import Engine
from samosa_jax.rollout.events import Ended, EndReason, Event, ToolCalled, ToolReturned
from samosa_jax.rollout.history import ExactHistory
from samosa_jax.rollout.open_answer import OpenAnswer
from samosa_jax.rollout.request import Generation, Prompt, Sampling
from samosa_jax.rollout.tool_calls import MAX_CALLS, refusal, result_tokens, run_call
from samosa_jax.rollout.tools.registry import Registry, ToolResult
from samosa_jax.rollout.turn import CALL_END, END_MARKS, Call, Turn

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EngineStats:
    """The last four count since the engine's thread began."""

    running: int  # answers that are being decoded, or wait for a tool
    waiting: int  # answers that wait for a place
    max_batch: int
    generated_tokens: int  # chosen by the model
    prompt_tokens: int  # of all prompts
    cached_tokens: int  # of these, those that did not have to be read again
    ended: int  # answers


@dataclass(frozen=True, kw_only=True)
class Request:
    """All that an answer depends on.

    Attributes:
        conversation: what is answered; None for plain text, in which special tokens say nothing.
        prompt: its tokens, without `forced`.
        forced: tokens that the answer begins with.
        tools_run: calls of tools in the registry run here.
    """

    conversation: Conversation | None
    prompt: Prompt
    forced: tuple[int, ...]
    sampling: Sampling
    stop: tuple[str, ...]
    tools_run: bool
    choices: int
    on_event: Callable[[Event], None]

    def tool_names(self) -> tuple[str, ...]:
        """Of the tools that whoever asks knows."""
        tools = self.conversation.tools if self.conversation else ()
        functions = [tool.get("function") or {} for tool in tools]
        return tuple(str(function["name"]) for function in functions if "name" in function)


@dataclass(eq=False, kw_only=True)
class _Choice(OpenAnswer):
    request: Request
    index: int
    call_id: str = ""  # of the call that waits for its result
    is_counted: bool = False  # its prompt
    is_over: bool = False


@dataclass
class _Counts:
    generated_tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    ended: int = 0


class EngineThread:
    """Answers requests with one engine.

    A failure of the engine ends its answers with the reason "error", is logged, and leaves the thread ready
    for the next. A listener that fails ends its own answer.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        history: ExactHistory,
        registry: Registry,
        tool_pool: ThreadPoolExecutor,
        *,
        tool_seconds: float,
        name: str,
    ) -> None:
        self.context_len = engine.context_len
        self.max_batch = engine.max_batch
        self._engine = engine
        self._tokenizer = tokenizer
        self._history = history
        self._registry = registry
        self._tool_pool = tool_pool
        self._tool_seconds = tool_seconds
        self._end_ids = frozenset(tokenizer.special_ids[mark] for mark in END_MARKS)
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._choices: dict[Generation, _Choice] = {}
        self._changed = threading.Condition()  # guards what follows
        self._load = 0
        self._num_unsubmitted = 0
        self._num_waiting = 0  # in the engine
        self._counts = _Counts()
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    # From any thread.

    @property
    def load(self) -> int:
        """Answers that were asked for and have not ended."""
        with self._changed:
            return self._load

    def stats(self) -> EngineStats:
        with self._changed:
            waiting = self._num_unsubmitted + self._num_waiting
            return EngineStats(
                running=max(0, self._load - waiting),
                waiting=waiting,
                max_batch=self.max_batch,
                **vars(self._counts),
            )

    def submit(self, request: Request) -> Callable[[], None]:
        """Begins to answer; returns what cancels it, from any thread and at any time.

        Raises RuntimeError if the thread is closing.
        """
        choices: list[_Choice] = []
        with self._changed:
            if self._is_closing:
                raise RuntimeError("the assistant is closed")
            self._load += request.choices
            self._num_unsubmitted += request.choices
            self._inbox.put(lambda: self._submit(request, choices))
        return lambda: self._inbox.put(lambda: self._cancel(choices))

    def wait_idle(self, seconds: float) -> bool:
        """Waits until every answer has ended, at most so long; whether it is so."""
        with self._changed:
            return self._changed.wait_for(lambda: self._load == 0, timeout=seconds)

    def close(self) -> None:
        """Cancels all answers and ends the thread; waits for it, unless an event is what calls it."""
        with self._changed:
            if not self._is_closing:
                self._is_closing = True
                self._inbox.put(lambda: self._cancel(self._choices.values()))
        if threading.current_thread() is not self._thread:
            self._thread.join()

    # In the engine's thread.

    def _run(self) -> None:
        is_stuck = False
        while not (self._is_closing and self._inbox.empty() and not self._choices):
            try:
                if self._engine.has_work and not is_stuck and self._inbox.empty():
                    self._step()
                else:
                    is_stuck = False
                    self._inbox.get()()
                with self._changed:
                    self._num_waiting = self._engine.num_waiting
            except Exception as error:
                # One more step lets the engine put itself in order; without anybody to serve, no second one.
                is_stuck = not self._choices
                _log.exception("the engine failed; %d answers end", len(self._choices))
                for choice in list(self._choices.values()):
                    self._end(choice, "error", error=_in_one_line(error))

    def _step(self) -> None:
        for generation in self._engine.step():
            if generation in self._choices:
                self._guarded(self._choices[generation], self._read)

    def _guarded(self, choice: _Choice, act: Callable[[_Choice], None]) -> None:
        """Acts for a choice that has not ended; a failure is its own."""
        if choice.is_over:
            return
        try:
            act(choice)
        except Exception as error:
            _log.exception("an answer failed")
            self._end(choice, "error", error=_in_one_line(error))

    def _submit(self, request: Request, choices: list[_Choice]) -> None:
        with self._changed:
            self._num_unsubmitted -= request.choices
        prompt = request.prompt
        if request.forced:
            nothing = np.zeros(len(request.forced), bool)
            prompt = Prompt(
                np.append(prompt.tokens, np.array(request.forced, np.int32)),
                np.append(prompt.begins_turn, nothing),
            )
        is_chat = request.conversation is not None
        problem = ""
        try:
            generations = self._engine.submit(
                prompt,
                request.sampling,
                end_ids=self._end_ids,
                pause_ids=(self._tokenizer.special_ids[CALL_END],) if is_chat else (),
                num_samples=request.choices,
            )
        except Exception as error:
            _log.exception("the engine refused a prompt of %d tokens", len(prompt))
            problem = _in_one_line(error)
            generations = [
                Generation(prompt, request.sampling, frozenset(), frozenset(), state="finished")
                for _ in range(request.choices)
            ]
        for index, generation in enumerate(generations):
            turn = Turn(self._tokenizer, choice=index, stop=request.stop, reads_marks=is_chat)
            choices.append(_Choice(request=request, index=index, generation=generation, turn=turn))
        for choice in choices:
            if problem:
                self._end(choice, "error", error=problem)
            else:
                self._choices[choice.generation] = choice
                self._guarded(choice, self._begin)

    def _begin(self, choice: _Choice) -> None:
        for token in choice.request.forced:
            choice.turn.read(token, sampled=False)
        self._give_text(choice)

    def _cancel(self, choices: Iterable[_Choice]) -> None:
        for choice in list(choices):
            self._end(choice, "cancelled")

    def _read(self, choice: _Choice) -> None:
        """What is new of a generation."""
        generation, turn = choice.generation, choice.turn
        num_sampled = choice.read()
        with self._changed:
            self._counts.generated_tokens += num_sampled
            if not choice.is_counted:
                choice.is_counted = True
                self._counts.prompt_tokens += len(generation.prompt)
                self._counts.cached_tokens += generation.cached_tokens
        self._give_text(choice)
        if turn.is_over:
            self._end(choice, "stop")
        elif generation.state == "finished":
            self._end(choice, generation.finish_reason or "stop")
        elif generation.state == "paused":
            if turn.call is None:  # the mark was out of place
                self._engine.resume(generation, ())
            else:
                self._answer_call(choice, turn.call)

    def _answer_call(self, choice: _Choice, call: Call) -> None:
        request = choice.request
        choice.num_calls += 1
        choice.call_id = f"call_{uuid4().hex[:24]}"
        known = request.tool_names()
        runs = request.tools_run and call.name in self._registry.names and not call.problem
        is_theirs = call.name in known and not runs and not call.problem
        request.on_event(
            ToolCalled(choice.index, choice.call_id, call.name, call.arguments_text, runs_here=not is_theirs)
        )
        if is_theirs:
            self._end(choice, "tool_calls")
            return
        if choice.num_calls > MAX_CALLS + 1:
            self._end(choice, "length")
            return
        ours = self._registry.names if request.tools_run else ()
        refused = refusal(
            call, num_calls=choice.num_calls, runs=runs, known=tuple(dict.fromkeys((*ours, *known)))
        )
        if refused is not None:
            self._return(choice, refused)
            return
        conversation = request.conversation
        messages = (*(conversation.messages if conversation else ()), *choice.turn.messages)
        self._tool_pool.submit(self._run_tool, choice, call, messages)

    def _run_tool(self, choice: _Choice, call: Call, messages: tuple[Message, ...]) -> None:
        """In a thread of the pool."""
        result = run_call(self._registry, call, messages, seconds=self._tool_seconds)
        self._inbox.put(lambda: self._guarded(choice, lambda choice: self._return(choice, result)))

    def _return(self, choice: _Choice, result: ToolResult) -> None:
        """Forces a result into the answer, and lets it go on."""
        forced = result_tokens(result.text, self._tokenizer, room=choice.room(self.context_len))
        if forced is None:
            self._end(choice, "length")
            return
        told = replace(result, text=self._tokenizer.decode(forced))
        choice.request.on_event(ToolReturned(choice.index, choice.call_id, told))
        self._engine.resume(choice.generation, forced)

    def _give_text(self, choice: _Choice) -> None:
        for delta in choice.turn.take_deltas():
            choice.request.on_event(delta)

    def _end(self, choice: _Choice, reason: EndReason, *, error: str = "") -> None:
        """The last events of a choice. Never fails."""
        if choice.is_over:
            return
        choice.is_over = True
        generation, turn, request = choice.generation, choice.turn, choice.request
        self._choices.pop(generation, None)
        if generation.state != "finished":
            try:
                self._engine.cancel(generation)
            except Exception:
                _log.exception("the engine did not let go of an answer")
        messages = turn.finish(awaits_result=reason == "tool_calls")
        if request.conversation is not None:
            self._history.remember(request.conversation, messages, turn.exact)
        ended = Ended(choice.index, reason, messages, choice.usage(), generation, error)
        for event in (*turn.take_deltas(), ended):
            try:
                request.on_event(event)
            except Exception:
                _log.exception("a listener failed at the end of its answer")
        with self._changed:
            self._counts.ended += 1
            self._load -= 1
            self._changed.notify_all()


def _in_one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
