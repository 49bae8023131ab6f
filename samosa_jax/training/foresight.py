"""What was predicted of a run, held against what its first steps show."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from samosa_jax.training.run_folder import write_json

GIB = 2**30
SETTLED_STEPS = 10  # timed ones: the first of a process compiles and is not


@dataclass(frozen=True, kw_only=True)
class Foresight:
    """What was predicted.

    Attributes:
        peak_bytes: of one device, while it trains; by the closed model of `planning.memory`.
        tokens_per_sec: of all devices; None where nobody predicts it.
        mfu: that this supposes.
        measures_device: whether the device reports its memory; else only the whole process is known.
    """

    peak_bytes: int
    tokens_per_sec: float | None
    mfu: float | None
    measures_device: bool


class Reckoning:
    """Called once, when the first steps are done: says both numbers and keeps them in a file."""

    def __init__(self, foresight: Foresight, *, path: Path, say: Callable[[str], None]) -> None:
        self._foresight = foresight
        self._path = path
        self._say = say

    def settle(self, *, step: int, tokens_per_sec: float, peak_bytes: int) -> None:
        """`peak_bytes` as `environment.peak_bytes` gives them."""
        seen = self._foresight
        predicted = {
            "device_peak_bytes": seen.peak_bytes,
            "tokens_per_sec": seen.tokens_per_sec,
            "mfu": seen.mfu,
        }
        measured: dict[str, float | int | None] = {"tokens_per_sec": tokens_per_sec}
        measured["device_peak_bytes" if seen.measures_device else "process_peak_bytes"] = peak_bytes
        self._say(self._memory(peak_bytes))
        self._say(self._pace(tokens_per_sec))
        try:
            write_json(self._path, {"step": step, "predicted": predicted, "measured": measured})
        except OSError as error:
            self._say(f"WARNING: {self._path} cannot be written ({error.strerror})")

    def _memory(self, peak_bytes: int) -> str:
        predicted, actual = self._foresight.peak_bytes / GIB, peak_bytes / GIB
        if not self._foresight.measures_device:
            return (
                f"memory: predicted {predicted:.2f} GiB of arrays per device; the process has taken "
                f"{actual:.2f} GiB with all its devices, program, compiler and data, which is no comparison"
            )
        return (
            f"memory: predicted {predicted:.2f} GiB per device, measured {actual:.2f} GiB "
            f"({actual / predicted - 1:+.1%})"
        )

    def _pace(self, tokens_per_sec: float) -> str:
        predicted = self._foresight.tokens_per_sec
        if predicted is None:
            return f"pace: {tokens_per_sec:,.0f} tokens/s; none was predicted for this device"
        return (
            f"pace: predicted {predicted:,.0f} tokens/s at {self._foresight.mfu:.0%} MFU, measured "
            f"{tokens_per_sec:,.0f} ({tokens_per_sec / predicted - 1:+.1%})"
        )
