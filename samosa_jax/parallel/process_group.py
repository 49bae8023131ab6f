"""The processes of a run as one of them sees them: what they tell each other, beside what the devices do.

Each holds a connection to process 0, served by a thread of its own, so that a process that is lost is
noticed while the main thread waits for a collective that will never come. The thread then says so and ends
this process: nothing else gets a main thread out of that wait.
"""

import asyncio
import os
import socket
import sys
import threading
import time
import traceback
from concurrent.futures import Future
from typing import Any, NoReturn

import jax

from samosa_jax.errors import UserError
from samosa_jax.parallel.hub import Hub
from samosa_jax.parallel.wire import (
    LINE_LIMIT,
    MEMBER,
    Message,
    encode,
    lost,
    receive,
    start_loop,
    start_relay,
)

GRACE_SECONDS = 2.0  # for the main thread to end by itself after news of a failure
FIRST_WAITS_SECONDS = 1.0  # longer, in the first process, for the others to be gone
NEWS_SECONDS = 5.0  # for news of a loss to come, when a collective has failed
FAREWELL_SECONDS = 10.0


class ProcessGroup:
    """One process on its own, which agrees with itself."""

    index = 0
    size = 1
    stop_signal: int | None = None

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and speaks for all."""
        return self.index == 0

    @property
    def name(self) -> str:
        return f"process {self.index}"

    def share(self, value: Any) -> list[Any]:
        """What every process has given, by process; they all call it, in the same order. Values are JSON."""
        return [value]

    def may_begin(self, step: int, *, wish: int | None) -> bool:
        """Whether the loop goes on, where `step` steps are done; `wish` is a signal that this process got.

        All processes stop after the same step, some steps after the wish; then `stop_signal` is that signal.
        Waits only while that step is being settled, and never for the devices.
        """
        self.stop_signal = wish
        return wish is None


class ConnectedGroup(ProcessGroup):
    """One of several processes, once it is connected to process 0. `distributed.joined` makes it."""

    def __init__(
        self, connection: socket.socket, *, index: int, size: int, heartbeat_timeout: float, hub: Hub | None
    ) -> None:
        """`hub` is process 0's. Its event loop, or a new one in other processes, serves the connection."""
        self.index = index
        self.size = size
        self._host = socket.gethostname()
        self._heartbeat_timeout = heartbeat_timeout
        self._hub = hub
        self._news = threading.Condition()  # guards what follows
        self._is_complete = False
        self._first = "process 0"
        self._shared: list[list[Any]] = []
        self._num_rounds = 0
        self._begun = 0  # steps
        self._hold = False  # no further step begins before it is known which is the last
        self._stop_after: int | None = None
        self._wish_told = False
        self._failure: Message | None = None
        self._has_left = False
        self._ending = threading.Lock()  # whoever has it ends the process
        self._loop = hub.loop if hub is not None else start_loop()
        self._writer: asyncio.StreamWriter = self._wait_for(self._open(connection))
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).add_done_callback(self._check)

    @property
    def name(self) -> str:
        return f"process {self.index} on {self._host}"

    @property
    def missing(self) -> list[int]:
        """The processes that have not come, which only process 0 knows."""
        return self._hub.missing if self._hub is not None else []

    def wait_until_complete(self, *, timeout: float | None) -> bool:
        """Whether all processes have come. Raises UserError if one was refused or lost meanwhile."""
        with self._news:
            self._news.wait_for(lambda: self._is_complete or self._failure, timeout)
            self._raise_failure()
            return self._is_complete

    def open_relay(self, coordinator: tuple[str, int]) -> int:
        """The port on this host by which JAX reaches its coordination service in process 0."""
        return self._wait_for(start_relay(coordinator))

    def share(self, value: Any) -> list[Any]:
        """See ProcessGroup. Raises UserError when another process has failed meanwhile."""
        return self._share(value, last=False)

    def may_begin(self, step: int, *, wish: int | None) -> bool:
        """See ProcessGroup. Raises UserError when another process has failed meanwhile."""
        with self._news:
            if wish is not None and not self._wish_told:
                self._wish_told = True
                self._send({"kind": "stop", "signal": int(wish)})
            self._begun = max(self._begun, step)
            self._news.wait_for(lambda: not self._hold or self._stop_after is not None or self._failure)
            self._raise_failure()
            if self._stop_after is not None and step >= self._stop_after:
                return False
            self._begun = step + 1
            return True

    def leave(self) -> None:
        """Waits until all are done with their work; from then on none is missed."""
        self._has_left = True
        self._share(None, last=True)

    def close(self) -> None:
        """After `leave`, and when JAX needs its coordination service no more."""
        self._loop.call_soon_threadsafe(self._writer.close)
        deadline = time.monotonic() + FAREWELL_SECONDS
        while self._hub is not None and self._hub.num_present and time.monotonic() < deadline:
            time.sleep(0.01)

    def end(self, error: BaseException, *, code: int) -> NoReturn:
        """Ends this process for an error of its main thread, and tells the others why.

        What another process has brought about is said in that one's words alone. JAX's own end would wait
        for all processes.
        """
        follows = isinstance(error, jax.errors.JaxRuntimeError)  # perhaps: a collective without the other
        with self._news:
            if follows:
                self._news.wait_for(lambda: self._failure, NEWS_SECONDS)
            if self._failure is not None:
                said, code = f"error: {self._failure['text']}", self._failure["code"]
            else:
                text = " ".join(str(error).split()) or type(error).__name__
                self._send({"kind": "failed", "text": text, "code": code})
                self._news.wait_for(lambda: self._failure, NEWS_SECONDS)  # it comes back when all are told
                is_told = isinstance(error, UserError)
                said = f"error: {text}" if is_told else "".join(traceback.format_exception(error)).rstrip()
        self._await_end_of_others()
        self._exit(said, code)

    def _await_end_of_others(self) -> None:
        """In the process that JAX's coordination service lives in: without it the others would abort."""
        deadline = time.monotonic() + GRACE_SECONDS + FIRST_WAITS_SECONDS
        while self._hub is not None and self._hub.num_present > 1 and time.monotonic() < deadline:
            time.sleep(0.01)

    def _share(self, value: Any, *, last: bool) -> list[Any]:
        with self._news:
            number, self._num_rounds = self._num_rounds, self._num_rounds + 1
            self._send({"kind": "share", "round": number, "value": value, "last": last})
            self._news.wait_for(lambda: len(self._shared) > number or self._failure)
            self._raise_failure()
            return self._shared[number]

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise UserError(self._failure["text"])

    def _send(self, message: Message) -> None:
        """From the main thread."""
        self._loop.call_soon_threadsafe(self._writer.write, encode(message))

    def _exit(self, said: str, code: int) -> NoReturn:
        self._ending.acquire()
        sys.stdout.flush()
        print(said, file=sys.stderr, flush=True)
        os._exit(code)

    def _wait_for(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def _check(self, listening: "Future[None]") -> None:
        """A mistake of ours in the thread must not leave the process without its ears."""
        error = listening.exception()
        if error is not None:
            self._exit("".join(traceback.format_exception(error)), 1)

    # What follows runs in the event loop.

    async def _open(self, connection: socket.socket) -> asyncio.StreamWriter:
        self._reader, writer = await asyncio.open_connection(sock=connection, limit=LINE_LIMIT)
        hello = {"kind": MEMBER, "process": self.index, "size": self.size, "host": self._host}
        writer.write(encode(hello))
        return writer

    async def _listen(self) -> None:
        beating = asyncio.create_task(self._beat())
        try:
            while True:
                message = await asyncio.wait_for(receive(self._reader), self._heartbeat_timeout)
                with self._news:
                    self._hear(message)
                    self._news.notify_all()
        except TimeoutError:
            self._lose_first(f"has not been heard of for {self._heartbeat_timeout:g} s")
        except ConnectionError:
            self._lose_first("has ended")
        finally:
            beating.cancel()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._heartbeat_timeout / 4)
            self._writer.write(encode({"kind": "alive"}))

    def _hear(self, message: Message) -> None:
        match message["kind"]:
            case "complete":
                self._first, self._is_complete = message["first"], True
            case "shared":
                self._shared.append(message["values"])
            case "hold":
                self._hold = True
                self._writer.write(encode({"kind": "begun", "steps": self._begun}))
            case "stop":
                self.stop_signal, self._stop_after = message["signal"], message["after"]
            case "failed":
                self._fail(message)

    def _lose_first(self, why: str) -> None:
        if self._has_left or self._failure is not None:
            return
        with self._news:
            self._fail(lost(f"{self._first} {why}"))
            self._news.notify_all()

    def _fail(self, failure: Message) -> None:
        self._failure = failure
        grace = GRACE_SECONDS + (0 if self._hub is None else FIRST_WAITS_SECONDS)
        self._loop.call_later(grace, self._exit, f"error: {failure['text']}", failure["code"])
