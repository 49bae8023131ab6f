"""A report before it has a form: sections of blocks, which `html_page` and `markdown_page` write alike.

Texts are plain, whatever characters they hold; escaping is the business of the two pages.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Tone = Literal["plain", "good", "bad", "muted"]


@dataclass(frozen=True)
class Cell:
    """A cell of a table."""

    text: str
    note: str = ""  # smaller, behind it
    tone: Tone = "plain"


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table whose first column names its rows."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    numeric: bool = True  # columns after the first hold numbers
    code: bool = False  # cells are keys, paths and values


@dataclass(frozen=True)
class Paragraph:
    text: str


@dataclass(frozen=True)
class Missing:
    """What a reader would look for here, and why it is not there."""

    text: str


@dataclass(frozen=True)
class Warning:
    """What a reader must not overlook."""

    text: str


@dataclass(frozen=True)
class Code:
    text: str


@dataclass(frozen=True, kw_only=True)
class Line:
    """A curve. Where y is not finite it has a gap."""

    name: str
    x: np.ndarray
    y: np.ndarray
    style: Literal["line", "faint", "points"] = "line"
    color: int = 0  # index of the palette


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One plot of a chart. `lines` share its axes."""

    title: str
    lines: Sequence[Line]
    facts: str  # what the plot shows, in words and figures
    last_x: float  # the axis goes from 0 to it
    marks: Sequence[tuple[float, str]] = ()  # x, and what happened there
    stacked: bool = False  # lines stand on each other, and their sum is the whole


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Plots side by side: the same quantity, stage by stage."""

    title: str
    unit: str
    panels: Sequence[Panel]
    x_label: str = "step"
    log: bool = False
    from_zero: bool = False
    shared: bool = True  # all panels have the same y axis
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class IntervalRow:
    """One task: a (value, low, high) per stage, None where a stage has none."""

    label: str
    values: Sequence[tuple[float, float, float] | None]


@dataclass(frozen=True, kw_only=True)
class Intervals:
    """Shares of 1 with their intervals, stages below each other for every task."""

    title: str
    stages: Sequence[str]
    rows: Sequence[IntervalRow]


@dataclass(frozen=True, kw_only=True)
class Excerpts:
    """Texts to be read beside each other."""

    title: str
    items: Sequence[tuple[str, str]]  # where it is from, the text


@dataclass(frozen=True, kw_only=True)
class Folded:
    """Details that open on request."""

    summary: str
    blocks: "Sequence[Block]"


Block = Table | Paragraph | Missing | Warning | Code | Chart | Intervals | Excerpts | Folded


@dataclass(frozen=True, kw_only=True)
class Section:
    name: str  # of its anchor
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True, kw_only=True)
class Fact:
    """One of the figures at the head of a report."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Document:
    title: str
    subtitle: str
    facts: Sequence[Fact]
    sections: Sequence[Section]
    footer: str


def missing_parts(blocks: Sequence[Block]) -> Iterator[str]:
    """The texts of all `Missing` blocks, in reading order."""
    for block in blocks:
        if isinstance(block, Missing):
            yield block.text
        elif isinstance(block, Folded):
            yield from missing_parts(block.blocks)
