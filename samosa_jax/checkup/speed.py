"""How fast the first device multiplies and copies, against what its maker states."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from samosa_kernels.device import Device, peak_bandwidth, peak_flops

from samosa_jax.checkup.finding import Finding, fine, wrong

# Under these shares of what the maker states, something is wrong. A large product reaches 65 to 85 % on an
# H100, which runs below its boost clock under full load; a copy 85 to 95 %.
LEAST_MATMUL = 0.5
LEAST_COPY = 0.6


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What is timed: sizes for a GPU take milliseconds each, those for a CPU tens of them."""

    width: int  # of the square matrices
    dtype: str
    copy_bytes: int


GPU = Workload(width=8192, dtype="bfloat16", copy_bytes=2**31)
CPU = Workload(width=1024, dtype="float32", copy_bytes=2**27)


def check_speed(*, seconds: float) -> Iterator[Finding]:
    """A product of matrices for so many seconds, then a copy for a fifth of that."""
    device = jax.devices()[0]
    known = Device(platform=device.platform, kind=device.device_kind)
    work = CPU if device.platform == "cpu" else GPU
    flops = measure_matmul(work, seconds=seconds)
    yield judge(
        f"matmul {work.width} {work.dtype}",
        flops,
        unit="TFLOP/s",
        scale=1e12,
        peak=peak_flops(known, work.dtype),
        least=LEAST_MATMUL,
    )
    rate = measure_copy(work, seconds=seconds / 5)
    yield judge(
        f"copy of {work.copy_bytes / 2**30:g} GiB",
        rate,
        unit="GB/s",
        scale=1e9,
        peak=peak_bandwidth(known),
        least=LEAST_COPY,
    )


def judge(subject: str, rate: float, *, unit: str, scale: float, peak: float | None, least: float) -> Finding:
    """Against the peak, where one is known."""
    words = f"{rate / scale:,.3g} {unit}"
    if peak is None:
        return fine(subject, f"{words}; what this device could do is not known")
    words += f", {rate / peak:.0%} of {peak / scale:,.4g}"
    if rate < least * peak:
        return wrong(
            subject,
            words,
            "look with `nvidia-smi -q -d PERFORMANCE,POWER` for another program, a power limit or heat",
        )
    return fine(subject, words)


def measure_matmul(work: Workload, *, seconds: float) -> float:
    """Floating-point operations a second of a product of square matrices; an addition counts as one."""
    a, b = (
        jax.random.normal(jax.random.key(seed), (work.width, work.width)).astype(work.dtype)
        for seed in (0, 1)
    )
    multiply = jax.jit(lambda a, b: jnp.matmul(a, b) / work.width**0.5)  # keeps its size, however often
    return 2 * work.width**3 * _rate(lambda x: multiply(x, b), a, seconds=seconds)


def measure_copy(work: Workload, *, seconds: float) -> float:
    """Bytes a second that are read and written while an array is copied in the device's memory."""
    x = jnp.zeros(work.copy_bytes // 4, jnp.float32)
    change = jax.jit(lambda x: x + 1)  # reads all and writes all
    return 2 * work.copy_bytes * _rate(change, x, seconds=seconds)


def _rate(step: Callable[[jax.Array], jax.Array], x: jax.Array, *, seconds: float) -> float:
    """Calls a second of step(step(...)), each on what the one before gave; the first is not counted."""
    x = jax.block_until_ready(step(x))
    begun = time.perf_counter()
    calls, elapsed = 0, 0.0
    while calls == 0 or elapsed < seconds:
        for _ in range(4):  # dispatched together, so that the device does not wait for us
            x = step(x)
        jax.block_until_ready(x)
        calls += 4
        elapsed = time.perf_counter() - begun
    return calls / elapsed
