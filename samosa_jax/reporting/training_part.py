"""How training went: curves over the whole lineage, steps without a finite loss, and restarts."""

from collections.abc import Iterator, Sequence

import numpy as np

from samosa_jax.reporting.document import (
    Block,
    Chart,
    Folded,
    Line,
    Missing,
    Panel,
    Paragraph,
    Section,
    Table,
)
from samosa_jax.reporting.document import Warning as Alarm
from samosa_jax.reporting.figures_in_words import count, figure, large, share
from samosa_jax.reporting.lineage import Lineage
from samosa_jax.reporting.quantities import QUANTITIES, Quantity
from samosa_jax.reporting.run_history import Curve, RunHistory
from samosa_jax.reporting.thinning import MAX_POINTS, smoothed
from samosa_jax.training.summary import LOSS_WINDOW

MAX_BAD_STEPS = 20  # listed
LOG_RATIO = 30.0  # between the largest and the median value: from there on an axis is logarithmic


def training_section(lineage: Lineage) -> Section:
    blocks: list[Block] = [
        Paragraph(
            "One plot per stage. Pale: every step; strong: a moving mean "
            "over 2 % of the stage. Dotted uprights are restarts, and steps that gave no finite loss."
        )
    ]
    for quantity in QUANTITIES:
        blocks.extend(_charts(quantity, lineage.runs))
    blocks.extend(_bad_steps(lineage.runs))
    blocks.extend(_restarts(lineage.runs))
    return Section(name="training", title="Training", blocks=blocks)


def final_loss(run: RunHistory) -> float | None:
    """Mean of the last finite steps, as in summary.json."""
    curve = run.train.get("train/loss")
    values = curve.finite.values if curve is not None else np.zeros(0)
    return float(values[-LOSS_WINDOW:].mean()) if len(values) else None


def bad_steps(run: RunHistory) -> list[int]:
    """Steps that left the parameters alone."""
    curve = run.train.get("train/skipped")
    return [] if curve is None else [int(step) for step in curve.steps[curve.values > 0]]


def _charts(quantity: Quantity, runs: Sequence[RunHistory]) -> Iterator[Block]:
    panels = [panel for run in runs if quantity.fits(run) and (panel := _panel(quantity, run)) is not None]
    if not panels:
        if quantity.absent and any(quantity.fits(run) for run in runs):
            yield Missing(quantity.absent)
        return
    values = np.concatenate([line.y for panel in panels for line in panel.lines])
    values = values[np.isfinite(values)]
    positive = values[values > 0]
    log = bool(quantity.may_be_log and len(positive) and positive.max() > LOG_RATIO * np.median(positive))
    longest = max(len(line.x) for panel in panels for line in panel.lines)
    yield Chart(
        title=quantity.title,
        unit=quantity.unit,
        panels=panels,
        log=log,
        from_zero=quantity.from_zero and not log,
        shared=quantity.shared,
        note=_thinning_note(longest),
    )


def _thinning_note(longest: int) -> str:
    if longest <= MAX_POINTS:
        return ""
    return (
        f"Up to {longest:,} points, drawn as {MAX_POINTS:,}: the lowest and the highest of equal stretches, "
        "so that no spike is lost."
    )


def _panel(quantity: Quantity, run: RunHistory) -> Panel | None:
    source = run.held_out if quantity.held_out else run.train
    lines, facts = [], []
    for color, (metric, name) in enumerate(quantity.metrics):
        curve = source.get(metric)
        if curve is None or not len(curve.steps):
            continue
        few = quantity.held_out or len(curve.steps) < 40
        lines.append(
            Line(name=name, x=curve.steps, y=curve.values, style="points" if few else "faint", color=color)
        )
        if not few and quantity.is_noisy:
            xs, ys = smoothed(curve.steps, curve.values)
            lines.append(Line(name=f"{name}, smoothed", x=xs, y=ys, color=color))
        elif not few:
            lines[-1] = Line(name=name, x=curve.steps, y=curve.values, color=color)
        prefix = f"{name} " if len(quantity.metrics) > 1 else ""
        facts.append(prefix + _in_words(curve, noisy=not few and quantity.is_noisy))
    if not lines:
        return None
    marks = [
        (float(step), f"went on from step {step}")
        for start in run.starts
        if (step := int(start.get("from_step", 0))) > 0
    ]
    marks += [(float(step), f"step {step} was not finite and was skipped") for step in bad_steps(run)]
    title = f"{run.name} ({run.stage})"
    return Panel(
        title=title,
        lines=lines,
        facts="; ".join(facts),
        last_x=run.last_step,
        marks=() if quantity.held_out else marks,
    )


def _in_words(curve: Curve, *, noisy: bool) -> str:
    finite = curve.finite
    if not len(finite.values):
        return "no finite value"
    lowest, highest = int(np.argmin(finite.values)), int(np.argmax(finite.values))
    last = f"{figure(finite.values[-1])} at step {count(finite.steps[-1])}"
    if len(finite.values) == 1:
        return last
    if noisy:
        window = min(LOSS_WINDOW, len(finite.values))
        last += f" (mean of the last {window}: {figure(finite.values[-window:].mean())})"
    return (
        f"{figure(finite.values[0])} at step {count(finite.steps[0])}, {last}; "
        f"lowest {figure(finite.values[lowest])} ({count(finite.steps[lowest])}), "
        f"highest {figure(finite.values[highest])} ({count(finite.steps[highest])})"
    )


