"""Answers as server-sent events, and answers that wait for their end; a client that hangs up ends either."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from samosa_jax.rollout.events import Ended
from samosa_jax.server.api_errors import ApiError, failed, shutting_down, to_json_bytes
from samosa_jax.server.responses import dump
from samosa_jax.server.running_answer import Numbered, RunningAnswer

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": still at work\n\n"  # a comment, which clients ignore and proxies see

_log = logging.getLogger(__name__)


class HungUpError(Exception):
    """Nobody is there any more to be answered."""


class EventStream(StreamingResponse):
    """The chunks that events become, as they happen. However it ends, nothing runs on.

    Args:
        chunks: those of one event.
        last: a chunk for the end of an answer in which nothing failed, or None.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        answer: RunningAnswer,
        *,
        chunks: Callable[[Numbered], Iterable[BaseModel]],
        last: Callable[[], BaseModel | None],
        keep_alive_seconds: float,
    ) -> None:
        self._answer = answer
        self._chunks = chunks
        self._last = last
        self._keep_alive_seconds = keep_alive_seconds
        # Proxies such as nginx would collect the answer and send it whole.
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(self._events(), headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._answer.cancel()

    async def _events(self) -> AsyncIterator[bytes]:
        try:
            async for events in self._answer.batches(idle_seconds=self._keep_alive_seconds):
                yield b"".join(self._as_sent(numbered) for numbered in events) or KEEP_ALIVE
            last = self._last()
            yield (b"" if last is None else _sent(dump(last))) + DONE
        except ApiError as error:
            yield _sent(error.body()) + DONE
        except Exception:
            _log.exception("an answer could not be streamed")
            yield _sent(failed().body()) + DONE

    def _as_sent(self, numbered: Numbered) -> bytes:
        check_ending(numbered)
        return b"".join(_sent(dump(chunk)) for chunk in self._chunks(numbered))


async def read_to_end(request: Request, answer: RunningAnswer, *, read: Callable[[Numbered], None]) -> None:
    """Gives every event to `read` until all answers have ended.

    Raises:
        HungUpError: the client went away; the answers are cancelled.
        ApiError: one of them failed; the others are cancelled.
    """

    async def read_all() -> None:
        async for events in answer.batches(idle_seconds=60):
            for numbered in events:
                check_ending(numbered)
                read(numbered)

    reading = asyncio.create_task(read_all())
    leaving = asyncio.create_task(_disconnect(request))
    try:
        await asyncio.wait((reading, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not reading.done():
            raise HungUpError
        await reading
    finally:
        answer.cancel()
        reading.cancel()
        leaving.cancel()


def check_ending(numbered: Numbered) -> None:
    """Raises ApiError for an answer that came to no good end."""
    if isinstance(numbered.event, Ended):
        if numbered.event.reason == "error":
            raise failed()
        if numbered.event.reason == "cancelled":
            raise shutting_down()


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _sent(content: object) -> bytes:
    return b"data: " + to_json_bytes(content) + b"\n\n"
