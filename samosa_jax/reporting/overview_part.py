"""What a run is and where it comes from: figures at the head, the stages, and what sets it apart."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from samosa_jax.config import Config, ModelConfig
from samosa_jax.errors import ConfigError
from samosa_jax.keys import keys_of
from samosa_jax.reporting.document import Block, Cell, Fact, Folded, Missing, Paragraph, Section, Table
from samosa_jax.reporting.figures_in_words import NONE, count, figure, large, setting, share
from samosa_jax.reporting.lineage import Lineage
from samosa_jax.reporting.run_history import RunHistory
from samosa_jax.reporting.training_part import bad_steps, final_loss, speed_in_words
from samosa_jax.sizes import parameter_counts
from samosa_jax.training.display import format_seconds

HELD_OUT = (  # the first that a run has stands for it
    ("val/bpb", "bits per byte"),
    ("val/rewards/accuracies", "of held-out pairs told right"),
    ("eval/pass@1", "of held-out prompts answered right"),
    ("val/loss", "nats per held-out token"),
)
SHARES = ("val/rewards/accuracies", "eval/pass@1")


def price_of(run: RunHistory, *, cost_per_hour: float | None) -> float | None:
    """Of an hour: as the command says, or as the run's configuration does; None: neither."""
    if cost_per_hour is not None:
        return cost_per_hour
    return float(run.config.get("log.cost_per_hour") or 0) or None


def cost_of(run: RunHistory, *, cost_per_hour: float | None) -> float | None:
    price = price_of(run, cost_per_hour=cost_per_hour)
    return None if price is None or run.seconds is None else run.seconds / 3600 * price


def head_facts(lineage: Lineage, *, cost_per_hour: float | None) -> list[Fact]:
    runs, last = lineage.runs, lineage.last
    facts = [Fact(label="parameters", value=_parameters(last), note=_shape(last))]
    of_all = f"{large(sum(run.tokens for run in runs))} over {len(runs)} stages" if len(runs) > 1 else ""
    facts.append(Fact(label="tokens trained on", value=large(last.tokens), note=of_all))
    value, what = held_out_figure(last)
    facts.append(Fact(label="validation", value=value, note=what))
    seconds = [run.seconds for run in runs]
    whole = sum(second for second in seconds if second is not None)
    facts.append(
        Fact(
            label="time" if len(runs) == 1 else "time, all stages",
            value=format_seconds(whole) if any(seconds) else NONE,
            note=last.hardware,
        )
    )
    costs = [cost_of(run, cost_per_hour=cost_per_hour) for run in runs]
    known = [cost for cost in costs if cost is not None]
    if known:
        facts.append(Fact(label="cost", value=f"{sum(known):,.2f}", note=_price_note(lineage, cost_per_hour)))
    return facts


def held_out_figure(run: RunHistory) -> tuple[str, str]:
    """The last thing that training measured on held-out data, and its unit."""
    for metric, unit in HELD_OUT:
        curve = run.held_out.get(metric)
        if curve is not None and len(curve.finite.values):
            last = float(curve.finite.values[-1])
            return (share(last) if metric in SHARES else f"{last:.4f}"), unit
    return NONE, "nothing was held out"


def overview_section(lineage: Lineage, *, cost_per_hour: float | None) -> Section:
    rows = []
    for run in lineage.runs:
        cost = cost_of(run, cost_per_hour=cost_per_hour)
        planned = int(run.config.get("train.num_steps", 0))
        unfinished = f"of {count(planned)}" if planned > run.last_step else ""
        value, unit = held_out_figure(run)
        rows.append(
            (
                Cell(run.name, run.stage),
                Cell(count(run.last_step), unfinished),
                large(run.tokens),
                figure(final_loss(run)),
                Cell(value, unit),
                NONE if run.seconds is None else format_seconds(run.seconds),
                speed_in_words(run) or NONE,
                NONE if cost is None else f"{cost:,.2f}",
                run.hardware or NONE,
            )
        )
    blocks: list[Block] = [
        Table(
            caption="The stages that are known"
            if lineage.missing
            else "The stages, from random parameters on",
            header=(
                "run",
                "steps",
                "tokens",
                "loss at the end",
                "held out",
                "time",
                "speed",
                "cost",
                "devices",
            ),
            rows=rows,
        )
    ]
    if lineage.missing:
        blocks.append(Missing(f"lineage: {lineage.missing}"))
    if all(cost_of(run, cost_per_hour=cost_per_hour) is None for run in lineage.runs):
        blocks.append(Missing("cost: no price of an hour is known; give --cost_per_hour"))
    if not lineage.last.summary:
        blocks.append(Missing("summary.json: the run has not ended, or was stopped before its last step"))
    blocks.extend(Paragraph(f"{run.name}: {notice}.") for run in lineage.runs for notice in run.notices)
    skipped = sum(len(bad_steps(run)) for run in lineage.runs)
    if skipped:
        blocks.append(
            Paragraph(f"{count(skipped)} steps gave no finite loss and were skipped; see Training.")
        )
    return Section(name="overview", title="The run", blocks=blocks)


