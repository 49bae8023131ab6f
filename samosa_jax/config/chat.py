"""What conversations teach, preferences, and adapters: what a configuration needs after pretraining."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal

from samosa_jax.config.checks import require, require_at_least


@dataclass(frozen=True, kw_only=True)
class TagWeights:
    """What a token counts in the loss, by its tag, when a share `at` of the steps is done."""

    at: float = 0.0  # 0..1; between two entries the weights are interpolated
    system: float = 0.0
    human: float = 0.0
    assistant: float = 1.0
    think: float = 1.0
    tool_call: float = 1.0
    tool_result: float = 0.0

    def __post_init__(self) -> None:
        require(0 <= self.at <= 1, f"chat.curriculum has at={self.at}; it must lie in 0..1")
        weights = self.by_tag()
        for tag, weight in weights.items():
            require(
                0 <= weight < math.inf,
                f"chat.curriculum at {self.at} has {tag}={weight}; it must be finite and not negative",
            )
        require(any(weights.values()), f"chat.curriculum at {self.at} has no weight above 0")

    def by_tag(self) -> dict[str, float]:
        return {spec.name: getattr(self, spec.name) for spec in dataclasses.fields(self) if spec.name != "at"}


EVERYTHING = TagWeights(system=1.0, human=1.0, tool_result=1.0)
# Thoughts count little at first, so that answers settle before the reasoning that leads to them is copied.
PRESETS: dict[str, tuple[TagWeights, ...]] = {
    "pretrain": (EVERYTHING,),
    "midtrain": (EVERYTHING, TagWeights(at=1.0, system=0.1, human=0.1, tool_result=0.1)),
    "sft": (TagWeights(think=0.5),),
    "cot_sft": (TagWeights(think=1.5),),
}


@dataclass(frozen=True, kw_only=True)
class ChatConfig:
    """How conversations become rows, and what their tokens count (NovaMind's tag-aware loss curriculum)."""

    weights: Literal["auto", "pretrain", "midtrain", "sft", "cot_sft"] = "auto"  # auto: the stage's own
    curriculum: tuple[TagWeights, ...] = ()  # in the order of `at`; where given, instead of `weights`
    too_long: Literal["truncate", "drop"] = "truncate"  # truncate: at the end of the last turn that fits

    def __post_init__(self) -> None:
        places = [entry.at for entry in self.curriculum]
        require(
            places == sorted(set(places)),
            f"chat.curriculum has the places {places}; give them in rising order, each once",
        )

    def curriculum_for(self, stage: str) -> tuple[TagWeights, ...]:
        """The weights of a stage, in the order of `at`; of "dpo" and "grpo", which have none, of "sft"."""
        own = "sft" if stage in ("dpo", "grpo") else stage
        return self.curriculum or PRESETS[own if self.weights == "auto" else self.weights]


@dataclass(frozen=True, kw_only=True)
class DpoConfig:
    """Direct preference optimisation (arXiv:2305.18290)."""

    beta: float = 0.1  # how dear it is to leave the reference, the model that the run begins with
    loss_type: Literal["sigmoid", "ipo"] = "sigmoid"
    label_smoothing: float = 0.0  # share of pairs believed to be labelled the wrong way round
    length_normalized: bool = False  # compare log-probabilities per token instead of sums
    reference: Literal["precomputed", "frozen"] = "precomputed"  # run once over the data, or at every step

    def __post_init__(self) -> None:
        require(0 < self.beta < math.inf, f"dpo.beta is {self.beta}; it must be positive: 0.1 is usual")
        require(
            0 <= self.label_smoothing < 0.5,
            f"dpo.label_smoothing is {self.label_smoothing}; it is the share of pairs with the labels "
            "swapped and must be at least 0 and below 0.5",
        )
        require(
            not self.label_smoothing or self.loss_type == "sigmoid",
            f"dpo.label_smoothing is {self.label_smoothing}, but dpo.loss_type is {self.loss_type}, which "
            "has none; set it to 0, or loss_type to sigmoid",
        )


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Low-rank adapters (arXiv:2106.09685) instead of all parameters; rank 0: none."""

    rank: int = 0
    alpha: float = 16.0  # the adapters' product counts alpha / rank
    targets: tuple[str, ...] = ("attention", "mlp")  # parts of the paths of the matrices that get one

    def __post_init__(self) -> None:
        require_at_least(0, self, "lora", "rank")
        require(0 < self.alpha < math.inf, f"lora.alpha is {self.alpha}; it must be positive and finite")
        require(
            bool(self.targets), "lora.targets is empty; name parts of parameter paths, or set lora.rank=0"
        )
