"""A server from its first moment to its last: it listens, gets ready, answers, drains, and is gone."""

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI

from samosa_jax.errors import UserError
from samosa_jax.server.service import Service

BACKLOG = 2048  # connections that wait to be accepted
LAST_BYTES_SECONDS = 5  # for clients to read the end of their answers

_log = logging.getLogger(__name__)


def open_socket(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes a free one. Raises UserError if it cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
        # Connections inherit it. Otherwise the end of a short answer waits 40 ms for its beginning to be
        # acknowledged: asyncio sees to that only for sockets of its own making.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except OSError as error:
        # Python adds the address to what the system says; errors of names have numbers below zero.
        why = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error.strerror)
        raise UserError(
            f"cannot listen on {host}, port {port}: {why.lower()}; choose others with --host and --port"
        ) from error


class _Server(uvicorn.Server):
    """Tells of signals instead of ending by itself."""

    def __init__(self, config: uvicorn.Config, *, on_signal: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_signal = on_signal

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        _log.info("told to stop by %s", signal.Signals(sig).name)
        self._on_signal()


class Running:
    """One server in one event loop.

    Args:
        drain_seconds: that running answers are given to end once the server is told to stop.
        on_ready: called when requests are answered.
    """

    def __init__(
        self,
        app: FastAPI,
        service: Service,
        *,
        drain_seconds: float,
        on_ready: Callable[[], None] = lambda: None,
    ) -> None:
        self._service = service
        self._drain_seconds = drain_seconds
        self._on_ready = on_ready
        self._times_told = 0
        self._told = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        config = uvicorn.Config(
            app,
            lifespan="off",
            log_config=None,
            server_header=False,
            ws="none",
            timeout_graceful_shutdown=LAST_BYTES_SECONDS,
        )
        self._server = _Server(config, on_signal=self.stop)

    def stop(self) -> None:
        """Drains and ends the server; a second time, ends it at once. From any thread or signal handler."""
        self._loop.call_soon_threadsafe(self._tell)

    async def serve(self, listener: socket.socket) -> bool:
        """Until it is told to stop; whether it ever was ready. If not, a thread may still be compiling.

        /health answers 503 from the start, and 200 when the service is ready. Raises what starting the
        service raises.
        """
        serving = asyncio.create_task(self._server.serve(sockets=[listener]))
        starting = asyncio.create_task(self._service.start())
        told = asyncio.create_task(self._told.wait())
        try:
            await asyncio.wait((serving, starting, told), return_when=asyncio.FIRST_COMPLETED)
            is_ready = starting.done()
            if is_ready:
                starting.result()
                self._on_ready()
                await asyncio.wait((serving, told), return_when=asyncio.FIRST_COMPLETED)
                await self._service.drain(self._drain_seconds)
        finally:
            self._server.should_exit = True
            for task in (starting, told):
                task.cancel()
            await serving
            await self._service.stop()
        return is_ready

    def _tell(self) -> None:
        self._times_told += 1
        self._told.set()
        if self._times_told > 1:
            self._service.hurry()
            self._server.force_exit = True
