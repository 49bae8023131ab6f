"""Compares two runs: which differences between their results are real, and what else sets them apart.

    samosa compare runs/base runs/wider
    samosa compare runs/sft/checkpoints/00000200 runs/sft --tasks core probes
    samosa compare runs/a runs/b --out=comparison.html

Both must have been evaluated on the same items with the same settings; a task that was not is refused, naming
what differs, unless --unpaired. docs/reports.md says what is computed.
"""

from dataclasses import dataclass
from pathlib import Path

from samosa_jax.command_line import parse_dataclass, run
from samosa_jax.errors import UserError


@dataclass(frozen=True, kw_only=True)
class CompareFlags:
    """The flags of `compare`."""

    a: str  # the folder of a run, or of a checkpoint: then what was measured later does not count
    b: str  # that which is held against it
    tasks: tuple[str, ...] = ()  # by name; a group such as core stands for all of it; empty: all in common
    unpaired: bool = False  # where settings or items differ, compare the values alone, with a warning
    items: int = 5  # changed items to show of every task
    out: str = ""  # an HTML file to write, with its Markdown beside it; empty: only the terminal


def main(argv: list[str]) -> None:
    """Prints the comparison. Raises UserError for what cannot be compared."""
    flags = parse_dataclass(
        argv, CompareFlags, description="Compare the results of two runs.", positional=("a", "b")
    )
    if flags.items < 0:
        raise UserError(f"--items is {flags.items}; it must be at least 0")
    from samosa_jax.reporting.document import Document
    from samosa_jax.reporting.page_files import check_page, write_pages
    from samosa_jax.reporting.run_comparison import compare_runs, comparison_sections, open_side
    from samosa_jax.reporting.terminal_page import print_sections

    page = check_page(flags.out) if flags.out else None
    a, b = (open_side(Path(path)) for path in (flags.a, flags.b))
    comparison = compare_runs(a, b, tasks=flags.tasks, unpaired=flags.unpaired)
    sections = comparison_sections(a, b, comparison, shown_items=flags.items)
    print_sections(sections)
    if page is not None:
        document = Document(
            title=f"{b.name} against {a.name}",
            subtitle=f"{b.folder}, step {b.last_step:,}, and {a.folder}, step {a.last_step:,}",
            facts=[],
            sections=sections,
            footer="Written by samosa compare.",
        )
        write_pages(document, page)


if __name__ == "__main__":
    run(main)
