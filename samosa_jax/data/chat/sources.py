"""Where conversations come from, as data: what a file of `configs/data/chat` says."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from samosa_jax.data.chat.conversation import Conversation
from samosa_jax.data.chat.reading import AUTO, Example, OnBadRow, ReadStatistics, read_conversations
from samosa_jax.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ConversationSource:
    """One data set of conversations."""

    input: tuple[str, ...]  # files, folders or hf://owner/name[@revision][/folder-or-pattern]
    format: str = AUTO  # a name of formats.FORMATS
    max_rows: int | None = None  # stop after so many sound rows

    def __post_init__(self) -> None:
        if self.max_rows is not None and self.max_rows < 1:
            raise ConfigError(f"max_rows is {self.max_rows}; expected at least 1, or null for all")


def iter_source(
    source: ConversationSource,
    *,
    on_bad_row: OnBadRow = "fail",
    statistics: ReadStatistics | None = None,
) -> Iterator[Example[Conversation]]:
    """The conversations of a source, in order; no file is fetched after the one with the last of them.

    Raises:
      UserError: by file and row, as `reading.read_conversations`.
    """
    examples = read_conversations(
        source.input, on_bad_row=on_bad_row, format=source.format, statistics=statistics
    )
    return itertools.islice(examples, source.max_rows)