def _bad_steps(runs: Sequence[RunHistory]) -> Iterator[Block]:
    rows = []
    for run in runs:
        found = bad_steps(run)
        if not found:
            continue
        shown = ", ".join(count(step) for step in found[:MAX_BAD_STEPS])
        if len(found) > MAX_BAD_STEPS:
            shown += f" and {len(found) - MAX_BAD_STEPS} more"
        kept = f"{len(run.bad_batches)} in bad_steps/" if run.bad_batches else "none kept"
        rows.append((run.name, count(len(found)), shown, kept))
    if not rows:
        yield Paragraph("Every step of every stage had a finite loss and a finite gradient.")
        return
    yield Alarm("Steps that gave no finite loss or gradient left the parameters alone.")
    yield Table(
        caption="Steps that were skipped",
        header=("run", "skipped", "steps", "their batches"),
        rows=rows,
        numeric=False,
    )


def _restarts(runs: Sequence[RunHistory]) -> Iterator[Block]:
    rows = []
    for run in runs:
        for number, start in enumerate(run.starts):
            device = start.get("device", {})
            hardware = f"{device.get('count', '?')} x {device.get('kind', 'unknown')}"
            rows.append((run.name, count(number + 1), count(int(start.get("from_step", 0))), hardware))
    stopped = [run for run in runs if len(run.starts) > 1]
    if not stopped:
        yield Paragraph("No stage was stopped and gone on with.")
        return
    named = ", ".join(f"{run.name} ({len(run.starts) - 1}x)" for run in stopped)
    yield Folded(
        summary=f"Stopped and gone on with: {named}",
        blocks=[Table(caption="Every start", header=("run", "start", "from step", "devices"), rows=rows)],
    )


def tag_section(lineage: Lineage) -> Section:
    """What each kind of token adds to the loss, where a stage has kinds."""
    panels, rows = [], []
    for run in lineage.runs:
        parts = {
            name.removeprefix("train/loss_part_"): curve
            for name, curve in run.train.items()
            if name.startswith("train/loss_part_")
        }
        used = {tag: curve for tag, curve in parts.items() if np.nansum(np.abs(curve.values)) > 0}
        if not used:
            continue
        panels.append(_tag_panel(run, used, sorted(parts)))
        rows.extend(_tag_rows(run, used))
    blocks: list[Block] = []
    if panels:
        blocks.append(
            Paragraph(
                "What the tokens of each tag add to the training loss, as a share of it. The held-out loss "
                "is per token of the tag itself, whatever its weight in training."
            )
        )
        blocks.append(
            Chart(title="Loss shares by tag", unit="share of the training loss", panels=panels, shared=True)
        )
        blocks.append(
            Table(
                caption=f"By tag (first and last: means of {LOSS_WINDOW} steps)",
                header=(
                    "stage and tag",
                    "share, first",
                    "share, last",
                    "held out, before",
                    "held out, after",
                ),
                rows=rows,
            )
        )
    else:
        blocks.append(
            Missing("loss shares by tag: no stage of this lineage was trained on tagged conversations")
        )
    return Section(name="tags", title="Loss by tag", blocks=blocks)


def _tag_panel(run: RunHistory, used: dict[str, Curve], tags: Sequence[str]) -> Panel:
    steps = next(iter(used.values())).steps
    parts = np.array_split(np.arange(len(steps)), min(60, len(steps)))
    lines = [
        Line(
            name=tag,
            x=np.array([steps[part].mean() for part in parts]),
            y=np.array([np.nansum(curve.values[part]) for part in parts]),
            color=tags.index(tag),
        )
        for tag, curve in used.items()
    ]
    total = sum(np.nansum(curve.values[-LOSS_WINDOW:]) for curve in used.values())
    facts = ", ".join(
        f"{tag} {share(np.nansum(curve.values[-LOSS_WINDOW:]) / total, digits=0)}"
        for tag, curve in used.items()
    )
    return Panel(
        title=f"{run.name} ({run.stage})",
        lines=lines,
        facts=f"at the end {facts}",
        last_x=run.last_step,
        stacked=True,
    )


def _tag_rows(run: RunHistory, used: dict[str, Curve]) -> Iterator[tuple[str, ...]]:
    ends = [
        {tag: float(np.nansum(curve.values[part])) for tag, curve in used.items()}
        for part in (slice(None, LOSS_WINDOW), slice(-LOSS_WINDOW, None))
    ]
    totals = [sum(end.values()) for end in ends]
    for tag in used:
        held_out = run.held_out.get(f"val/loss_{tag}")
        values = [None, None] if held_out is None else [held_out.values[0], held_out.values[-1]]
        yield (
            f"{run.name}: {tag}",
            *(share(end[tag] / total) if total else "–" for end, total in zip(ends, totals, strict=True)),
            *(figure(value) for value in values),
        )


def speed_in_words(run: RunHistory) -> str:
    """Tokens over the time of the steps that were timed; empty if none was."""
    curve = run.train.get("perf/tokens_per_sec")
    if curve is None or not len(curve.finite.values):
        return ""
    rates = curve.finite.values
    return f"{large(len(rates) / float(np.sum(1.0 / rates)))} tokens/s"
