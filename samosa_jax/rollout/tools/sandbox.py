"""Runs a Python program that nobody has read, in a process with next to no rights.

What holds it depends on the kernel: `protections` tries each thing a program should not be able to do and
says what came of it. On a recent Linux the program has no network, no files but an empty folder in memory and
the standard library, no further processes, and bounded time, memory, disk and output.
"""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import IO, Any

from samosa_jax.rollout.tools.registry import ToolContext
from samosa_jax.tasks.tool_schemas import PYTHON, PYTHON_SCHEMA

_CHILD = Path(__file__).with_name("sandbox_child.py")
_MIB = 1 << 20
_LAST_OUTPUT_S = 1.0  # to read what a program that is dead has left in its pipes


@dataclass(frozen=True, kw_only=True)
class SandboxLimits:
    """What a program may use. Raises ValueError unless all are above zero."""

    wall_seconds: float = 5.0
    cpu_seconds: int = 4
    memory_bytes: int = 512 * _MIB  # of address space
    file_bytes: int = 4 * _MIB  # each file
    disk_bytes: int = 16 * _MIB  # the working folder, where it can be one in memory
    threads: int = 16  # where the kernel gives a user namespace, in which they are counted alone
    open_files: int = 32
    output_bytes: int = 64 << 10  # of stdout and of stderr; what is more is dropped

    def __post_init__(self) -> None:
        for field in fields(self):
            if not getattr(self, field.name) > 0:
                raise ValueError(f"{field.name} is {getattr(self, field.name)}; expected more than zero")


DEFAULT_LIMITS = SandboxLimits()


@dataclass(frozen=True, kw_only=True)
class SandboxResult:
    """How a program ended.

    Attributes:
      exit_status: its own, or None where it was killed.
      stdout, stderr: with replacement characters for what is not UTF-8.
      is_truncated: whether it wrote more than is given here.
      timed_out: whether it was killed because the wall clock ran out.
      killed_by: "wall time", "cpu time" or the name of a signal; None where it ended by itself.
    """

    exit_status: int | None
    stdout: str
    stderr: str
    is_truncated: bool
    timed_out: bool
    killed_by: str | None


def run_python(code: str, *, stdin: str = "", limits: SandboxLimits = DEFAULT_LIMITS) -> SandboxResult:
    """Runs `code` as a program of its own, with `stdin` as all of its input.

    The working folder is empty and is removed afterwards, the environment is empty too. Whatever the program
    does is in the result; OSError is raised only if no process can be started. It takes some 50 ms more than
    the program itself.
    """
    with (
        # A program may leave files that cannot be removed; that is no error of who ran it.
        tempfile.TemporaryDirectory(prefix="sandbox-", ignore_cleanup_errors=True) as folder,
        tempfile.TemporaryFile() as request,
        tempfile.TemporaryFile() as given,
    ):
        request.write(json.dumps({"code": code, "limits": asdict(limits)}).encode())
        request.seek(0)
        given.write(stdin.encode("utf-8", "replace"))
        given.seek(0)
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", "-X", "utf8", str(_CHILD), str(request.fileno())],
            cwd=folder,
            env={},
            stdin=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=[request.fileno()],
            start_new_session=True,
        )
        return _watched(process, limits)


def _watched(process: subprocess.Popen[bytes], limits: SandboxLimits) -> SandboxResult:
    try:
        pipes = (process.stdout, process.stderr)
        outputs = [_LimitedReader(pipe, limits.output_bytes) for pipe in pipes if pipe]
        timed_out = not _ends_within(process, limits.wall_seconds)
    finally:
        _kill_group(process)
    stdout, stderr = (output.finish() for output in outputs)
    return SandboxResult(
        exit_status=process.returncode if process.returncode >= 0 else None,
        stdout=stdout,
        stderr=stderr,
        is_truncated=any(output.is_truncated for output in outputs),
        timed_out=timed_out,
        killed_by=_killed_by(process.returncode, timed_out),
    )


