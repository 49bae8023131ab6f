"""Light, generic cleaning of text before it is tokenized. Every option counts what it drops.

In order: HTML entities, tags, lines, white space, then whole documents by pattern and length, then exact
copies. Nothing here knows of a particular data set; `configs/data` has the options that suit each.
"""

import html
import re
from dataclasses import dataclass

from samosa_jax.errors import UserError

# A tag as browsers read it: a letter right after "<", so that "a < b > c" stays.
_TAG = re.compile(r"</?[A-Za-z][^<>]{0,1000}>|<!--.*?-->", re.DOTALL)
_BLANK_LINES = re.compile(r"\n{3,}")


@dataclass(frozen=True, kw_only=True)
class FilterOptions:
    """What to clean and what to drop. The default keeps all text as it is."""

    html_unescape: bool = False  # &amp; becomes &, &lt; becomes <
    strip_tags: bool = False  # remove HTML tags and comments, after html_unescape
    drop_lines: tuple[str, ...] = ()  # regular expressions: lines they match from end to end go
    tidy_whitespace: bool = False  # no spaces at line ends, at most one blank line, none at either end
    drop_documents: tuple[str, ...] = ()  # regular expressions: documents they are found in go
    min_chars: int = 0  # shorter documents go
    dedup: bool = False  # exact copies of a document go, the first stays

    def __post_init__(self) -> None:
        if self.min_chars < 0:
            raise UserError(f"--min-chars is {self.min_chars}; it must not be negative")
        for flag, patterns in (("--drop-lines", self.drop_lines), ("--drop-documents", self.drop_documents)):
            for pattern in patterns:
                try:
                    re.compile(pattern)
                except re.error as error:
                    raise UserError(f"{flag} {pattern!r} is not a regular expression: {error}") from None


@dataclass(kw_only=True)
class Statistics:
    """What became of every row, in documents unless the name says otherwise."""

    rows: int = 0
    kept: int = 0
    kept_bytes: int = 0  # UTF-8 bytes of the kept documents
    bad: int = 0  # could not be read (skip_bad_rows)
    empty: int = 0  # no text, or none left after cleaning
    matched: int = 0  # by drop_documents
    short: int = 0  # by min_chars
    duplicates: int = 0  # by dedup
    held_out_copies: int = 0  # copies of a validation document
    lines: int = 0  # lines removed by drop_lines

    def snapshot(self) -> dict[str, int]:
        return dict(self.__dict__)

    @property
    def dropped(self) -> dict[str, int]:
        """Documents dropped, by reason, without the reasons that dropped none."""
        reasons = ("bad", "empty", "matched", "short", "duplicates", "held_out_copies")
        return {reason: self.__dict__[reason] for reason in reasons if self.__dict__[reason]}


class TextFilter:
    """Cleans one text at a time and counts what it drops."""

    def __init__(self, options: FilterOptions) -> None:
        self._options = options
        self._drop_lines = [re.compile(pattern) for pattern in options.drop_lines]
        self._drop_documents = [re.compile(pattern) for pattern in options.drop_documents]

    def __call__(self, text: str, statistics: Statistics) -> str | None:
        """The cleaned text, or None when the document goes."""
        options = self._options
        if options.html_unescape:
            text = html.unescape(text)
        if options.strip_tags:
            text = _TAG.sub("", text)
        if self._drop_lines:
            lines = text.split("\n")
            kept = [
                line for line in lines if not any(pattern.fullmatch(line) for pattern in self._drop_lines)
            ]
            statistics.lines += len(lines) - len(kept)
            text = "\n".join(kept)
        if options.tidy_whitespace:
            text = _BLANK_LINES.sub("\n\n", "\n".join(map(str.rstrip, text.split("\n")))).strip()
        if not text or text.isspace():
            statistics.empty += 1
            return None
        if any(pattern.search(text) for pattern in self._drop_documents):
            statistics.matched += 1
            return None
        if len(text) < options.min_chars:
            statistics.short += 1
            return None
        return text