def settings_section(lineage: Lineage) -> Section:
    """What sets each stage apart from the defaults, and from the stage before."""
    blocks: list[Block] = []
    defaults = {key.name: key.default for key in keys_of(Config).values()}
    for number, run in enumerate(lineage.runs):
        if not run.config:
            blocks.append(Missing(f"configuration of {run.name}: its folder has no config.yaml"))
            continue
        before = lineage.runs[number - 1] if number else None
        if before is None or not before.config:
            blocks.append(
                _settings_table(
                    f"{run.name}, where it differs from the defaults", defaults, run.config, "default"
                )
            )
        else:
            caption = f"{run.name}, where it differs from {before.name}"
            blocks.append(_settings_table(caption, before.config, run.config, before.name))
    last = lineage.last
    if len(lineage.runs) > 1 and last.config:
        caption = f"{last.name}, where it differs from the defaults"
        blocks.append(_settings_table(caption, defaults, last.config, "default"))
    return Section(name="settings", title="Configuration", blocks=blocks)


def differing_settings(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(key, here, there) of every key whose values differ; one that only one side knows counts."""
    keys = [*second, *(key for key in first if key not in second)]
    return [
        (key, _value(first, key), _value(second, key))
        for key in keys
        if _comparable(first.get(key)) != _comparable(second.get(key)) or (key in first) != (key in second)
    ]


def _settings_table(caption: str, first: Mapping[str, Any], second: Mapping[str, Any], name: str) -> Block:
    rows = differing_settings(first, second)
    if not rows:
        return Paragraph(f"{caption}: nowhere.")
    table = Table(caption=caption, header=("key", name, "here"), rows=rows, numeric=False, code=True)
    return Folded(summary=f"{caption} ({len(rows)})", blocks=[table])


def _value(config: Mapping[str, Any], key: str) -> str:
    return setting(config[key]) if key in config else "(not a key)"


def _comparable(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _parameters(run: RunHistory) -> str:
    """Counted from the configuration; a dash if this version cannot read it."""
    known = {spec.name for spec in fields(ModelConfig)}
    given = {
        key.removeprefix("model."): value for key, value in run.config.items() if key.startswith("model.")
    }
    if not given or not given.keys() <= known:
        return NONE
    try:
        counts = parameter_counts(ModelConfig(**given))
    except (ConfigError, TypeError):
        return NONE
    return large(counts.total)


def _shape(run: RunHistory) -> str:
    model = {name: run.config.get(f"model.{name}") for name in ("num_layers", "model_dim", "context_len")}
    if None in model.values():
        return ""
    adapters = f", LoRA rank {run.config['lora.rank']}" if run.config.get("lora.rank") else ""
    context = count(model["context_len"] or 0)
    return f"{model['num_layers']} layers of {model['model_dim']}, context {context}{adapters}"


def _price_note(lineage: Lineage, cost_per_hour: float | None) -> str:
    prices = {price_of(run, cost_per_hour=cost_per_hour) for run in lineage.runs}
    prices_known: Sequence[float] = sorted(price for price in prices if price is not None)
    note = "at " + ", ".join(f"{price:g}" for price in prices_known) + " an hour"
    return note if None not in prices else f"{note}; not of all stages"
