"""`--explain`: every value that a rule derives, with formula and source, and the size of the model."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from samosa_jax.config import Config, TrainConfig
from samosa_jax.dial import rules_for, values_of
from samosa_jax.sizes import flops_per_token, parameter_counts, scaling_parameters, state_bytes


@dataclass(frozen=True, kw_only=True)
class Derivation:
    """One value, and how it came about."""

    key: str
    value: Any
    formula: str
    sources: tuple[str, ...]
    set_by_user: bool  # a file or flag says something else than the rule would
    rule_value: Any


def explain(config: Config) -> list[Derivation]:
    """Every rule at work in config, in the order they build on each other."""
    values = values_of(config)
    derivations = []
    model = config.model
    for rule in rules_for(architecture=model.architecture, depth=model.depth, horizon=config.train.horizon):
        rule_value = rule.value(values)
        derivations.append(
            Derivation(
                key=rule.key,
                value=values[rule.key],
                formula=rule.formula,
                sources=rule.sources,
                set_by_user=values[rule.key] != rule_value,
                rule_value=rule_value,
            )
        )
    return derivations


def summary(config: Config) -> list[str]:
    """Lines of size and cost: parameters, FLOPs, tokens, bytes of the training state."""
    counts = parameter_counts(config.model)
    scaling, flops = scaling_parameters(config.model), flops_per_token(config.model)
    groups = ", ".join(f"{name} {count}" for name, count in dataclasses.asdict(counts).items() if count)
    return [
        f"parameters: {counts.total}",
        f"  by group: {groups}",
        f"  scaling parameters (matrices and head): {scaling}",
        f"  bytes of parameters and optimizer state: {state_bytes(counts, config.optimizer)}",
        f"FLOPs per token: {flops}",
        *_length(config.train, scaling_parameters=scaling, flops_per_token=flops),
    ]


def _length(train: TrainConfig, *, scaling_parameters: int, flops_per_token: int) -> list[str]:
    if not train.num_steps:
        return [
            f"tokens: as many as {train.horizon_value:g} epochs of the data have, {train.batch_tokens} a step"
        ]
    tokens = train.num_steps * train.batch_tokens
    return [
        f"tokens: {tokens} ({train.num_steps} steps of {train.batch_tokens}; "
        f"{tokens / scaling_parameters:.2f} per scaling parameter)",
        f"FLOPs of the run: {flops_per_token * tokens:.3e}",
    ]


def explanation(config: Config) -> str:
    """The whole answer to --explain as plain text."""
    rows = explain(config)
    if not rows:
        first = ["nothing is derived; set model.depth, or train.horizon, and values follow from each other"]
        return "\n".join([*first, "", *summary(config)])
    sources = list(dict.fromkeys(source for row in rows for source in row.sources))
    key_width = max(len(row.key) for row in rows)
    value_width = max(len(str(row.value)) for row in rows)
    lines = []
    for row in rows:
        cited = ",".join(str(sources.index(source) + 1) for source in row.sources)
        how = f"set; would be {row.rule_value}: " if row.set_by_user else ""
        lines.append(f"{row.key:<{key_width}}  {row.value!s:>{value_width}}  {how}{row.formula} [{cited}]")
    references = [f"[{number}] {source}" for number, source in enumerate(sources, start=1)]
    return "\n".join([*lines, "", *references, "", *summary(config)])
