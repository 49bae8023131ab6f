"""What becomes of a step's numbers: read from the device one step late, timed, written, shown, judged."""

import statistics
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

from samosa_jax.training.display import Display, Progress, format_seconds
from samosa_jax.training.environment import peak_bytes
from samosa_jax.training.foresight import SETTLED_STEPS, Reckoning
from samosa_jax.training.metrics import Writer
from samosa_jax.training.step import StepMetrics

SPIKE_FACTOR = 3.0
SPIKE_SECONDS = 0.1  # a shorter excess is no news
SPIKE_WINDOW = 50
SPIKE_MIN_STEPS = 10
MAX_DUMPS = 20


@dataclass(frozen=True, kw_only=True)
class StepInput:
    """What a step trains on, and what the host knows of it.

    Attributes:
        batch: numpy arrays in a NamedTuple, or in further ones.
        metrics: of the step, as `metrics.METRICS` names them, beside those that the device measures.
        num_tokens: that it trains on; None: as many as every step.
        total_tokens: with those of all steps before; None: as many for each of them.
        making_seconds: spent on making it of the parameters before it, which is part of the step; None: it
            was read, and the loop had to wait for it.
    """

    batch: Any
    metrics: Mapping[str, float] = field(default_factory=dict)
    num_tokens: int | None = None
    total_tokens: int | None = None
    making_seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class DispatchedStep:
    """A step that the devices work on, its numbers not yet read."""

    step: int  # counts from 1
    input: StepInput
    metrics: StepMetrics  # device scalars
    compiled: float | None  # seconds of the dispatch if it may have compiled: the first of the process
    was_saving: bool  # a checkpoint was being written meanwhile


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What turns step times into rates."""

    tokens_per_step: int
    flops_per_token: float
    peak_flops: float | None  # of all devices together; None: unknown


class StepReporter:
    """Reads steps in order. `bad_in_a_row` counts the non-finite ones up to now."""

    def __init__(
        self,
        *,
        num_steps: int,
        speed: Speed,
        writers: Sequence[Writer],
        display: Display,
        dump_folder: Path | None,
        reckoning: Reckoning | None = None,
    ) -> None:
        """`dump_folder` receives the batch of every non-finite step; None: none is kept. `reckoning` is asked
        once, after the first steps.
        """
        self._reckoning = reckoning
        self.bad_in_a_row = 0
        self._num_dumps = 0
        self._num_steps = num_steps
        self._speed = speed
        self._writers = writers
        self._display = display
        self._dump_folder = dump_folder
        self._recent: deque[float] = deque(maxlen=SPIKE_WINDOW)  # seconds of steps
        self._recent_tokens: deque[int] = deque(maxlen=SPIKE_WINDOW)
        self._mark = time.perf_counter()
        self._data_wait = 0.0

    def note_data_wait(self, seconds: float) -> None:
        """The loop has waited for a batch. It counts for the step whose numbers are read next."""
        self._data_wait += seconds

    @contextmanager
    def away(self) -> Iterator[None]:
        """Time in here (saving, evaluating) belongs to no step."""
        yield
        self._mark = time.perf_counter()

    def read(self, done: DispatchedStep) -> None:
        """Waits for the numbers of a step; call it after the next one is dispatched."""
        metrics = jax.device_get(done.metrics)
        now = time.perf_counter()
        seconds, self._mark = now - self._mark, now
        data_wait, self._data_wait = self._data_wait, 0.0
        timed = done.compiled is None
        given = done.input
        num_tokens = self._speed.tokens_per_step if given.num_tokens is None else given.num_tokens
        if timed:
            if given.making_seconds is None:
                self._name_spike(done, seconds, data_wait=data_wait)
            self._recent.append(seconds)
            self._recent_tokens.append(num_tokens)
        tokens_per_sec = num_tokens / seconds if timed else None
        mfu = self._mfu(tokens_per_sec)
        loss, lr, peak = float(metrics.loss), float(metrics.lr), peak_bytes()
        values = {
            "train/loss": loss,
            **{_full_name(name): float(value) for name, value in metrics.extra.items()},
            "train/lr": lr,
            "train/grad_norm": float(metrics.grad_norm),
            "train/tokens": (
                done.step * self._speed.tokens_per_step if given.total_tokens is None else given.total_tokens
            ),
            "train/supervised_tokens": float(metrics.tokens),
            "train/skipped": int(metrics.skipped),
            "perf/step_ms": seconds * 1e3,
            "perf/data_wait_ms": data_wait * 1e3,
            "perf/peak_bytes": peak,
            **given.metrics,
        }
        if given.making_seconds is not None:
            values["perf/train_ms"] = (seconds - given.making_seconds) * 1e3
        if tokens_per_sec is not None:
            values["perf/tokens_per_sec"] = tokens_per_sec
        if mfu is not None:
            values["perf/mfu"] = mfu
        for writer in self._writers:
            writer.write(done.step, values)
        if done.compiled is not None:
            self._display.say(f"step {done.step} compiled and dispatched in {format_seconds(done.compiled)}")
        rate = self._rate()
        if self._reckoning is not None and timed and rate and len(self._recent) == SETTLED_STEPS:
            self._reckoning.settle(step=done.step, tokens_per_sec=rate, peak_bytes=peak)
        self.bad_in_a_row = int(metrics.bad_steps)
        if metrics.skipped:
            self._tell_bad(done, loss=loss, grad_norm=float(metrics.grad_norm))
        self._display.progress(
            Progress(
                step=done.step,
                num_steps=self._num_steps,
                loss=loss,
                lr=lr,
                tokens_per_sec=rate,
                mfu=self._mfu(rate),
                seconds_left=self._seconds_left(done.step),
                peak_bytes=peak,
            )
        )

    def _rate(self) -> float | None:
        """Tokens per second over the recent steps: one step's time hangs on when it was read."""
        return sum(self._recent_tokens) / sum(self._recent) if self._recent else None

    def _mfu(self, tokens_per_sec: float | None) -> float | None:
        if tokens_per_sec is None or self._speed.peak_flops is None:
            return None
        return tokens_per_sec * self._speed.flops_per_token / self._speed.peak_flops

    def _seconds_left(self, step: int) -> float | None:
        return statistics.fmean(self._recent) * (self._num_steps - step) if self._recent else None

    def _name_spike(self, done: DispatchedStep, seconds: float, *, data_wait: float) -> None:
        if len(self._recent) < SPIKE_MIN_STEPS:
            return
        usual = statistics.median(self._recent)
        if seconds < SPIKE_FACTOR * usual or seconds < usual + SPIKE_SECONDS:
            return
        if data_wait > (seconds - usual) / 2:
            cause = f"the loop waited {data_wait:.2f} s for data"
        elif done.was_saving:
            cause = "a checkpoint was being written"
        else:
            cause = "neither data nor a checkpoint held it up: other work on this machine, or throttling"
        self._display.say(
            f"step {done.step} took {seconds:.2f} s, {seconds / usual:.0f} times the usual {usual:.2f} s: "
            f"{cause}"
        )

    def _tell_bad(self, done: DispatchedStep, *, loss: float, grad_norm: float) -> None:
        kept = ""
        if self._dump_folder is not None and self._num_dumps < MAX_DUMPS:
            self._num_dumps += 1
            path = self._dump_folder / f"{done.step:08d}.npz"
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                arrays: dict[str, Any] = {
                    ".".join(place): array for place, array in _arrays(done.input.batch)
                }
                np.savez_compressed(path, step=done.step, loss=loss, grad_norm=grad_norm, **arrays)
                kept = f"; its batch is kept in {path}"
            except OSError as error:
                kept = f"; its batch could not be kept ({error.strerror})"
        self._display.say(
            f"step {done.step} is not finite (loss {loss}, gradient norm {grad_norm}) and was skipped, "
            f"{self.bad_in_a_row} in a row{kept}"
        )


def _full_name(name: str) -> str:
    """Metrics of a loss function belong to training, unless their name says where."""
    return name if "/" in name else f"train/{name}"


def _arrays(batch: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], np.ndarray]]:
    """(names on the way, array) of everything in a batch."""
    for name, value in batch._asdict().items():
        if isinstance(value, np.ndarray):
            yield (*place, name), value
        elif value is not None:
            yield from _arrays(value, (*place, name))
