"""How many rows a device takes at once: chosen where the configuration says auto, refused where too many.

Both come before anything is allocated. `train.device_batch_size: auto` takes the most rows that divide the
batch and, by `planning.memory`, fit the devices that are here. A number is refused where the compiler says
that its step needs more than a device has; it is asked only where the closed model sees it come close.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from samosa_jax.compiled_step import abstract_arguments, needed_bytes
from samosa_jax.config import Config, with_rows
from samosa_jax.errors import UserError
from samosa_jax.mesh_sizes import dividing_rows
from samosa_jax.planning.devices import device_like
from samosa_jax.planning.fitting import Fit, fit_every_policy, fits, largest_that_fits
from samosa_jax.planning.memory import MemoryModel
from samosa_jax.planning.pace import predict_pace
from samosa_jax.sizes import flops_per_token, parameter_counts, scaling_parameters
from samosa_jax.stages import Machinery
from samosa_jax.training.environment import available_memory_bytes, device_memory_bytes
from samosa_jax.training.foresight import Foresight

GIB = 2**30
CPU_SHARE = 0.5  # of the memory that is free now: the machine has other work, and data and program need some


@dataclasses.dataclass(frozen=True, kw_only=True)
class Memory:
    """What a device offers to a step."""

    limit_bytes: int
    source: str  # in words


def resolve_device_batch(
    config: Config, *, recorded: Mapping[str, Any] | None, say: Callable[[str], None]
) -> Config:
    """With a number in place of train.device_batch_size=auto, and a line about it; any other as it is.

    `recorded` is the configuration that a resumed run goes on with: it keeps its number, where that still
    divides the batch over the devices.

    Raises:
        ConfigError: the batch does not divide over the devices.
        UserError: not even one row fits.
    """
    if config.train.device_batch_size != "auto":
        return config
    num_devices = jax.device_count()
    rows = dividing_rows(config, num_devices)
    before = None if recorded is None else recorded["train"]["device_batch_size"]
    if before in rows:
        say(f"auto chose: device_batch_size {before}, as before in this run")
        return with_rows(config, before)
    memory = offered_memory()
    dtype = config.train.dtype_on(jax.default_backend())
    model = MemoryModel(config, num_devices=num_devices, compute_dtype=dtype)
    fit = largest_that_fits(model, rows=rows, remat=config.model.remat, usable_bytes=memory.limit_bytes)
    if fit.device_rows is None or fit.memory is None:
        raise UserError(
            f"train.device_batch_size is auto, but one row of {config.model.context_len} tokens needs "
            f"{model.at(device_rows=1, remat=config.model.remat).peak / GIB:.2f} GiB of "
            f"{memory.limit_bytes / GIB:.2f} GiB ({memory.source}); "
            + mend(model, rows=rows, limit_bytes=memory.limit_bytes)
        )
    say(
        f"auto chose: device_batch_size {fit.device_rows}, the most of {rows[0]} rows per device that fits: "
        f"{fit.memory.peak / GIB:.2f} GiB by the closed model, of {memory.limit_bytes / GIB:.2f} GiB "
        f"({memory.source})"
    )
    return with_rows(config, fit.device_rows)


def refuse_too_large(
    config: Config,
    machinery: Machinery,
    *,
    limit_bytes: int | None,
    say: Callable[[str], None],
) -> None:
    """Before allocation, and only where a device's memory is known: not on CPUs.

    Raises:
        UserError: the step needs more than `limit_bytes` on a device; names the most rows that fit.
    """
    if limit_bytes is None:
        return
    model = MemoryModel(
        config, num_devices=machinery.mesh.size, compute_dtype=machinery.network.compute_dtype
    )
    if fits(model.at(device_rows=config.train.device_rows, remat=config.model.remat), limit_bytes):
        return
    say("memory will be close: asking the compiler what the step needs")
    compiled = machinery.train_step.lower(*abstract_arguments(config, machinery)).compile()
    needed = needed_bytes(compiled)
    if needed is None or needed <= limit_bytes:
        return
    rows = [count for count in dividing_rows(config, machinery.mesh.size) if count < config.train.device_rows]
    raise UserError(
        f"train.device_batch_size is {config.train.device_rows}, for which a step needs "
        f"{needed / GIB:.2f} GiB of a device's {limit_bytes / GIB:.2f} GiB; "
        + mend(model, rows=rows, limit_bytes=limit_bytes, remat=config.model.remat)
    )


def foresee(config: Config, machinery: Machinery) -> Foresight:
    """What the first steps will be held against."""
    mesh = machinery.mesh
    dtype = machinery.network.compute_dtype
    model = MemoryModel(config, num_devices=mesh.size, compute_dtype=dtype)
    device = mesh.devices.flat[0]
    planned = device_like(device.device_kind)
    pace = None
    if planned is not None and config.content != "prompts":  # whose steps wait for answers
        pace = predict_pace(
            device=planned,
            num_devices=mesh.size,
            mfu=None,
            matmul_dtype=config.train.matmul_dtype,
            scaling_parameters=scaling_parameters(config.model),
            flops_per_token=flops_per_token(config.model),
            batch_tokens=config.train.batch_tokens,
            num_steps=config.train.num_steps,
            num_values=parameter_counts(config.model).total,
            itemsize=np.dtype(dtype).itemsize,
            cost_per_hour=config.log.cost_per_hour,
        )
    return Foresight(
        peak_bytes=model.at(device_rows=config.train.device_rows, remat=config.model.remat).peak,
        tokens_per_sec=None if pace is None else pace.tokens_per_sec,
        mfu=None if pace is None else pace.mfu,
        measures_device=device_memory_bytes() is not None,
    )


def mend(model: MemoryModel, *, rows: list[int], limit_bytes: int, remat: str | None = None) -> str:
    """What to set: fewer rows under the same policy where that is enough, else another policy."""
    fitted = [
        fit
        for fit in fit_every_policy(model, rows=rows, usable_bytes=limit_bytes)
        if fit.device_rows is not None
    ]
    same = next((fit for fit in fitted if fit.remat == remat), None)
    if same is not None:
        return f"train.device_batch_size={same.device_rows} fits"
    if fitted:
        return f"{_settings(fitted[0])} fits"
    return "no setting of model.remat fits either: take more devices with mesh.fsdp, or a shorter context"


def _settings(fit: Fit) -> str:
    return f"model.remat={fit.remat} with train.device_batch_size={fit.device_rows}"


def offered_memory() -> Memory:
    """What a step may fill on one device here."""
    limit = device_memory_bytes()
    if limit is not None:
        return Memory(limit_bytes=limit, source="what JAX may use of the device")
    free = available_memory_bytes()
    return Memory(
        limit_bytes=int(CPU_SHARE * free / jax.local_device_count()),
        source=f"half of the {free / GIB:.1f} GiB that are free, over {jax.local_device_count()} devices",
    )