def _ends_within(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Waits for the end without taking the process id back, so that its group can still be killed by it."""
    if not hasattr(os, "pidfd_open"):
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True
    # Popen.wait would look every 50 ms, which is most of what a short program takes.
    process_file = os.pidfd_open(process.pid)
    try:
        poll = select.poll()
        poll.register(process_file, select.POLLIN)
        return bool(poll.poll(min(1000 * seconds, 2**31 - 1)))  # the longest it can wait
    finally:
        os.close(process_file)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """Ends the program and whatever it may have started and left behind."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # nothing was left
    finally:
        process.wait()


def _killed_by(return_code: int, timed_out: bool) -> str | None:
    if timed_out:
        return "wall time"
    if return_code >= 0:
        return None
    if -return_code == signal.SIGXCPU:
        return "cpu time"
    try:
        return signal.Signals(-return_code).name
    except ValueError:
        return f"signal {-return_code}"


class _LimitedReader:
    """Reads a pipe to its end in the background and keeps the beginning."""

    def __init__(self, pipe: IO[bytes], limit: int) -> None:
        self.is_truncated = False
        self._pipe = pipe
        self._limit = limit
        self._kept = bytearray()
        self._thread = threading.Thread(target=self._read, name="sandbox-output", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with self._pipe:
            while block := os.read(self._pipe.fileno(), 1 << 16):
                room = self._limit - len(self._kept)
                self._kept += block[:room]
                self.is_truncated |= len(block) > room

    def finish(self) -> str:
        """What was kept. Waits for the end, but not for one that a process out of reach keeps back."""
        self._thread.join(_LAST_OUTPUT_S)
        return bytes(self._kept).decode("utf-8", "replace")


class PythonTool:
    """The python tool, for a registry of who wants it: no registry has it by default."""

    name = PYTHON
    is_instant = False
    schema = PYTHON_SCHEMA

    def __init__(self, limits: SandboxLimits = DEFAULT_LIMITS) -> None:
        self._limits = limits

    def run(self, arguments: Mapping[str, Any], context: ToolContext) -> str:
        """What the program printed, its traceback if it failed, and what stopped it if something did."""
        # A little before the deadline, so that what was printed by then is not lost.
        seconds = min(self._limits.wall_seconds, max(0.1, 0.9 * context.seconds_left()))
        result = run_python(arguments["code"], limits=replace(self._limits, wall_seconds=seconds))
        parts = [result.stdout.rstrip("\n"), result.stderr.rstrip("\n")]
        if result.is_truncated:
            parts.append("[the output was longer]")
        if result.killed_by:
            parts.append(f"[the program was stopped: {result.killed_by}]")
        return "\n".join(filter(None, parts)) or "[the program printed nothing]"


@dataclass(frozen=True)
class Protection:
    """Something that a program in the sandbox should not be able to do, and what came of trying it."""

    name: str
    is_active: bool
    detail: str


# Each attempt is made in the sandbox: one that raises was stopped.
_ATTEMPTS: Mapping[str, str] = {
    "network": "socket.create_connection(('127.0.0.1', PORT), timeout=2)",
    "unix sockets": "socket.socket(socket.AF_UNIX).connect(SOCKET)",
    "datagrams to unix sockets": "socket.socketpair(type=socket.SOCK_DGRAM)[0].sendto(b'x', DATAGRAMS)",
    "reading other files": "open(FILE).read()",
    "reading /etc/passwd": "open('/etc/passwd').read()",
    "writing other files": "open(FILE, 'w')",
    "seeing other processes": "os.listdir(f'/proc/{os.getppid()}')",
    "signals to other processes": "os.kill(os.getppid(), 0)",
    "signals by way of files": "fcntl.fcntl(0, fcntl.F_SETOWN, os.getppid())",
    "new processes": "os.fork() or os._exit(0)",
    "new programs": "os.posix_spawn('/bin/true', ['true'], {})",
    "memory": "bytearray(LIMITS['memory_bytes'])",
    "size of a file": "open('large', 'wb', 0).truncate(LIMITS['file_bytes'] + 1)",
    "size of all files": (
        "[open(str(i), 'wb').write(bytes(LIMITS['file_bytes'] // 2))"
        " for i in range(2 * LIMITS['disk_bytes'] // LIMITS['file_bytes'] + 1)]"
    ),
    "open files": "[os.dup(0) for _ in range(LIMITS['open_files'])]",
    "environment": "os.environ['PATH']",
}
_ATTEMPT_ALL = """
import fcntl, json, os, socket
found = {}
for name, attempt in ATTEMPTS.items():
    try:
        eval(attempt)
        found[name] = None
    except (OSError, MemoryError, KeyError) as error:
        found[name] = f"{type(error).__name__}: {error}".strip(": ")
print(json.dumps(found))
"""


def protections() -> tuple[Protection, ...]:
    """What holds a program here, found by trying to get out in each of these ways; takes some two seconds.

    Raises OSError if no process can be started, RuntimeError if the attempts themselves fail.
    """
    limits = SandboxLimits(wall_seconds=20.0, file_bytes=_MIB, disk_bytes=4 * _MIB)
    with (
        tempfile.TemporaryDirectory(prefix="outside-") as folder,
        socket.create_server(("127.0.0.1", 0)) as tcp,
    ):
        file = Path(folder, "file")
        file.write_text("secret")
        with (
            socket.socket(socket.AF_UNIX) as streams,
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams,
        ):
            streams.bind(str(Path(folder, "socket")))
            streams.listen()
            datagrams.bind(str(Path(folder, "datagrams")))
            names = {
                "PORT": tcp.getsockname()[1],
                "FILE": str(file),
                "SOCKET": str(Path(folder, "socket")),
                "DATAGRAMS": str(Path(folder, "datagrams")),
                "LIMITS": asdict(limits),
                "ATTEMPTS": _ATTEMPTS,
            }
            values = "".join(f"{name} = {value!r}\n" for name, value in names.items())
            attempts = run_python(values + _ATTEMPT_ALL, limits=limits)
    if attempts.exit_status != 0:
        raise RuntimeError(f"the attempts did not come to an end: {attempts}")
    stopped: Mapping[str, str | None] = json.loads(attempts.stdout)
    found = [
        Protection(
            name, reason is not None, f"refused ({reason})" if reason else "NOT PROTECTED: it succeeded"
        )
        for name, reason in stopped.items()
    ]
    cpu = run_python("while True: pass", limits=replace(limits, cpu_seconds=1))
    wall = run_python("import time; time.sleep(20)", limits=replace(limits, wall_seconds=0.5))
    for name, ended, wanted in (("cpu time", cpu, "cpu time"), ("wall time", wall, "wall time")):
        found.append(
            Protection(name, ended.killed_by == wanted, f"ended by {ended.killed_by or 'the program itself'}")
        )
    return tuple(found)
