"""Every knob, as frozen typed dataclasses. Imports neither JAX nor anything slow.

A configuration is one `Config`. Each class checks its own ranges in `__post_init__`; `Config` checks
what no single part can know. What is wrong raises `ConfigError` in one line that names the key.
Lengths are in tokens unless a name says `_bytes`, `_ms` or `_steps`.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

from samosa_jax.config.chat import ChatConfig, DpoConfig, LoraConfig, TagWeights
from samosa_jax.config.checks import require, require_at_least
from samosa_jax.config.data import DataConfig, SourceConfig
from samosa_jax.config.model import SMEAR_GATE_CHANNELS, VALUE_GATE_CHANNELS, ModelConfig
from samosa_jax.config.optimization import GroupConfig, LossConfig, OptimizerConfig, ScheduleConfig
from samosa_jax.config.rl import CurriculumConfig, HeldOutConfig, RewardConfig, RlConfig, TaskConfig
from samosa_jax.config.running import (
    CheckpointConfig,
    DistributedConfig,
    EvalConfig,
    LogConfig,
    MeshConfig,
    SampleConfig,
    TrainConfig,
)

__all__ = [
    "SMEAR_GATE_CHANNELS",
    "VALUE_GATE_CHANNELS",
    "ChatConfig",
    "CheckpointConfig",
    "Config",
    "CurriculumConfig",
    "DataConfig",
    "DistributedConfig",
    "DpoConfig",
    "EvalConfig",
    "GroupConfig",
    "HeldOutConfig",
    "LogConfig",
    "LoraConfig",
    "LossConfig",
    "MeshConfig",
    "ModelConfig",
    "OptimizerConfig",
    "RewardConfig",
    "RlConfig",
    "SampleConfig",
    "ScheduleConfig",
    "SourceConfig",
    "TagWeights",
    "TaskConfig",
    "TrainConfig",
    "require",
    "require_at_least",
    "to_dict",
    "with_rows",
    "with_steps",
]

FLOAT8_MULTIPLE = 16  # what cuBLAS demands of every dimension of a float8 product


@dataclass(frozen=True, kw_only=True)
class Config:
    """One run. `runs/NAME/config.yaml` holds it resolved."""

    name: str = "base"
    out_dir: str = "runs"
    seed: int = 0
    stage: Literal["pretrain", "midtrain", "sft", "cot_sft", "dpo", "grpo"] = "pretrain"
    init_from: str = ""  # a run or a checkpoint whose parameters this run begins with; empty: random ones
    init_optimizer: Literal["fresh", "kept"] = "fresh"  # kept: with the moments of that run; steps count anew
    init_from_refused: bool = False  # even if that run's gate has refused it, or has not judged it
    tokenizer: str = ""  # a folder written by `train_tokenizer`; empty: the one the data was prepared with
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    chat: ChatConfig = field(default_factory=ChatConfig)
    dpo: DpoConfig = field(default_factory=DpoConfig)
    rl: RlConfig = field(default_factory=RlConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    distributed: DistributedConfig = field(default_factory=DistributedConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    log: LogConfig = field(default_factory=LogConfig)

    def __post_init__(self) -> None:
        require(
            self.name not in ("", ".", "..") and "/" not in self.name,
            f"name is {self.name!r}; it names a folder, without a slash",
        )
        require(
            self.train.batch_tokens % self.model.context_len == 0,
            f"train.batch_tokens is {self.train.batch_tokens}, not a multiple of "
            f"model.context_len ({self.model.context_len})",
        )
        require_at_least(0, self, "", "seed")
        require(
            self.train.horizon != "epochs" or self.content != "text",
            "train.horizon is epochs, which text has none of; set it to tokens, ratio or steps",
        )
        if self.train.matmul_dtype == "float8":
            self._check_float8()
        if self.stage == "grpo":
            self._check_rl()
        begins_trained = self.stage in ("dpo", "grpo")
        for key, needs in (
            (f"stage={self.stage}", begins_trained),
            ("lora.rank above 0", self.lora.rank > 0),
        ):
            require(
                not needs or bool(self.init_from),
                f"{key} starts from a trained model; name its run or checkpoint, as in --init_from=runs/base",
            )
        keeps = self.init_optimizer == "kept"
        require(
            not keeps or bool(self.init_from),
            "init_optimizer is kept, but init_from names no run whose moments that would be; name it, as in "
            "--init_from=runs/base, or set init_optimizer=fresh",
        )
        require(
            not keeps or self.lora.rank == 0,
            f"init_optimizer is kept, but lora.rank is {self.lora.rank}: adapters are new and have no "
            "moments; set init_optimizer=fresh",
        )
        if self.train.num_steps:
            self._check_length()

    def _check_length(self) -> None:
        """What must fit into the steps of the run, once they are known."""
        require(
            self.schedule.warmup_steps < self.train.num_steps,
            f"schedule.warmup_steps is {self.schedule.warmup_steps}, but the run has "
            f"{self.train.num_steps} steps (train.num_steps); warm up for fewer",
        )
        first, _ = self.log.profile_steps or (1, 1)
        require(
            first <= self.train.num_steps,
            f"log.profile is {self.log.profile}, but the run has {self.train.num_steps} steps "
            "(train.num_steps)",
        )
        decay_steps = self.schedule.decay_frac * self.train.num_steps if self.schedule.kind == "wsd" else 0
        require(
            self.schedule.warmup_steps + decay_steps <= self.train.num_steps,
            f"schedule.warmup_steps ({self.schedule.warmup_steps}) and schedule.decay_frac "
            f"({self.schedule.decay_frac}, {decay_steps:.0f} steps) overlap in a run of "
            f"{self.train.num_steps} steps (train.num_steps); lower one of them",
        )

    def _check_float8(self) -> None:
        model = self.model
        require(
            self.stage not in ("dpo", "grpo") and self.lora.rank == 0,
            f"train.matmul_dtype is float8, but stage={self.stage} with lora.rank={self.lora.rank} "
            "lives on small differences, which 3 bits of mantissa drown; set it to compute",
        )
        for name, size in (
            ("model_dim", model.model_dim),
            ("num_heads x head_dim", model.num_heads * model.head_dim),
            ("num_kv_heads x head_dim", model.num_kv_heads * model.head_dim),
            ("mlp_dim", model.mlp_dim),
            ("context_len", model.context_len),
        ):
            require(
                size % FLOAT8_MULTIPLE == 0,
                f"model.{name} is {size}, but train.matmul_dtype=float8 needs multiples of {FLOAT8_MULTIPLE} "
                "in every dimension of a product; change it, or set train.matmul_dtype=compute",
            )

    def _check_rl(self) -> None:
        require(
            bool(self.rl.tasks),
            "rl.tasks is empty; name where the prompts of stage=grpo come from, as in --rl.tasks=arithmetic",
        )
        require(
            not self.data.sources,
            f"data.sources names {', '.join(source.path for source in self.data.sources)}, but stage=grpo "
            "trains on its own answers to the prompts of rl.tasks; leave it out",
        )
        require(
            self.train.horizon == "steps",
            f"train.horizon is {self.train.horizon}, but stage=grpo writes its own tokens, and nobody "
            "knows how many before; set it to steps",
        )
        require(
            self.rl.max_tokens < self.model.context_len,
            f"rl.max_tokens is {self.rl.max_tokens}, which leaves no room for a prompt in "
            f"model.context_len ({self.model.context_len}); lower it",
        )

    @property
    def content(self) -> Literal["text", "conversations", "preferences", "prompts"]:
        """What the stage trains on: the kind of folder that data.sources must name, or prompts of tasks."""
        match self.stage:
            case "pretrain":
                return "text"
            case "dpo":
                return "preferences"
            case "grpo":
                return "prompts"
            case _:
                return "conversations"

    @property
    def batch_rows(self) -> int:
        """Rows per optimizer step over all devices."""
        return self.train.batch_tokens // self.model.context_len


def with_rows(config: Config, device_rows: int) -> Config:
    """The configuration with that number as train.device_batch_size."""
    return dataclasses.replace(config, train=dataclasses.replace(config.train, device_batch_size=device_rows))


def with_steps(config: Config, num_steps: int) -> Config:
    """The configuration with that number as train.num_steps. Raises ConfigError where it does not fit."""
    return dataclasses.replace(config, train=dataclasses.replace(config.train, num_steps=num_steps))


def to_dict(config: object) -> dict[str, object]:
    """Any of the dataclasses above as plain nested dicts and lists, ready for YAML or JSON."""
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        raise TypeError(f"not a configuration object: {config!r}")
    return {spec.name: _plain(getattr(config, spec.name)) for spec in dataclasses.fields(config)}


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_dict(value)
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return value
