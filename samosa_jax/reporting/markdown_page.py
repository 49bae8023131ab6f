"""A document as Markdown: the same words and figures as the HTML page, with curves as lines of characters."""

import html
import re
from collections.abc import Iterator, Sequence

from samosa_jax.reporting.document import (
    Block,
    Cell,
    Chart,
    Code,
    Document,
    Excerpts,
    Folded,
    Intervals,
    Missing,
    Paragraph,
    Table,
    Warning,
    missing_parts,
)
from samosa_jax.reporting.thinning import sparkline
from samosa_jax.reporting.visible import one_line, visible

_SPECIAL = re.compile(r"([\\`*_|~$]|\](?=[(\[:])|\[(?=\^))")
_LINE_START = re.compile(r"^(\d+(?=[.)](?:\s|$))|(?=[-+#=](?:[-#=\s]|$)))")


def markdown_page(document: Document) -> str:
    return "\n\n".join(_page(document)) + "\n"


def _page(document: Document) -> Iterator[str]:
    yield f"# {_escape(document.title)}"
    yield _escape(document.subtitle)
    facts = Table(
        caption="",
        header=("figure", "value"),
        rows=[(fact.label, Cell(fact.value, fact.note)) for fact in document.facts],
        numeric=False,
    )
    yield _rows(facts)
    found = [text for section in document.sections for text in missing_parts(section.blocks)]
    if found:
        yield "Missing from this report:"
        yield "\n".join(f"- {_escape(text)}" for text in found)
    for section in document.sections:
        yield f"## {_escape(section.title)}"
        yield from _blocks(section.blocks)
    yield _escape(document.footer)


def _blocks(blocks: Sequence[Block]) -> Iterator[str]:
    for block in blocks:
        yield from _block(block)


def _block(block: Block) -> Iterator[str]:
    if isinstance(block, Paragraph):
        yield _escape(block.text)
    elif isinstance(block, Missing):
        yield f"> **Missing** {_escape(block.text)}"
    elif isinstance(block, Warning):
        yield f"> **Warning** {_escape(block.text)}"
    elif isinstance(block, Code):
        yield _fenced(block.text)
    elif isinstance(block, Table):
        yield f"**{_escape(block.caption)}**"
        yield _rows(block)
    elif isinstance(block, Chart):
        yield from _chart(block)
    elif isinstance(block, Excerpts):
        yield f"### {_escape(block.title)}"
        for where, text in block.items:
            yield f"{_escape(where)}:"
            yield _fenced(text if text.strip() else "(nothing)")
    elif isinstance(block, Folded):
        yield f"#### {_escape(block.summary)}"
        yield from _blocks(block.blocks)
    else:
        assert isinstance(block, Intervals)  # a picture of the table above it


def _chart(chart: Chart) -> Iterator[str]:
    log = ", logarithmic" if chart.log else ""
    yield f"### {_escape(chart.title)} ({_escape(chart.unit)}{log})"
    lines = []
    for panel in chart.panels:
        curves = [line for line in panel.lines if not line.name.endswith(", smoothed")]
        for line in curves:
            name = f" {_escape(line.name)}" if len(curves) > 1 else ""
            lines.append(f"- {_escape(panel.title)}{name} `{sparkline(line.y)}`")
        lines.append(f"  - {_escape(panel.facts)}")
        lines += [f"  - {_escape(what)}" for _, what in panel.marks]
    yield "\n".join(lines)


def _rows(table: Table) -> str:
    align = "---:" if table.numeric else "---"
    lines = [
        "| " + " | ".join(_escape(name) for name in table.header) + " |",
        "| " + " | ".join(["---", *[align] * (len(table.header) - 1)]) + " |",
    ]
    lines += ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in table.rows]
    return "\n".join(lines)


def _cell(cell: str | Cell) -> str:
    if isinstance(cell, str):
        return _escape(cell)
    return _escape(cell.text) + (f" <br>{_escape(cell.note)}" if cell.note else "")


def _fenced(text: str) -> str:
    """A code block, behind more backticks than any run of them in the text."""
    shown = visible(text)
    longest = max(map(len, re.findall(r"`+", shown)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{shown}\n{fence}"


def _escape(text: str) -> str:
    """Text in one line that no Markdown reader takes for markup or HTML."""
    shown = html.escape(one_line(text), quote=False)
    return _LINE_START.sub(r"\1\\", _SPECIAL.sub(r"\\\1", shown))
