"""Candidate tiles, what speaks against one, and which of the rest to take."""

import itertools
import statistics
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from samosa_kernels.aot import PtxasReport, compile_for
from samosa_kernels.tuning.config import DECODE_ROWS, KERNELS, ROWS_PER_WARP, TuningConfig
from samosa_kernels.tuning.programs import make_program
from samosa_kernels.tuning.table import HOPPER_SHARED_BYTES

CALLS = 10  # in one measurement, each waiting for the one before
MEASUREMENTS = 5


class Trial(NamedTuple):
    """One candidate: its kernel's report, and why it is out of the question."""

    tuning: TuningConfig
    report: PtxasReport | None  # None where the compiler refused it
    fault: str | None


def candidates(kernel: str, *, head_dim: int, dtype: str) -> list[TuningConfig]:
    """Tiles worth compiling: those that fit into shared memory, by the estimate."""
    if kernel.startswith("hopper"):
        streamed, stages, warps = (64, 128), (2, 3), (8, 12)
        tiles = [
            (ROWS_PER_WARP * count, side, depth, count)
            for side, depth, count in itertools.product(streamed, stages, warps)
        ]
    elif kernel == "triton_decode":
        tiles = [(DECODE_ROWS, *rest) for rest in itertools.product((32, 64, 128), (2, 3, 4), (2, 4))]
    else:
        tiles = [
            tile
            for tile in itertools.product((32, 64, 128), (32, 64, 128), (2, 3), (4, 8))
            if tile[0] >= tile[1] and tile[0] * tile[1] <= 1024 * tile[3] * 2
        ]
    configs = []
    for held, streamed, depth, count in tiles:
        sides = {"queries": held, "keys": streamed}
        if KERNELS[kernel].held == "keys":
            sides = {"queries": streamed, "keys": held}
        config = TuningConfig(**sides, stages=depth, warps=count)
        if config.shared_bytes(kernel, head_dim=head_dim, dtype=dtype) <= HOPPER_SHARED_BYTES:
            configs.append(config)
    return configs


def compile_trial(
    kernel: str, tuning: TuningConfig, *, head_dim: int, length: int, dtype: str, mesh: jax.sharding.Mesh
) -> Trial:
    """Compiles one candidate for the devices of `mesh`."""
    program = make_program(kernel, tuning, head_dim=head_dim, length=length, dtype=dtype)
    try:
        compilation = compile_for(program.function, *program.arguments, mesh=mesh)
    except (jax.errors.JaxRuntimeError, ValueError, NotImplementedError) as error:
        return Trial(tuning, None, f"does not compile: {str(error).splitlines()[0]}")
    # The others are XLA's: the bounds of the tiles, and the merging of parts in decoding.
    ours = [report for report in compilation.ptxas if "attention" in report.name]
    if len(ours) != 1:
        raise RuntimeError(f"{kernel} compiled to {[report.name for report in compilation.ptxas]}")
    return Trial(tuning, ours[0], fault_of(ours[0]))


def fault_of(report: PtxasReport) -> str | None:
    """What makes a kernel slow whatever its tiles, or None."""
    if report.spill_store_bytes or report.spill_load_bytes:
        return f"spills {report.spill_store_bytes} bytes"
    if report.serialized:
        return "wgmma products are serialized"
    if report.shared_bytes > HOPPER_SHARED_BYTES:
        return f"needs {report.shared_bytes} bytes of shared memory"
    return None


def best_guess(kernel: str, trials: list[Trial]) -> Trial | None:
    """Of the candidates without fault, not timed: the one that loads least for what it computes.

    A tile of Q x K scores loads in proportion to Q + K: the largest tile first; of equal ones the longest on
    the side that is held, which is loaded once; then the one with most in flight; then the one with fewest
    warps, each of which has most to do between two waits.
    """

    def merit(trial: Trial) -> tuple[int, ...]:
        tuning = trial.tuning
        held = getattr(tuning, KERNELS[kernel].held)
        return tuning.queries * tuning.keys, held, tuning.stages, -tuning.warps

    return max((trial for trial in trials if trial.fault is None), key=merit, default=None)


def milliseconds(kernel: str, tuning: TuningConfig, *, head_dim: int, length: int, dtype: str) -> float:
    """The time of one call on the device here: the median over chains of calls that wait for each other."""
    program = make_program(kernel, tuning, head_dim=head_dim, length=length, dtype=dtype)
    arguments = _arguments(program.arguments, length)

    @jax.jit
    def chain(*arguments: Any) -> Any:
        def call(_: Any, carry: Any) -> Any:
            inputs = [*arguments]
            inputs[program.fed_back] = carry
            return jax.tree.leaves(program.function(*inputs))[0]

        return jax.lax.fori_loop(0, CALLS, call, arguments[program.fed_back])

    jax.block_until_ready(chain(*arguments))
    times = []
    for _ in range(MEASUREMENTS):
        start = time.perf_counter()
        jax.block_until_ready(chain(*arguments))
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times) / CALLS


def _arguments(shapes: tuple[jax.ShapeDtypeStruct, ...], length: int) -> list[jax.Array]:
    """Random operands; bounds, which are the integers, lo then hi, of causal attention or a full cache."""
    arrays = []
    keys = iter(jax.random.split(jax.random.key(0), len(shapes)))
    bounds = iter((0, 1))
    for shape in shapes:
        if jnp.issubdtype(shape.dtype, jnp.floating):
            arrays.append(jax.random.normal(next(keys), shape.shape, shape.dtype))
        elif next(bounds) == 0:
            arrays.append(jnp.zeros(shape.shape, shape.dtype))
        elif len(shape.shape) == 2:
            arrays.append(jnp.broadcast_to(jnp.arange(1, length + 1, dtype=shape.dtype), shape.shape))
        else:
            arrays.append(jnp.full(shape.shape, length, shape.dtype))
    return arrays
