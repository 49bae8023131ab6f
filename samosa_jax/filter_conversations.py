"""Drops conversations that should not be learnt: broken form, bad habits, copies, evaluation sets given away.

    python -m samosa_jax.prepare filter chat.jsonl --out kept.jsonl --against gsm8k/test.jsonl.gz
    python -m samosa_jax.prepare filter --config configs/data/chat/alpaca.yaml --rules pool --out kept.jsonl

The input is never changed. The report beside the output says how many rows each rule dropped, with examples.
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from samosa_jax.command_line import parse_dataclass, run
from samosa_jax.data.chat.filter import Outputs, Report, filter_conversations
from samosa_jax.data.chat.reading import AUTO
from samosa_jax.data.chat.rules import PRESETS, RuleOptions, make_rules, select_rules
from samosa_jax.data.chat.sources import ConversationSource
from samosa_jax.errors import UserError

LINE_EVERY_S = 10.0


@dataclass(frozen=True, kw_only=True)
class FilterFlags:
    """The flags of `prepare filter`, and the keys of its YAML files."""

    input: tuple[str, ...]  # files, folders or hf://owner/name[@revision][/folder-or-pattern]
    out: str | None = None  # .jsonl file for the conversations kept
    format: str = AUTO  # of the rows, if their keys do not tell
    max_rows: int | None = None  # stop after so many sound rows
    rules: tuple[str, ...] = ("all",)  # think_tool, reasoning, pool, all, or names of rules
    disable: tuple[str, ...] = ()  # names of rules to leave out
    min_answer_chars: int = 40  # in the longest answer of a conversation; full-width ones count twice
    min_think_chars: int = 50  # in every thought
    duplicates: Literal["keep", "exact", "near"] = "near"  # which copies go: none, exact, near ones too
    against: tuple[
        str, ...
    ] = ()  # evaluation sets (.jsonl, .json, .parquet, .txt) that must not be given away
    on_bad_row: Literal["skip", "fail"] = "skip"  # rows that hold no sound conversation: count, or stop
    dropped: str | None = None  # .jsonl file for what goes, with the reasons
    report: str | None = None  # JSON file for the counts; OUT.report.json if not given
    overwrite: bool = False  # replace output files that are there
    dry_run: bool = False  # read and count, write nothing

    def outputs(self) -> Outputs | None:
        """None for a dry run. Raises UserError without --out."""
        if self.dry_run:
            return None
        if self.out is None:
            raise UserError("--out is missing; name a .jsonl file for what is kept, or pass --dry-run")
        out = Path(self.out)
        return Outputs(
            kept=out,
            report=Path(self.report) if self.report else out.with_name(f"{out.stem}.report.json"),
            dropped=Path(self.dropped) if self.dropped else None,
            overwrite=self.overwrite,
        )


def main(argv: list[str]) -> None:
    flags = parse_dataclass(argv, FilterFlags, description=_description(), positional=("input",))
    console = Console()
    start = shown = time.monotonic()

    def progress(report: Report) -> None:
        nonlocal shown
        if time.monotonic() - shown >= LINE_EVERY_S:
            shown = time.monotonic()
            console.print(f"{report.rows:,} rows read, {report.kept:,} kept", highlight=False)

    report = filter_conversations(
        ConversationSource(input=flags.input, format=flags.format, max_rows=flags.max_rows),
        rules=select_rules(
            flags.rules,
            disabled=flags.disable,
            options=RuleOptions(
                min_answer_chars=flags.min_answer_chars, min_think_chars=flags.min_think_chars
            ),
        ),
        outputs=flags.outputs(),
        duplicates=flags.duplicates,
        against=flags.against,
        on_bad_row=flags.on_bad_row,
        progress=progress,
    )
    _print(console, report, seconds=time.monotonic() - start)
    if outputs := flags.outputs():
        written = ", ".join(str(path) for path in outputs.paths())
        console.print(f"written: {escape(written)}", highlight=False, soft_wrap=True)


def _description() -> str:
    lines = ["Drop conversations that should not be learnt. Rules:"]
    lines += [f"  {rule.name:<24}{rule.description}" for rule in make_rules(RuleOptions())]
    lines += ["Presets:", *(f"  {name:<24}{', '.join(rules)}" for name, rules in PRESETS.items())]
    return "\n".join(lines)


def _print(console: Console, report: Report, *, seconds: float) -> None:
    table = Table(title=escape(", ".join(report.inputs)), title_justify="left")
    table.add_column("dropped by", no_wrap=True)
    table.add_column("first", justify="right")
    table.add_column("all", justify="right")
    for name, drops in report.dropped.items():
        table.add_row(name, f"{drops.first:,}", f"{drops.total:,}")
    if report.dropped:
        console.print(table)
    lines: list[str] = []
    for name, drops in report.dropped.items():
        lines += [f"{name}: {example['at']}: {example['reason']}" for example in drops.examples]
    unreadable = sum(report.unreadable.values())
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in report.unreadable.items())
    lines += [
        f"rows read: {report.rows:,}; kept: {report.kept:,}; dropped: {report.num_dropped:,}; "
        f"unreadable: {unreadable:,}{f' ({reasons})' if reasons else ''}; "
        f"{report.rows / max(seconds, 1e-9):,.0f} rows/s"
    ]
    if report.evaluation_texts:
        lines.append(
            f"evaluation texts: {report.evaluation_texts:,}, of which {report.evaluation_texts_too_short:,} "
            "too short to be looked for"
        )
    for line in lines:
        console.print(escape(line), soft_wrap=True, highlight=False)


if __name__ == "__main__":
    run(main, sys.argv[1:])
