"""What a user types: lines, with editing, completion and a history that outlives the program; and Ctrl-C."""

import contextlib
import os
import signal
import sys
import termios
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

try:
    import readline
except ImportError:  # some builds of Python have none; lines can be typed all the same
    readline = None

HISTORY_LINES = 1_000
_BEGIN_INVISIBLE, _END_INVISIBLE = "\x01", "\x02"  # readline does not count what stands between


def default_history() -> Path:
    home = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    return home / "samosa_jax" / "chat_history"


class LineReader:
    """Reads lines from the terminal, or from whatever standard input is."""

    def __init__(self, *, words: Sequence[str] = (), history: Path | None = None) -> None:
        """`words` are completed at the beginning of a line, names of files behind; None keeps no history."""
        self._is_terminal = sys.stdin.isatty() and sys.stdout.isatty()
        self._words = words
        self._history = history
        if self._is_terminal and readline is not None:
            self._set_up(readline)

    def read(self, prompt: str, *, colour: str = "\x1b[1;36m") -> str:
        """The next line, without its end. Raises EOFError after the last, KeyboardInterrupt for Ctrl-C."""
        if self._is_terminal:
            on, off = (f"{_BEGIN_INVISIBLE}{code}{_END_INVISIBLE}" for code in (colour, "\x1b[0m"))
            line = input(f"{on}{prompt}{off}")
        else:
            line = sys.stdin.readline()
            if not line:
                raise EOFError
        return line.rstrip("\n")

    def close(self) -> None:
        """Writes the history, for its owner's eyes only; a place that cannot be written is no loss."""
        if self._history is None or not self._is_terminal or readline is None:
            return
        try:
            self._history.parent.mkdir(parents=True, exist_ok=True)
            self._history.touch(mode=0o600)
            readline.set_history_length(HISTORY_LINES)
            readline.write_history_file(self._history)
        except OSError as error:
            print(f"the history of inputs was not kept: {error.strerror}", file=sys.stderr)

    def _set_up(self, editor) -> None:
        editor.set_completer_delims(" ")
        editor.set_completer(self._complete)
        editor.parse_and_bind("tab: complete")
        editor.parse_and_bind("set enable-bracketed-paste on")
        if self._history is not None:
            # None of earlier programs, or one that cannot be read, is no loss either.
            with contextlib.suppress(OSError):
                editor.read_history_file(self._history)

    def _complete(self, text: str, number: int) -> str | None:
        assert readline is not None
        if readline.get_begidx() == 0:
            found = [word for word in self._words if word.startswith(text)]
        else:
            before = Path(text)
            folder = before if text.endswith("/") or not text else before.parent
            names = sorted(folder.glob("*")) if folder.is_dir() else []
            found = [f"{name}/" if name.is_dir() else str(name) for name in names]
            found = [name for name in found if name.startswith(text)]
        return found[number] if number < len(found) else None


@contextlib.contextmanager
def silent_keyboard() -> Iterator[None]:
    """What is typed meanwhile is kept for the next line, and not shown in the middle of an answer."""
    if not sys.stdin.isatty():
        yield
        return
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    quiet = termios.tcgetattr(terminal)
    quiet[3] &= ~termios.ECHO
    termios.tcsetattr(terminal, termios.TCSADRAIN, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


@contextlib.contextmanager
def on_signal(number: signal.Signals, handle: Callable[[], None]) -> Iterator[None]:
    """What a signal does meanwhile."""
    before = signal.signal(number, lambda *_: handle())
    try:
        yield
    finally:
        signal.signal(number, before)
