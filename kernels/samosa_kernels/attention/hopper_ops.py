"""The vocabulary of the Hopper kernels: operations as the hardware has them and as the interpreter can.

Pallas's interpreter for Mosaic GPU knows memory, barriers and asynchronous copies, and finds races between
them; it does not know the tensor cores' instructions or register layouts. The few operations that need those
are here, so that a kernel is one text. Everything else a kernel writes with `plgpu` itself.

Accumulators are (M, N) float32 in registers in the layout of wgmma; a row vector has one value for each of
the M rows of such an array, a column vector one for each of its N columns.
"""

import importlib
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from samosa_kernels.tuning import TuningConfig
from samosa_kernels.varying import varying_like

# How an operand of wgmma lies in shared memory: swizzled rows of 64 two-byte values, eight to an atom.
OPERAND_TRANSFORMS = (plgpu.TilingTransform((8, 64)), plgpu.SwizzleTransform(128))

LOG2_E = math.log2(math.e)
ROWS_PER_WARPGROUP = 64  # of an accumulator: wgmma's M. 128 rows spill at head width 128
# Of a thread, by number of consumer warpgroups. With the producer's they must not exceed what a block is
# launched with, 3 * 168 or 4 * 128, or the last warpgroup to ask for registers waits forever.
MAX_REGISTERS = {2: 240, 3: 160}
PRODUCER_REGISTERS = 24


@dataclass(frozen=True)
class HopperOps:
    """Operations on register values; `interpret` chooses what the interpreter can run."""

    interpret: bool

    def zeros(self, shape: tuple[int, int]) -> jax.Array:
        """An accumulator of zeros."""
        return self._laid_out(jnp.zeros(shape, jnp.float32), plgpu.Layout.WGMMA)

    def full_row_vector(self, size: int, value: float) -> jax.Array:
        return self._laid_out(jnp.full((size,), value, jnp.float32), plgpu.Layout.WGMMA.reduce(1))

    def load_row_vector(self, ref: Any) -> jax.Array:
        """One value for each row of an accumulator, from shared or global memory (M,)."""
        return self._load(ref, plgpu.Layout.WGMMA.reduce(1))

    def load_column_vector(self, ref: Any) -> jax.Array:
        """One value for each column of an accumulator, from shared or global memory (N,)."""
        return self._load(ref, plgpu.Layout.WGMMA.reduce(0))

    def index(self, shape: tuple[int, int], dim: int) -> jax.Array:
        """Of every element of an accumulator of this shape its row (dim 0) or column (dim 1)."""
        return self._laid_out(lax.broadcasted_iota(jnp.int32, shape, dim), plgpu.Layout.WGMMA)

    def add_products_transposed(
        self,
        first: tuple[jax.Array, Any, Any],
        second: tuple[jax.Array, Any, Any],
        *,
        between: Callable[[jax.Array], jax.Array],
    ) -> tuple[jax.Array, jax.Array]:
        """between(accumulator + a b^T) and accumulator + a b^T of two (accumulator, a, b) in shared memory.

        The tensor cores work on the second product while `between` maps the first.
        """
        terms = (first, second)
        if self.interpret:
            mapped, accumulated = (start + self.product_transposed(a, b) for start, a, b in terms)
            return between(mapped), accumulated

        def multiply(*accumulators):
            for accumulator, (start, _, _) in zip(accumulators, terms, strict=True):
                accumulator[...] = start
            for accumulator, (_, a, b) in zip(accumulators, terms, strict=True):
                plgpu.wgmma(accumulator, a, _transposed(b))
            mapped = between(plgpu.wgmma_accumulator_load(accumulators[0], wait_n=1))
            return mapped, accumulators[1][...]

        return pl.run_scoped(multiply, *(_accumulator(a.shape[0], b.shape[0]) for _, a, b in terms))

    def product_transposed(self, a_MD: Any, b_ND: Any) -> jax.Array:
        """a b^T as an accumulator (M, N); both operands in shared memory."""
        if self.interpret:
            return jnp.dot(a_MD[...].astype(jnp.float32), b_ND[...].astype(jnp.float32).T)

        def multiply(accumulator):
            plgpu.wgmma(accumulator, a_MD, _transposed(b_ND))
            return accumulator[...]

        return pl.run_scoped(multiply, _accumulator(a_MD.shape[0], b_ND.shape[0]))

    def add_product(self, accumulator_MN: jax.Array, a_MK: jax.Array, b_KN: Any) -> jax.Array:
        """accumulator + a b; a in registers, b in shared memory."""
        return self.add_products((accumulator_MN, lambda: a_MK, b_KN))[0]

    def add_products(self, *terms: tuple[jax.Array, Callable[[], jax.Array], Any]) -> list[jax.Array]:
        """accumulator + a() b of each (accumulator, a, b); a in registers, b in shared memory.

        The tensor cores work on one product while a() of the next is computed.
        """
        if self.interpret:
            return [
                accumulator + jnp.dot(a().astype(jnp.float32), b[...].astype(jnp.float32))
                for accumulator, a, b in terms
            ]

        def multiply(accumulators):
            for accumulator, (_, a, b) in zip(accumulators, terms, strict=True):
                plgpu.wgmma(accumulator, a(), b)

        start: Any = [plgpu.WGMMAAccumulatorRef.init(accumulator) for accumulator, _, _ in terms]
        return pl.run_state(multiply)(start)

    def release(self, barrier: Any, *, loaded: bool = False) -> None:
        """Tells the producer that this warpgroup has read a buffer in shared memory for the last time.

        loaded: by ordinary loads too, which the next asynchronous copy must be kept from overtaking.
        """
        if loaded or self.interpret:  # in the interpreter the products read by ordinary loads
            plgpu.commit_smem()
        plgpu.barrier_arrive(barrier)

    def _laid_out(self, value: jax.Array, layout: Any) -> jax.Array:
        return value if self.interpret else plgpu.layout_cast(value, layout)

    def _load(self, ref: Any, layout: Any) -> jax.Array:
        if self.interpret:
            return ref[...]
        index = inspect.signature(plgpu.load).parameters.get("idx")  # required before jax 0.11, gone in 0.12
        arguments = ((),) if index is not None and index.default is inspect.Parameter.empty else ()
        return plgpu.load(ref, *arguments, layout=layout, optimized=False)


