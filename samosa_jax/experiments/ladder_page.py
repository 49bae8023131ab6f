"""The table and the picture of a ladder."""

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from samosa_jax.experiments.ablation_page import rates, with_deviation
from samosa_jax.experiments.ladder import AGAINST, SYMBOLS, Ladder, Prediction, Rung
from samosa_jax.experiments.outcome import measure_of
from samosa_jax.experiments.page import table
from samosa_jax.experiments.seed_statistics import deviation

CURVE_POINTS = 200


@dataclass(frozen=True, kw_only=True)
class Climbed:
    """A ladder of one ratio: what was fitted, what was predicted, and what came of it."""

    ratio: float
    rungs: Sequence[Rung]
    prediction: Prediction
    check: Rung | None  # None: the predicted depth was not trained


def ladder_section(ladder: Ladder, climbed: Sequence[Climbed], *, picture: str) -> str:
    """Markdown; `picture` is the path that the page shows."""
    first = climbed[0].rungs[0].outcomes[0]
    measure = measure_of(first.run.config)
    with_seeds = f"seed{'' if len(ladder.seeds) == 1 else 's'} {', '.join(map(str, ladder.seeds))}"
    lines = [
        f"### {ladder.name}",
        "",
        f"{measure.capitalize()} against {AGAINST[ladder.against]}, {with_seeds}. "
        "The law is fitted to the rungs above the line; the depth below it was "
        "predicted first and trained then.",
        "",
    ]
    for one in climbed:
        lines += [
            f"**{one.ratio:g} tokens per scaling parameter**",
            "",
            _table(one),
            "",
            *_in_words(one, ladder),
            "",
        ]
    outcomes = [
        outcome
        for one in climbed
        for rung in (*one.rungs, *([one.check] if one.check else []))
        for outcome in rung.outcomes
    ]
    hours = sum(outcome.seconds for outcome in outcomes) / 3600
    machines = "; ".join(sorted({outcome.machine for outcome in outcomes}))
    lines += [
        f"![loss against {AGAINST[ladder.against]}]({picture})",
        "",
        f"- Rates of depth {climbed[0].rungs[0].depth}: {rates(first.run.config)}.",
        *([f"- {ladder.note}"] if ladder.note else []),
        f"- {len(outcomes)} runs, {hours:.2f} hours of training one after the other; {machines}.",
        "",
        f"```\npython -m samosa_jax.scaling {shlex.quote(str(ladder.path))}\n```",
    ]
    return "\n".join(lines)


def prediction_in_words(prediction: Prediction, *, symbol: str) -> str:
    """The law and what it says, in one sentence."""
    law, loss = prediction.law, prediction.loss
    text = (
        f"L = {law.floor:.4f} + {law.coefficient:.4g} {symbol}^-{law.exponent:.4f} predicts {loss.value:.4f}"
    )
    if math.isfinite(loss.low):
        text += f" [{loss.low:.4f}, {loss.high:.4f} over seeds]"
    if prediction.without_one is not None:
        low, high = prediction.without_one
        text += f"; leaving out one rung, {low:.4f} to {high:.4f}"
    return f"{text}; the line through the last two rungs alone, {prediction.trend:.4f}"


def error_in_words(prediction: Prediction, check: Rung, last: Rung) -> str:
    """How far the prediction was off, and next to what."""
    off = check.mean - prediction.loss.value
    gained = last.mean - check.mean
    return (
        f"Depth {check.depth} reached {with_deviation(check.mean, deviation(check.losses))}: the prediction "
        f"was off by {off:+.4f} ({100 * off / prediction.loss.value:+.2f} %), where the step from depth "
        f"{last.depth} gained {gained:.4f}; the ruler was off by {check.mean - prediction.trend:+.4f}."
    )


def _in_words(one: Climbed, ladder: Ladder) -> list[str]:
    said = prediction_in_words(one.prediction, symbol=SYMBOLS[ladder.against])
    lines = [f"- {said}."]
    if one.check is not None:
        lines.append(f"- {error_in_words(one.prediction, one.check, one.rungs[-1])}")
    return lines


def _table(one: Climbed) -> str:
    header = ["depth", "width", "scaling parameters", "all parameters", "tokens", "FLOPs", "loss", "law"]
    rows = [_row(rung, one.prediction) for rung in one.rungs]
    if one.check is not None:
        checked = _row(one.check, one.prediction)
        rows += [["–"] * len(header), [f"**{checked[0]}**", *checked[1:]]]
    return table(header, rows)


def _row(rung: Rung, prediction: Prediction) -> list[str]:
    first = rung.outcomes[0]
    return [
        str(rung.depth),
        f"{first.run.config.model.model_dim}",
        f"{first.run.scaling_parameters:,}",
        f"{first.run.parameters:,}",
        f"{first.tokens:,}",
        f"{first.run.flops_per_token * first.tokens:.3g}",
        with_deviation(rung.mean, deviation(rung.losses)),
        f"{prediction.law(rung.x):.4f}",
    ]


def draw_ladder(climbed: Sequence[Climbed], picture: Path, *, against: str, title: str) -> None:
    """Writes a PNG: the runs, the law of every ratio, and what it says of the depth that is predicted."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), dpi=150, layout="constrained")
    axes = figure.subplots()
    for number, one in enumerate(climbed):
        color = f"C{number}"
        xs = [rung.x for rung in one.rungs for _ in rung.losses]
        losses = [loss for rung in one.rungs for loss in rung.losses]
        label = f"{one.ratio:g} tokens per parameter"
        axes.plot(xs, losses, "o", color=color, markersize=4, label=f"{label}, fitted")
        line = np.geomspace(one.rungs[0].x / 1.2, one.prediction.x * 1.2, CURVE_POINTS)
        law = one.prediction.law
        axes.plot(line, [law(x) for x in line], color=color, linewidth=1)
        axes.axhline(law.floor, color=color, linewidth=0.8, linestyle=":", alpha=0.6)
        loss = one.prediction.loss
        axes.plot(one.prediction.x, loss.value, "D", color=color, mfc="none", label=f"{label}, predicted")
        if math.isfinite(loss.low):
            axes.plot([one.prediction.x] * 2, [loss.low, loss.high], color=color, linewidth=1.5)
        if one.check is not None:
            axes.plot(
                [one.check.x] * len(one.check.losses),
                one.check.losses,
                "x",
                color="black",
                label=f"{label}, then measured",
            )
    axes.set_xscale("log")
    axes.grid(alpha=0.25, which="both")
    axes.legend(frameon=False)
    measured = climbed[0].rungs[0].outcomes[0].run.config
    axes.set(xlabel=AGAINST[against], ylabel=measure_of(measured), title=title)
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture)
