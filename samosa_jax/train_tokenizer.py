"""Trains a tokenizer on your text and prints how well it fits news, code, maths and other languages.

    python -m samosa_jax.train_tokenizer --input news.jsonl.gz more/ --vocab-size 8192 --out data/tokenizer
    python -m samosa_jax.train_tokenizer --input embedded --chat chat.jsonl --out data/tokenizer
    python -m samosa_jax.train_tokenizer --evaluate data/tokenizer

The same text and flags give the same tokenizer, byte for byte.
"""

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from samosa_jax.command_line import parse_dataclass, run
from samosa_jax.data import tokenizer_report, tokenizer_training
from samosa_jax.data.chat.reading import OnBadRow, read_conversations
from samosa_jax.data.filters import Statistics
from samosa_jax.data.readers import ReadOptions
from samosa_jax.data.sources import iter_documents
from samosa_jax.data.tokenizer import Tokenizer
from samosa_jax.data.tokenizer_training import TokenizerOptions
from samosa_jax.errors import UserError

DESCRIPTION = "Train a tokenizer on your text, and print how well it fits several kinds of text."


@dataclass(frozen=True, kw_only=True)
class TrainTokenizerFlags:
    """The flags of `train_tokenizer`."""

    input: tuple[str, ...] = ()  # files, folders, hf://owner/name[/folder], or embedded
    chat: tuple[str, ...] = ()  # likewise of conversations: what is said, thought and called in them
    out: str = ""  # folder for the tokenizer
    vocab_size: int = 32_768  # tokens, special tokens and bytes included
    max_bytes: int = 200_000_000  # of text drawn as the sample to train on
    seed: int = 0  # chooses the sample
    split_digits: bool = True  # every digit is a token of its own
    character_coverage: float = 0.9995  # share of characters with a token of their own; the rest are bytes
    text_field: str = "text"  # JSON key or parquet column that holds the text
    split_on: str | None = None  # cut .txt files at blank-lines, at lines, or at the text given here
    skip_bad_rows: bool = False  # count rows that cannot be read, and go on
    overwrite: bool = False  # replace the tokenizer at --out
    evaluate: str | None = None  # print the report of this tokenizer folder and stop


def main(argv: list[str]) -> None:
    flags = parse_dataclass(argv, TrainTokenizerFlags, description=DESCRIPTION)
    if flags.evaluate is not None:
        print_report(Tokenizer.load(flags.evaluate))
        return
    if not flags.out:
        raise UserError("--out is missing; name the folder for the tokenizer, e.g. --out data/tokenizer")
    options = TokenizerOptions(
        vocab_size=flags.vocab_size,
        max_bytes=flags.max_bytes,
        seed=flags.seed,
        split_digits=flags.split_digits,
        character_coverage=flags.character_coverage,
    )
    out = Path(flags.out)
    tokenizer_training.check_free(out, overwrite=flags.overwrite)
    print_report(train(flags, options, out=out))


def train(flags: TrainTokenizerFlags, options: TokenizerOptions, *, out: Path) -> Tokenizer:
    started = time.perf_counter()
    statistics = Statistics()
    reading = ReadOptions(
        text_field=flags.text_field, split_on=flags.split_on, skip_bad_rows=flags.skip_bad_rows
    )
    documents: Iterator[str] = spoken(flags.chat, on_bad_row="skip" if flags.skip_bad_rows else "fail")
    if flags.input or not flags.chat:
        text = iter_documents(flags.input, reading=reading, statistics=statistics)
        documents = itertools.chain(text, documents)
    sample = tokenizer_training.draw_sample(documents, max_bytes=options.max_bytes, seed=options.seed)
    print(sample.describe(), flush=True)
    if statistics.bad:
        print(f"skipped {statistics.bad:,} rows that could not be read")
    tokenizer = tokenizer_training.train(sample, options, inputs=[*flags.input, *flags.chat])
    tokenizer_training.write(tokenizer, out)
    seconds = time.perf_counter() - started
    fingerprint = tokenizer.fingerprint[:12]
    print(f"wrote {out}: {tokenizer.vocab_size:,} tokens, fingerprint {fingerprint}, {seconds:.1f} s")
    return tokenizer


def spoken(paths: Sequence[str], *, on_bad_row: OnBadRow) -> Iterator[str]:
    """Every conversation as text, a line for each thought, saying and call. Raises UserError."""
    for example in read_conversations(paths, on_bad_row=on_bad_row) if paths else ():
        lines: list[str] = []
        for message in example.value.messages:
            call = message.tool_call.text() if message.tool_call else None
            lines += filter(None, (message.think, message.text, call))
        yield "\n".join(lines)


def print_report(tokenizer: Tokenizer) -> None:
    ratios = tokenizer_report.measure(tokenizer)
    Console().print(tokenizer_report.as_table(ratios, vocab_size=tokenizer.vocab_size))


if __name__ == "__main__":
    run(main)
