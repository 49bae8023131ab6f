"""Optimizer, learning-rate schedule and loss."""

import math
from dataclasses import dataclass
from typing import Literal

from samosa_jax.config.checks import require, require_at_least, require_positive


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
    lr_scale: float = 1.0  # multiplies the lr of every group: finetuning takes a share of the base's rates

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
        require_positive(self, "optimizer", "lr_scale")
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
