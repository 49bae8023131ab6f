"""What a model writes as a terminal shows it: visible signs and nothing else, in whole and in order."""

import io
import json
import re

import pyte
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rich.console import Console

from samosa_jax.chat_screen import LiveAnswer, PlainAnswer, Screen, ThinkMode
from samosa_jax.chat_text import MarkdownBlocks, harmless, split_blocks, split_lines
from samosa_jax.rollout.events import Event, TextDelta, ToolCalled, ToolReturned
from samosa_jax.rollout.tools.registry import ToolResult

OURS = re.compile(r"\x1b\[(\?25[lh]|[0-9;]*m|[0-9]*[AK]|2K)")  # cursor on and off, colours, up, erase a line
DANGEROUS = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
EVIL = (
    "\x1b]0;title\x07\x1b[2J\x1b[31mred \x9b31m <http://a.b/%1b%5b2J> &#8238; \u202eright\r[x](javascript:a)"
)
# Text with what terminals and Markdown look for.
TEXT = st.text(
    st.one_of(st.characters(), st.sampled_from("\x1b\x07\x9b[]();?\r\n\t*_`#|-><&%1b漢🙂\u202e"))
).map(lambda text: text.encode("utf-8", "replace").decode())


def console(columns: int = 60, rows: int = 20) -> Console:
    return Console(
        file=io.StringIO(),
        force_terminal=True,
        width=columns,
        height=rows,
        color_system="truecolor",
        highlight=False,
        emoji=False,
        markup=False,
        legacy_windows=False,
    )


def written(shown: Console) -> str:
    assert isinstance(shown.file, io.StringIO)
    return shown.file.getvalue()


def drawn(shown: Console) -> list[str]:
    """The lines on a screen with as much room as it takes."""
    screen = pyte.Screen(shown.width, 2_000)
    pyte.Stream(screen).feed(written(shown).replace("\n", "\r\n"))
    lines = [line.rstrip() for line in screen.display]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def told(events: list[Event], *, think: ThinkMode = "dim", columns: int = 60, rows: int = 20) -> Console:
    """The terminal after a view was given these events, and drew after every one."""
    shown = console(columns, rows)
    with LiveAnswer(Screen(shown), think, refreshes_per_second=1e9) as view:
        for event in events:
            view.add(event)
            view.tick()
    return shown


def streamed(text: str, *, size: int = 3) -> list[Event]:
    return [TextDelta(0, "text", text[at : at + size]) for at in range(0, len(text), size)]


@settings(max_examples=60)
@given(TEXT, st.sampled_from(["text", "think"]), st.integers(4, 70))
@example(EVIL, "text", 40)
@example(EVIL, "think", 40)
def test_only_our_own_sequences_reach_the_terminal(text, kind, columns):
    events = [TextDelta(0, kind, text), ToolCalled(0, "a", text, text, True)]
    events.append(ToolReturned(0, "a", ToolResult(text, True, 1.0)))
    shown = written(told(events, columns=columns))
    rest = OURS.sub("", shown).replace("\r", "")
    assert not DANGEROUS.search(rest)
    plain = io.StringIO()
    with PlainAnswer(plain, "show") as view:
        for event in events:
            view.add(event)
    assert not DANGEROUS.search(plain.getvalue())


def test_control_characters_are_shown_as_signs():
    assert harmless("a\x1b[2Jb\tc\r\nd") == "a\u241b[2Jb\tc\nd"
    assert harmless("\x07\x7f\x9b\u202e\r") == "\u2407\u2421\\u009b\\u202e\u240d"
    shown = "\n".join(drawn(told(streamed(EVIL))))
    for visible in ("\u241b[2J", "\u2407", "\\u202eright", "(javascript:a)", "http://a.b/\u241b[2J"):
        assert visible in shown.replace("\n", "")
    assert "javascript:a)" in shown  # where a link leads is shown, not hidden


DOCUMENT = """# Fruits

Two *kinds* of
**fruit** `x`:

1. apples
2. pears
   - green
   - yellow

```python
def eat(fruit):

    return fruit
```

| kind | count |
|------|-------|
| a    | 1     |

Done, 漢字 and 🙂.
"""


@pytest.mark.parametrize("size", [1, 7, 1_000])
@pytest.mark.parametrize("columns", [20, 72])
def test_streamed_markdown_ends_as_if_it_had_come_at_once(size, columns):
    shown = drawn(told(streamed(DOCUMENT, size=size), columns=columns))
    assert shown == drawn(told([TextDelta(0, "text", DOCUMENT)], columns=columns))
    text = " ".join(shown)
    for words in ("Fruits", "1 apples", "• green", "def eat(fruit):", "漢字 and 🙂"):
        assert words in text
    assert not any(mark in text for mark in ("**", "```", "# F"))
    assert "Two kinds of" in shown  # line breaks stay


