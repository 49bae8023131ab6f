"""Files of conversations and preference pairs, row by row, in whatever format they are.

    statistics = ReadStatistics()
    for example in read_conversations(["dolly.json.gz", "hf://openai/gsm8k/main"], statistics=statistics):
        example.value.messages

A file has one format, that of its first row which has any (`formats`).
"""

import itertools
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from samosa_jax.data import hub
from samosa_jax.data.chat.conversation import Conversation, ConversationError
from samosa_jax.data.chat.formats import Format, detect, named
from samosa_jax.data.chat.preferences import PreferencePair
from samosa_jax.data.readers import UnreadableRow, read_objects
from samosa_jax.data.sources import InputFile, list_inputs
from samosa_jax.errors import UserError

OnBadRow = Literal["skip", "fail"]
AUTO = "auto"
MAX_BAD_EXAMPLES = 3
T = TypeVar("T", bound=Conversation | PreferencePair)
_IN_WORDS = {Conversation: "conversations", PreferencePair: "preference pairs"}


class Example(NamedTuple, Generic[T]):
    """A conversation or a preference pair, and where it stands."""

    value: T
    file: str
    row: int  # counted from 1; a tree's is that of its root
    other: dict[str, Any]  # the row's keys that are no part of the conversation


@dataclass(kw_only=True)
class ReadStatistics:
    """What was read so far; grows while the examples are drawn."""

    rows: int = 0
    kept: int = 0  # examples; a row may hold several (`every_path`), and a conversation several rows
    bad: Counter[str] = field(default_factory=Counter)  # by reason
    bad_examples: dict[str, list[str]] = field(default_factory=dict)  # the first of each reason, by row
    formats: dict[str, str] = field(default_factory=dict)  # of every file


def read_conversations(
    inputs: Sequence[str | Path],
    *,
    on_bad_row: OnBadRow = "fail",
    format: str = AUTO,
    every_path: bool = False,
    first_row: int = 1,
    statistics: ReadStatistics | None = None,
) -> Iterator[Example[Conversation]]:
    """The conversations of files, folders and hub data sets, in order.

    Args:
      inputs: as `sources.list_inputs` takes them: .jsonl, .json (both also .gz, .zst), .parquet.
      on_bad_row: stop at the first bad row, or count it and go on. A damaged file stops always.
      format: a name of `formats.FORMATS`; "auto" tells by the keys of each file's rows.
      every_path: all conversations of a message tree, not only the best ranked.
      first_row: pass over the rows of every file before this one, sound or not.
      statistics: counts what is read.

    Raises:
      UserError: by file and row, what is wrong; or the rows are preference pairs.
    """
    return _read(
        inputs,
        Conversation,
        on_bad_row=on_bad_row,
        format=format,
        every_path=every_path,
        first_row=first_row,
        statistics=ReadStatistics() if statistics is None else statistics,
    )


def read_preferences(
    inputs: Sequence[str | Path],
    *,
    on_bad_row: OnBadRow = "fail",
    format: str = AUTO,
    statistics: ReadStatistics | None = None,
) -> Iterator[Example[PreferencePair]]:
    """The preference pairs of files, folders and hub data sets; the rest as `read_conversations`."""
    return _read(
        inputs,
        PreferencePair,
        on_bad_row=on_bad_row,
        format=format,
        every_path=False,
        first_row=1,
        statistics=ReadStatistics() if statistics is None else statistics,
    )


class _BadRowError(Exception):
    def __init__(self, problem: str, *, reason: str) -> None:
        super().__init__(problem)
        self.reason = reason


def _read(
    inputs: Sequence[str | Path],
    kind: type[T],
    *,
    on_bad_row: OnBadRow,
    format: str,
    every_path: bool,
    first_row: int,
    statistics: ReadStatistics,
) -> Iterator[Example[T]]:
    wanted = None if format == AUTO else named(format)
    for file in list_inputs(inputs).files:
        rows_before = statistics.rows
        for number, row, known in _with_formats(_counted(_objects(file), statistics), wanted):
            if known is not None:
                statistics.formats.setdefault(file.name, known.name)
            if number < first_row:
                continue
            try:
                known = _checked(row, known, statistics.formats.get(file.name), is_given=wanted is not None)
                for value in _convert(row, known, every_path=every_path):
                    if not isinstance(value, kind):
                        raise UserError(
                            f"{file.name}: row {number} is of the format {known.name}, expected "
                            f"{_IN_WORDS[kind]}; "
                            "name another file, or another --format"
                        )
                    statistics.kept += 1
                    yield Example(value, file.name, number, known.other_keys(row))
            except (_BadRowError, ConversationError) as error:
                if on_bad_row == "fail":
                    raise UserError(
                        f"{file.name}: row {number}: {error}; mend the row, or pass --on-bad-row=skip"
                    ) from None
                statistics.bad[error.reason] += 1
                shown = statistics.bad_examples.setdefault(error.reason, [])
                if len(shown) < MAX_BAD_EXAMPLES:
                    shown.append(f"{file.name}:{number}: {error}")
        if statistics.rows == rows_before:
            if on_bad_row == "fail":
                raise UserError(f"{file.name}: the file is empty; remove it, or pass --on-bad-row=skip")
            statistics.bad["empty file"] += 1


def _objects(file: InputFile) -> Iterator[tuple[int, Any]]:
    if file.path is not None:
        if file.path.stat().st_size:
            yield from read_objects(file.path, name=file.name)
    elif file.hub_file is not None:
        with tempfile.TemporaryDirectory(prefix="samosa-download-", ignore_cleanup_errors=True) as folder:
            yield from read_objects(hub.download(file.hub_file, Path(folder)), name=file.name)
    else:
        raise UserError(f"{file.name} is plain text, expected conversations; name files, folders or hf://")


def _counted(rows: Iterator[tuple[int, Any]], statistics: ReadStatistics) -> Iterator[tuple[int, Any]]:
    for row in rows:
        statistics.rows += 1
        yield row


def _with_formats(
    rows: Iterator[tuple[int, Any]], known: Format | None
) -> Iterator[tuple[int, Any, Format | None]]:
    """(number, row, format of the file as far as it is known); single messages gathered to what they make."""
    for number, row in rows:
        known = known or detect(row)
        if known is None or known.gather is None:
            yield number, row, known
            continue
        for first, gathered in known.gather(itertools.chain([(number, row)], rows)):
            yield first, gathered, detect(gathered)


def _checked(row: Any, known: Format | None, file_format: str | None, *, is_given: bool) -> Format:
    """The format, of which the row is."""
    if isinstance(row, UnreadableRow):
        raise _BadRowError(row.problem, reason="not JSON")
    if known is not None and known.fits(row):
        return known
    other = None if is_given else detect(row)
    if other is not None:
        raise _BadRowError(
            f"of the format {other.name}, the rows before are {file_format}; expected one format per file",
            reason="another format",
        )
    if known is None:
        keys = (
            f"with the keys {', '.join(map(str, list(row)[:12]))}"
            if isinstance(row, dict)
            else repr(row)[:60]
        )
        raise _BadRowError(f"of no known format: {keys}; name one with --format", reason="unknown format")
    if misfit := known.misfit(row):
        raise _BadRowError(f"{misfit}; the format is {known.name}", reason="malformed")
    return known


def _convert(row: Any, known: Format, *, every_path: bool) -> Iterator[object]:
    if every_path and known.every is not None:
        yield from known.every(row)
    else:
        yield known.convert(row)
