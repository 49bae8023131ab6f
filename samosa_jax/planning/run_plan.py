"""A whole plan: what a configuration will take on so many devices of a kind, gathered from the parts."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from samosa_kernels import Device

from samosa_jax.config import Config
from samosa_jax.mesh_sizes import check_mesh, dividing_rows, resolve_mesh
from samosa_jax.model.cache import cache_bytes
from samosa_jax.planning.devices import PlannedDevice
from samosa_jax.planning.fitting import Fit, choose, fit_every_policy
from samosa_jax.planning.memory import MemoryModel, StepMemory
from samosa_jax.planning.pace import Pace, predict_pace
from samosa_jax.planning.storage import Checkpoints, Data, plan_checkpoints, plan_data
from samosa_jax.sizes import (
    ParameterCounts,
    flops_per_token,
    parameter_counts,
    scaling_parameters,
    state_bytes,
)
from samosa_jax.training.environment import check_matmul_dtype

MemorySource = Literal["compiler", "closed model"]


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """What is known of a run before it begins. Bytes are of one device, unless they are on disk.

    Attributes:
        memory: of the step as configured, or with the chosen rows where train.device_batch_size is auto; None
            where not even one row fits.
        memory_source: who gave its sum.
        fitted: the most rows at once under every remat policy, by the closed model.
        chosen: of these, the one to train with.
        cache_bytes: keys and values of one dialogue of full length while text is written; a layer with a
            window keeps no more tokens than that.
    """

    name: str
    device: PlannedDevice
    num_devices: int
    mesh: tuple[int, int, int]
    counts: ParameterCounts
    scaling_parameters: int
    flops_per_token: int
    batch_tokens: int
    num_steps: int
    usable_bytes: int | None
    device_rows: int | None
    remat: str
    num_microbatches: int | None
    memory: StepMemory | None
    memory_source: MemorySource
    fitted: tuple[Fit, ...]
    chosen: Fit | None
    cache_bytes: int
    pace: Pace | None
    checkpoints: Checkpoints
    data: Data | None

    @property
    def tokens(self) -> int:
        return self.batch_tokens * self.num_steps

    @property
    def fits(self) -> bool:
        """Whether the step, as `memory` has it, fits the device."""
        if self.memory is None:
            return False
        return self.usable_bytes is None or self.memory.peak <= self.usable_bytes


def make_plan(
    config: Config,
    *,
    device: PlannedDevice,
    num_devices: int,
    mfu: float | None = None,
    cost_per_hour: float = 0.0,
) -> RunPlan:
    """By closed formulas alone, in a second; `with_compiled_peak` replaces the memory's sum.

    Raises:
        ConfigError: batch or model do not divide over the devices, or these lack what matmul_dtype needs.
        UserError: a folder of data.sources is none.
    """
    model, train = config.model, config.train
    rows = dividing_rows(config, num_devices)
    if train.device_batch_size != "auto":
        check_mesh(config, num_devices)
    check_matmul_dtype(train.matmul_dtype, Device(platform=device.platform, kind=device.kind))
    dtype = train.dtype_on(device.platform)
    memory_model = MemoryModel(config, num_devices=num_devices, compute_dtype=dtype)
    fitted = fit_every_policy(memory_model, rows=rows, usable_bytes=device.usable_bytes)
    chosen = choose(fitted, context_len=model.context_len)
    device_rows = _configured_rows(config, fitted)
    memory = None if device_rows is None else memory_model.at(device_rows=device_rows, remat=model.remat)
    counts = parameter_counts(model)
    mesh = resolve_mesh(config.mesh, num_devices)
    itemsize = np.dtype(dtype).itemsize
    return RunPlan(
        name=config.name,
        device=device,
        num_devices=num_devices,
        mesh=(mesh.data, mesh.fsdp, mesh.tensor),
        counts=counts,
        scaling_parameters=scaling_parameters(model),
        flops_per_token=flops_per_token(model),
        batch_tokens=train.batch_tokens,
        num_steps=train.num_steps,
        usable_bytes=device.usable_bytes,
        device_rows=device_rows,
        remat=model.remat,
        num_microbatches=None if device_rows is None else rows[0] // device_rows,
        memory=memory,
        memory_source="closed model",
        fitted=tuple(fitted),
        chosen=chosen,
        cache_bytes=cache_bytes(model, num_rows=1, capacity=model.context_len, dtype=np.dtype(dtype)),
        pace=predict_pace(
            device=device,
            num_devices=num_devices,
            mfu=mfu,
            matmul_dtype=train.matmul_dtype,
            scaling_parameters=scaling_parameters(model),
            flops_per_token=flops_per_token(model),
            batch_tokens=train.batch_tokens,
            num_steps=train.num_steps,
            num_values=counts.total,
            itemsize=itemsize,
            cost_per_hour=cost_per_hour,
        ),
        checkpoints=plan_checkpoints(
            config.checkpoint,
            state_bytes=state_bytes(counts, config.optimizer),
            num_steps=train.num_steps,
        ),
        data=None
        if config.content == "prompts"
        else plan_data(
            config.data.sources,
            tokens=train.num_steps * train.batch_tokens,
            vocab_size=model.vocab_size,
            by_epoch=config.content != "text",
        ),
    )


def with_compiled_peak(plan: RunPlan, peak_bytes: int) -> RunPlan:
    """With the sum from the compiler: what it says beyond the closed model counts as activations."""
    assert plan.memory is not None
    others = plan.memory.peak - plan.memory.activations
    memory = dataclasses.replace(plan.memory, activations=peak_bytes - others)
    return dataclasses.replace(plan, memory=memory, memory_source="compiler")


def _configured_rows(config: Config, fitted: Sequence[Fit]) -> int | None:
    if config.train.device_batch_size != "auto":
        return config.train.device_batch_size
    return next(fit.device_rows for fit in fitted if fit.remat == config.model.remat)
