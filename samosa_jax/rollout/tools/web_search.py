"""The web_search tool: a backend finds pages, the model reads them as the JSON it was trained on."""

import json
import random
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPMessage
from ipaddress import ip_address
from typing import IO, Any, Protocol
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from samosa_jax.errors import UserError
from samosa_jax.rollout.tools.registry import ToolContext, ToolError
from samosa_jax.tasks.tool_schemas import WEB_SEARCH, WEB_SEARCH_SCHEMA

MAX_QUERY_CHARS = 400
MAX_TITLE_CHARS = 160
MAX_URL_CHARS = 300
MAX_REPLY_BYTES = 1 << 20
MAX_ATTEMPTS = 4
FIRST_WAIT_S = 0.25  # before the second attempt; doubled each time
TAVILY_URL = "https://api.tavily.com/search"

_TRIED_AGAIN = {408, 425, 429, 500, 502, 503, 504}
_SENTENCE_END = re.compile(r"[.!?][\"')\]]?(?=\s|$)|[。！？।]")


class SearchError(ToolError, ValueError):
    """Why a search gave nothing: one short line that a model can act on, free of keys and addresses."""


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    title: str
    url: str
    content: str
    score: float = 0.0  # higher is better; comparable within one reply only


class SearchBackend(Protocol):
    def search(self, query: str, max_results: int, timeout_s: float) -> list[SearchResult]:
        """The best `max_results` pages at most, best first. Raises SearchError.

        Should be back within `timeout_s` seconds; the registry does not wait longer than its turn allows.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class WebSearch:
    """The tool. Its result is JSON, `{"query": ..., "results": [{"title", "url", "content"}, ...]}`.

    Args:
      max_results: pages shown to the model.
      max_chars: characters of each page's content, which is cut at the end of a sentence where one is near.
    """

    backend: SearchBackend
    max_results: int = 3
    max_chars: int = 600
    timeout_s: float = 10.0

    def __post_init__(self) -> None:
        if self.max_results < 1 or self.max_chars < 1 or self.timeout_s <= 0:
            raise UserError(
                f"web search with max_results {self.max_results}, max_chars {self.max_chars}, "
                f"timeout_s {self.timeout_s}: all must be above zero"
            )

    @property
    def name(self) -> str:
        return WEB_SEARCH

    @property
    def is_instant(self) -> bool:
        return False

    @property
    def schema(self) -> Mapping[str, Any]:
        return WEB_SEARCH_SCHEMA

    def run(self, arguments: Mapping[str, Any], context: ToolContext) -> str:
        """Raises SearchError: arguments other than a query, a query too long, or a backend that fails."""
        query = arguments.get("query")
        if set(arguments) != {"query"} or not isinstance(query, str):
            raise SearchError('web_search takes {"query": "a few words to search for"} and nothing else')
        query = _one_line(query)
        if not query:
            raise SearchError("the query is empty; give a few words to search for")
        if len(query) > MAX_QUERY_CHARS:
            raise SearchError(f"the query has {len(query)} characters; at most {MAX_QUERY_CHARS} are read")
        timeout_s = min(self.timeout_s, context.seconds_left())
        found = self.backend.search(query, self.max_results, timeout_s)
        # A longer address carries tracking, and half of one leads nowhere.
        found = [result for result in found if len(result.url) <= MAX_URL_CHARS]
        pages = [
            {
                "title": cut(result.title, MAX_TITLE_CHARS),
                "url": result.url,
                "content": cut(result.content, self.max_chars),
            }
            for result in found[: self.max_results]
        ]
        reply: dict[str, Any] = {"query": query, "results": pages}
        if not pages:
            reply["note"] = "Nothing was found for this query."
        return json.dumps(reply, ensure_ascii=False)


def cut(text: str, max_chars: int) -> str:
    """The text in one line of `max_chars` characters at most.

    It ends after the last whole sentence that fits, unless that would lose more than half of the room; then
    after a whole word and with an ellipsis.
    """
    text = _one_line(text)
    if len(text) <= max_chars:
        return text
    ends = [match.end() for match in _SENTENCE_END.finditer(text) if match.end() <= max_chars]
    if ends and ends[-1] * 2 >= max_chars:
        return text[: ends[-1]]
    room = max_chars - 1
    last_space = text.rfind(" ", 0, room + 1)
    return text[: last_space if last_space > 0 else room].rstrip() + "…"


@dataclass(frozen=True, kw_only=True)
class TavilyBackend:
    """A search service with the interface of Tavily (https://docs.tavily.com/documentation/api-reference).

    Args:
      api_key: sent as a bearer token to the host of `url`, over TLS unless that host is this machine.
        Commands take it from the environment variable TAVILY_API_KEY.

    Raises:
      UserError: no key, or an address that a key must not be sent to.
    """

    api_key: str = field(repr=False)
    url: str = TAVILY_URL

    def __post_init__(self) -> None:
        # A key with a line break would end up, in full, in http.client's complaint about the header.
        if not re.fullmatch(r"[!-~]+", self.api_key):
            raise UserError(
                "the search key is empty or no plain text; set TAVILY_API_KEY to the service's key"
            )
        if not _may_carry_key(self.url):
            raise UserError("the search address must be https://HOST/PATH, without a key or password in it")

    def search(self, query: str, max_results: int, timeout_s: float) -> list[SearchResult]:
        """Asks again when the service is busy or fails, while the deadline allows. Raises SearchError."""
        body = {"query": query, "max_results": max_results, "search_depth": "basic", "include_answer": False}
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.api_key}"}
        request = Request(self.url, data=json.dumps(body).encode(), headers=headers, method="POST")
        deadline = time.monotonic() + timeout_s
        return _results_of(_patiently(request, deadline))[:max_results]


class _NoRedirects(HTTPRedirectHandler):
    """A redirect stays an error: following it would take the key to whatever host it names."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> None:
        return None


def _patiently(request: Request, deadline: float) -> bytes:
    for attempt in range(MAX_ATTEMPTS):
        wait = FIRST_WAIT_S * 2**attempt * random.uniform(0.5, 1.0)  # spread, as many may fail together
        try:
            return _ask(request, deadline)
        except HTTPError as error:
            with error:
                after = error.headers.get("Retry-After", "")
            problem = f"the search service answers with HTTP {error.code}"
            if 300 <= error.code < 400:
                raise SearchError(f"{problem}, a redirect, which is not followed") from None
            if error.code in (401, 403):
                raise SearchError(f"{problem}: it does not accept the key") from None
            if error.code not in _TRIED_AGAIN:
                raise SearchError(problem) from None
            wait = max(wait, float(after)) if after.isascii() and after.isdigit() else wait
        except TimeoutError:
            raise _late() from None
        except (URLError, HTTPException, OSError) as error:
            if isinstance(getattr(error, "reason", None), TimeoutError):
                raise _late() from None
            problem = f"the search service cannot be reached ({_why(error)})"
        if attempt + 1 == MAX_ATTEMPTS or time.monotonic() + wait >= deadline:
            raise SearchError(problem)
        time.sleep(wait)
    raise AssertionError("the last attempt returns or raises")


def _ask(request: Request, deadline: float) -> bytes:
    with build_opener(_NoRedirects).open(request, timeout=_left(deadline)) as response:
        data = bytearray()
        # A server that sends a byte at a time never lets one read time out, so the clock is read in between.
        while chunk := response.read1(1 << 16):
            data += chunk
            if len(data) > MAX_REPLY_BYTES:
                raise SearchError(f"the search service answers with more than {MAX_REPLY_BYTES} bytes")
            _left(deadline)
    return bytes(data)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise _late()
    return left


def _late() -> SearchError:
    return SearchError("the search service did not answer in time")


def _why(error: Exception) -> str:
    reason = getattr(error, "reason", None) or error
    if isinstance(reason, OSError) and reason.strerror:
        return reason.strerror
    return type(reason).__name__


def _results_of(reply: bytes) -> list[SearchResult]:
    try:
        rows = json.loads(reply)["results"]
        # Pages that the service could not read come without content, and are of no use.
        return [_result_of(row) for row in rows if row["content"] is not None and row["content"].strip()]
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError):
        raise SearchError("the search service answers with something other than search results") from None


def _result_of(row: Mapping[str, Any]) -> SearchResult:
    title, url, content = row["title"], row["url"], row["content"]
    score = row.get("score", 0.0)
    if not all(isinstance(text, str) for text in (title, url, content)):
        raise TypeError("a result is made of three texts")
    if isinstance(score, bool) or not isinstance(score, int | float):
        raise TypeError("a score is a number")
    return SearchResult(title=_one_line(title), url=_one_line(url), content=content, score=float(score))


def _one_line(text: str) -> str:
    """Without line breaks, runs of blanks, and the lone surrogates that JSON allows and UTF-8 does not."""
    return " ".join(text.encode("utf-8", "replace").decode().split())


def _may_carry_key(url: str) -> bool:
    if not re.fullmatch(r"[!-~]+", url):
        return False
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    is_private = parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(parts.hostname or ""))
    return is_private and bool(parts.hostname) and not parts.query and "@" not in parts.netloc


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
