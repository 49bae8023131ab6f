"""A document as one HTML file: no script, nothing from elsewhere; for desks, phones, paper and the dark.

Whatever a model wrote stays text: every string is escaped here, and the page's own policy forbids scripts.
"""

import html
from collections.abc import Iterator, Sequence
from importlib.resources import files

from samosa_jax.reporting.charts import draw, draw_intervals
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
    Section,
    Table,
    Warning,
    missing_parts,
)
from samosa_jax.reporting.visible import visible

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
STYLE = "report.css"
MAX_COLUMNS = 4  # of panels beside each other
ROLES = {
    "table": ' role="table"',
    "group": ' role="rowgroup"',
    "row": ' role="row"',
    "column": ' role="columnheader"',
    "head": ' role="rowheader"',
    "cell": ' role="cell"',
}


def html_page(document: Document) -> str:
    style = files("samosa_jax.reporting").joinpath(STYLE).read_text(encoding="utf-8")
    return "\n".join(_page(document, style))


def _page(document: Document, style: str) -> Iterator[str]:
    title = _escape(document.title)
    yield '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">'
    yield f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield '<meta name="color-scheme" content="light dark">'
    yield f"<title>{title}</title>\n<style>\n{style}</style>\n</head>\n<body>"
    yield f'<header>\n<h1>{title}</h1>\n<p class="subtitle">{_escape(document.subtitle)}</p>'
    yield '<dl class="facts">'
    for fact in document.facts:
        note = f'<dd class="note">{_escape(fact.note)}</dd>' if fact.note else ""
        yield f"<div><dt>{_escape(fact.label)}</dt><dd>{_escape(fact.value)}</dd>{note}</div>"
    yield '</dl>\n<nav aria-label="Sections"><ul>'
    for section in document.sections:
        yield f'<li><a href="#{section.name}">{_escape(section.title)}</a></li>'
    yield "</ul></nav>"
    yield from _missing(document.sections)
    yield "</header>\n<main>"
    for section in document.sections:
        yield f'<section id="{section.name}" aria-labelledby="{section.name}-title">'
        yield f'<h2 id="{section.name}-title">{_escape(section.title)}</h2>'
        for block in _with_grids(section.blocks):
            yield from block
        yield "</section>"
    yield f"</main>\n<footer><p>{_escape(document.footer)}</p></footer>\n</body>\n</html>\n"


def _missing(sections: Sequence[Section]) -> Iterator[str]:
    found = [(section, text) for section in sections for text in missing_parts(section.blocks)]
    if not found:
        return
    yield f'<details class="missing-parts"><summary>Missing from this report ({len(found)})</summary><ul>'
    for section, text in found:
        yield f'<li><a href="#{section.name}">{_escape(section.title)}</a>: {_escape(text)}</li>'
    yield "</ul></details>"


def _with_grids(blocks: Sequence[Block]) -> Iterator[Iterator[str]]:
    """Charts that follow each other share rows; so do a table and the picture of it."""
    row: list[Chart] = []
    place = 0
    while place < len(blocks):
        block, following = blocks[place], blocks[place + 1] if place + 1 < len(blocks) else None
        place += 1
        if isinstance(block, Chart):
            row.append(block)
            continue
        if row:
            yield _row_of_charts(row)
            row = []
        if isinstance(block, Table) and isinstance(following, Intervals):
            yield _beside(block, following)
            place += 1
        else:
            yield _block(block)
    if row:
        yield _row_of_charts(row)


def _beside(table: Table, picture: Intervals) -> Iterator[str]:
    yield '<div class="beside">'
    yield from _table(table)
    yield from _intervals(picture)
    yield "</div>"


def _row_of_charts(charts: Sequence[Chart]) -> Iterator[str]:
    yield '<div class="charts">'
    for chart in charts:
        yield from _chart(chart)
    yield "</div>"


def _block(block: Block) -> Iterator[str]:
    if isinstance(block, Paragraph):
        yield f"<p>{_escape(block.text)}</p>"
    elif isinstance(block, Missing):
        yield f'<p class="missing"><strong>Missing</strong> {_escape(block.text)}</p>'
    elif isinstance(block, Warning):
        yield f'<p class="warning"><strong>Warning</strong> {_escape(block.text)}</p>'
    elif isinstance(block, Code):
        yield f'<pre class="code" tabindex="0"><code>{_escape(block.text)}</code></pre>'
    elif isinstance(block, Table):
        yield from _table(block)
    elif isinstance(block, Chart):
        yield from _row_of_charts([block])
    elif isinstance(block, Intervals):
        yield from _intervals(block)
    elif isinstance(block, Excerpts):
        yield from _excerpts(block)
    else:
        yield from _folded(block)


