"""Timing candidates against each other on a machine that may be busy: one sample of each, in rounds."""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

PEAK_SIZE = 2048  # of the square matrices whose product shows what a CPU can do
SAMPLE_SECONDS = 0.02  # a sample repeats shorter calls until it has taken this long
GIB = 2**30


class CannotRunError(Exception):
    """Why a candidate does not take part."""


class Prepared(NamedTuple):
    """A candidate, compiled."""

    run: Callable[[int], object]  # so many calls, each after the one before; returns when the last is done
    temp_bytes: int | None  # what it sets aside beside arguments and results; None where nobody knows
    steps: int = 1  # of the measured work in a call


class Candidate(NamedTuple):
    impl: str
    prepare: Callable[[], Prepared]  # raises CannotRunError, or ValueError as the kernels do
    is_auto: bool = False  # what impl="auto" would have chosen here


class Comparison(NamedTuple):
    """Candidates that do the same work."""

    labels: dict[str, str | int]
    flops: int  # of the work itself: whatever a mask hides is not counted
    moved_bytes: int | None  # that must at least be read, where that is the limit
    baseline: str  # the candidate that the others are held against
    candidates: tuple[Candidate, ...]


class Limits(NamedTuple):
    repeats: int  # rounds
    max_seconds: float  # of measuring one comparison, and of any one call
    memory_bytes: float


class Measurement(NamedTuple):
    """One candidate's times, or why it has none."""

    impl: str
    is_auto: bool
    status: Literal["ran", "refused", "failed"]
    reason: str | None
    seconds: tuple[float, ...]  # a call, by sample
    temp_bytes: int | None


def prepare_jax(
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    limits: Limits,
    *,
    carry: int = 0,
    steps: int = 1,
) -> Prepared:
    """Compiles `function` for the arguments. Its first `carry` results are the next call's first arguments.

    Raises CannotRunError if it needs more memory than the limits allow, without having run it.
    """
    donated = tuple(range(carry))
    compiled = jax.jit(function, donate_argnums=donated).lower(*arguments).compile()
    memory = compiled.memory_analysis()
    temp_bytes = None
    if memory is not None:
        temp_bytes = memory.temp_size_in_bytes
        needed = temp_bytes + memory.argument_size_in_bytes + memory.output_size_in_bytes
        if needed > limits.memory_bytes:
            limit = f"--memory-gib {limits.memory_bytes / GIB:g}"
            raise CannotRunError(f"needs {needed / GIB:.1f} GiB of memory, more than {limit}")
    # Donated arguments are gone after the first call, and the others belong to all candidates.
    state = [jnp.copy(argument) for argument in arguments[:carry]]

    def run(calls: int) -> None:
        result = None
        for _ in range(calls):
            result = compiled(*state, *arguments[carry:])
            if carry:
                state[:] = result[:carry]
        jax.block_until_ready(result)

    return Prepared(run=run, temp_bytes=temp_bytes, steps=steps)


def compare(comparison: Comparison, limits: Limits) -> list[Measurement]:
    """Measures all candidates, a sample of each in every round; at least one round, whatever it takes.

    A candidate that refuses, fails, or takes longer than the limit for one call is listed with the reason.
    """
    found: dict[str, Measurement] = {}
    ready: dict[str, tuple[Prepared, int]] = {}
    for candidate in comparison.candidates:
        measurement = Measurement(candidate.impl, candidate.is_auto, "ran", None, (), None)
        try:
            prepared = candidate.prepare()
            prepared.run(1)  # the first call may load code or allocate
            seconds = _seconds(prepared, 1)
            if seconds > limits.max_seconds:
                raise CannotRunError(
                    f"one call takes {seconds:.1f} s, more than --max-seconds {limits.max_seconds:g}"
                )
        except Exception as error:  # of a compiler, a driver, another library: listed with the others
            status, reason = _explain(error)
            measurement = measurement._replace(status=status, reason=reason)
        else:
            measurement = measurement._replace(temp_bytes=prepared.temp_bytes)
            ready[candidate.impl] = prepared, max(1, math.ceil(SAMPLE_SECONDS / max(seconds, 1e-6)))
        found[candidate.impl] = measurement
    samples: dict[str, list[float]] = {impl: [] for impl in ready}
    start = time.perf_counter()
    for round_ in range(limits.repeats):
        if round_ and time.perf_counter() - start > limits.max_seconds:
            break
        for impl, (prepared, calls) in ready.items():
            samples[impl].append(_seconds(prepared, calls) / calls / prepared.steps)
    return [measurement._replace(seconds=tuple(samples.get(impl, ()))) for impl, measurement in found.items()]


def skip(comparison: Comparison, reason: str) -> list[Measurement]:
    """What compare() returns, without measuring."""
    return [
        Measurement(candidate.impl, candidate.is_auto, "refused", reason, (), None)
        for candidate in comparison.candidates
    ]


def _seconds(prepared: Prepared, calls: int) -> float:
    start = time.perf_counter()
    prepared.run(calls)
    return time.perf_counter() - start


def _explain(error: Exception) -> tuple[Literal["refused", "failed"], str]:
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    if isinstance(error, CannotRunError):
        return "refused", text
    if "cannot run: " in text:  # how this library's calls say that an implementation is not for this
        return "refused", text.split("cannot run: ", 1)[1]
    if "RESOURCE_EXHAUSTED" in text or "out of memory" in text:
        return "refused", f"out of memory: {text}"
    return "failed", f"{type(error).__name__}: {text}"


def spread(seconds: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile."""
    if len(seconds) < 2:
        return seconds[0], seconds[0], seconds[0]
    low, middle, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return low, middle, high


class MatmulPeak:
    """The best float32 matrix product so far, in operations a second: for devices without a data sheet."""

    def __init__(self) -> None:
        self.best = 0.0
        self._matrix = jax.random.normal(jax.random.key(0), (PEAK_SIZE, PEAK_SIZE))
        self._product = jax.jit(jnp.matmul).lower(self._matrix, self._matrix).compile()
        jax.block_until_ready(self._product(self._matrix, self._matrix))

    def sample(self) -> None:
        """Multiplies twice. Called between the measurements: a busy machine is busy for both."""
        for _ in range(2):
            start = time.perf_counter()
            jax.block_until_ready(self._product(self._matrix, self._matrix))
            self.best = max(self.best, 2 * PEAK_SIZE**3 / (time.perf_counter() - start))
