"""Lines of JSON between the processes of a run, and the relay of JAX's own coordination service.

The service is reached through the same port, by a relay that does not tell JAX when process 0 is gone: JAX
would end this process at once, by a failed check in C++ that nobody can catch. The run's own connection
(`process_group`) notices it as soon, and speaks of it.
"""

import asyncio
import json
import threading
from collections.abc import Mapping
from typing import Any

LINE_LIMIT = 1 << 24  # bytes of one message
CHUNK = 1 << 16
RETRY_SECONDS = 0.1

LOST_EXIT = 75  # EX_TEMPFAIL of sysexits.h: the same command may well succeed
MEMBER, RELAY = "member", "relay"  # what a connection is for, in its first line

Message = Mapping[str, Any]


def lost(what: str) -> Message:
    """The failure of a process that is gone without a word."""
    text = f"{what}, so this one stops too; the same command goes on from the newest whole checkpoint"
    return {"kind": "failed", "text": text, "code": LOST_EXIT}


def start_loop() -> asyncio.AbstractEventLoop:
    """An event loop in a thread that lasts as long as the process."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="process group", daemon=True).start()
    return loop


def encode(message: Message) -> bytes:
    return json.dumps(message).encode() + b"\n"


async def receive(reader: asyncio.StreamReader) -> dict[str, Any]:
    """The next message. Raises ConnectionError where there is none any more, or it is not one of ours."""
    try:
        line = await reader.readline()
    except ValueError as error:  # longer than LINE_LIMIT
        raise ConnectionError("a message is too long") from error
    if not line.endswith(b"\n"):
        raise ConnectionError("the connection ended")
    try:
        message = json.loads(line)
    except ValueError as error:
        raise ConnectionError("what was sent is not JSON") from error
    if not isinstance(message, dict) or "kind" not in message:
        raise ConnectionError("what was sent is no message")
    return message


async def start_relay(coordinator: tuple[str, int]) -> int:
    """Hands on to the coordination service what comes to a port of this host alone, which is returned."""

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(*coordinator)
            far_writer.write(encode({"kind": RELAY}))
            outward = asyncio.create_task(copy(reader, far_writer))
            await copy(far_reader, writer, close=False)
            await outward  # until this process itself hangs up
        except OSError:
            return  # process 0 is gone: the run's own connection says so
        finally:
            writer.close()

    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    return server.sockets[0].getsockname()[1]


async def relay_to_service(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
    """The other end, in process 0; the service may not listen yet."""
    while True:
        try:
            near_reader, near_writer = await asyncio.open_connection("127.0.0.1", port)
            break
        except ConnectionRefusedError:
            await asyncio.sleep(RETRY_SECONDS)
    await asyncio.gather(copy(reader, near_writer), copy(near_reader, writer))


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, close: bool = True) -> None:
    """Until the sender has ended; a connection that breaks ends too."""
    try:
        while chunk := await reader.read(CHUNK):
            writer.write(chunk)
            await writer.drain()
    except ConnectionError:
        pass  # as good as its end: both sides are told by `close`
    if close:
        writer.close()
