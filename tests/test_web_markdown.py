"""The web page's modules in a real browser: markdown becomes harmless elements, streams are read whole."""

import functools
import http.server
import json
import random
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import pytest
from browser import Browser, open_browser
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from samosa_jax.data.chat.conversation import parse_conversation, to_json
from samosa_jax.server.page import page_folder

ELEMENTS = (
    "p h3 h4 h5 h6 hr br blockquote ul ol li table thead tbody tr th td div figure figcaption pre code a em "
    "strong s button svg path"
)
ATTRIBUTES = (
    "class href target rel start scope tabindex role title type viewbox d data-language "
    "data-align aria-hidden aria-label"
)
MARKS = "# @## @> @- @* @1. @2) @    @\t@```@~~~@---@***@**@*@_@__@~~@`@``@[@](@)@!@\\@<@>@|@||@:-:@\n@\n\n@ "
HOSTILE = (
    "<script>window.ran = true</script>",
    "<img src=x onerror='window.ran = true'>",
    "<svg onload=alert(1)>",
    "[a](javascript:window.ran=true)",
    "[a](JaVaScRiPt:alert(1))",
    "[a]( java\tscript:alert(1))",
    "[a](data:text/html,<script>window.ran=true</script>)",
    "![a](https://example.com/x.png)",
    "[a](https://example.com/ 'title\" onclick=\"x')",
    '[a](https://example.com/"onmouseover="x)',
    "<javascript:alert(1)>",
    "https://example.com/<script>",
    '```html" onclick="x\n<b>\n```',
    "&lt;script&gt;",
    "\\<a href=x>",
)
PIECES = (
    *HOSTILE,
    *MARKS.split("@"),
    "| a | b |\n|---|:-:|\n| c | d |",
    "word",
    "ü𝄞",
    "https://example.com",
)
LINEAR = (
    "*a ",
    "**a",
    "_a_",
    "[",
    "![",
    "](",
    "[a](b ",
    "[a](https://b.c)",
    "`",
    "` ``",
    "<",
    "> ",
    "- ",
    "1. ",
)
LINEAR += (
    "https://a)",
    "http://%",
    "| ",
    "|-",
    "a*_~",
    "\\",
    "#",
    "\n",
    " ",
    "  \n",
    "- a\n  ",
    "```\n",
    "a|b\n-|-\n",
)


class Folder(http.server.SimpleHTTPRequestHandler):
    """The files alone, of a server without models."""

    def do_GET(self) -> None:
        if self.path != "/v1/models":
            super().do_GET()
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"data": []}')

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing; what is missing shows in the browser's console."""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    handler = functools.partial(Folder, directory=str(page_folder()))
    with (
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server,
        open_browser(tmp_path_factory.mktemp("browser")) as browser,
    ):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser.get(f"http://127.0.0.1:{server.server_address[1]}/")
        browser.evaluate("""
            const { MarkdownView } = await import("/modules/markdown_view.js");
            window.render = (...texts) => {
              const view = new MarkdownView();
              for (const text of texts) view.update(text);
              document.getElementById("thread").replaceChildren(view.element);
              return view.element.innerHTML;
            };
        """)
        yield browser
        server.shutdown()


def render(browser: Browser, *texts: str) -> str:
    """The HTML of the last of these texts, each of which was shown after the one before it."""
    return browser.evaluate("return window.render(...a)", *texts)


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("one\ntwo\n\nthree", "<p>one<br>two</p><p>three</p>"),
        ("# A\n### B #\n#hash", "<h3>A</h3><h5>B</h5><p>#hash</p>"),
        ("**a _b_** *c* ~~d~~", "<p><strong>a <em>b</em></strong> <em>c</em> <s>d</s></p>"),
        ("***a** b* **c*", "<p><em><strong>a</strong> b</em> *<em>c</em></p>"),
        ("2 * 3 * 4, a_b_c, 5*6*7", "<p>2 * 3 * 4, a_b_c, 5<em>6</em>7</p>"),
        (r"\*a\* \\ `\*`", r"<p>*a* \ <code>\*</code></p>"),
        ("`` a`b `` and `c", "<p><code>a`b</code> and `c</p>"),
        ("- a\n- b\n  - c\n\nd", "<ul><li>a</li><li>b<ul><li>c</li></ul></li></ul><p>d</p>"),
        ("3. a\n\n   b\n4. c", '<ol start="3"><li><p>a</p><p>b</p></li><li><p>c</p></li></ol>'),
        ("born in\n1999. Then", "<p>born in<br>1999. Then</p>"),
        ("text:\n- a\n\nb", "<p>text:</p><ul><li>a</li></ul><p>b</p>"),
        ("> a\n> > b", "<blockquote><p>a</p><blockquote><p>b</p></blockquote></blockquote>"),
        ("a\n\n---\n* * *", "<p>a</p><hr><hr>"),
        (
            "<b>a</b> &amp; <script>x</script>",
            "<p>&lt;b&gt;a&lt;/b&gt; &amp;amp; &lt;script&gt;x&lt;/script&gt;</p>",
        ),
        ("[a](relative) ![b](data:x)", "<p>[a](relative) ![b](data:x)</p>"),
    ],
)
def test_ordinary_markdown(browser: Browser, text: str, html: str) -> None:
    assert render(browser, text) == html


