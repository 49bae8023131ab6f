"""Prints conversations as the chat template renders them, with the role and the loss weight of every part.

    python -m samosa_jax.prepare show dolly.json.gz --row 7 --count 2 --tokenizer data/tok

On a terminal roles have colours, thoughts are dim, and special tokens stand out; elsewhere every run of
tokens of one role is a line.
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from rich.console import Console
from rich.text import Text

from samosa_jax.command_line import parse_dataclass
from samosa_jax.config.chat import PRESETS
from samosa_jax.data.chat.conversation import Conversation
from samosa_jax.data.chat.reading import AUTO, Example, ReadStatistics, read_conversations
from samosa_jax.data.chat.template import Role, pieces
from samosa_jax.data.tokenizer import Tokenizer
from samosa_jax.errors import UserError

STYLES = {
    Role.STRUCTURE: "bright_black",
    Role.SYSTEM: "magenta",
    Role.HUMAN: "cyan",
    Role.ASSISTANT: "green",
    Role.THINK: "dim italic",
    Role.TOOL_CALL: "yellow",
    Role.TOOL_RESULT: "blue",
}
SPECIAL_TOKEN = "reverse"


@dataclass(frozen=True, kw_only=True)
class ShowFlags:
    """The flags of `prepare show`."""

    input: str  # a file, a folder or hf://owner/name of conversations
    tokenizer: str = ""  # a folder written by train_tokenizer, to count tokens
    row: int = 0  # first row to show, from 1; 0: the first sound ones
    count: int = 3  # conversations to show
    format: str = AUTO  # of the rows; auto tells by their keys
    weights: Literal["pretrain", "midtrain", "sft", "cot_sft"] = (
        "sft"  # stage whose first loss weights to show
    )


class Run(NamedTuple):
    """Tokens of one role that follow each other."""

    role: Role
    parts: tuple[tuple[str, bool], ...]  # (text, whether it is a special token)
    num_tokens: int | None  # None without a tokenizer
    begins_turn: bool

    @property
    def text(self) -> str:
        return "".join(text for text, _ in self.parts)


def main(argv: list[str]) -> None:
    """`prepare show`. Raises UserError for bad flags, an unreadable file, or a row that is not there."""
    flags = parse_dataclass(
        argv, ShowFlags, description="Show conversations with roles and loss weights.", positional=("input",)
    )
    if flags.count < 1 or flags.row < 0:
        raise UserError(f"--row={flags.row} --count={flags.count} shows nothing; rows count from 1")
    tokenizer = Tokenizer.load(flags.tokenizer) if flags.tokenizer else None
    by_tag = PRESETS[flags.weights][0].by_tag()
    weights = {role: by_tag.get(role.name.lower(), 0.0) for role in Role}
    console = Console()
    for example in _chosen(flags):
        print_conversation(console, example, weights, tokenizer)


def print_conversation(
    console: Console,
    example: Example[Conversation],
    weights: Mapping[Role, float],
    tokenizer: Tokenizer | None,
) -> None:
    """One conversation under a line that says where it stands and what part of it is learned from."""
    found = list(runs(example.value, tokenizer))
    console.print(Text(_headline(example, found, weights), style="bold"), soft_wrap=True)
    if console.is_terminal:
        console.print(_coloured(found, weights), soft_wrap=True)
        console.print()
        return
    for run in found:
        count = "" if run.num_tokens is None else f"{run.num_tokens:>6}"
        line = f"{run.role.name.lower():<12}{weights[run.role]:>5g}{count}  {_escaped(run.text)}"
        console.out(line, highlight=False)


def runs(conversation: Conversation, tokenizer: Tokenizer | None) -> Iterator[Run]:
    """The conversation as the template renders it, cut where the role changes and where a turn begins."""
    group: list[Run] = []
    for piece in pieces(conversation):
        parts = tuple(
            part for part in ((piece.opening, True), (piece.text, False), (piece.closing, True)) if part[0]
        )
        count = None
        if tokenizer is not None:
            count = sum(1 if is_special else len(tokenizer.encode(text)) for text, is_special in parts)
        if group and (piece.role != group[0].role or piece.begins_turn):
            yield _merged(group)
            group = []
        if parts:
            group.append(Run(piece.role, parts, count, piece.begins_turn))
    yield _merged(group)


def _merged(group: list[Run]) -> Run:
    counts = [run.num_tokens for run in group if run.num_tokens is not None]
    return Run(
        role=group[0].role,
        parts=tuple(itertools.chain.from_iterable(run.parts for run in group)),
        num_tokens=sum(counts) if len(counts) == len(group) else None,
        begins_turn=group[0].begins_turn,
    )


def _chosen(flags: ShowFlags) -> Iterator[Example[Conversation]]:
    """From the row asked for, which must be sound, as those after it; without one, the first sound rows."""
    statistics = ReadStatistics()
    examples = read_conversations(
        [flags.input],
        on_bad_row="fail" if flags.row else "skip",
        format=flags.format,
        first_row=flags.row,
        statistics=statistics,
    )
    shown = 0
    for example in itertools.islice(examples, flags.count):
        yield example
        shown += 1
    if not shown:
        bad = ", ".join(f"{count} {reason}" for reason, count in statistics.bad.items())
        raise UserError(
            f"{flags.input}: nothing to show from row {flags.row or 1} on; it has {statistics.rows} rows"
            + (f" ({bad})" if bad else "")
        )


def _headline(example: Example[Conversation], found: list[Run], weights: Mapping[Role, float]) -> str:
    where = f"{example.file}: row {example.row}"
    counts = [run.num_tokens for run in found if run.num_tokens is not None]
    if len(counts) < len(found):
        return f"{where}, {len(example.value.messages)} messages"
    learned = sum(count for run, count in zip(found, counts, strict=True) if weights[run.role])
    return f"{where}, {len(example.value.messages)} messages, {sum(counts)} tokens, {learned} with weight"


def _coloured(found: list[Run], weights: Mapping[Role, float]) -> Text:
    text = Text()
    for run in found:
        if run.begins_turn and text:
            text.append("\n")
        style = STYLES[run.role]
        for part, is_special in run.parts:
            text.append(_escaped(part, keep="\n\t"), f"{style} {SPECIAL_TOKEN}" if is_special else style)
        if weights[run.role]:
            text.append(f" ×{weights[run.role]:g} ", f"{style} bold")
    return text


def _escaped(text: str, *, keep: str = "") -> str:
    """Without line breaks and other characters that a terminal would obey, save those to keep."""
    return "".join(
        character if character.isprintable() or character in keep else ascii(character)[1:-1]
        for character in text
    )
