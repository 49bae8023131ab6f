"""Being told to stop: SIGTERM and Ctrl-C become a wish that the loop grants between two steps."""

import signal
from collections.abc import Callable
from types import FrameType, TracebackType

Handler = Callable[[int, FrameType | None], object] | int | None
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """While entered, the first SIGTERM or Ctrl-C only sets `signal`; a second Ctrl-C is a KeyboardInterrupt.

    Works in the main thread alone, as all signal handling in Python.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._previous: dict[signal.Signals, Handler] = {}

    def __enter__(self) -> "StopRequest":
        for number in STOP_SIGNALS:
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)


def exit_code(stop: signal.Signals) -> int:
    """What a shell reports for a process that this signal ended: 143 for SIGTERM, 130 for Ctrl-C."""
    return 128 + int(stop)