def test_links_open_outside_and_only_where_they_may(browser: Browser) -> None:
    link = 'target="_blank" rel="noopener noreferrer nofollow"'
    assert render(browser, '[a *b*](https://c.d/e_f_g "t"), (http://h.i/j_(k)).') == (
        f'<p><a href="https://c.d/e_f_g" {link}>a <em>b</em></a>, '
        f'(<a href="http://h.i/j_(k)" {link}>http://h.i/j_(k)</a>).</p>'
    )
    assert "mailto:a@b.c" in render(browser, "<mailto:a@b.c>")
    for scheme in ("javascript", "data", "file", "vbscript", "blob", "ftp"):
        assert "<a" not in render(browser, f"[a]({scheme}:x) <{scheme}:x>")


def test_code_and_tables(browser: Browser) -> None:
    code = render(browser, "```python title=x\nif a < b:\n\tprint()\n\n```\nafter")
    assert "<code>if a &lt; b:\n    print()\n</code></pre></figure><p>after</p>" in code
    assert 'data-language="python"' in code
    assert "<code>open</code>" in render(browser, "~~~~\nopen")
    table = render(browser, "so:\n| a | b |\n|:-:|--:|\n| 1\\|2 | **3** |\n| 4 |\n\nend")
    assert table.startswith("<p>so:</p>")
    assert '<td data-align="center">1|2</td><td data-align="right"><strong>3</strong></td></tr>' in table
    assert '<tr><td data-align="center">4</td></tr>' in table
    assert "<table" not in render(browser, "a | b\nc | d")


class Audit(HTMLParser):
    """Fails on any element or attribute that the page does not make."""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ELEMENTS.split()
        for name, value in attrs:
            assert name in ATTRIBUTES.split(), (tag, name)
            if name == "href":
                assert value is not None
                assert value.startswith(("http://", "https://", "mailto:")), value


def check_harmless(browser: Browser, html: str) -> None:
    Audit().feed(html)
    assert not browser.evaluate("return window.ran")
    assert not browser.complaints()


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=8), max_size=40).map("".join))
def test_whatever_is_written_only_harmless_elements_come_of_it(browser: Browser, text: str) -> None:
    check_harmless(browser, render(browser, text.encode("utf-8", "replace").decode()))


def test_attacks_stay_text(browser: Browser) -> None:
    for attack in HOSTILE:
        html = render(browser, f"{attack}\n\n- {attack}\n\n| {attack} | b |\n|---|---|\n| {attack} | c |")
        check_harmless(browser, html)
    shown = browser.evaluate("return document.getElementById('thread').textContent")
    assert "<a href=x>" in shown
    assert not browser.evaluate("return document.querySelectorAll('#thread :is(script, img, iframe)').length")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(PIECES), max_size=60).map("".join), st.integers(0, 2**32))
def test_a_text_that_streams_in_ends_as_it_would_at_once(browser: Browser, text: str, seed: int) -> None:
    rng = random.Random(seed)
    ends = [*sorted(rng.randint(0, len(text)) for _ in range(30)), len(text)]
    assert render(browser, *(text[:end] for end in ends)) == render(browser, text)


@pytest.mark.parametrize(
    "text",
    [
        "before\na | b\n---|---x\nafter\n",  # a table until the x
        "before\na | b\n---|---\n1 | 2\n\nafter\n",
        "before\n#tag\n- 1\n-1\n\n1. one\n10.5\n",
        "before\n---x\n```py\ncode\n``` not the end\n```\nafter\n",
        "- a\n\n- b\n\n  - c\n\nafter\n1986. A year.\n> quote\n>\n> more\nend",
    ],
)
def test_what_changes_its_meaning_while_it_streams(browser: Browser, text: str) -> None:
    for end in range(len(text) + 1):
        assert render(browser, *(text[:stop] for stop in range(end + 1))) == render(browser, text[:end])


def test_streaming_touches_only_the_last_block(browser: Browser) -> None:
    """200 frames of a long answer; what was settled is not made again, and none of it is lost."""
    made = browser.evaluate("""
        const { MarkdownView } = await import("/modules/markdown_view.js");
        const view = new MarkdownView();
        const paragraph = "Some **words** of a `paragraph` that is long enough.\\n\\n";
        let added = 0;
        const observer = new MutationObserver((records) => {
          for (const record of records) added += record.addedNodes.length;
        });
        observer.observe(view.element, { childList: true });
        const text = paragraph.repeat(200);
        for (let end = 0; end < text.length; end += paragraph.length / 4) view.update(text.slice(0, end));
        view.update(text);
        await new Promise((resolve) => setTimeout(resolve));
        return [added, view.element.children.length];
    """)
    added, children = made
    assert children == 200
    assert added <= 5 * 200  # four pieces of each; all of them made again would be 40 000


