"""The web_search tool over a real HTTP server that behaves and misbehaves."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samosa_jax.errors import UserError
from samosa_jax.rollout.tools.local_index import Document, LocalIndex
from samosa_jax.rollout.tools.registry import Registry, ToolContext
from samosa_jax.rollout.tools.web_search import (
    MAX_ATTEMPTS,
    MAX_REPLY_BYTES,
    SearchBackend,
    SearchError,
    TavilyBackend,
    WebSearch,
    cut,
)
from samosa_jax.tasks.tool_schemas import WEB_SEARCH
from samosa_jax.tasks.web_search import WebSearchTask

KEY = "tvly-5ecret"
PAGES = [
    {"title": "Seoul now", "url": "https://a.example/1", "content": "12 degrees.", "score": 0.9},
    {"title": "Seoul", "url": "https://b.example/2", "content": "A city.", "score": 0.4, "raw_content": None},
]
GOOD = json.dumps({"query": "echo", "answer": None, "results": PAGES, "response_time": 0.1}).encode()

Behaviour = Callable[["_Handler", int], None]  # (who answers, how many requests came before)


class SearchServer(ThreadingHTTPServer):
    """Answers as it is told, and remembers what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behaviour: Behaviour = lambda handler, number: handler.answer(200, GOOD)
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/search"

    def backend(self) -> TavilyBackend:
        return TavilyBackend(api_key=KEY, url=self.url)

    def handle_error(self, request: object, client_address: object) -> None:
        """Silence: clients that hang up on a slow or endless answer are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        server = self.server
        assert isinstance(server, SearchServer)
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", "0"))) or b"{}")
        with server.lock:
            number = len(server.bodies)
            server.bodies.append(body)
            server.keys.append(self.headers.get("Authorization"))
        server.behaviour(self, number)

    def do_GET(self) -> None:
        self.do_POST()

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def trickle(self, seconds: float) -> None:
        """A good answer, but a byte at a time, so that no single read ever times out."""
        self.send_response(200)
        self.send_header("Content-Length", str(len(GOOD)))
        self.end_headers()
        for at in range(len(GOOD)):
            self.wfile.write(GOOD[at : at + 1])
            time.sleep(seconds / len(GOOD))

    def log_message(self, format: str, *args: object) -> None:
        """Silence: the test says what matters."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[SearchServer]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = SearchServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def run(backend: SearchBackend, query: Any = "weather Seoul", **options: Any) -> dict[str, Any]:
    return json.loads(WebSearch(backend=backend, **options).run({"query": query}, ToolContext()))


# What the model sees


def test_a_result_has_the_form_of_the_training_data(server: SearchServer):
    shown = run(server.backend())
    trained_texts = [
        message.text
        for example in WebSearchTask().examples("train", seed=0, count=20)
        for message in example.conversation.messages
        if message.role == "tool"
    ]
    assert len(trained_texts) == 20
    for trained in map(json.loads, trained_texts):
        assert list(trained) == list(shown)
        for page in (*trained["results"], *shown["results"]):
            assert list(page) == ["title", "url", "content"]
            assert all(isinstance(text, str) for text in page.values())
    text = WebSearch(backend=server.backend()).run({"query": "weather Seoul"}, ToolContext())
    assert text == json.dumps(json.loads(text), ensure_ascii=False)


def test_pages_come_in_order_and_the_service_is_asked_once_with_the_key(server: SearchServer):
    shown = run(server.backend(), "  weather \n in Seoul ")
    assert shown["query"] == "weather in Seoul"
    assert [page["url"] for page in shown["results"]] == ["https://a.example/1", "https://b.example/2"]
    assert server.keys == [f"Bearer {KEY}"]
    assert server.bodies[0]["query"] == "weather in Seoul"
    assert server.bodies[0]["max_results"] == 3


def test_more_pages_than_wanted_are_not_shown(server: SearchServer):
    many = json.dumps({"results": PAGES * 5}).encode()
    server.behaviour = lambda handler, number: handler.answer(200, many)
    assert len(run(server.backend(), max_results=2)["results"]) == 2


def test_nothing_found_is_a_result_that_says_so(server: SearchServer):
    server.behaviour = lambda handler, number: handler.answer(200, b'{"results": []}')
    shown = run(server.backend(), "zzz")
    assert shown == {"query": "zzz", "results": [], "note": "Nothing was found for this query."}


