"""The first lines of a run: what trains on what, where."""

import dataclasses

from samosa_kernels import Device, resolve_implementation, training_problem

from samosa_jax.config import Config, ModelConfig
from samosa_jax.errors import ConfigError
from samosa_jax.rl.prompts import PromptSource
from samosa_jax.sizes import parameter_counts
from samosa_jax.stages import Machinery, Pipeline, describe_data
from samosa_jax.training.display import Display
from samosa_jax.training.environment import describe_devices
from samosa_jax.training.run_folder import RunFolder


def announce(
    config: Config,
    *,
    machinery: Machinery,
    data: Pipeline | PromptSource,
    run_folder: RunFolder,
    display: Display,
) -> None:
    """The first lines of a run: what trains on what, where."""
    for line in describe(config, machinery):
        display.say(line)
    for line in (
        describe_data(config, data) if isinstance(data, Pipeline) else describe_rollouts(config, data)
    ):
        display.say(line)
    display.say(f"stored in: {run_folder.path}")


def describe_rollouts(config: Config, source: PromptSource) -> list[str]:
    """What is answered, how often, and what is made of it."""
    rl = config.rl
    parts = ", ".join(f"{name} {weight:g}" for name, weight in rl.reward.weights().items() if weight)
    return [
        *source.describe(),
        f"a rollout: {rl.prompts} prompts x {rl.samples} answers of at most {rl.max_tokens} tokens, tools: "
        f"{', '.join(rl.tools)}; it lasts for {rl.steps_per_rollout} steps",
        f"rewards: {parts}",
    ]


def describe(config: Config, machinery: Machinery) -> list[str]:
    """Device, batch, parameters, and what was chosen where the configuration says auto."""
    mesh, train = machinery.mesh, config.train
    counts = dataclasses.asdict(parameter_counts(config.model))
    groups = ", ".join(f"{name} {count:,}" for name, count in counts.items() if count)
    per_device = train.batch_tokens // (mesh.shape["data"] * mesh.shape["fsdp"])
    lines = [
        f"device: {describe_devices(mesh)}",
        f"batch: {train.batch_tokens:,} tokens per step, {per_device:,} per device in "
        f"{config.batch_rows // machinery.rows_at_once} x {train.device_rows} rows of "
        f"{config.model.context_len}",
        f"parameters: {sum(counts.values()):,} ({groups})",
    ]
    chosen = []
    platform = mesh.devices.flat[0].platform
    device = Device(platform=platform, kind=mesh.devices.flat[0].device_kind)
    if train.compute_dtype == "auto":
        chosen.append(f"compute_dtype {machinery.network.compute_dtype}")
    attention = resolve_attention(config.model, device=device, dtype=str(machinery.network.compute_dtype))
    if config.model.attention == "auto":
        chosen.append(f"attention {attention}")
    if chosen:
        lines.append(f"auto chose: {', '.join(chosen)} (on {platform})")
    return lines


def resolve_attention(model: ModelConfig, *, device: Device, dtype: str) -> str:
    """What will compute attention; ConfigError, before anything is built, if the one that is named cannot."""
    problem = training_problem(
        device,
        dtype=dtype,
        head_dim=model.head_dim,
        group=model.num_heads // model.num_kv_heads,
        window=None,
    )
    try:
        return resolve_implementation(model.attention, problem)
    except ValueError as error:
        raise ConfigError(f"model.attention: {error}; model.attention=auto chooses one that can") from error
