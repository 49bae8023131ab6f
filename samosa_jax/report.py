"""Writes what a run has done as one page, for a browser and as Markdown.

    samosa report runs/sft                          # runs/sft/report.html and report.md
    samosa report runs/sft --out=sft.html           # and sft.md beside it
    samosa report runs/sft --cost_per_hour=24.80

The page needs no network and runs no script. It follows init_from back to the first run, and names every part
that is missing. docs/reports.md says what is in it.
"""

import math
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from samosa_jax.command_line import parse_dataclass, run
from samosa_jax.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ReportFlags:
    """The flags of `report`."""

    run: str  # the folder of a run
    out: str = ""  # the HTML file; the Markdown stands beside it; report.html in the run's folder if empty
    cost_per_hour: float | None = None  # of the machine; what the runs' configurations say if not given
    exports: str = "exports"  # folder of exports, to show how they were verified


def main(argv: list[str]) -> None:
    """Writes both files. Raises UserError for a folder that is no run, and a broken file by its line."""
    flags = parse_dataclass(argv, ReportFlags, description="Write the report of a run.", positional=("run",))
    if flags.cost_per_hour is not None and not 0 <= flags.cost_per_hour < math.inf:
        raise UserError(f"--cost_per_hour is {flags.cost_per_hour}; it must be at least 0 and finite")
    from samosa_jax.reporting.lineage import read_lineage
    from samosa_jax.reporting.page_files import check_page, write_pages
    from samosa_jax.reporting.run_report import run_report

    page = check_page(flags.out or str(Path(flags.run) / "report.html"))
    document = run_report(
        read_lineage(Path(flags.run)),
        exports=Path(flags.exports),
        cost_per_hour=flags.cost_per_hour,
        now=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
    )
    write_pages(document, page)


if __name__ == "__main__":
    run(main)
