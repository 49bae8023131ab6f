"""Every knob, as frozen typed dataclasses. Imports neither JAX nor anything slow.

A configuration is one `Config`. Each class checks its own ranges in `__post_init__`; `Config` checks
what no single part can know. What is wrong raises `ConfigError` in one line that names the key.
Lengths are in tokens unless a name says `_bytes`, `_ms` or `_steps`.
"""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Literal

from samosa_jax.errors import ConfigError

VALUE_GATE_CHANNELS = 12  # leading channels of a layer's input that gate its value embedding
SMEAR_GATE_CHANNELS = 24  # leading channels of the embedding that gate the smear


def require(condition: bool, message: str) -> None:
    """Raises ConfigError(message) unless condition holds."""
    if not condition:
        raise ConfigError(message)


def require_at_least(low: float, part: object, section: str, names: str) -> None:
    """Raises ConfigError for the first of the named fields of part that is below low, or not finite."""
    for name in names.split():
        value = getattr(part, name)
        key = f"{section}.{name}".removeprefix(".")
        require(low <= value < math.inf, f"{key} is {value}; it must be at least {low}")


def require_positive(part: object, section: str, names: str) -> None:
    """Raises ConfigError for the first of the named fields of part that is not positive and finite."""
    for name in names.split():
        value = getattr(part, name)
        require(0 < value < math.inf, f"{section}.{name} is {value}; it must be positive and finite")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What the network is. With `depth` set, everything left unset follows from it (see `dial`)."""

    depth: int | None = None  # the dial: number of layers from which shape and training derive
    vocab_size: int = 32_768  # tokens of the tokenizer; the table is padded to a multiple of 64
    context_len: int = 1_024  # T: tokens a row holds in training, and the longest dialogue served
    num_layers: int = 6  # L
    model_dim: int = 384  # D
    num_heads: int = 6  # N
    num_kv_heads: int = 6  # K: N is a multiple of it
    head_dim: int = 64  # H
    mlp: Literal["swiglu", "relu2"] = "relu2"
    mlp_dim: int = 1_536  # F
    tie_embeddings: bool = False  # one table for embedding and head
    norm_scale: bool = False  # RMSNorm with a learned scale per channel
    norm_eps: float = 1e-6
    embedding_norm: bool = False  # RMSNorm right after the embedding lookup
    qk_norm: bool = True  # RMSNorm over H of queries and keys, after the rotation
    qk_gain: float = 1.0  # queries and keys are multiplied by it after qk_norm
    position: Literal["rope", "hirope"] = "rope"
    rope_base: float = 100_000.0
    hirope_local_base: float = 10_000.0  # rotates the first half of H by turn_position
    hirope_global_base: float = 500_000.0  # rotates the second half of H by position
    window: int | None = None  # keys a query sees in an "S" layer; None: context_len / 4, to 128s
    window_pattern: str = "L"  # tiled over layers: S = sliding window, L = full; last is always L
    soft_cap: float | None = None  # logits = cap * tanh(logits / cap)
    value_embeddings: bool = False  # per-token values, gated, added in alternate layers
    residual_scalars: bool = False  # per-layer scale of the residual stream
    x0_scalars: bool = False  # per-layer blend of the first residual (x0) back in
    smear: bool = False  # gated blend of the previous token's embedding
    backout: bool = False  # subtract a share of the middle layer's residual before the head
    init: Literal["gpt2", "zero_out"] = "zero_out"  # see model.params
    init_std: float = 0.02  # of "gpt2"
    embedding_std: float = 0.8  # of "zero_out"
    remat: Literal["none", "attention", "mlp", "full"] = "none"  # recomputed in the backward
    unroll_layers: bool = True  # False: one lax.scan over layers (needs a uniform window_pattern)
    attention: Literal["auto", "reference", "chunked"] = "auto"

    def __post_init__(self) -> None:
        require_at_least(
            1,
            self,
            "model",
            "vocab_size context_len num_layers model_dim num_heads num_kv_heads head_dim mlp_dim",
        )
        require_positive(
            self,
            "model",
            "norm_eps qk_gain rope_base hirope_local_base hirope_global_base init_std embedding_std",
        )
        require(
            self.depth is None or self.depth == self.num_layers,
            f"model.depth is {self.depth} but model.num_layers is {self.num_layers}; "
            "depth is the number of layers: set only one of them",
        )
        require(
            self.num_heads % self.num_kv_heads == 0,
            f"model.num_heads is {self.num_heads}, not a multiple of model.num_kv_heads "
            f"({self.num_kv_heads}); choose num_kv_heads among the divisors of num_heads",
        )
        for name, used, channels in (
            ("value_embeddings", self.value_embeddings, VALUE_GATE_CHANNELS),
            ("smear", self.smear, SMEAR_GATE_CHANNELS),
        ):
            require(
                not used or self.model_dim >= channels,
                f"model.{name} needs model.model_dim of at least {channels}, which its gate reads; "
                f"it is {self.model_dim}",
            )
        rotated = 4 if self.position == "hirope" else 2
        require(
            self.head_dim % rotated == 0,
            f"model.head_dim is {self.head_dim}; position={self.position} needs a multiple of {rotated}",
        )
        require(
            bool(self.window_pattern) and set(self.window_pattern) <= {"S", "L"},
            f"model.window_pattern is {self.window_pattern!r}; use the letters S and L only, e.g. SSSL",
        )
        if self.window is not None:
            require(
                1 <= self.window <= self.context_len,
                f"model.window is {self.window}; it must lie in 1..model.context_len ({self.context_len})",
            )
            require(
                "S" in self.window_pattern,
                f"model.window is {self.window} but model.window_pattern {self.window_pattern!r} has no "
                "sliding layer; write S where the window applies, e.g. SSSL, or leave window null",
            )
        require(
            self.qk_norm or self.qk_gain == 1.0,
            f"model.qk_gain is {self.qk_gain} but model.qk_norm is off; the gain comes after that norm",
        )
        require(
            self.soft_cap is None or 0 < self.soft_cap < math.inf,
            f"model.soft_cap is {self.soft_cap}; it must be positive, or null for none",
        )
        require(
            self.unroll_layers or self.has_uniform_layers,
            "model.unroll_layers=false needs layers that are all alike; "
            "set window_pattern=L and value_embeddings=false, or unroll_layers=true",
        )

    @property
    def padded_vocab_size(self) -> int:
        """V: vocab_size rounded up to a multiple of 64, so that the head divides over devices."""
        return -(-self.vocab_size // 64) * 64

    @property
    def short_window(self) -> int:
        """Keys seen in an "S" layer."""
        quarter = -(-self.context_len // 4 // 128) * 128
        return min(self.window or quarter, self.context_len)

    @property
    def layer_windows(self) -> tuple[int | None, ...]:
        """For every layer the number of keys a query sees, itself included; None: all before it."""
        letters = [self.window_pattern[i % len(self.window_pattern)] for i in range(self.num_layers)]
        letters[-1] = "L"
        return tuple(self.short_window if letter == "S" else None for letter in letters)

    @property
    def value_embedding_layers(self) -> tuple[int, ...]:
        """Layers with a value embedding: every second one, the last always among them."""
        if not self.value_embeddings:
            return ()
        return tuple(i for i in range(self.num_layers) if i % 2 == (self.num_layers - 1) % 2)

    @property
    def has_uniform_layers(self) -> bool:
        return len(set(self.layer_windows)) == 1 and not self.value_embeddings


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """One prepared dataset in the mixture."""

    path: str  # a folder written by `prepare`
    weight: float = 1.0  # share of rows, relative to the other sources

    def __post_init__(self) -> None:
        require(bool(self.path), "data.sources has an empty path; name a folder written by `samosa prepare`")
        require(
            0 < self.weight < math.inf,
            f"data.sources weight of {self.path} is {self.weight}; it must be positive and finite",
        )


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which token shards to train on. Order is a function of (seed, step) alone."""

    sources: tuple[SourceConfig, ...] = ()
    document_masking: bool = True  # attention stays inside a document
    wait_for_shards: bool = False  # train while `prepare` still writes the later shards
    num_threads: int = 1  # reading and packing threads per process
    prefetch_batches: int = 4

    def __post_init__(self) -> None:
        require_at_least(1, self, "data", "num_threads prefetch_batches")
        paths = [source.path for source in self.sources]
        twice = next((path for path in paths if paths.count(path) > 1), None)
        require(twice is None, f"data.sources names {twice} more than once; give it one entry and one weight")


