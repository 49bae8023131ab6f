"""What a run shows while it trains: a live panel on a terminal, plain lines anywhere else."""

import shutil
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, Protocol, TextIO

if TYPE_CHECKING:
    from rich.table import Table

SPARKS = "▁▂▃▄▅▆▇█"
SPARKLINE_WIDTH = 40
REFRESH_SECONDS = 0.2
TABLE_WIDTH = 120  # columns, where no terminal says how many it has


@dataclass(frozen=True, kw_only=True)
class Progress:
    """One training step, as shown."""

    step: int
    num_steps: int
    loss: float
    lr: float
    tokens_per_sec: float | None  # None while only the compiling step has been seen
    mfu: float | None  # 0..1
    seconds_left: float | None
    peak_bytes: int


class Display(Protocol):
    def progress(self, progress: Progress) -> None:
        """Called for every step; shows what it sees fit."""

    def validation(self, step: int, name: str, value: float) -> None: ...

    def sample(self, step: int, prompt: str, text: str) -> None: ...

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table that stays, such as of answers. Numbers and words are cells of text."""

    def say(self, message: str) -> None:
        """A message that stays: a warning, a saved checkpoint."""

    def close(self) -> None: ...


def make_display(
    kind: Literal["auto", "live", "plain"], *, every_steps: int, title: str, stream: TextIO | None = None
) -> Display:
    """`auto` is live on a terminal and plain elsewhere. `every_steps` is between two plain lines.

    `stream` None is stdout.
    """
    out: TextIO = sys.stdout if stream is None else stream
    if kind == "live" or (kind == "auto" and out.isatty()):
        return LiveDisplay(title=title, stream=out)
    return PlainDisplay(every_steps=every_steps, stream=out)


class NoDisplay:
    """Of a process that shows nothing, because another does."""

    def progress(self, progress: Progress) -> None: ...

    def validation(self, step: int, name: str, value: float) -> None: ...

    def sample(self, step: int, prompt: str, text: str) -> None: ...

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None: ...

    def say(self, message: str) -> None: ...

    def close(self) -> None: ...


class PlainDisplay:
    """Like `step 00420/20000  loss 2.874  lr 3.0e-4  tok/s 38204  eta 3m12s`."""

    def __init__(self, *, every_steps: int, stream: TextIO) -> None:
        self._every_steps = every_steps
        self._stream = stream

    def progress(self, progress: Progress) -> None:
        if progress.step % self._every_steps and progress.step not in (1, progress.num_steps):
            return
        parts = [
            f"step {format_step(progress.step, progress.num_steps)}",
            f"loss {progress.loss:.3f}",
            f"lr {format_lr(progress.lr)}",
        ]
        if progress.tokens_per_sec is not None:
            parts.append(f"tok/s {progress.tokens_per_sec:.0f}")
        if progress.mfu is not None:
            parts.append(f"mfu {progress.mfu:.1%}")
        if progress.seconds_left is not None:
            parts.append(f"eta {format_seconds(progress.seconds_left)}")
        self.say("  ".join(parts))

    def validation(self, step: int, name: str, value: float) -> None:
        self.say(f"step {step:05d}  {name} {value:.4f}")

    def sample(self, step: int, prompt: str, text: str) -> None:
        self.say(f"step {step:05d}  sample: {prompt}|{text}")

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        from rich.console import Console

        width = shutil.get_terminal_size((TABLE_WIDTH, 0)).columns
        Console(file=self._stream, width=width).print(_table(title, columns, rows))

    def say(self, message: str) -> None:
        print(message, file=self._stream, flush=True)

    def close(self) -> None:
        self._stream.flush()


class LiveDisplay:
    """A panel that is redrawn in place; messages scroll by above it."""

    def __init__(self, *, title: str, stream: TextIO) -> None:
        from rich.console import Console
        from rich.live import Live

        self._title = title
        self._losses: deque[float] = deque(maxlen=2_000)
        self._progress: Progress | None = None
        self._validation = ""
        self._sample = ""
        self._drawn_at = 0.0
        self._live = Live(console=Console(file=stream), auto_refresh=False)
        self._live.start()

    def progress(self, progress: Progress) -> None:
        self._progress = progress
        self._losses.append(progress.loss)
        if progress.step == progress.num_steps or time.monotonic() - self._drawn_at > REFRESH_SECONDS:
            self._draw()

    def validation(self, step: int, name: str, value: float) -> None:
        self._validation = f"{name} {value:.4f} at step {step}"
        self._draw()

    def sample(self, step: int, prompt: str, text: str) -> None:
        self._sample = f"[step {step}] {prompt}|{text}"
        self._draw()

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        self._live.console.print(_table(title, columns, rows))

    def say(self, message: str) -> None:
        self._live.console.print(message, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        if self._progress is not None:
            self._draw()
        self._live.stop()

    def _draw(self) -> None:
        from rich.console import Group
        from rich.panel import Panel
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        progress = self._progress
        if progress is None:
            return
        figures = Table.grid(padding=(0, 2))
        for _ in range(6):
            figures.add_column(no_wrap=True)
        unknown = "-"
        speed = unknown if progress.tokens_per_sec is None else f"{progress.tokens_per_sec:,.0f}"
        mfu = unknown if progress.mfu is None else f"{progress.mfu:.1%}"
        left = unknown if progress.seconds_left is None else format_seconds(progress.seconds_left)
        figures.add_row(
            "loss",
            f"{progress.loss:.4f}",
            "tokens/s",
            speed,
            "step",
            f"{progress.step:,}/{progress.num_steps:,}",
        )
        figures.add_row("lr", format_lr(progress.lr), "MFU", mfu, "left", left)
        figures.add_row(
            "memory", f"{progress.peak_bytes / 2**30:.1f} GiB", "validation", self._validation or unknown
        )
        rows = [
            ProgressBar(total=progress.num_steps, completed=progress.step),
            Text(sparkline(self._losses, width=SPARKLINE_WIDTH), style="cyan"),
            figures,
        ]
        if self._sample:
            rows.append(Text(self._sample, style="dim", overflow="ellipsis"))
        self._live.update(Panel(Group(*rows), title=self._title, title_align="left"), refresh=True)
        self._drawn_at = time.monotonic()


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), title_justify="left", show_lines=True)
    for column in columns:
        table.add_column(Text(column), overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))  # as it is: brackets in a text are no markup
    return table


def sparkline(values: "deque[float] | list[float]", *, width: int) -> str:
    """Means of `width` equal stretches of the finite values, as a row of blocks."""
    finite = [value for value in values if value == value and abs(value) != float("inf")]
    if not finite:
        return ""
    width = min(width, len(finite))
    bounds = [index * len(finite) // width for index in range(width + 1)]
    means = [sum(finite[start:stop]) / (stop - start) for start, stop in pairwise(bounds)]
    low, high = min(means), max(means)
    scale = (len(SPARKS) - 1) / (high - low) if high > low else 0.0
    return "".join(SPARKS[round((mean - low) * scale)] for mean in means)


def format_step(step: int, num_steps: int) -> str:
    width = max(5, len(str(num_steps)))
    return f"{step:0{width}d}/{num_steps}"


def format_lr(lr: float) -> str:
    """3.0e-4 rather than 3.0e-04."""
    mantissa, exponent = f"{lr:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def format_seconds(seconds: float) -> str:
    """3m12s, 2h05m, 4d03h."""
    whole = max(round(seconds), 0)
    minutes, rest = divmod(whole, 60)
    hours, minutes_left = divmod(minutes, 60)
    days, hours_left = divmod(hours, 24)
    if days:
        return f"{days}d{hours_left:02d}h"
    if hours:
        return f"{hours}h{minutes_left:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
