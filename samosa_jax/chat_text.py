"""Text of a model, of a tool or of a file on a terminal: nothing of it but visible signs reaches the screen.

Control characters, escape sequences among them, and marks that turn the direction of writing are shown as
signs that stand for them; what Markdown makes of entities and addresses, too.
"""

import itertools
import re
from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.markdown import Markdown
from rich.segment import Segment
from rich.text import Text

# Control characters but for tab and line feed, marks of direction, U+2028, U+2029, halves of surrogate pairs.
_UNSAFE = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def harmless(text: str) -> str:
    """The text with a visible sign for every character that a terminal would obey instead of showing it."""
    return _UNSAFE.sub(_visible, text.replace("\r\n", "\n"))


def _visible(match: re.Match[str]) -> str:
    code = ord(match.group())
    if code < 0x20:
        return chr(0x2400 + code)  # the control pictures of Unicode: ESC is U+241B
    return "\u2421" if code == 0x7F else f"\\u{code:04x}"


class Harmless:
    """Anything rich can show, without an unsafe character, or a link, which hides where it leads."""

    def __init__(self, shown: RenderableType) -> None:
        self._shown = shown

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for segment in console.render(self._shown, options):
            if segment.control:
                continue
            style = segment.style
            if style is not None and style.link:
                style = style.update_link(None)
            yield Segment(_UNSAFE.sub("", segment.text), style)


class Tail:
    """The last lines of something, as many as the screen has room for."""

    def __init__(self, shown: RenderableType) -> None:
        self._shown = shown

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = console.render_lines(Harmless(self._shown), options, pad=False)
        for line in lines[-max(1, console.height - 2) :]:
            yield from line
            yield Segment.line()


class MarkdownBlocks:
    """Markdown without empty lines around it, in which a line break is one: models write verses that way."""

    def __init__(self, text: str) -> None:
        self._document = Markdown(harmless(text), hyperlinks=False)
        for token in self._document.parsed:
            for part in (token, *(token.children or ())):
                part.content = harmless(part.content)  # entities are decoded by now
                if part.type == "softbreak":
                    part.type = "hardbreak"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = console.render_lines(self._document, options, pad=False)
        filled = [number for number, line in enumerate(lines) if not _is_empty(line)]
        if filled:
            yield from _joined(lines[filled[0] : filled[-1] + 1])


def _is_empty(line: list[Segment]) -> bool:
    """Whether nothing of it can be seen; the padding of a code block can, by its background."""
    return all(not text.strip() and (style is None or style.bgcolor is None) for text, style, _ in line)


def split_blocks(text: str) -> list[str]:
    """The blocks of Markdown; text that follows changes only the last of them."""
    blocks = Markdown(harmless(text)).parsed
    starts = [block.map[0] for block in blocks if block.level == 0 and block.map and block.nesting >= 0]
    lines = text.split("\n")
    cuts = [0, *starts[1:], len(lines)]
    return ["\n".join(lines[start:end]) for start, end in itertools.pairwise(cuts)]


def split_lines(text: str) -> list[str]:
    """All lines together but for the last that is not empty, which may still grow; and that one."""
    place = text.rstrip("\n").rfind("\n")
    return [text] if place < 0 else [text[:place], text[place + 1 :]]


class Head:
    """The first lines of something, and how many more there are."""

    def __init__(self, shown: RenderableType, *, max_lines: int) -> None:
        self._shown = shown
        self._max_lines = max_lines

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = console.render_lines(self._shown, options, pad=False)
        yield from _joined(lines[: self._max_lines])
        if len(lines) > self._max_lines:
            yield Text(f"({len(lines) - self._max_lines} more lines)", style="dim")


def _joined(lines: Iterable[list[Segment]]) -> Iterable[Segment]:
    for line in lines:
        yield from line
        yield Segment.line()