@dataclass(frozen=True, kw_only=True)
class GroupConfig:
    """Optimizer of one parameter group. Muon's lr is per unit of orthogonal update."""

    kind: Literal["muon", "adamw"] = "adamw"
    lr: float = 3e-4
    beta1: float = 0.9  # AdamW's first moment, or Muon's momentum
    beta2: float = 0.95
    eps: float = 1e-10
    weight_decay: float = 0.0

    def check(self, key: str) -> None:
        """Raises ConfigError under the name of the group, `key`, which only the owner knows."""
        for name, value in (("lr", self.lr), ("weight_decay", self.weight_decay)):
            require(0 <= value < math.inf, f"{key}.{name} is {value}; it must be finite and not negative")
        for name, value in (("beta1", self.beta1), ("beta2", self.beta2)):
            require(0 <= value < 1, f"{key}.{name} is {value}; it must lie in [0, 1)")
        require(0 < self.eps < 1, f"{key}.eps is {self.eps}; it must lie in (0, 1)")


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """One GroupConfig per parameter group; model.params says which weight is in which."""

    matrix: GroupConfig = GroupConfig(kind="muon", lr=0.02, beta1=0.95)
    embedding: GroupConfig = GroupConfig(lr=0.2, beta1=0.8, beta2=0.95)
    value_embedding: GroupConfig = GroupConfig(lr=0.1, beta1=0.8, beta2=0.95)
    head: GroupConfig = GroupConfig(lr=0.004, beta1=0.8, beta2=0.95)
    residual: GroupConfig = GroupConfig(lr=0.005, beta1=0.8, beta2=0.95)  # residual_scalars
    scalar: GroupConfig = GroupConfig(lr=0.1, beta1=0.8, beta2=0.95)  # norms, gates, x0, smear, backout
    decay: Literal["decoupled", "cautious"] = "cautious"  # cautious: only where it agrees with the step
    clip_norm: float | None = 1.0  # global gradient norm
    newton_schulz_steps: int = 5

    def __post_init__(self) -> None:
        for name, group in self.groups.items():
            group.check(f"optimizer.{name}")
            require(
                name == "matrix" or group.kind != "muon",
                f"optimizer.{name}.kind is muon; Muon orthogonalises hidden matrices only, use adamw here",
            )
        require(
            self.clip_norm is None or self.clip_norm > 0,
            f"optimizer.clip_norm is {self.clip_norm}; it must be positive, or null for none",
        )
        require(
            1 <= self.newton_schulz_steps <= 12,
            f"optimizer.newton_schulz_steps is {self.newton_schulz_steps}; it must lie in 1..12",
        )

    @property
    def groups(self) -> dict[str, GroupConfig]:
        """Parameter group -> its optimizer."""
        return {
            "matrix": self.matrix,
            "embedding": self.embedding,
            "value_embedding": self.value_embedding,
            "head": self.head,
            "residual": self.residual,
            "scalar": self.scalar,
        }


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Learning-rate factor over the run: warm up from 0 to 1, hold, decay to final_frac."""

    kind: Literal["constant", "cosine", "wsd", "linear"] = "wsd"
    warmup_steps: int = 20
    decay_frac: float = 0.4  # share of the steps that decay; cosine and linear always use all
    final_frac: float = 0.05

    def __post_init__(self) -> None:
        require_at_least(0, self, "schedule", "warmup_steps")
        require(0 <= self.decay_frac <= 1, f"schedule.decay_frac is {self.decay_frac}; it must lie in 0..1")
        require(0 <= self.final_frac <= 1, f"schedule.final_frac is {self.final_frac}; it must lie in 0..1")


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    z_loss: float = 0.0  # adds z_loss * logsumexp^2
    chunk_tokens: int = 1_024  # C: tokens whose logits exist at the same time, per device

    def __post_init__(self) -> None:
        require(
            0 <= self.z_loss < math.inf, f"loss.z_loss is {self.z_loss}; it must be finite and not negative"
        )
        require_at_least(1, self, "loss", "chunk_tokens")


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
class TrainConfig:
    """How long, in which batches, in which precision."""

    num_steps: int = 1_000  # set by the dial unless horizon is "steps"
    horizon: Literal["steps", "tokens", "ratio", "chinchilla", "flops"] = "steps"
    horizon_value: float = 0.0  # tokens, tokens per scaling parameter, or FLOPs; unused by the others
    batch_tokens: int = 16_384  # tokens per optimizer step over all devices
    device_batch_size: int = 16  # rows per device in one forward pass; the rest is accumulated
    compute_dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # auto: bfloat16 on accelerators
    max_bad_steps: int = 5  # non-finite steps in a row before the run stops

    def __post_init__(self) -> None:
        require_at_least(1, self, "train", "num_steps batch_tokens device_batch_size max_bad_steps")
        require(
            0 < self.horizon_value < math.inf or self.horizon in ("steps", "chinchilla"),
            f"train.horizon is {self.horizon} and needs train.horizon_value above 0",
        )


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Validation bits per byte, on the validation documents of every source."""

    every_steps: int = 250  # 0: only at the end
    max_tokens: int = 500_000  # 0: all of them

    def __post_init__(self) -> None:
        require_at_least(0, self, "eval", "every_steps max_tokens")


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

    def __post_init__(self) -> None:
        require_at_least(1, self, "log", "every_steps")
        require_at_least(0, self, "log", "cost_per_hour")


@dataclass(frozen=True, kw_only=True)
class Config:
    """One run. `runs/NAME/config.yaml` holds it resolved."""

    name: str = "base"
    out_dir: str = "runs"
    seed: int = 0
    stage: Literal["pretrain"] = "pretrain"
    tokenizer: str = ""  # a folder written by `train_tokenizer`; empty: the one the data was prepared with
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
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
            self.schedule.warmup_steps < self.train.num_steps,
            f"schedule.warmup_steps is {self.schedule.warmup_steps}, but the run has "
            f"{self.train.num_steps} steps (train.num_steps); warm up for fewer",
        )
        decay_steps = self.schedule.decay_frac * self.train.num_steps if self.schedule.kind == "wsd" else 0
        require(
            self.schedule.warmup_steps + decay_steps <= self.train.num_steps,
            f"schedule.warmup_steps ({self.schedule.warmup_steps}) and schedule.decay_frac "
            f"({self.schedule.decay_frac}, {decay_steps:.0f} steps) overlap in a run of "
            f"{self.train.num_steps} steps (train.num_steps); lower one of them",
        )

    @property
    def batch_rows(self) -> int:
        """Rows per optimizer step over all devices."""
        return self.train.batch_tokens // self.model.context_len


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