def test_a_full_result_stays_within_what_the_registry_lets_through():
    contents = [f"Seoul {'x' * at} weather report. " * 200 for at in range(1, 5)]
    documents = [
        Document(title="Seoul " * 90, url=f"https://a.example/{'p' * 270}{at}", content=content)
        for at, content in enumerate(contents)
    ]
    registry = Registry([WebSearch(backend=LocalIndex(documents))])
    result = registry.call(WEB_SEARCH, {"query": "seoul weather"}, ToolContext())
    assert not result.is_error
    assert len(json.loads(result.text)["results"]) == 3


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({}, "takes"),
        ({"query": 7}, "takes"),
        ({"query": "a", "count": 3}, "nothing else"),
        ({"query": " \n "}, "empty"),
        ({"query": "a" * 401}, "401 characters"),
    ],
)
def test_arguments_that_are_no_query_are_explained(arguments: dict[str, Any], complaint: str):
    with pytest.raises(SearchError, match=complaint):
        WebSearch(backend=LocalIndex([])).run(arguments, ToolContext())


@pytest.mark.parametrize("options", [{"max_results": 0}, {"max_chars": 0}, {"timeout_s": 0.0}])
def test_limits_must_be_above_zero(options: dict[str, Any]):
    with pytest.raises(UserError, match="above zero"):
        WebSearch(backend=LocalIndex([]), **options)


def test_contents_are_cut_at_a_sentence_where_one_is_near():
    text = "It rains in Seoul. The wind is 3.5 metres per second. Tomorrow will be dry and cold."
    assert cut(text, 60) == "It rains in Seoul. The wind is 3.5 metres per second."
    assert cut(text, 49) == "It rains in Seoul. The wind is 3.5 metres per…"
    assert cut(text, 1000) == text
    assert cut("दिल्ली में धूप है। कल बारिश होगी।", 22) == "दिल्ली में धूप है।"
    assert cut("東京は晴れ。明日は雨です。", 8) == "東京は晴れ。"
    assert cut("x" * 50, 10) == "xxxxxxxxx…"


@given(st.text(), st.integers(1, 60))
def test_a_cut_text_is_a_beginning_and_never_too_long(text: str, max_chars: int):
    shown = cut(text, max_chars)
    assert len(shown) <= max_chars
    assert "\n" not in shown
    whole = " ".join(text.encode("utf-8", "replace").decode().split())
    assert shown == whole or whole.startswith(shown.removesuffix("…").rstrip())


# A service that misbehaves


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_or_failing_service_is_asked_again(server: SearchServer, status: int):
    server.behaviour = lambda handler, number: handler.answer(200 if number else status, GOOD)
    assert len(run(server.backend())["results"]) == 2
    assert len(server.bodies) == 2


def test_a_service_that_keeps_failing_is_given_up(server: SearchServer):
    server.behaviour = lambda handler, number: handler.answer(500, KEY.encode())
    with pytest.raises(SearchError, match="HTTP 500") as caught:
        run(server.backend())
    assert len(server.bodies) == MAX_ATTEMPTS
    assert_short_and_clean(caught.value, server)


def test_the_wait_that_a_service_asks_for_is_kept_or_refused(server: SearchServer):
    server.behaviour = lambda handler, number: handler.answer(200 if number else 429, GOOD, Retry_After="1")
    start = time.monotonic()
    run(server.backend())
    assert time.monotonic() - start >= 1.0
    server.behaviour = lambda handler, number: handler.answer(429, b"", Retry_After="3600")
    start = time.monotonic()
    with pytest.raises(SearchError, match="HTTP 429"):
        run(server.backend())
    assert time.monotonic() - start < 5.0  # an hour would be past the deadline, so there is no wait at all


@pytest.mark.parametrize("status", [400, 401, 403, 404, 432])
def test_a_refusal_is_final(server: SearchServer, status: int):
    server.behaviour = lambda handler, number: handler.answer(status, KEY.encode())
    with pytest.raises(SearchError, match=f"HTTP {status}") as caught:
        run(server.backend())
    assert len(server.bodies) == 1
    assert_short_and_clean(caught.value, server)


@pytest.mark.parametrize("dawdle", ["silent", "trickle"])
def test_a_slow_service_is_left_at_the_deadline(server: SearchServer, dawdle: str):
    release = threading.Event()
    server.behaviour = lambda handler, number: (
        handler.trickle(20.0) if dawdle == "trickle" else (release.wait(20.0), None)[1]
    )
    start = time.monotonic()
    with pytest.raises(SearchError, match="in time") as caught:
        run(server.backend(), timeout_s=0.4)
    release.set()
    assert time.monotonic() - start < 5.0
    assert_short_and_clean(caught.value, server)


def test_the_deadline_of_the_turn_counts_too(server: SearchServer):
    release = threading.Event()
    server.behaviour = lambda handler, number: (release.wait(20.0), None)[1]
    start = time.monotonic()
    with pytest.raises(SearchError, match="in time"):
        WebSearch(backend=server.backend()).run({"query": "a"}, ToolContext(deadline=start + 0.3))
    release.set()
    assert time.monotonic() - start < 5.0


