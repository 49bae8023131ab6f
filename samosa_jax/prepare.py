"""Turns text and conversations into immutable token shards that training reads, and looks into them.

    python -m samosa_jax.prepare --input news.jsonl.gz more/ --tokenizer data/tok --out data/news
    python -m samosa_jax.prepare --config configs/data/fineweb_edu.yaml --tokenizer data/tok --out data/edu
    python -m samosa_jax.prepare verify data/news
    python -m samosa_jax.prepare inspect --config configs/wikinews.yaml --step 7
    python -m samosa_jax.prepare chat dolly.json.gz --tokenizer data/tok --out data/dolly
    python -m samosa_jax.prepare show dolly.json.gz --row 7 --tokenizer data/tok
    python -m samosa_jax.prepare synth arithmetic --count 1000 --out arithmetic.jsonl
    python -m samosa_jax.prepare filter dolly.json.gz --out clean.jsonl

An interrupted preparation goes on when the same command is run again.
"""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from samosa_jax import filter_conversations, prepare_chat, show_conversation, synthesize
from samosa_jax.command_line import parse_config, parse_dataclass, run, split_options
from samosa_jax.data.chat.opening import open_epoch_pipeline
from samosa_jax.data.context_use import context_use
from samosa_jax.data.filters import FilterOptions
from samosa_jax.data.holdout import ValidationRule
from samosa_jax.data.pipeline import StepDescription, TrainPipeline
from samosa_jax.data.preparation import PrepareOptions, Progress, Summary, prepare
from samosa_jax.data.readers import ReadOptions
from samosa_jax.data.shards import ShardSet
from samosa_jax.data.tokenizer import Tokenizer
from samosa_jax.data.verification import verify_folder
from samosa_jax.errors import UserError

LINE_EVERY_S = 10.0  # without a terminal
LIVE_EVERY_S = 0.2
PREVIEW_CHARS = 60


@dataclass(frozen=True, kw_only=True)
class PrepareFlags:
    """The flags of `prepare`, and the keys of its YAML files."""

    input: tuple[str, ...]  # files, folders, hf://owner/name[@revision][/folder-or-pattern], or embedded
    tokenizer: str  # a folder written by train_tokenizer
    out: str  # folder for the shards
    text_field: str = "text"  # JSON key or parquet column that holds the text
    split_on: str | None = None  # cut .txt files at blank-lines, at lines, or at the text given here
    skip_bad_rows: bool = False  # count rows that cannot be read, and go on
    html_unescape: bool = False  # &amp; becomes &, &lt; becomes <
    strip_tags: bool = False  # remove HTML tags and comments, after html_unescape
    drop_lines: tuple[str, ...] = ()  # regular expressions: lines they match from end to end go
    tidy_whitespace: bool = (
        False  # no spaces at line ends, at most one blank line in a row, none at either end
    )
    drop_documents: tuple[str, ...] = ()  # regular expressions: documents they are found in go
    min_chars: int = 0  # shorter documents go
    dedup: bool = False  # exact copies of a document go, the first stays
    max_documents: int | None = None  # stop after so many
    max_bytes: int | None = None  # stop before more UTF-8 bytes of text than this
    val_documents: int | None = None  # hold out exactly so many, evenly; with val_frac: at most so many
    val_frac: float | None = None  # share of documents to hold out; 0.01 if neither is given
    seed: int = 0  # chooses the documents held out
    shard_tokens: int = 10_000_000  # tokens per shard
    workers: int = 0  # processes that tokenize; 0: one per core, fewer for little text
    append: bool = False  # add the input to a finished folder, as a new generation

    def options(self) -> PrepareOptions:
        return PrepareOptions(
            inputs=self.input,
            tokenizer=Path(self.tokenizer),
            out=Path(self.out),
            reading=ReadOptions(
                text_field=self.text_field, split_on=self.split_on, skip_bad_rows=self.skip_bad_rows
            ),
            filtering=FilterOptions(
                html_unescape=self.html_unescape,
                strip_tags=self.strip_tags,
                drop_lines=self.drop_lines,
                tidy_whitespace=self.tidy_whitespace,
                drop_documents=self.drop_documents,
                min_chars=self.min_chars,
                dedup=self.dedup,
            ),
            validation=ValidationRule(
                val_documents=self.val_documents, val_frac=self.val_frac, seed=self.seed
            ),
            max_documents=self.max_documents,
            max_bytes=self.max_bytes,
            shard_tokens=self.shard_tokens,
            workers=self.workers,
            append=self.append,
        )


