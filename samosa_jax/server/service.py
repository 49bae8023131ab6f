"""The assistant behind the API: whether it is there, who is let in, and what runs."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from samosa_jax.rollout.assistant import Assistant, Job
from samosa_jax.rollout.events import Ended, Event
from samosa_jax.server.admission import Admission
from samosa_jax.server.api_errors import shutting_down, unavailable
from samosa_jax.server.metrics import Metrics
from samosa_jax.server.running_answer import Mailbox, OnEvent, RunningAnswer
from samosa_jax.server.settings import ServerSettings

State = Literal["starting", "ready", "draining"]
Begin = Callable[[Assistant, OnEvent], Job]

_log = logging.getLogger(__name__)


class Service:
    """Belongs to the event loop it is made in.

    Args:
        open_assistant: makes the assistant, which may take minutes of compiling; called once, in a thread.
        tool_schemas: of the tools that the assistant runs by itself.
    """

    def __init__(
        self,
        settings: ServerSettings,
        open_assistant: Callable[[], Assistant],
        *,
        tool_schemas: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self.settings = settings
        self.tool_schemas = tuple(tool_schemas)
        self.metrics = Metrics()
        self.admission = Admission(settings.limits)
        self.state: State = "starting"
        self._open_assistant = open_assistant
        self._assistant: Assistant | None = None
        self._running: set[RunningAnswer] = set()
        self._mailbox = Mailbox()

    @property
    def assistant(self) -> Assistant:
        """Raises ApiError with 503 while there is none, or none for new answers."""
        if self.state == "draining":
            raise shutting_down()
        if self._assistant is None:
            raise unavailable("the server is starting", code="starting", seconds=5)
        return self._assistant

    @property
    def tool_names(self) -> tuple[str, ...]:
        return tuple(schema["function"]["name"] for schema in self.tool_schemas)

    def load(self) -> tuple[int, int]:
        """(answers in the making, answers that wait)."""
        engines = self._assistant.stats().engines if self._assistant is not None else ()
        return sum(engine.running for engine in engines), sum(engine.waiting for engine in engines)

    async def start(self) -> None:
        """Opens the assistant. Raises what opening it raises."""
        assistant = await asyncio.to_thread(self._open_assistant)
        self._assistant = assistant
        self.metrics.follow(assistant)
        if self.state == "starting":
            self.state = "ready"

    async def begin(self, *jobs: Begin, choices: int) -> RunningAnswer:
        """Begins jobs of `choices` answers each, all of which together are let in or refused.

        Raises ApiError (503 without an assistant, 429 without room), and what beginning a job raises.
        """
        assistant = self.assistant
        count = len(jobs) * choices
        self.admission.take(count)
        answer = RunningAnswer(count, mailbox=self._mailbox, watch=self._watch)
        self._running.add(answer)
        try:
            # Making tokens of a long prompt takes a while, in which others go on.
            await asyncio.to_thread(_begin_all, assistant, answer, jobs, choices)
        except BaseException as error:
            self._running.discard(answer)
            self.admission.give_back(answer.abandon())
            if isinstance(error, RuntimeError) and self.state == "draining":
                raise shutting_down() from error  # the assistant was closed meanwhile
            raise
        return answer

    async def drain(self, seconds: float) -> None:
        """Takes no more requests, and comes back when all answers have ended; what runs on is cancelled."""
        self.state = "draining"
        deadline = time.monotonic() + seconds
        while self._running and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        self.hurry()

    def hurry(self) -> None:
        """Ends all answers as they are."""
        for answer in self._running:
            answer.interrupt()
        self._running.clear()

    async def stop(self) -> None:
        """Ends the assistant and whatever it still does."""
        self.state = "draining"
        if self._assistant is not None:
            await asyncio.to_thread(self._assistant.close)

    def _watch(self, answer: RunningAnswer, event: Event) -> None:
        self.metrics.count_event(answer, event)
        if not isinstance(event, Ended):
            return
        if event.reason == "error":
            _log.error("an answer failed: %s", event.error)
        self.admission.give_back(1, began=answer.began)
        if not answer.num_left:
            self._running.discard(answer)


def _begin_all(assistant: Assistant, answer: RunningAnswer, jobs: tuple[Begin, ...], choices: int) -> None:
    for number, begin in enumerate(jobs):
        answer.add_job(begin(assistant, answer.listener(number * choices)))