def _folded(block: Folded) -> Iterator[str]:
    yield f"<details><summary>{_escape(block.summary)}</summary>"
    for inner in _with_grids(block.blocks):
        yield from inner
    yield "</details>"


def _table(table: Table) -> Iterator[str]:
    kinds = " ".join(name for name, holds in (("numeric", table.numeric), ("code", table.code)) if holds)
    # On a phone, rows of prose become blocks under each other, which a browser no longer takes for a table.
    is_prose = not kinds
    roles = ROLES if is_prose else {}
    caption = _escape(table.caption)
    # What scrolls must be reachable without a mouse.
    yield f'<div class="table" role="region" aria-label="{caption}" tabindex="0">'
    yield f'<table class="{kinds or "prose"}"{roles.get("table", "")}><caption>{caption}</caption>'
    yield f"<thead{roles.get('group', '')}><tr{roles.get('row', '')}>"
    yield "".join(f'<th scope="col"{roles.get("column", "")}>{_escape(name)}</th>' for name in table.header)
    yield f"</tr></thead><tbody{roles.get('group', '')}>"
    for first, *others in table.rows:
        yield f'<tr{roles.get("row", "")}><th scope="row"{roles.get("head", "")}>{_cell(first)}</th>'
        for name, cell in zip(table.header[1:], others, strict=True):
            label = f' data-label="{_escape(name)}"' if is_prose else ""
            yield f"<td{_tone(cell)}{roles.get('cell', '')}{label}>{_cell(cell)}</td>"
        yield "</tr>"
    yield "</tbody></table></div>"


def _cell(cell: str | Cell) -> str:
    if isinstance(cell, str):
        return _escape(cell)
    note = f' <span class="note">{_escape(cell.note)}</span>' if cell.note else ""
    return f"{_escape(cell.text)}{note}"


def _tone(cell: str | Cell) -> str:
    return f' class="{cell.tone}"' if isinstance(cell, Cell) and cell.tone != "plain" else ""


def _chart(chart: Chart) -> Iterator[str]:
    log = ", logarithmic" if chart.log else ""
    columns = min(len(chart.panels), MAX_COLUMNS)
    yield f'<figure class="chart span-{columns}">'
    yield f"<h3>{_escape(chart.title)} <small>{_escape(chart.unit)}{log}</small></h3>"
    names = {
        line.color: line.name
        for panel in chart.panels
        for line in panel.lines
        if not line.name.endswith(", smoothed")
    }
    if len(names) > 1:
        yield _legend(list(names.items()))
    yield '<div class="panels">'
    for panel, svg in zip(chart.panels, draw(chart), strict=True):
        yield f"<div><h4>{_escape(panel.title)}</h4>{svg}<p>{_escape(panel.facts)}</p></div>"
    yield "</div>"
    if chart.note:
        yield f"<figcaption>{_escape(chart.note)}</figcaption>"
    yield "</figure>"


def _intervals(block: Intervals) -> Iterator[str]:
    yield '<figure class="chart intervals">'
    if len(block.stages) > 1:
        yield _legend(list(enumerate(block.stages)))
    yield draw_intervals(block)
    yield "<figcaption>Dots are the values, bars their 95 % intervals.</figcaption></figure>"


def _legend(names: Sequence[tuple[int, str]]) -> str:
    items = "".join(f'<li class="c{color}">{_escape(name)}</li>' for color, name in names)
    return f'<ul class="legend">{items}</ul>'


def _excerpts(block: Excerpts) -> Iterator[str]:
    yield f'<figure class="samples"><h3>{_escape(block.title)}</h3><div tabindex="0" role="region" '
    yield f'aria-label="Samples of {_escape(block.title)}">'
    for where, text in block.items:
        shown = _escape(text) if text.strip() else "<em>(nothing)</em>"
        yield f'<article><h4>{_escape(where)}</h4><p dir="auto">{shown}</p></article>'
    yield "</div></figure>"


def _escape(text: str) -> str:
    return html.escape(visible(text), quote=True)
