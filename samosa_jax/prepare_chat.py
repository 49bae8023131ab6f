"""Turns conversations or preference pairs into token shards: `prepare chat`.

python -m samosa_jax.prepare chat dolly.json.gz --tokenizer data/tok --out data/dolly
python -m samosa_jax.prepare chat pairs.jsonl --preferences --tokenizer data/tok --out data/pairs
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.text import Text

from samosa_jax.command_line import parse_dataclass, run
from samosa_jax.data.chat.preparation import ChatOptions, ChatSummary, prepare_chat
from samosa_jax.data.chat.reading import AUTO, OnBadRow, ReadStatistics
from samosa_jax.data.chat.role_bytes import BEGINS_TURN, SPOKEN
from samosa_jax.data.holdout import ValidationRule
from samosa_jax.data.manifest import Split
from samosa_jax.data.shards import ShardSet
from samosa_jax.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ChatFlags:
    """The flags of `prepare chat`, and the keys of its YAML files."""

    input: tuple[str, ...]  # .jsonl, .json, .parquet (also .gz, .zst), folders, or hf://owner/name
    tokenizer: str  # a folder written by train_tokenizer
    out: str  # folder for the shards
    preferences: bool = False  # pairs of answers, for DPO, instead of conversations
    format: str = AUTO  # of the rows; auto tells it by their keys
    on_bad_row: OnBadRow = "fail"  # skip: count it and go on
    every_path: bool = False  # all conversations of a message tree, not only the best ranked
    max_rows: int | None = None  # take no more than so many
    max_tokens: int | None = None  # conversations of more tokens are bad rows
    fill: tuple[str, ...] = ()  # KEY=VALUE: {{KEY}} in what is said becomes VALUE
    val_documents: int | None = None  # hold out exactly so many; with val_frac: at most so many
    val_frac: float | None = None  # share to hold out; 0.01 if neither is given
    seed: int = 0  # chooses what is held out
    shard_tokens: int = 10_000_000  # tokens per shard

    def options(self) -> ChatOptions:
        return ChatOptions(
            inputs=self.input,
            tokenizer=Path(self.tokenizer),
            out=Path(self.out),
            preferences=self.preferences,
            format=self.format,
            on_bad_row=self.on_bad_row,
            every_path=self.every_path,
            max_rows=self.max_rows,
            max_tokens=self.max_tokens,
            fill=dict(map(_key_and_value, self.fill)),
            validation=ValidationRule(
                val_documents=self.val_documents, val_frac=self.val_frac, seed=self.seed
            ),
            shard_tokens=self.shard_tokens,
        )


def _key_and_value(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise UserError(f"--fill is {text!r}; expected KEY=VALUE, as in --fill name=samosaChaat")
    return key, value


def main(argv: list[str]) -> None:
    """Raises UserError."""
    flags = parse_dataclass(
        argv,
        ChatFlags,
        description="Turn conversations or preference pairs into shards.",
        positional=("input",),
    )
    console = Console()
    with Live(console=console, transient=True, auto_refresh=False) as live:

        def show(statistics: ReadStatistics) -> None:
            if console.is_terminal:
                live.update(Text(f"{statistics.rows:,} rows read, {statistics.kept:,} kept"), refresh=True)

        summary = prepare_chat(flags.options(), report=show)
    for line in describe(Path(flags.out), summary):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def describe(folder: Path, summary: ChatSummary) -> list[str]:
    """What was read, kept and dropped, and what the folder holds."""
    counts = dict(summary.statistics)
    rows, kept = counts.pop("rows"), counts.pop("kept")
    state = "already complete" if summary.was_complete else f"written in {summary.seconds:.1f} s"
    lines = [f"{folder}: {state}", f"rows read {rows:,}, kept {kept:,}"]
    lines += [f"  {what}: {count:,}" for what, count in counts.items()]
    splits: tuple[Split, ...] = ("train", "val")
    for split in splits:
        shards = ShardSet.open(folder, split=split)
        if shards.num_documents:
            lines.append(f"{split}: {contents(shards)}")
    return lines


def contents(shards: ShardSet) -> str:
    tokens, spoken = shards.num_tokens, 0
    for document in range(shards.num_documents):
        role = shards.roles(document) & (BEGINS_TURN - 1)
        spoken += int(sum((role == part).sum() for part in SPOKEN))
    is_pairs = shards.manifest.content == "preferences"
    count = shards.num_documents // 2 if is_pairs else shards.num_documents
    return (
        f"{count:,} {'pairs' if is_pairs else 'conversations'}, {tokens:,} tokens, {spoken / tokens:.1%} of "
        f"them the assistant's, longest {int(shards.document_lengths.max()):,}"
    )


if __name__ == "__main__":
    run(main, sys.argv[1:])
