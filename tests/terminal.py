"""A program on a terminal that is none: what it writes is drawn on a screen in memory, and keys reach it."""

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import pyte

SECONDS = 200.0  # that anything may take, compiling included


class Terminal:
    """Runs a program on a pseudo-terminal until it ends, or until the `with` does."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        columns: int = 80,
        rows: int = 40,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self._screen = pyte.HistoryScreen(columns, rows, history=10_000)
        self._stream = pyte.ByteStream(self._screen)
        self.written = b""
        self.status: int | None = None  # of the program, once it has ended
        self._terminal, theirs = pty.openpty()
        self.resize(columns, rows)
        environment = {**os.environ, **(env or {}), "TERM": "xterm-256color"}
        for name in ("COLUMNS", "LINES", "NO_COLOR"):
            environment.pop(name, None)
        # The first terminal that the leader of a session opens is the one that Ctrl-C reaches it by.
        self._program = subprocess.Popen(
            ["sh", "-c", 'exec "$@" <"$0" >"$0" 2>&1', os.ttyname(theirs), *argv],
            start_new_session=True,
            env=environment,
            cwd=cwd,
        )
        self._theirs: int | None = theirs  # open until the program has opened it, or reading would end

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._program.kill()
        self._program.wait()
        if self._theirs is not None:
            os.close(self._theirs)
        os.close(self._terminal)

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self._screen.resize(rows, columns)

    def send(self, keys: str) -> None:
        os.write(self._terminal, keys.encode())

    @property
    def lines(self) -> list[str]:
        """What the screen shows and what has scrolled out of it, without empty lines at the end."""
        past = [
            "".join(line[column].data for column in range(self._screen.columns)).rstrip()
            for line in self._screen.history.top
        ]
        shown = [line.rstrip() for line in self._screen.display]
        while shown and not shown[-1]:
            shown.pop()
        return past + shown

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def wait_for(self, shown: str, *, times: int = 1) -> None:
        """Returns when the text stands so many times on the screen or above it."""
        self.wait_until(lambda: self.text.count(shown) >= times, f"{shown!r} {times} times")

    def wait_until(self, is_so: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + SECONDS
        while not is_so():
            left = deadline - time.monotonic()
            assert left > 0, f"no {what} within {SECONDS} s on\n{self.text}"
            assert self._read(min(left, 0.2)), f"ended without {what} on\n{self.text}"

    def wait_end(self) -> int:
        """The exit status."""
        deadline = time.monotonic() + SECONDS
        while self._read(0.2):
            assert time.monotonic() < deadline, f"still runs:\n{self.text}"
        assert self.status is not None
        return self.status

    def _read(self, seconds: float) -> bool:
        """Draws what comes within that time; False once the program has ended."""
        if self.status is not None:
            return False
        ready, _, _ = select.select([self._terminal], [], [], seconds)
        if not ready:
            if self._theirs is not None and self._program.poll() is not None:  # it never wrote anything
                self.status = self._program.returncode
            return self.status is None
        try:
            data = os.read(self._terminal, 1 << 16)
        except OSError:  # Linux says so when the last process has closed the terminal
            data = b""
        if self._theirs is not None:
            os.close(self._theirs)
            self._theirs = None
        self.written += data
        self._stream.feed(data)
        if not data:
            self.status = self._program.wait()
        return bool(data)