@given(
    st.lists(
        st.sampled_from(["a *b*\n", "\n", "- x\n", "1. y\n", "```\n", "# h\n", "> q\n", "    c\n", "|a|\n"])
    )
)
def test_blocks_are_cut_without_loss_and_stay_finished(lines):
    text = "".join(lines)
    blocks = split_blocks(text)
    assert "\n".join(blocks) == text
    assert split_blocks(f"{text}word")[: len(blocks) - 1] == blocks[:-1]
    said = split_lines(text)
    assert "\n".join(said) == text
    assert "\n" not in said[-1].rstrip("\n")


def test_long_answers_are_drawn_in_full_and_redrawn_only_at_their_end():
    text = "".join(f"- item {number}\n" for number in range(120))
    shown = told(streamed(text, size=9), rows=10)
    assert [line.strip() for line in drawn(shown)] == [f"• item {number}" for number in range(120)]
    assert max(map(len, re.findall(r"(?:\x1b\[1A\x1b\[2K)+", written(shown)))) <= 10 * len("\x1b[1A\x1b[2K")
    paragraphs = "".join(f"paragraph {number}\n\n" for number in range(100))
    shown = told(streamed(paragraphs, size=9), rows=10)
    assert written(shown).count("paragraph 3\n") == written(shown).count("paragraph 97\n") <= 3


THINKING: list[Event] = [
    TextDelta(0, "think", "\nFirst,\nthen\n\n"),
    TextDelta(0, "think", "last.\n"),
    ToolCalled(0, "a", "calculator", json.dumps({"expression": "2 + 3"}), True),
    ToolReturned(0, "a", ToolResult("5", False, 0.0)),
    TextDelta(0, "text", "Five."),
]


def test_thoughts_are_dim_or_hidden_and_tools_are_shown():
    dim = told(THINKING)
    lines = ["  First,", "  then", "", "  last.", "", "▸ calculator 2 + 3", "  5", "", "Five."]
    assert drawn(dim) == lines
    assert "\x1b[2;3mFirst," in written(dim)
    shown = told(THINKING, think="show")
    assert drawn(shown) == lines
    assert "\x1b[3mFirst," in written(shown)
    assert "\x1b[2;3m" not in written(shown)
    hidden = drawn(told(THINKING, think="hide"))
    assert re.fullmatch(r"thought for [0-9.]+ s, 3 words", hidden[0])
    assert hidden[1:] == lines[-4:]


def test_plain_answers_are_text():
    def plain(think: ThinkMode, only_answer: bool, events: list[Event] = THINKING) -> str:
        out = io.StringIO()
        with PlainAnswer(out, think, only_answer=only_answer) as view:
            for event in events:
                view.add(event)
        return out.getvalue()

    assert plain("dim", True) == "Five.\n"
    assert plain("show", True) == "Five.\n"
    assert plain("dim", True, [TextDelta(0, "text", "Let me see:"), *THINKING]) == "Let me see:\nFive.\n"
    assert plain("dim", False) == '[calculator {"expression": "2 + 3"}]\n[5]\nFive.\n'
    assert plain("show", False).startswith("\nFirst,\nthen\n\nlast.\n[calc")


def test_long_results_are_cut_and_failures_are_red():
    text = "\n".join(map(str, range(30)))
    shown = told([ToolReturned(0, "a", ToolResult(text, False, 2.5))])
    assert drawn(shown)[-2:] == ["  7", "  (22 more lines)"]
    pages = [{"title": "Rivers", "url": "https://a.org/r", "content": "The Elbe"}]
    found = told([ToolReturned(0, "a", ToolResult(json.dumps({"results": pages}), False, 0.0))])
    assert drawn(found) == ["  Rivers \u2014 https://a.org/r"]
    failed = told([ToolReturned(0, "a", ToolResult("error: no", True, 0.0))])
    assert "\x1b[31merror: no" in written(failed)


def test_what_stays_goes_into_the_picture():
    recorder = Console(record=True, file=io.StringIO(), width=60, force_terminal=True)
    screen = Screen(console(), recorder=recorder)
    screen.echo("> ", "a question\x1b[2J")
    with LiveAnswer(screen, "dim") as view:
        for event in THINKING:
            view.add(event)
            view.tick()
    text = recorder.export_text()
    assert next(line.strip() for line in text.splitlines()) == "> a question[2J"
    assert text.rstrip().endswith("Five.")
    assert text.count("First,") == 1


def test_markdown_without_anything_to_show_is_nothing():
    shown = console()
    shown.print(MarkdownBlocks("\n\n"))
    assert not drawn(shown)