@dataclass(frozen=True, kw_only=True)
class VerifyFlags:
    folder: str  # written by prepare


@dataclass(frozen=True, kw_only=True)
class InspectFlags:
    step: int  # training step, from 0
    rows: int = 8  # rows to show; the shares are of all


def main(argv: list[str]) -> None:
    command = SUBCOMMANDS.get(argv[0]) if argv else None
    if command is None:
        _prepare(argv)
    else:
        command(argv[1:])


def parse_flags(argv: list[str]) -> PrepareFlags:
    """Flags and YAML files, later wins. Raises UserError."""
    return parse_dataclass(
        argv,
        PrepareFlags,
        description=f"Turn text into shards. Also: prepare {', '.join(SUBCOMMANDS)}, each with its --help.",
    )


def _prepare(argv: list[str]) -> None:
    flags = parse_flags(argv)
    console = Console()
    with _Display(console) as display:
        summary = prepare(flags.options(), report=display.update)
    _print_summary(console, Path(flags.out), summary)


class _Display:
    """One live line on a terminal, a plain line every ten seconds elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, transient=True, auto_refresh=False)
        self._begin: tuple[float, int, str] | None = None
        self._shown = time.monotonic()

    def __enter__(self) -> "_Display":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._live.stop()

    def update(self, progress: Progress) -> None:
        now = time.monotonic()
        if now - self._shown < (LIVE_EVERY_S if self._console.is_terminal else LINE_EVERY_S):
            return
        self._shown = now
        done = progress.statistics["kept_bytes"]
        # The rate counts from the first update of a stage: a resumed run did not read what lies before it.
        if self._begin is None or self._begin[2] != progress.stage:
            self._begin = (now, done, progress.stage)
        elapsed = now - self._begin[0]
        rate = f", {(done - self._begin[1]) / 1e6 / elapsed:.1f} MB/s" if elapsed > 0 else ""
        line = (
            f"{progress.stage}: file {progress.file_number} of {progress.num_files}, "
            f"{progress.statistics['kept']:,} documents, {progress.tokens:,} tokens, "
            f"{done / 1e6:,.1f} MB of text{rate}"
        )
        if self._console.is_terminal:
            self._live.update(Text(line, no_wrap=True, overflow="ellipsis"), refresh=True)
        else:
            self._console.print(line, soft_wrap=True, highlight=False)


def _print_summary(console: Console, out: Path, summary: Summary) -> None:
    shards = [shard for shard in summary.manifest.shards if shard.generation == summary.generation]
    title = f"{out}, generation {summary.generation} ({summary.state})"
    table = Table(title=escape(title), title_justify="left")
    table.add_column("split")
    for column in ("shards", "documents", "tokens", "bytes of text", "bytes/token"):
        table.add_column(column, justify="right")
    for split in ("train", "val"):
        chosen = [shard for shard in shards if shard.split == split]
        tokens = sum(shard.num_tokens for shard in chosen)
        text_bytes = sum(shard.num_text_bytes for shard in chosen)
        documents = sum(shard.num_documents for shard in chosen)
        per_token = f"{text_bytes / tokens:.3f}" if tokens else "-"
        table.add_row(split, str(len(chosen)), f"{documents:,}", f"{tokens:,}", f"{text_bytes:,}", per_token)
    console.print(table)
    statistics = summary.statistics
    dropped = ", ".join(
        f"{count:,} {reason.replace('_', ' ')}" for reason, count in statistics.dropped.items()
    )
    lines = [f"rows read: {statistics.rows:,}; dropped: {dropped or 'none'}"]
    if statistics.lines:
        lines.append(f"lines removed: {statistics.lines:,}")
    if summary.ignored_files:
        lines.append(f"files of other kinds left alone: {summary.ignored_files:,}")
    if summary.new_bytes:
        lines.append(
            f"{summary.new_bytes / 1e6:,.1f} MB of text in {summary.seconds:.1f} s "
            f"({summary.new_bytes / 1e6 / summary.seconds:.1f} MB/s)"
        )
    if not summary.manifest.select("val"):
        lines.append(
            "no document is held out for validation: pass --val-documents N (and --split-on for .txt)"
        )
    for line in lines:
        console.print(escape(line), soft_wrap=True, highlight=False)


def _verify(argv: list[str]) -> None:
    flags = parse_dataclass(
        argv, VerifyFlags, description="Hash every file of a prepared folder.", positional=("folder",)
    )
    found = verify_folder(flags.folder)
    for problem in found.problems:
        print(problem)
    if found.problems:
        raise UserError(
            f"{flags.folder}: {len(found.problems)} of its files are not as the manifest says (above)"
        )
    state = "complete" if found.manifest.complete else "not complete yet: run its `prepare` again to go on"
    print(
        f"{flags.folder}: {len(found.manifest.files)} files, {found.num_bytes:,} bytes, "
        f"all as the manifest says; {state}"
    )


def _inspect(argv: list[str]) -> None:
    own, rest = split_options(argv, InspectFlags)
    flags = parse_dataclass(own, InspectFlags, description="Show the documents of a training step.")
    if flags.step < 0:
        raise UserError(f"--step is {flags.step}; steps count from 0")
    if flags.rows < 0:
        raise UserError(f"--rows is {flags.rows}; it must be at least 0")
    config = parse_config(
        rest, description="Show the documents of a training step (--step N, --rows N)."
    ).config
    reading: dict[str, Any] = {
        "batch_rows": config.batch_rows,
        "context_len": config.model.context_len,
        "seed": config.seed,
    }
    if config.content == "prompts":
        raise UserError(
            "stage=grpo trains on no prepared data; its run writes some of its answers to samples.jsonl"
        )
    if config.content == "text":
        pipeline = TrainPipeline(
            config.data.sources, document_masking=config.data.document_masking, **reading
        )
    else:
        pipeline = open_epoch_pipeline(
            config.data.sources,
            content=config.content,
            curriculum=config.chat.curriculum_for(config.stage),
            num_steps=config.train.num_steps,
            too_long=config.chat.too_long,
            **reading,
        )
    tokenizer = Tokenizer.load(ShardSet.open(config.data.sources[0].path).tokenizer_dir)
    step, console = pipeline.describe(flags.step), Console()
    _print_step(console, step, max_rows=flags.rows, decode=tokenizer.decode)
    if config.content == "text" and config.data.document_masking:
        length = config.model.context_len
        use = context_use(step, context_len=length)
        kept = use.mean_seen / use.mean_uncut if use.mean_uncut else 1.0
        console.print(
            f"tokens see {use.mean_seen:,.0f} of their document before them on average, "
            f"{use.mean_uncut:,.0f} if no row's end cut one ({kept:.1%}); {use.far_frac:.1%} see "
            f"{length // 2:,} or more",
            highlight=False,
            soft_wrap=True,
        )


def _print_step(
    console: Console, step: StepDescription, *, max_rows: int, decode: Callable[[Sequence[int]], str]
) -> None:
    table = Table(title=f"step {step.step}: {len(step.rows)} rows", title_justify="left")
    for column in ("row", "source", "document", "visit", "tokens", "begins with"):
        table.add_column(column, justify="right" if column in ("row", "document", "visit") else "left")
    for number, row in enumerate(step.rows[:max_rows]):
        for index, part in enumerate(row.parts):
            preview = decode(part.first_tokens).replace("\n", " ")[:PREVIEW_CHARS]
            table.add_row(
                str(number) if index == 0 else "",
                escape(row.source) if index == 0 else "",
                str(part.document),
                str(part.visit),
                f"{part.start}..{part.stop} of {part.length}",
                escape(preview),
            )
    console.print(table)
    if len(step.rows) > max_rows:
        console.print(f"... and {len(step.rows) - max_rows} more rows (--rows N)", highlight=False)
    console.print(
        f"positions used {step.used_frac:.2%}, padded {step.padded_frac:.2%}; "
        f"tokens cropped away {step.cropped_frac:.2%}; documents cut by a row border {step.split_documents}",
        highlight=False,
        soft_wrap=True,
    )


SUBCOMMANDS: dict[str, Callable[[list[str]], None]] = {
    "verify": _verify,
    "inspect": _inspect,
    "chat": prepare_chat.main,
    "show": show_conversation.main,
    "synth": synthesize.main,
    "filter": filter_conversations.main,
}

if __name__ == "__main__":
    run(main, sys.argv[1:])