@pytest.mark.parametrize("piece", LINEAR)
def test_long_nonsense_takes_no_long_time(browser: Browser, piece: str) -> None:
    seconds = browser.evaluate(
        """
        const { MarkdownView } = await import("/modules/markdown_view.js");
        const start = performance.now();
        new MarkdownView().update(a[0]);
        return (performance.now() - start) / 1000;
        """,
        piece * (60_000 // len(piece)),
    )
    assert seconds < 2


@pytest.mark.parametrize("piece", ["*a_ ", "_a* ", "**a_b "])
def test_marks_that_never_match_are_not_searched_again_and_again(browser: Browser, piece: str) -> None:
    seconds = browser.evaluate(
        """
        const { parseInline } = await import("/modules/markdown_inline.js");
        const start = performance.now();
        parseInline(a[0]);
        return (performance.now() - start) / 1000;
        """,
        piece * 100_000,
    )
    assert seconds < 2


def test_events_are_read_however_the_bytes_are_cut(browser: Browser) -> None:
    events = ['{"a": "ü𝄞"}', "two\nlines", "[DONE]"]
    body = f": hello\r\n\r\ndata: {events[0]}\n\nevent: x\r\ndata: two\r\ndata:lines\r\n\r\nid: 1\n\n"
    body += "data: [DONE]\n\ndata: never ended\n"
    read = browser.evaluate(
        """
        const { serverEvents } = await import("/modules/server_events.js");
        const bytes = new TextEncoder().encode(a[0]);
        const all = [];
        for (const size of [1, 2, 3, 7, bytes.length]) {
          const body = new ReadableStream({
            start(controller) {
              for (let at = 0; at < bytes.length; at += size) controller.enqueue(bytes.slice(at, at + size));
              controller.close();
            },
          });
          const found = [];
          for await (const event of serverEvents(body)) found.push(event);
          all.push(found);
        }
        return all;
        """,
        body,
    )
    assert read == [events] * 5


CONVERSATION: dict[str, Any] = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is 2+3?"},
        {
            "role": "assistant",
            "content": "<think>\nA sum.\n</think>\n\nLet me see.",
            "tool_calls": [
                {"type": "function", "function": {"name": "calculator", "arguments": {"expression": "2+3"}}}
            ],
        },
        {"role": "tool", "content": "5"},
        {"role": "assistant", "content": "Five.\n\n**Really.**"},
        {"role": "user", "content": "Sure?"},
        {"role": "assistant", "content": "<think>\nOnce more: 5.\n</think>\n\nYes."},
    ]
}


def test_conversations_are_the_canonical_json(browser: Browser) -> None:
    """Imported and exported they are what training reads; sent they are the same conversation."""
    exported, sent = browser.evaluate(
        """
        const { fromCanonical, requestMessages, toCanonical } = await import("/modules/conversation.js");
        const conversation = fromCanonical(a[0]);
        return [toCanonical(conversation), requestMessages(conversation.messages, 0)];
        """,
        CONVERSATION,
    )
    canonical = parse_conversation(CONVERSATION)
    assert exported == {"title": "What is 2+3?", **to_json(canonical)}
    assert to_json(canonical) == CONVERSATION
    assert parse_conversation({"messages": sent}) == canonical
    assert sent[2]["reasoning_content"] == "A sum."
    assert json.loads(sent[2]["tool_calls"][0]["function"]["arguments"]) == {"expression": "2+3"}


def test_what_was_cut_short_can_still_be_sent(browser: Browser) -> None:
    """Silent answers, a call whose tool never returned, stray marks of thought: none of it is sent."""
    messages = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "", "think": "", "call": None},
        {"role": "user", "content": "two"},
        {"role": "assistant", "content": "a</think>b", "think": "t<think>", "call": None},
        {"role": "user", "content": "three"},
        {"role": "assistant", "content": "", "think": "", "call": {"name": "f", "arguments": "no JSON"}},
        {"role": "user", "content": "four"},
        {"role": "assistant", "content": "end", "think": "", "call": None},
    ]
    whole, short = browser.evaluate(
        """
        const { requestMessages } = await import("/modules/conversation.js");
        return [requestMessages(a[0], 0), requestMessages(a[0], 3)];
        """,
        messages,
    )
    parsed = parse_conversation({"messages": whole})
    assert [message.text for message in parsed.messages if message.role == "user"] == [
        "one\n\ntwo",
        "three",
        "four",
    ]
    assert [message.text for message in parsed.messages if message.role == "assistant"] == ["ab", "", "end"]
    assert parse_conversation({"messages": short}).messages[0].text == "four"
