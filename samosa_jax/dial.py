"""The dial: `model.depth` sets shape, batch, learning rates and length of a run; `train.horizon` its steps;
`model.architecture=hf` the options that stock architectures share.

What it derives are defaults: any file or flag goes above them. Each value is a `Rule`, in the order in
which they build on each other, with its formula in words and where it comes from; `samosa_jax.explain`
prints them.

The reference is a model of depth 12 and width 768, whose best batch (2^19 tokens) and learning rates were
measured by karpathy/nanochat at 12 tokens per scaling parameter.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from samosa_jax.config import Config, ModelConfig, TrainConfig, require
from samosa_jax.keys import keys_of
from samosa_jax.sizes import flops_per_token, scaling_parameters

ASPECT_RATIO = 64  # model_dim / depth
REFERENCE_WIDTH = 768
REFERENCE_BATCH = 2**19  # tokens per step
REFERENCE_TOKENS = 1_321_205_760  # 12 x the scaling parameters of depth 12 with 32 768 tokens of vocabulary
BATCH_EXPONENT = 0.383
CHINCHILLA_RATIO = 20  # tokens per scaling parameter
WEIGHT_DECAY_LIMIT = 2.0

OURS = "chosen here"
NANOCHAT = "karpathy/nanochat, scripts/base_train.py and nanochat/gpt.py"
CHINCHILLA = "Hoffmann et al. 2022, Training Compute-Optimal Large Language Models, arXiv:2203.15556"
POWER_LINES = (
    "Bergsma et al. 2025, Power Lines: Scaling Laws for Weight Decay and Batch Size, arXiv:2505.13738"
)
ADAM_SCALING = "Malladi et al. 2022, On the SDEs and Scaling Rules for Adaptive Gradients, arXiv:2205.10287"
EMA_TIMESCALE = "Wang and Aitchison 2024, How to set AdamW's weight decay, arXiv:2405.13698"
GPT3 = "Brown et al. 2020, Language Models are Few-Shot Learners, table 2.1, arXiv:2005.14165"
PRIMER = "So et al. 2021, Primer (squared ReLU), arXiv:2109.08668"
QWEN3 = "Yang et al. 2025, Qwen3 Technical Report, arXiv:2505.09388"
GLU = "Shazeer 2020, GLU Variants Improve Transformer, arXiv:2002.05202"

Values = Mapping[str, Any]  # by dotted key


@dataclass(frozen=True)
class Rule:
    """How one key follows from others."""

    key: str
    formula: str
    sources: tuple[str, ...]
    value: Callable[[Values], Any]


def model_of(values: Values) -> ModelConfig:
    """The model that the values describe. Raises ConfigError."""
    return ModelConfig(**_section(values, "model"))


def horizon_tokens(values: Values) -> float:
    """Tokens the run is meant to see."""
    horizon, amount = values["train.horizon"], values["train.horizon_value"]
    if horizon == "steps":
        return float(values["train.num_steps"] * values["train.batch_tokens"])
    if horizon == "tokens":
        return float(amount)
    model = model_of(values)
    if horizon == "flops":
        return amount / flops_per_token(model)
    return float(scaling_parameters(model) * (CHINCHILLA_RATIO if horizon == "chinchilla" else amount))


def _section(values: Values, name: str) -> dict[str, Any]:
    start = f"{name}."
    return {key.removeprefix(start): value for key, value in values.items() if key.startswith(start)}


def _head_dim(values: Values) -> int:
    depth = values["model.depth"]
    return 128 if depth >= 8 and depth % 2 == 0 else 64


def _model_dim(values: Values) -> int:
    head_dim = values["model.head_dim"]
    return math.ceil(ASPECT_RATIO * values["model.depth"] / head_dim) * head_dim


def _mlp_dim(values: Values) -> int:
    width = values["model.model_dim"]
    return 4 * width if values["model.mlp"] == "relu2" else math.ceil(8 * width / 3 / 64) * 64


def _batch_tokens(values: Values) -> int:
    if values["train.horizon"] == "steps":
        # tokens = steps x batch, put into the law and solved for the batch
        ratio = values["train.num_steps"] * REFERENCE_BATCH / REFERENCE_TOKENS
        best = REFERENCE_BATCH * ratio ** (BATCH_EXPONENT / (1 - BATCH_EXPONENT))
    else:
        best = REFERENCE_BATCH * (horizon_tokens(values) / REFERENCE_TOKENS) ** BATCH_EXPONENT
    row = values["model.context_len"]
    return row * 2 ** max(0, round(math.log2(best / row)))


def _num_steps(values: Values) -> int:
    return max(1, round(horizon_tokens(values) / values["train.batch_tokens"]))


def _batch_scale(values: Values) -> float:
    return math.sqrt(values["train.batch_tokens"] / REFERENCE_BATCH)


def _width_scale(values: Values) -> float:
    return math.sqrt(REFERENCE_WIDTH / values["model.model_dim"])


def _matrix_lr(values: Values) -> float:
    if values["optimizer.matrix.kind"] == "muon":
        return _rounded(0.02 * _batch_scale(values))
    return _rounded(6e-4 * _batch_scale(values) * _width_scale(values))


def _scaled_lr(base: float, *, by_width: bool) -> Callable[[Values], float]:
    def value(values: Values) -> float:
        return _rounded(base * _batch_scale(values) * (_width_scale(values) if by_width else 1.0))

    return value


def _weight_decay(values: Values) -> float:
    base = 0.28 if values["optimizer.matrix.kind"] == "muon" else 0.1
    scaled = base * _batch_scale(values) * REFERENCE_TOKENS / horizon_tokens(values)
    return _rounded(min(WEIGHT_DECAY_LIMIT, scaled))


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


HF_RULES = (
    Rule(
        "model.mlp",
        "swiglu, as Llama and Qwen3 have it (architecture=hf)",
        (QWEN3,),
        lambda values: "swiglu",
    ),
    Rule(
        "model.norm_scale",
        "true with swiglu, as in Qwen3; false with relu2, as in NanoChat (architecture=hf)",
        (QWEN3, NANOCHAT),
        lambda values: values["model.mlp"] == "swiglu",
    ),
    Rule(
        "model.qk_norm_scale",
        "true with swiglu and qk_norm, as in Qwen3; else false (architecture=hf)",
        (QWEN3, NANOCHAT),
        lambda values: values["model.mlp"] == "swiglu" and values["model.qk_norm"],
    ),
    Rule(
        "model.embedding_norm",
        "true with relu2, as in NanoChat; else false (architecture=hf)",
        (QWEN3, NANOCHAT),
        lambda values: values["model.mlp"] == "relu2",
    ),
)

SHAPE_RULES = (
    Rule("model.num_layers", "depth", (OURS,), lambda values: values["model.depth"]),
    Rule(
        "model.head_dim",
        "128 for even depths from 8 on, so that 4 heads or more fill the width; else 64",
        (NANOCHAT, OURS),
        _head_dim,
    ),
    Rule("model.model_dim", "64 x depth, up to a multiple of head_dim", (NANOCHAT,), _model_dim),
    Rule(
        "model.num_heads",
        "model_dim / head_dim",
        (NANOCHAT,),
        lambda values: max(1, values["model.model_dim"] // values["model.head_dim"]),
    ),
    Rule("model.num_kv_heads", "num_heads", (NANOCHAT,), lambda values: values["model.num_heads"]),
    Rule(
        "model.mlp_dim",
        "relu2: 4 x model_dim; swiglu: 8/3 x model_dim, up to a multiple of 64",
        (PRIMER, GLU),
        _mlp_dim,
    ),
)

STEPS_RULE = Rule(
    "train.num_steps",
    "horizon tokens / batch_tokens, to the nearest; chinchilla: 20 tokens per scaling parameter",
    (CHINCHILLA, NANOCHAT),
    _num_steps,
)

TRAINING_RULES = (
    Rule(
        "train.batch_tokens",
        "2^19 x (horizon tokens / 1.32e9)^0.383, to the nearest context_len x power of two",
        (POWER_LINES, NANOCHAT),
        _batch_tokens,
    ),
    STEPS_RULE,
    Rule(
        "optimizer.matrix.lr",
        "muon: 0.02 x sqrt(batch / 2^19); adamw: 6e-4 x sqrt(batch / 2^19) x sqrt(768 / model_dim)",
        (NANOCHAT, ADAM_SCALING, GPT3),
        _matrix_lr,
    ),
    Rule(
        "optimizer.embedding.lr",
        "0.3 x sqrt(batch / 2^19) x sqrt(768 / model_dim)",
        (NANOCHAT,),
        _scaled_lr(0.3, by_width=True),
    ),
    Rule(
        "optimizer.value_embedding.lr",
        "0.15 x sqrt(batch / 2^19) x sqrt(768 / model_dim)",
        (NANOCHAT,),
        _scaled_lr(0.15, by_width=True),
    ),
    Rule(
        "optimizer.head.lr",
        "0.008 x sqrt(batch / 2^19) x sqrt(768 / model_dim)",
        (NANOCHAT,),
        _scaled_lr(0.008, by_width=True),
    ),
    Rule(
        "optimizer.residual.lr",
        "0.005 x sqrt(batch / 2^19)",
        (NANOCHAT,),
        _scaled_lr(0.005, by_width=False),
    ),
    # Gates and norm scales, in this group too, need gentler steps than nanochat's lone scalars (0.2 to 0.5).
    Rule(
        "optimizer.scalar.lr",
        "0.02 x sqrt(batch / 2^19)",
        (OURS,),
        _scaled_lr(0.02, by_width=False),
    ),
    Rule(
        "optimizer.matrix.weight_decay",
        "0.28 (adamw: 0.1) x sqrt(batch / 2^19) x 1.32e9 / horizon tokens, at most 2",
        (EMA_TIMESCALE, NANOCHAT, OURS),
        _weight_decay,
    ),
)


def derive(given: Values) -> dict[str, Any]:
    """Defaults that follow from the given values, by dotted key. Raises ConfigError if no model can be."""
    derived: dict[str, Any] = {}
    values: dict[str, Any] = {key: given.get(key, spec.default) for key, spec in keys_of(Config).items()}
    for key in ("model.depth", "model.head_dim", "model.model_dim", "model.context_len"):
        require(values[key] is None or values[key] >= 1, f"{key} is {values[key]}; it must be at least 1")
    if values["model.depth"] is not None and not {"train.horizon", "train.num_steps"} & given.keys():
        values["train.horizon"] = derived["train.horizon"] = "chinchilla"
    TrainConfig(**_section(values, "train"))  # its own checks, before its values are divided by
    require(
        values["model.depth"] is None or values["train.horizon"] != "epochs",
        "train.horizon is epochs, which the data measures, so that model.depth cannot derive batch and "
        "rates; leave model.depth unset and give them, or take them over with init_from",
    )
    if values["train.horizon"] == "epochs" and "train.num_steps" not in given:
        values["train.num_steps"] = derived["train.num_steps"] = 0  # which the data will say
    rules = rules_for(
        architecture=values["model.architecture"],
        depth=values["model.depth"],
        horizon=values["train.horizon"],
    )
    for rule in rules:
        if rule.key not in given:
            values[rule.key] = derived[rule.key] = rule.value(values)
    return derived


def rules_for(*, architecture: str, depth: int | None, horizon: str) -> tuple[Rule, ...]:
    """The rules at work. Without depth, shape and rates are what is given; the horizon derives the steps."""
    rules = SHAPE_RULES + TRAINING_RULES if depth is not None else (STEPS_RULE,)
    rules = HF_RULES + rules if architecture == "hf" else rules
    return tuple(rule for rule in rules if rule is not STEPS_RULE or horizon not in ("steps", "epochs"))


def check_horizon(config: Config) -> None:
    """Raises ConfigError if num_steps was set to something other than what the horizon says."""
    if config.train.horizon in ("steps", "epochs"):
        return
    wanted = _num_steps(values_of(config))
    require(
        config.train.num_steps == wanted,
        f"train.num_steps is {config.train.num_steps}, but train.horizon={config.train.horizon} makes it "
        f"{wanted}; drop train.num_steps, or set train.horizon=steps",
    )


def values_of(config: Config) -> dict[str, Any]:
    """Every value of a configuration by dotted key."""
    values: dict[str, Any] = {}
    for key in keys_of(Config):
        value: Any = config
        for name in key.split("."):
            value = getattr(value, name)
        values[key] = value
    return values
