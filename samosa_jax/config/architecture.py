"""Which networks are, number for number, one of those that other programs know by name.

A model with such a twin needs no code of ours wherever it goes: transformers, vLLM and llama.cpp have their
own. `model.architecture=hf` chooses options that have one and refuses the others.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from samosa_jax.config.model import ModelConfig

Twin = Literal["llama", "qwen3", "nanochat"]  # the model_type of transformers


@dataclass(frozen=True)
class NoTwin:
    """Why there is none: the first option in the way."""

    option: str  # of ModelConfig
    value: object
    reason: str

    def __str__(self) -> str:
        return f"model.{self.option} is {self.value}: {self.reason}"


def find_twin(model: "ModelConfig") -> Twin | NoTwin:
    """The architecture of transformers that computes what this network does.

    A norm without a scale is one whose scale is 1 everywhere, so that Llama and Qwen3 do without as well.
    """
    if (nowhere := next(_known_nowhere(model), None)) is not None:
        return nowhere
    if model.mlp == "relu2":
        return next(_unlike_nanochat(model), None) or "nanochat"
    if not model.qk_norm:
        return next(_unlike_llama(model), None) or "llama"
    return next(_unlike_qwen3(model), None) or "qwen3"


def _known_nowhere(model: "ModelConfig") -> Iterator[NoTwin]:
    if model.position == "hirope":
        yield NoTwin("position", "hirope", "no stock architecture counts positions inside a turn; take rope")
    for option in ("value_embeddings", "residual_scalars", "x0_scalars", "smear", "backout"):
        if getattr(model, option):
            yield NoTwin(option, True, "no stock architecture has it; set it to false")


def _unlike_nanochat(model: "ModelConfig") -> Iterator[NoTwin]:
    only = "relu2 is NanoChat's alone among stock architectures"
    if model.norm_scale:
        yield NoTwin("norm_scale", True, f"{only}, whose norms have no scale; set it to false, or mlp=swiglu")
    if not model.qk_norm:
        yield NoTwin("qk_norm", False, f"{only}, which norms queries and keys; set it to true, or mlp=swiglu")
    if model.qk_norm_scale:
        yield NoTwin(
            "qk_norm_scale", True, f"{only}, which scales no queries; set it to false, or mlp=swiglu"
        )
    if model.qk_gain != 1:
        yield NoTwin("qk_gain", model.qk_gain, f"{only}, which has no gain; set it to 1, or mlp=swiglu")
    if not model.embedding_norm:
        yield NoTwin(
            "embedding_norm", False, f"{only}, which norms embeddings; set it to true, or mlp=swiglu"
        )
    if any(model.layer_windows):
        yield NoTwin("window_pattern", model.window_pattern, f"{only}, which has no windows; set it to L")


def _unlike_llama(model: "ModelConfig") -> Iterator[NoTwin]:
    yield from _unlike_both(model, name="Llama")
    if any(model.layer_windows):
        yield NoTwin(
            "window_pattern", model.window_pattern, "Llama has no windows; set it to L, or qk_norm=true"
        )
    if model.model_dim % model.num_heads:
        yield NoTwin(
            "num_heads",
            model.num_heads,
            f"Llama's divide model_dim ({model.model_dim}); choose one that does",
        )


def _unlike_qwen3(model: "ModelConfig") -> Iterator[NoTwin]:
    yield from _unlike_both(model, name="Qwen3")
    if model.qk_norm_scale and model.qk_gain != 1:
        yield NoTwin("qk_gain", model.qk_gain, "Qwen3's learned scales are its only gain; set it to 1")


def _unlike_both(model: "ModelConfig", *, name: str) -> Iterator[NoTwin]:
    if model.embedding_norm:
        yield NoTwin("embedding_norm", True, f"{name} does not norm embeddings; set it to false")
    if model.soft_cap is not None:
        yield NoTwin("soft_cap", model.soft_cap, f"{name} does not cap logits; set it to null")