@pytest.mark.parametrize(
    "reply",
    [
        b"<html>not json</html>",
        b"",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b'{"results": null}',
        b'{"results": "abc"}',
        b'{"results": {"title": "a"}}',
        b'{"results": [1]}',
        b'{"results": [{"title": "a", "url": "b"}]}',
        b'{"results": [{"title": "a", "url": 5, "content": "c"}]}',
        b'{"results": [{"title": "a", "url": "b", "content": ["c"]}]}',
        b'{"results": [{"title": "a", "url": "b", "content": "c", "score": "high"}]}',
        b'{"results": [{"title": "a", "url": "b", "content": "c", "score": 1' + b"0" * 400 + b"}]}",
        b'{"results":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        GOOD[:-20],
    ],
)
def test_garbage_is_no_search_result(server: SearchServer, reply: bytes):
    server.behaviour = lambda handler, number: handler.answer(200, reply)
    with pytest.raises(SearchError, match="other than search results") as caught:
        run(server.backend())
    assert_short_and_clean(caught.value, server)


def test_pages_without_content_or_with_endless_addresses_are_left_out(server: SearchServer):
    pages = [{**PAGES[0], "content": None}, {**PAGES[0], "content": " "}]
    pages += [{**PAGES[0], "url": "https://a.example/" + "x" * 400}, PAGES[1]]
    server.behaviour = lambda handler, number: handler.answer(200, json.dumps({"results": pages}).encode())
    assert [page["url"] for page in run(server.backend(), max_results=4)["results"]] == [PAGES[1]["url"]]


def test_half_of_a_surrogate_pair_does_not_reach_the_tokenizer(server: SearchServer):
    reply = json.dumps({"results": [{**PAGES[0], "content": "a\ud800b"}]}).encode()
    server.behaviour = lambda handler, number: handler.answer(200, reply)
    assert run(server.backend(), "q\udfff")["results"][0]["content"] == "a?b"


def test_a_huge_reply_is_not_read_to_its_end(server: SearchServer):
    sent = 0

    def flood(handler: _Handler, number: int) -> None:
        nonlocal sent
        handler.send_response(200)
        handler.end_headers()
        for _ in range(512):
            handler.wfile.write(b" " * (1 << 17))
            sent += 1 << 17

    server.behaviour = flood
    with pytest.raises(SearchError, match="more than") as caught:
        run(server.backend())
    assert sent < 32 * MAX_REPLY_BYTES
    assert_short_and_clean(caught.value, server)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_takes_the_key_nowhere(server: SearchServer, status: int):
    elsewhere = SearchServer()
    threading.Thread(target=elsewhere.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    server.behaviour = lambda handler, number: handler.answer(status, b"", Location=elsewhere.url)
    with pytest.raises(SearchError, match="redirect") as caught:
        run(server.backend())
    elsewhere.shutdown()
    elsewhere.server_close()
    assert elsewhere.keys == []
    assert_short_and_clean(caught.value, server)


def test_a_service_that_is_not_there_is_named_as_such(server: SearchServer):
    unused = SearchServer()
    unused.server_close()
    with pytest.raises(SearchError, match="cannot be reached") as caught:
        run(unused.backend())
    assert_short_and_clean(caught.value, unused)


def test_the_registry_hands_the_error_on_as_text(server: SearchServer):
    server.behaviour = lambda handler, number: handler.answer(401, KEY.encode())
    registry = Registry([WebSearch(backend=server.backend())])
    result = registry.call_text('{"tool": "web_search", "arguments": {"query": "a"}}', ToolContext())
    assert result.is_error
    assert result.text == "error: the search service answers with HTTP 401: it does not accept the key"


@pytest.mark.parametrize("key", ["", " ", "two words", "line\nbreak", "schlüssel"])
def test_a_key_that_cannot_be_sent_is_refused_without_showing_it(key: str):
    with pytest.raises(UserError, match="TAVILY_API_KEY") as caught:
        TavilyBackend(api_key=key)
    assert not key.strip() or key not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://api.example/search",
        "ftp://api.example",
        "https://",
        "https://user:pass@api.example/search",
        "https://api.example/search?api_key=5ecret",
        "https://api.example/a b",
        "https://[::1/search",
        "nonsense",
    ],
)
def test_a_key_is_only_sent_where_nobody_listens_in(url: str):
    with pytest.raises(UserError, match="https://HOST/PATH"):
        TavilyBackend(api_key=KEY, url=url)


def test_the_key_is_not_shown_by_repr():
    assert KEY not in repr(WebSearch(backend=TavilyBackend(api_key=KEY)))


def assert_short_and_clean(error: Exception, server: SearchServer) -> None:
    assert len(str(error)) < 120
    assert "\n" not in str(error)
    assert KEY not in str(error)
    assert str(server.server_port) not in str(error)
