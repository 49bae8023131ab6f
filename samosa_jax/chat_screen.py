"""An answer on the terminal while it is written: Markdown, thoughts, calls of tools.

Blocks of Markdown that are finished are printed once and stay. Only the last one, which still grows, is
drawn again, and of it no more lines than the screen has: long answers neither flicker nor slow down.
"""

import json
import time
from types import TracebackType
from typing import IO, Literal, Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.spinner import Spinner
from rich.text import Text

from samosa_jax.chat_text import Harmless, Head, MarkdownBlocks, Tail, harmless, split_blocks, split_lines
from samosa_jax.rollout.events import Ended, Event, TextDelta, TextKind, ToolCalled, ToolReturned

ThinkMode = Literal["show", "dim", "hide"]

REFRESHES_PER_SECOND = 15
MAX_RESULT_LINES = 8
MAX_CALL_CHARS = 2_000
THINK_STYLES = {"show": "italic", "dim": "dim italic"}
NOTICE_STYLE = "dim"


class AnswerView(Protocol):
    """Shows the events of one answer, inside a `with`."""

    def __enter__(self) -> "AnswerView": ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def add(self, event: Event) -> None: ...

    def tick(self) -> None:
        """To be called many times a second, whether there was an event or not."""
        ...


class Screen:
    """Where a chat is shown: a terminal, or a file; and what of it stays, again for a picture."""

    def __init__(self, console: Console, *, recorder: Console | None = None) -> None:
        self.console = console
        self._recorder = recorder

    def show(self, shown: RenderableType = "", *, style: str | None = None) -> None:
        """Prints something that stays."""
        for console in filter(None, (self.console, self._recorder)):
            # In a file lines are as long as they are.
            console.print(Harmless(shown), style=style, soft_wrap=not console.is_terminal)

    def say(self, line: str, *, style: str = NOTICE_STYLE) -> None:
        """Prints a line of the program's own."""
        self.show(Text(line, style=style))

    def echo(self, prompt: str, line: str) -> None:
        """For the picture alone: what the user typed, which the terminal itself has shown."""
        if self._recorder is not None:
            self._recorder.print(Harmless(Text.assemble((prompt, "bold cyan"), line)))

    def answer(self, think: ThinkMode) -> AnswerView:
        """The view of the next answer."""
        if self.console.is_terminal:
            return LiveAnswer(self, think)
        return PlainAnswer(self.console.file, think)


class PlainAnswer:
    """An answer as plain text, written as it comes; thoughts only if they are to be shown as they are."""

    def __init__(self, out: IO[str], think: ThinkMode, *, only_answer: bool = False) -> None:
        self._out = out
        self._with_thoughts = think == "show" and not only_answer
        self._with_tools = not only_answer
        self._kind: TextKind | None = None
        self._line_is_open = False

    def __enter__(self) -> "PlainAnswer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_line()
        self._out.flush()

    def add(self, event: Event) -> None:
        match event:
            case TextDelta(kind=kind, text=text) if kind == "text" or self._with_thoughts:
                if kind != self._kind:
                    self._end_line()
                    self._kind = kind
                self._write(text)
                self._out.flush()
            case ToolCalled(name=name, arguments=arguments):
                self._end_line()
                if self._with_tools:
                    self._write(f"[{name} {arguments}]\n")
            case ToolReturned(result=result) if self._with_tools:
                self._write(f"[{result.text}]\n")

    def tick(self) -> None:
        pass

    def _write(self, text: str) -> None:
        if text:
            self._out.write(harmless(text))
            self._line_is_open = not text.endswith("\n")

    def _end_line(self) -> None:
        if self._line_is_open:
            self._write("\n")


