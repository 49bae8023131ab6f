"""How long a run is and where it lives; how it is evaluated, sampled from, saved and shown."""

import math
import re
from dataclasses import dataclass
from typing import Literal

from samosa_jax.config.checks import require, require_at_least
from samosa_jax.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """Devices per mesh axis; -1 takes what the others leave."""

    data: int = -1  # copies of the parameters, each on its own rows
    fsdp: int = 1  # rows too, with parameters sharded
    tensor: int = 1  # heads, feed-forward width and vocabulary

    def __post_init__(self) -> None:
        sizes = (self.data, self.fsdp, self.tensor)
        require(
            all(size >= 1 or size == -1 for size in sizes) and sizes.count(-1) <= 1,
            f"mesh is data={self.data} fsdp={self.fsdp} tensor={self.tensor}; "
            "each must be at least 1, and at most one may be -1",
        )


@dataclass(frozen=True, kw_only=True)
class DistributedConfig:
    """The processes of a run over several hosts. What is left out the launcher says (docs/multihost.md)."""

    coordinator: str = ""  # HOST:PORT where process 0 listens for the others
    num_processes: int = 0  # 0: as the launcher says; one where there is none
    process_id: int = -1  # from 0; -1: as the launcher says
    join_timeout_seconds: int = 300  # to wait at the start until all are there
    heartbeat_timeout_seconds: int = 45  # a process that is not heard of for so long is lost, and all stop

    def __post_init__(self) -> None:
        require_at_least(0, self, "distributed", "num_processes")
        require_at_least(-1, self, "distributed", "process_id")
        require_at_least(1, self, "distributed", "join_timeout_seconds")
        require_at_least(3, self, "distributed", "heartbeat_timeout_seconds")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long, in which batches, in which precision."""

    num_steps: int = 1_000  # follows from horizon unless that is steps; 0: epochs that are not counted yet
    horizon: Literal["steps", "tokens", "ratio", "chinchilla", "flops", "epochs"] = "steps"
    horizon_value: float = 0.0  # tokens, tokens per scaling parameter, FLOPs, epochs; unused by the others
    batch_tokens: int = 16_384  # tokens per optimizer step over all devices
    device_batch_size: int | Literal["auto"] = 16  # rows at once on a device; auto: all that fit
    compute_dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # auto: bfloat16, float32 on a CPU
    matmul_dtype: Literal["compute", "float8"] = (
        "compute"  # of the layers' products in training; docs/planning.md
    )
    max_bad_steps: int = 5  # non-finite steps in a row before the run stops
    push_to: str = ""  # OWNER/NAME of a model repository on the hub; made private if it is not there
    push_every: int = 1_000  # at least so many steps between checkpoints that are pushed while training

    def __post_init__(self) -> None:
        require_at_least(0 if self.horizon == "epochs" else 1, self, "train", "num_steps")
        require_at_least(1, self, "train", "batch_tokens max_bad_steps push_every")
        if self.device_batch_size != "auto":
            require_at_least(1, self, "train", "device_batch_size")
        require(
            not self.push_to or re.fullmatch(r"[\w.-]+/[\w.-]+", self.push_to) is not None,
            f"train.push_to is {self.push_to!r}; write OWNER/NAME, as in anna/stories",
        )
        require(
            0 < self.horizon_value < math.inf or self.horizon in ("steps", "chinchilla"),
            f"train.horizon is {self.horizon} and needs train.horizon_value above 0",
        )

    def dtype_on(self, platform: str) -> str:
        """What is computed in on a platform, as JAX names it: cpu, gpu or tpu."""
        if self.compute_dtype != "auto":
            return self.compute_dtype
        return "float32" if platform == "cpu" else "bfloat16"

    @property
    def device_rows(self) -> int:
        """device_batch_size, which must be a number by now. Raises ConfigError where it is still auto."""
        if self.device_batch_size == "auto":
            raise ConfigError(
                "train.device_batch_size is auto, which only `samosa train` resolves; give the number of rows"
            )
        return self.device_batch_size


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """What the validation documents are measured by as the run goes, and what it must pass at its end."""

    every_steps: int = 250  # 0: only at the end
    max_tokens: int = 500_000  # 0: all of them
    gate: str = ""  # conditions that the finished run is held against, as configs/gates/sft.yaml; empty: none
    gate_limit: int = 0  # questions of every task that the gate asks for; 0: all
    data_dir: str = ""  # files of such tasks; empty: the hub's
    probes: str = ""  # a folder of them; empty: configs/probes of this project
    persona: str = ""  # YAML of whom the probes expect to meet; empty: samosaChaat

    def __post_init__(self) -> None:
        require_at_least(0, self, "eval", "every_steps max_tokens gate_limit")


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    every_steps: int = 250  # 0: only at the end
    prompts: tuple[str, ...] = ("Once upon a time", "The president said")
    max_tokens: int = 64
    temperature: float = 0.8  # 0: greedy
    top_k: int = 50  # 0: all tokens

    def __post_init__(self) -> None:
        require_at_least(0, self, "sample", "every_steps max_tokens temperature top_k")


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    every_steps: int = 250  # 0: only at the end and when told to stop
    keep_last: int = 2
    milestone_steps: int = 0  # keep every multiple of it for ever; 0: none
    resume: Literal["auto", "never", "must"] = "auto"  # auto: go on from the newest good checkpoint

    def __post_init__(self) -> None:
        require_at_least(1, self, "checkpoint", "keep_last")
        require_at_least(0, self, "checkpoint", "every_steps milestone_steps")


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    every_steps: int = 10  # lines on the terminal; metrics.jsonl has every step
    display: Literal["auto", "live", "plain"] = "auto"  # live needs a terminal
    tensorboard: bool = False
    wandb_project: str | None = None
    cost_per_hour: float = 0.0  # of the whole machine, for the summary
    profile: str = ""  # FIRST:LAST, steps to trace into runs/NAME/profile, as 20:25; empty: none

    def __post_init__(self) -> None:
        first, last = self.profile_steps or (1, 1)
        require(
            1 <= first <= last,
            f"log.profile is {self.profile!r}; write FIRST:LAST, two steps that count from 1, as in 20:25",
        )
        require_at_least(1, self, "log", "every_steps")
        require_at_least(0, self, "log", "cost_per_hour")

    @property
    def profile_steps(self) -> tuple[int, int] | None:
        """First and last step of the trace; (0, 0) for what is no such pair."""
        if not self.profile:
            return None
        found = re.fullmatch(r"(\d+):(\d+)", self.profile)
        return (int(found[1]), int(found[2])) if found else (0, 0)
