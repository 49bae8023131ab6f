"""Charts as inline SVG that takes its colours from the page: one drawing for light, dark and print.

Panels are small and of one size: a page lays them side by side where it is wide and below each other where it
is narrow, and their text stays readable either way.
"""

import html
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from samosa_jax.reporting.document import Chart, Intervals, Line, Panel
from samosa_jax.reporting.thinning import thin
from samosa_jax.reporting.visible import visible

WIDTH, HEIGHT = 280, 172
LEFT, RIGHT, TOP, BOTTOM = 46, 8, 8, 33
NUM_COLORS = 6
NUM_TICKS = 5
INTERVALS_WIDTH, NAME_WIDTH, MAX_NAME = 400, 128, 21


@dataclass(frozen=True, kw_only=True)
class Axis:
    """From values to places along an axis."""

    low: float
    high: float
    start: float  # where `low` is drawn
    stop: float
    log: bool = False

    def __call__(self, values: np.ndarray) -> np.ndarray:
        low, high = self._scaled(np.array([self.low, self.high]))
        return self.start + (self._scaled(values) - low) / (high - low) * (self.stop - self.start)

    def _scaled(self, values: np.ndarray) -> np.ndarray:
        return np.log10(np.maximum(values, 1e-300)) if self.log else values

    def ticks(self) -> list[float]:
        if not self.log:
            return linear_ticks(self.low, self.high, count=NUM_TICKS)
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        for steps in ((1,), (1, 3), (1, 2, 5)):
            inside = [
                factor * 10.0**power
                for power in range(first, last + 1)
                for factor in steps
                if self.low <= factor * 10.0**power <= self.high * (1 + 1e-9)
            ]
            if len(inside) >= 3:
                return inside[:: -(-len(inside) // (NUM_TICKS + 1))]
        return linear_ticks(self.low, self.high, count=NUM_TICKS)


def linear_ticks(low: float, high: float, *, count: int) -> list[float]:
    """Round numbers in low..high, about `count` of them."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [0.0 if k == 0 else k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def tick_label(value: float) -> str:
    """Short: 2e-4, 0.02, 4.5, 12k, 3M."""
    size = abs(value)
    for unit, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if size >= unit:
            return f"{value / unit:.4g}{letter}"
    if 0 < size < 1e-3:
        digits, _, power = f"{value:.1e}".partition("e")
        return f"{digits.removesuffix('.0')}e{int(power)}"
    return f"{value:.4g}"


def draw(chart: Chart) -> list[str]:
    """An SVG element for every panel."""
    y_axes = [_y_axis([panel], chart) for panel in chart.panels]
    if chart.shared and chart.panels:
        y_axes = [_y_axis(chart.panels, chart)] * len(chart.panels)
    return ["".join(_panel(panel, chart, y_axis)) for panel, y_axis in zip(chart.panels, y_axes, strict=True)]


def _y_axis(panels: Sequence[Panel], chart: Chart) -> Axis:
    values = np.concatenate([np.zeros(0), *(line.y for panel in panels for line in panel.lines)])
    values = values[np.isfinite(values) & ((values > 0) | (not chart.log))]
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    if any(panel.stacked for panel in panels):
        return Axis(low=0.0, high=1.0, start=HEIGHT - BOTTOM, stop=TOP)
    if chart.from_zero:
        low = min(low, 0.0)
    if low == high:
        low, high = low - (abs(low) or 1) * 0.1, high + (abs(high) or 1) * 0.1
    if chart.log:
        low, high = low / 1.1, high * 1.1
    else:
        margin = 0.04 * (high - low)
        low, high = (low if chart.from_zero and low == 0 else low - margin), high + margin
    return Axis(low=low, high=high, start=HEIGHT - BOTTOM, stop=TOP, log=chart.log)


def _x_axis(panel: Panel) -> Axis:
    return Axis(low=0.0, high=max(panel.last_x, 1.0), start=LEFT, stop=WIDTH - RIGHT)


def _panel(panel: Panel, chart: Chart, y_axis: Axis) -> Iterator[str]:
    x_axis = _x_axis(panel)
    name = html.escape(visible(f"{chart.title}, {panel.title}: {panel.facts}"), quote=True)
    yield f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{name}">'
    yield from _grid(x_axis, y_axis, x_label=chart.x_label)
    if panel.stacked:
        yield from _areas(panel.lines, x_axis, y_axis)
    else:
        for line in panel.lines:
            yield from _curve(line, x_axis, y_axis)
    for x, what in panel.marks:
        place = float(x_axis(np.array([x]))[0])
        yield (
            f'<g class="mark"><path d="M{place:.1f} {TOP}V{HEIGHT - BOTTOM}"/>'
            f"<title>{html.escape(visible(what))}</title></g>"
        )
    yield "</svg>"


def _grid(x_axis: Axis, y_axis: Axis, *, x_label: str) -> Iterator[str]:
    bottom = HEIGHT - BOTTOM
    y_ticks = y_axis.ticks()
    for value, place in zip(y_ticks, y_axis(np.array(y_ticks)), strict=True):
        yield f'<path class="grid" d="M{LEFT} {place:.1f}H{WIDTH - RIGHT}"/>'
        yield f'<text x="{LEFT - 6}" y="{place + 3.5:.1f}" text-anchor="end">{tick_label(value)}</text>'
    x_ticks = linear_ticks(x_axis.low, x_axis.high, count=4)
    for value, place in zip(x_ticks, x_axis(np.array(x_ticks)), strict=True):
        anchor = "end" if place > WIDTH - RIGHT - 8 else "middle"
        yield f'<text x="{place:.1f}" y="{bottom + 14}" text-anchor="{anchor}">{tick_label(value)}</text>'
    yield f'<path class="axis" d="M{LEFT} {bottom}H{WIDTH - RIGHT}"/>'
    yield (
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 5}" '
        f'text-anchor="middle">{html.escape(x_label)}</text>'
    )


def _curve(line: Line, x_axis: Axis, y_axis: Axis) -> Iterator[str]:
    xs, ys = thin(line.x, line.y)
    if not len(xs):
        return
    drawn = np.isfinite(ys) & ((ys > 0) | (not y_axis.log))
    px = x_axis(xs.astype(np.float64))
    py = np.where(drawn, y_axis(np.where(drawn, ys, y_axis.low)), np.nan)
    color = line.color % NUM_COLORS
    parts, pen_down = [], False
    for x, y in zip(px, py, strict=True):
        if math.isfinite(y):
            parts.append(f"{'L' if pen_down else 'M'}{x:.1f} {y:.1f}")
        pen_down = math.isfinite(y)
    if line.style != "points" or len(parts) > 1:
        faint = " faint" if line.style == "faint" else ""
        yield f'<path class="line c{color}{faint}" d="{"".join(parts)}"/>'
    if line.style == "points":
        for x, y, step, value in zip(px, py, xs, ys, strict=True):
            if math.isfinite(y):
                yield (
                    f'<circle class="c{color}" cx="{x:.1f}" cy="{y:.1f}" r="2.6">'
                    f"<title>{html.escape(visible(line.name))} {value:.6g} at {step:,.0f}</title></circle>"
                )


def _areas(lines: Sequence[Line], x_axis: Axis, y_axis: Axis) -> Iterator[str]:
    """Shares of a whole, the first at the bottom."""
    total = np.nansum(np.stack([line.y for line in lines]), axis=0)
    below = np.zeros_like(total)
    for line in lines:
        share = np.divide(np.nan_to_num(line.y), total, out=np.zeros_like(total), where=total > 0)
        above = below + share
        px, low, high = x_axis(line.x.astype(np.float64)), y_axis(below), y_axis(above)
        way = [f"{x:.1f} {y:.1f}" for x, y in zip(px, high, strict=True)]
        back = [f"{x:.1f} {y:.1f}" for x, y in zip(px[::-1], low[::-1], strict=True)]
        yield (
            f'<path class="area c{line.color % NUM_COLORS}" d="M{"L".join([*way, *back])}Z">'
            f"<title>{html.escape(visible(line.name))}</title></path>"
        )
        below = above


def draw_intervals(block: Intervals) -> str:
    """One SVG element: a group of bars for every row, on a common axis of percent."""
    ends = [end for row in block.rows for value in row.values if value is not None for end in value[1:]]
    finite = [end for end in ends if math.isfinite(end)] or [0.0, 1.0]
    low, high = min(0.0, *finite), max(*finite, 0.1)
    axis = Axis(low=low, high=high, start=NAME_WIDTH, stop=INTERVALS_WIDTH - 24)
    row_height = 8 + 9 * len(block.stages)
    bottom = row_height * len(block.rows) + 6
    name = html.escape(f"{block.title}: values with their 95 % intervals, as in the table above", quote=True)
    parts = [f'<svg viewBox="0 0 {INTERVALS_WIDTH} {bottom + 18}" role="img" aria-label="{name}">']
    ticks = linear_ticks(low, high, count=NUM_TICKS)
    for value, place in zip(ticks, axis(np.array(ticks)), strict=True):
        parts.append(f'<path class="grid" d="M{place:.1f} 0V{bottom}"/>')
        parts.append(
            f'<text x="{place:.1f}" y="{bottom + 13}" text-anchor="middle">{100 * value:.4g} %</text>'
        )
    for number, row in enumerate(block.rows):
        top = row_height * number
        label = row.label if len(row.label) <= MAX_NAME else f"{row.label[: MAX_NAME - 1]}…"
        parts.append(
            f'<text class="name" x="{NAME_WIDTH - 10}" y="{top + row_height / 2 + 3.5:.1f}" '
            f'text-anchor="end">{html.escape(visible(label))}</text>'
        )
        for stage, value in enumerate(row.values):
            if value is None or not all(map(math.isfinite, value)):
                continue
            middle, start, stop = axis(np.array(value))
            y = top + 8 + 9 * stage
            parts.append(
                f'<g class="c{stage % NUM_COLORS}"><path class="whisker" d="M{start:.1f} {y}H{stop:.1f}"/>'
                f'<circle cx="{middle:.1f}" cy="{y}" r="3.2"/></g>'
            )
    return "".join([*parts, "</svg>"])