def _accumulator(rows: int, columns: int) -> Any:
    return plgpu.WGMMAAccumulatorRef((rows, columns), jnp.float32)


def over_columns(row_vector_M: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """(M, N): a row vector repeated along the columns."""
    return lax.broadcast_in_dim(row_vector_M, shape, [0])


def over_rows(column_vector_N: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """(M, N): a column vector repeated along the rows."""
    return lax.broadcast_in_dim(column_vector_N, shape, [1])


def over_tiles(bounds: Sequence[jax.Array], step: Callable[..., Any], carry: Any) -> Any:
    """carry = step(number, carry, masked=...) over a TileBounds' tiles, masked where they are not seen whole.

    `number` counts from the first tile. Loops start from a constant: inside jax.shard_map the type of the
    bounds varies over its mesh axes, and that of a loop's counter does not.
    """
    first, first_full, last_full, last = bounds
    for start, stop, masked in (
        (first, first_full, True),
        (first_full, last_full, False),
        (last_full, last, True),
    ):

        def step_from_start(index, carry, start=start, masked=masked):
            return step(start - first + index, carry, masked=masked)

        carry = lax.fori_loop(0, stop - start, step_from_start, carry)
    return carry


def stream_keys(
    streams: Sequence[tuple[Any, Any, Any, Any]],
    *,
    row: Any,
    kv_head: Any,
    first: Any,
    count: Any,
    tuning: TuningConfig,
) -> None:
    """The producer of a kernel that holds queries: tiles [first, first + count) of one head into rings.

    A stream is (source (B, S, K, H), ring, barriers that say a slot is filled, barriers that say it is free).
    """
    plgpu.set_max_registers(PRODUCER_REGISTERS, action="decrease")

    def copy(index, _):
        slot = lax.rem(index, jnp.int32(tuning.stages))
        keys = pl.ds((first + index) * tuning.keys, tuning.keys)
        for source, ring, ready, free in streams:

            @pl.when(index >= tuning.stages)
            def wait_until_read(free=free):
                plgpu.barrier_wait(free.at[slot])

            plgpu.copy_gmem_to_smem(source.at[row, keys, kv_head], ring.at[slot], ready.at[slot])

    lax.fori_loop(0, count, copy, None)

    def drain(index, _):
        slot = lax.rem(index, jnp.int32(tuning.stages))
        for *_, free in streams:
            plgpu.barrier_wait(free.at[slot])

    # Every arrival is waited for before the kernel ends: no barrier may be left in the middle of a phase.
    lax.fori_loop(jnp.maximum(0, count - tuning.stages), count, drain, None)


def call(
    kernel: Callable[..., None],
    inputs: Sequence[jax.Array],
    *,
    name: str,
    grid: dict[str, int],
    outputs: Sequence[tuple[tuple[int, ...], Any]],  # shape, dtype
    scratch: dict[str, Any],
    consumers: int,
    interpret: bool,
) -> tuple[jax.Array, ...]:
    """Runs a kernel over a grid in blocks of `consumers` warpgroups and a producer, the axis "warpgroup".

    Its outputs vary over the mesh axes that its first input does.
    """
    run = plgpu.kernel(
        kernel,
        out_type=tuple(jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in outputs),
        grid=tuple(grid.values()),
        grid_names=tuple(grid),
        num_threads=consumers + 1,
        thread_name="warpgroup",
        scratch_types=scratch,
        compiler_params=plgpu.CompilerParams(
            approx_math=True, lowering_semantics=plgpu.LoweringSemantics.Lane
        ),
        interpret=_interpreter() if interpret else None,
        kernel_name=name,
    )
    return tuple(varying_like(output, inputs[0]) for output in run(*inputs))


def _interpreter() -> Any:
    """Chooses Pallas's interpreter for Mosaic GPU; it says on standard output which races it found."""
    parameters = getattr(plgpu, "InterpretGPUParams", None)
    if parameters is None:  # public since jax 0.11
        private = importlib.import_module("jax._src.pallas.mosaic_gpu.interpret.params")
        parameters = private.InterpretGPUParams
    return parameters(detect_races=True)


def _transposed(ref: Any) -> Any:
    if jax.__version_info__ < (0, 11):
        return plgpu.transpose_ref(ref, (1, 0))
    return ref.T
