"""The table and the picture of an ablation."""

import math
import shlex
from collections.abc import Sequence
from pathlib import Path

from samosa_jax.config import Config
from samosa_jax.experiments.ablation import Ablation, MeasuredRow
from samosa_jax.experiments.outcome import measure_of
from samosa_jax.experiments.page import table
from samosa_jax.experiments.seed_statistics import deviation


def ablation_section(
    ablation: Ablation, measured: Sequence[MeasuredRow], *, seeds: Sequence[int], picture: str
) -> str:
    """Markdown. `seeds` are those that were measured; `picture` is the path that the page shows."""
    base = measured[0]
    config = base.outcomes[0].run.config
    with_seeds = f"seed{'' if len(seeds) == 1 else 's'} {', '.join(map(str, seeds))}"
    lines = [
        f"### {ablation.name}",
        "",
        f"{measure_of(config).capitalize()}; lower is better. {base.outcomes[0].steps:,} steps, "
        f"{base.outcomes[0].tokens:,} tokens a run; {with_seeds}. Differences are to the "
        "first row over the same seeds, with Student's 95 % interval of the paired differences; "
        "those whose interval leaves out 0 are bold.",
        "",
        _table(measured),
        "",
        f"![differences to the baseline]({picture})",
        "",
        *[f"- **{row.row.name}**: {row.row.note}" for row in measured if row.row.note],
        *[f"- {line}" for line in _skipped(measured)],
        f"- Rates of the first row: {rates(config)}. A row that changes them says so.",
    ]
    if ablation.note:
        lines.append(f"- {ablation.note}")
    hours = sum(outcome.seconds for row in measured for outcome in row.outcomes) / 3600
    machines = sorted({outcome.machine for row in measured for outcome in row.outcomes})
    lines += [
        f"- {len(measured) * len(seeds)} runs, {hours:.2f} hours of training one after the other; "
        f"{'; '.join(machines)}.",
        "",
        f"```\npython -m samosa_jax.ablate {shlex.quote(str(ablation.path))}\n```",
    ]
    return "\n".join(lines)


def rates(config: Config) -> str:
    """The learning rates of a run, group by group, and their schedule."""
    groups = ", ".join(
        f"{name} {group.kind} {config.optimizer.lr_scale * group.lr:.3g}"
        for name, group in config.optimizer.groups.items()
    )
    schedule = config.schedule
    return f"{groups}; {schedule.kind}, {schedule.warmup_steps} steps of warm-up"


def draw_ablation(measured: Sequence[MeasuredRow], picture: Path, *, title: str) -> None:
    """Writes a PNG: for every row its difference to the baseline, seed by seed and with its interval."""
    from matplotlib.figure import Figure

    rows = measured[1:]
    base = [outcome.value for outcome in measured[0].outcomes]
    points = [
        [outcome.value - of_base for outcome, of_base in zip(row.outcomes, base, strict=True)] for row in rows
    ]
    figure = Figure(figsize=(8, 1.4 + 0.36 * len(rows)), dpi=150, layout="constrained")
    axes = figure.subplots()
    shown = [0.0, *(point for of_row in points for point in of_row)]
    margin = 0.15 * (max(shown) - min(shown)) or 1e-3
    axes.set_xlim(min(shown) - margin, max(shown) + margin)
    axes.axvline(0, color="black", linewidth=0.8)
    for place, (row, of_row) in enumerate(zip(rows, points, strict=True)):
        assert row.difference is not None  # only the baseline has none
        real = row.difference.low > 0 or row.difference.high < 0
        color = "tab:blue" if real else "tab:gray"
        if math.isfinite(row.difference.low):
            axes.plot([row.difference.low, row.difference.high], [place, place], color=color, linewidth=1.6)
        axes.plot(of_row, [place] * len(of_row), "|", color=color, markersize=9)
        axes.plot(row.difference.value, place, "o", color=color, markersize=5)
    axes.set_yticks(range(len(rows)), [row.row.name for row in rows])
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.25)
    measure = measure_of(measured[0].outcomes[0].run.config)
    axes.set(xlabel=f"{measure}: more than the baseline's {measured[0].mean:.4f}", title=title)
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture)


def _table(measured: Sequence[MeasuredRow]) -> str:
    base = measured[0]
    parts = list(base.parts)
    header = ["row", "change", "parameters", "loss", "difference", *parts, "tokens/s"]
    rows = []
    for row in measured:
        more = row.parameters - base.parameters
        share = f" ({100 * more / base.parameters:+.1f} %)" if more else ""
        rows.append(
            [
                row.row.name,
                ", ".join(f"`{setting.key}: {setting.text}`" for setting in row.row.settings),
                f"{row.parameters:,}{share}",
                with_deviation(row.mean, row.deviation),
                _difference(row),
                *[with_deviation(sum(of) / len(of), deviation(of)) for of in row.parts.values()],
                "–" if row.tokens_per_sec is None else f"{row.tokens_per_sec:,.0f}",
            ]
        )
    return table(header, rows)


def with_deviation(mean: float, spread: float | None) -> str:
    return f"{mean:.4f}" if spread is None else f"{mean:.4f} ± {spread:.4f}"


def _difference(row: MeasuredRow) -> str:
    if row.difference is None:
        return "–"
    value, low, high = row.difference.value, row.difference.low, row.difference.high
    if not math.isfinite(low):
        return f"{value:+.4f}"
    text = f"{value:+.4f} [{low:+.4f}, {high:+.4f}]"
    return f"**{text}**" if low > 0 or high < 0 else text


def _skipped(measured: Sequence[MeasuredRow]) -> list[str]:
    return [
        f"{outcome.run.label} skipped {outcome.skipped_steps} non-finite steps"
        for row in measured
        for outcome in row.outcomes
        if outcome.skipped_steps
    ]
