"""Where the processes of a run meet: runs in process 0, and hands on what each has to say to all.

It collects what `ProcessGroup.share` gives, settles the step after which all stop, and tells all of a
process that is lost: its connection has ended without a farewell, or nothing came for too long.
"""

import asyncio
import socket
from dataclasses import dataclass
from typing import Any

from samosa_jax.parallel.wire import (
    LINE_LIMIT,
    MEMBER,
    RELAY,
    Message,
    encode,
    lost,
    receive,
    relay_to_service,
    start_loop,
)

HELLO_SECONDS = 10.0


@dataclass
class _Member:
    index: int
    host: str
    writer: asyncio.StreamWriter

    @property
    def name(self) -> str:
        return f"process {self.index} on {self.host}"


class Hub:
    """All of it in one event loop, in a thread of its own."""

    def __init__(
        self, server: socket.socket, *, size: int, service_port: int, heartbeat_timeout: float
    ) -> None:
        """`server` listens already. `service_port` is that of JAX's coordination service on this host."""
        self.loop = start_loop()
        self._size = size
        self._service_port = service_port
        self._heartbeat_timeout = heartbeat_timeout
        self._members: dict[int, _Member] = {}
        self._rounds: dict[int, dict[int, Any]] = {}
        self._begun: dict[int, int] = {}
        self._stop_signal: int | None = None
        self._failure: Message | None = None
        self._all_leave = False
        asyncio.run_coroutine_threadsafe(self._start(server), self.loop).result()

    @property
    def missing(self) -> list[int]:
        """The processes that have not come."""
        return [index for index in range(self._size) if index not in self._members]

    @property
    def num_present(self) -> int:
        """The processes whose connection is open."""
        return sum(not member.writer.is_closing() for member in self._members.values())

    async def _start(self, server: socket.socket) -> None:
        await asyncio.start_server(self._accept, sock=server, limit=LINE_LIMIT)
        self._beating = asyncio.create_task(self._beat())

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves one connection to its end; one that is no process of this run is closed."""
        try:
            hello = await asyncio.wait_for(receive(reader), HELLO_SECONDS)
            if hello["kind"] == RELAY:
                await relay_to_service(reader, writer, self._service_port)
            elif hello["kind"] == MEMBER:
                await self._serve(hello, reader, writer)
        except (OSError, TimeoutError, KeyError):
            return  # a stranger, or a relay whose process has ended; members are dealt with in _serve
        finally:
            writer.close()

    async def _beat(self) -> None:
        """Keeps telling all that this process lives."""
        while True:
            await asyncio.sleep(self._heartbeat_timeout / 4)
            self._tell_all({"kind": "alive"})

    async def _serve(
        self, hello: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        refusal = self._refusal(hello)
        if refusal is not None:
            writer.write(encode(refusal))
            await writer.drain()
            return
        member = _Member(index=hello["process"], host=hello["host"], writer=writer)
        self._members[member.index] = member
        if not self.missing:
            self._tell_all({"kind": "complete", "first": self._members[0].name})
        try:
            while True:
                message = await asyncio.wait_for(receive(reader), self._heartbeat_timeout)
                self._hear(member, message)
        except TimeoutError:
            self._lose(member, f"has not been heard of for {self._heartbeat_timeout:g} s")
        except ConnectionError:
            self._lose(member, "has ended")

    def _refusal(self, hello: Message) -> Message | None:
        index, size = hello["process"], hello["size"]
        if self._failure is not None:
            return self._failure
        if size != self._size:
            text = (
                f"process {index} on {hello['host']} was started as one of {size}, process 0 as one of "
                f"{self._size}; give all the same distributed.num_processes"
            )
        elif index in self._members:
            text = (
                f"{self._members[index].name} is there already, and another on {hello['host']} has the same "
                "number; give each a distributed.process_id of its own"
            )
        else:
            return None
        return {"kind": "failed", "text": text, "code": 2}

    def _hear(self, member: _Member, message: Message) -> None:
        match message["kind"]:
            case "alive":
                pass
            case "share":
                values = self._rounds.setdefault(message["round"], {})
                values[member.index] = message["value"]
                if len(values) == self._size:
                    del self._rounds[message["round"]]
                    self._all_leave = message["last"]
                    in_order = [values[index] for index in range(self._size)]
                    self._tell_all({"kind": "shared", "values": in_order})
            case "stop":
                if self._stop_signal is None:
                    self._stop_signal = message["signal"]
                    self._tell_all({"kind": "hold"})
            case "begun":
                self._begun[member.index] = message["steps"]
                if len(self._begun) == self._size:
                    stop = {"after": max(self._begun.values()), "signal": self._stop_signal}
                    self._tell_all({"kind": "stop", **stop})
            case "failed":
                text = f"{member.name} has stopped: {message['text']}"
                self._fail({"kind": "failed", "text": text, "code": message["code"]})

    def _lose(self, member: _Member, why: str) -> None:
        if not self._all_leave:
            self._fail(lost(f"{member.name} {why}"))

    def _fail(self, failure: Message) -> None:
        """The first failure is told to all, and to whoever comes late; what follows from it is not."""
        if self._failure is None:
            self._failure = failure
            self._tell_all(failure)

    def _tell_all(self, message: Message) -> None:
        line = encode(message)
        for member in self._members.values():
            if not member.writer.is_closing():
                member.writer.write(line)
