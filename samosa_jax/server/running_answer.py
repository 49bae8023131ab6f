"""One request in the making: events come from the engine's thread, and the event loop reads them."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import NamedTuple

from samosa_jax.rollout.assistant import Job
from samosa_jax.rollout.events import Ended, Event
from samosa_jax.server.api_errors import shutting_down

OnEvent = Callable[[Event], None]


class Numbered(NamedTuple):
    """An event, and the number among all answers to the request of the one it belongs to."""

    choice: int
    event: Event


class Mailbox:
    """Brings what happens in other threads to the event loop it was made in.

    A block of tokens is news of every answer that runs. One wake-up brings all of it: each costs a system
    call, and takes the interpreter from the engine's thread.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._letters: list[tuple[Callable[[Numbered], None], Numbered]] = []

    def put(self, receive: Callable[[Numbered], None], numbered: Numbered) -> None:
        """From any thread: `receive` will be called with it in the loop, in the order of these calls."""
        with self._lock:
            self._letters.append((receive, numbered))
            is_awaited = len(self._letters) > 1
        if is_awaited:
            return
        try:
            self._loop.call_soon_threadsafe(self._deliver)
        except RuntimeError:
            # A server that was told twice to stop does not wait for its answers.
            if not self._loop.is_closed():
                raise

    def _deliver(self) -> None:
        with self._lock:
            letters, self._letters = self._letters, []
        for receive, numbered in letters:
            self._loop.call_soon(receive, numbered)  # apart, so that one that fails takes no other with it


class RunningAnswer:
    """Made and read in one event loop; listeners and `add_job` may be called from any thread.

    Args:
        num_choices: answers, each of which ends with its own `Ended`.
        mailbox: of that loop.
        watch: called in the event loop with every event, read or not.

    Attributes:
        num_left: answers that have not ended.
        began: time.monotonic() when it was made.
        first_text: time.monotonic() of its first text.
    """

    def __init__(
        self, num_choices: int, *, mailbox: Mailbox, watch: Callable[["RunningAnswer", Event], None]
    ) -> None:
        self.num_left = num_choices
        self.began = time.monotonic()
        self.first_text: float | None = None
        self._num_choices = num_choices
        self._watch = watch
        self._mailbox = mailbox
        self._events: asyncio.Queue[Numbered | None] = asyncio.Queue()  # None: interrupted
        self._lock = threading.Lock()
        self._jobs: list[Job] = []
        self._is_cancelled = False
        self._is_abandoned = False

    def listener(self, first_choice: int) -> OnEvent:
        """What is to be called with the events of a job whose answers are numbered from there."""

        def on_event(event: Event) -> None:
            self._mailbox.put(self._receive, Numbered(first_choice + event.choice, event))

        return on_event

    def add_job(self, job: Job) -> None:
        """A job that makes some of the answers, to be cancelled with the others."""
        with self._lock:
            self._jobs.append(job)
            is_late = self._is_cancelled
        if is_late:
            job.cancel()

    def cancel(self) -> None:
        """Nobody wants the answers any more. Does nothing to those that have ended."""
        with self._lock:
            self._is_cancelled = True
            jobs = list(self._jobs)
        if self.num_left:
            for job in jobs:
                job.cancel()

    def interrupt(self) -> None:
        """Cancels, and ends the reading at once: an engine that compiles would take long to hear of it."""
        self.cancel()
        self._events.put_nowait(None)

    def abandon(self) -> int:
        """Cancels, and counts what has not ended; what may still happen to these is not watched."""
        self.cancel()
        self._is_abandoned = True
        return self.num_left

    async def batches(self, *, idle_seconds: float) -> AsyncIterator[list[Numbered]]:
        """What has happened since the last time, until every answer has ended; [] after so long without.

        Raises ApiError with 503 when it is interrupted.
        """
        num_unread = self._num_choices
        while num_unread:
            try:
                async with asyncio.timeout(idle_seconds):
                    news = [await self._events.get()]
            except TimeoutError:
                yield []
                continue
            while not self._events.empty():
                news.append(self._events.get_nowait())
            events = [numbered for numbered in news if numbered is not None]
            if len(events) < len(news):
                raise shutting_down()
            num_unread -= sum(isinstance(numbered.event, Ended) for numbered in events)
            yield events

    def _receive(self, numbered: Numbered) -> None:
        if self._is_abandoned:
            return
        if isinstance(numbered.event, Ended):
            self.num_left -= 1
        self._watch(self, numbered.event)
        self._events.put_nowait(numbered)