class LiveAnswer:
    """An answer on a terminal, drawn again as it grows."""

    def __init__(
        self,
        screen: Screen,
        think: ThinkMode,
        *,
        only_answer: bool = False,
        refreshes_per_second: float = REFRESHES_PER_SECOND,
    ) -> None:
        self._screen = screen
        self._think: ThinkMode = "hide" if only_answer else think
        self._only_answer = only_answer
        self._live = Live(console=screen.console, auto_refresh=False, transient=True)
        self._kind: TextKind | None = None
        self._growing = ""  # text of this kind that has not been printed for good
        self._has_printed = False  # a block of this kind
        self._kind_began = 0.0
        self._waiting_for = ""  # a tool
        self._spinner = Spinner("dots", style=NOTICE_STYLE)
        self._is_drawn = False
        self._seconds_between = 1 / refreshes_per_second
        self._next_refresh = 0.0

    def __enter__(self) -> "LiveAnswer":
        self._live.start()
        self.tick()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._finish_kind()
        self._live.stop()

    def add(self, event: Event) -> None:
        self._is_drawn = False
        match event:
            case TextDelta(kind=kind, text=text):
                if kind != self._kind:
                    self._finish_kind()
                    self._kind, self._kind_began = kind, time.monotonic()
                # Thoughts and answers often begin with line breaks, which would show as empty lines.
                self._growing += text if self._growing or self._has_printed else text.lstrip("\n")
            case ToolCalled():
                self._finish_kind()
                self._waiting_for = event.name if event.runs_here else ""
                if not self._only_answer:
                    self._show(_call(event))
            case ToolReturned():
                self._waiting_for = ""
                if not self._only_answer:
                    self._show(_result(event))
                    self._show(Text())
            case Ended():
                self._finish_kind()

    def tick(self) -> None:
        """Draws what has come since the last time, if that is not too short ago."""
        now = time.monotonic()
        if now < self._next_refresh or (self._is_drawn and self._grows):
            return
        self._next_refresh = now + self._seconds_between
        self._is_drawn = True
        self._print_finished()
        self._live.update(Tail(self._shown(self._growing)) if self._grows else self._spinning(), refresh=True)

    @property
    def _grows(self) -> bool:
        return bool(self._growing.strip()) and not self._is_hidden

    @property
    def _is_hidden(self) -> bool:
        return self._kind == "think" and self._think == "hide"

    def _print_finished(self) -> None:
        if self._grows:
            *finished, self._growing = self._parts()
            for part in finished:
                self._print(part)

    def _finish_kind(self) -> None:
        """Prints the rest of what was being said."""
        if self._grows:
            self._growing = self._growing.rstrip("\n")
            for part in self._parts():
                self._print(part)
        elif self._growing.strip() and not self._only_answer:
            seconds = time.monotonic() - self._kind_began
            self._show(Text(f"thought for {seconds:.1f} s, {len(self._growing.split())} words", NOTICE_STYLE))
        if self._kind == "think" and self._has_printed:
            self._show(Text())
        self._growing, self._has_printed, self._kind = "", False, None

    def _parts(self) -> list[str]:
        return split_blocks(self._growing) if self._kind == "text" else split_lines(self._growing)

    def _print(self, text: str) -> None:
        if self._has_printed and self._kind == "text":
            self._show(Text())
        self._show(self._shown(text))
        self._has_printed = True

    def _show(self, shown: RenderableType) -> None:
        # What is drawn below would be drawn again, and hold what is printed here a second time.
        self._live.update(Text())
        self._screen.show(shown)

    def _shown(self, text: str) -> RenderableType:
        if self._kind == "text":
            return MarkdownBlocks(text)
        return Padding(Text(harmless(text), style=THINK_STYLES[self._think]), (0, 0, 0, 2))

    def _spinning(self) -> RenderableType:
        doing = f"{self._waiting_for} is working" if self._waiting_for else "thinking"
        if self._is_hidden:
            doing += f", {len(self._growing.split())} words"
        self._spinner.update(text=Text(harmless(doing), style=NOTICE_STYLE))
        return self._spinner


def _call(event: ToolCalled) -> RenderableType:
    name = Text.assemble(("\u25b8 ", "yellow"), (harmless(event.name), "bold yellow"))
    shown = _arguments(event.arguments)
    if "\n" in shown:
        return Group(name, Padding(Text(shown, style="yellow"), (0, 0, 0, 2)))
    return name.append(f" {shown}", "yellow")


def _arguments(text: str) -> str:
    """The arguments of a call as they read best: the value itself where there is only one."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        values = None
    if isinstance(values, dict) and len(values) == 1:
        value = next(iter(values.values()))
        text = value if isinstance(value, str) else text
    return harmless(text if len(text) <= MAX_CALL_CHARS else f"{text[:MAX_CALL_CHARS]} ...")


def _result(event: ToolReturned) -> RenderableType:
    style = "red" if event.result.is_error else "blue"
    seconds = f"  ({event.result.seconds:.1f} s)" if event.result.seconds >= 0.1 else ""
    shown = harmless(_pages(event.result.text)).strip("\n")
    text = Text(shown, style=style).append(seconds, NOTICE_STYLE)
    return Padding(Head(text, max_lines=MAX_RESULT_LINES), (0, 0, 0, 2))


def _pages(text: str) -> str:
    """What web_search has found, a page to a line; any other text as it is."""
    try:
        lines = [f"{page['title']} \u2014 {page['url']}" for page in json.loads(text)["results"]]
    except (ValueError, LookupError, TypeError, RecursionError):
        return text
    return "\n".join(lines) or text
