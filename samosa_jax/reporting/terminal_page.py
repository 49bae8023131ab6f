"""Sections on the terminal: tables in columns, everything else as lines."""

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from samosa_jax.reporting.document import Block, Cell, Missing, Paragraph, Section, Table, Tone, Warning
from samosa_jax.reporting.visible import visible

STYLES: dict[Tone, str] = {"plain": "", "good": "green", "bad": "red", "muted": "bright_black"}
PIPE_WIDTH = 200  # of lines that no terminal breaks


def print_sections(sections: Sequence[Section]) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=PIPE_WIDTH)
    for section in sections:
        console.print(Text(f"\n{section.title}", style="bold"))
        for block in section.blocks:
            for part in _parts(block):
                console.print(part)


def _parts(block: Block) -> Iterator[Text | Grid]:
    if isinstance(block, Table):
        yield Text(f"\n{visible(block.caption)}", style="italic")
        yield _grid(block)
    elif isinstance(block, Paragraph):
        yield Text(visible(block.text))
    elif isinstance(block, Missing):
        yield Text(f"missing: {visible(block.text)}", style="bright_black")
    elif isinstance(block, Warning):
        yield Text(f"WARNING: {visible(block.text)}", style="bold red")
    else:
        raise TypeError(f"no form on the terminal for {type(block).__name__}")


def _grid(table: Table) -> Grid:
    grid = Grid(box=None, pad_edge=False)
    for number, name in enumerate(table.header):
        right = table.numeric and number > 0
        grid.add_column(Text(visible(name)), justify="right" if right else "left", no_wrap=table.numeric)
    for row in table.rows:
        grid.add_row(*map(_cell, row))
    return grid


def _cell(cell: str | Cell) -> Text:
    if isinstance(cell, str):
        return Text(visible(cell))
    text = Text(visible(cell.text), style=STYLES[cell.tone])
    return text.append(f" {visible(cell.note)}", style="bright_black") if cell.note else text
