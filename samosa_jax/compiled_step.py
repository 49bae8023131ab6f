"""The real train step of a configuration, compiled for devices that are not here, and what the compiler says.

    step = compile_step(config, device="h100", num_devices=8)
    step.peak_bytes              # of one device
    step.executable.as_text()    # the partitioned program: its collectives, its loops

The step is that of `stages.build`, so that what is said here stays true when its layout changes. Needs the
packages of the `aot` extra (`samosa_kernels.aot.why_not`).
"""

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from samosa_kernels import aot

from samosa_jax.config import Config
from samosa_jax.gpu_settings import compiler_options
from samosa_jax.stages import Machinery, build, synthetic_batch
from samosa_jax.training.environment import bytes_per_device
from samosa_jax.training.state import abstract_params, abstract_state


@dataclass(frozen=True, kw_only=True)
class CompiledStep:
    """A train step for devices that need not exist; it cannot run.

    Attributes:
        executable: the compiled program; `as_text()` is what every device runs.
        mesh: the devices it is for.
        peak_bytes: device memory of one device at its fullest, arguments and results included.
        memory: bytes of one device by kind. "parameters", "optimizer", "frozen" and "batch" are the step's
            arguments; "temporary" is the rest of the peak: gradients, activations, logits, copies.
    """

    executable: jax.stages.Compiled
    mesh: jax.sharding.Mesh
    peak_bytes: int
    memory: Mapping[str, int]


def compile_step(config: Config, *, device: str = "h100", num_devices: int = 8) -> CompiledStep:
    """Compiles the step of `config` for `num_devices` of one host, of a kind described in kernels/targets.

    Takes seconds to minutes of CPU and no device memory.

    Raises:
        ConfigError: model or batch do not divide over the devices.
        ValueError: no such device is described.
        RuntimeError: the packages that compile for it are missing; the text says which.
    """
    devices = list(aot.topology(device, num_devices).devices.flat)
    machinery = build(config, devices=devices)
    state, batch, frozen = abstract_arguments(config, machinery)
    lowered = machinery.train_step.trace(state, batch, frozen).lower(lowering_platforms=("cuda",))
    options: dict[str, str | bool] = {**compiler_options(jaxlib=importlib.metadata.version("jaxlib"))}
    with aot.without_persistent_cache():
        executable = lowered.compile(options)
    analysis = executable.memory_analysis()
    if analysis is None:
        raise RuntimeError("the compiler gave no memory analysis")
    arguments = {
        "parameters": bytes_per_device(state.params),
        "optimizer": bytes_per_device(state.opt_state),
        "frozen": bytes_per_device(frozen),
        "batch": bytes_per_device(batch),
    }
    peak = analysis.peak_memory_in_bytes
    return CompiledStep(
        executable=executable,
        mesh=machinery.mesh,
        peak_bytes=peak,
        memory={**arguments, "temporary": peak - sum(arguments.values())},
    )


def abstract_arguments(config: Config, machinery: Machinery) -> tuple[Any, Any, Any]:
    """Shapes and shardings of what the step takes: state, batch and frozen parameters (None without any)."""
    mesh = machinery.mesh
    state = abstract_state(machinery.trained, machinery.optimizer, mesh=mesh)
    sharding = NamedSharding(mesh, PartitionSpec(None, ("data", "fsdp")))  # as `step.put_batch` has it

    def placed(array: np.ndarray) -> jax.ShapeDtypeStruct:
        rows, *rest = array.shape
        shape = (rows // machinery.rows_at_once, machinery.rows_at_once, *rest)
        return jax.ShapeDtypeStruct(shape, array.dtype, sharding=sharding)

    batch = jax.tree.map(placed, synthetic_batch(config))
    frozen = abstract_params(machinery.network.info, mesh=mesh) if machinery.needs_frozen else None
    return state, batch, frozen
