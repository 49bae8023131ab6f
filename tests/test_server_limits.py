"""Who is let in, how many at once, and what becomes of answers that nobody waits for any more."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import serving
from prometheus_client.parser import text_string_to_metric_families
from serving import NAME, LiveServer

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
# An answer that takes as long as an answer can.
ENDLESS: dict[str, Any] = {"model": NAME, "prompt": "a tick", "max_tokens": serving.CONTEXT_LEN - 8}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return serving.write_run(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def live(run: Path) -> Iterator[LiveServer]:
    """Two answers at once, and one that may wait."""
    with serving.serving(
        run, max_batch=2, limits={"max_queue": 1, "body_seconds": 0.5}, keep_alive_seconds=0.05
    ) as live:
        yield live


@pytest.fixture
def http(live: LiveServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=live.address, timeout=60) as http:
        yield http


def wait_until(condition: Callable[[], bool], *, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


def load(live: LiveServer) -> tuple[int, int, int]:
    """(let in, decoded, waiting)."""
    return live.service.admission.in_flight, *live.service.load()


def metric(live: LiveServer, name: str, **labels: str) -> float:
    text = httpx.get(f"{live.address}/metrics").text
    families = text_string_to_metric_families(text)
    samples = [sample for family in families for sample in family.samples if sample.name == name]
    return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())


def begin_stream(live: LiveServer, body: dict[str, Any] = ENDLESS) -> socket.socket:
    """A connection on which an answer has begun to come."""
    connection = socket.create_connection(live.host_and_port, timeout=20)
    content = json.dumps({**body, "stream": True}).encode()
    connection.sendall(
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (len(content), content)
    )
    assert connection.recv(100).startswith(b"HTTP/1.1 200 OK")
    return connection


def test_clients_that_hang_up_free_their_place(live: LiveServer):
    hung_up = metric(live, "samosa_answers_total", reason="cancelled")
    connections = [begin_stream(live), begin_stream(live)]
    connections.append(begin_stream(live))
    wait_until(lambda: load(live) == (3, 2, 1))
    for connection in connections:
        connection.close()
    wait_until(lambda: load(live) == (0, 0, 0))
    assert metric(live, "samosa_answers_total", reason="cancelled") == hung_up + 3
    whole = socket.create_connection(live.host_and_port)
    content = json.dumps({**ENDLESS, "n": 2}).encode()
    whole.sendall(
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (len(content), content)
    )
    wait_until(lambda: load(live) == (2, 2, 0))
    whole.close()
    wait_until(lambda: load(live) == (0, 0, 0))
    assert metric(live, "samosa_answers_total", reason="cancelled") == hung_up + 5
    wait_until(lambda: metric(live, "samosa_requests_total", route=COMPLETIONS, status="499") == 1)


def test_closing_the_stream_of_the_client_cancels(live: LiveServer):
    stream = live.client().completions.create(**ENDLESS, stream=True)
    next(iter(stream))
    assert live.service.admission.in_flight == 1
    stream.close()
    wait_until(lambda: load(live) == (0, 0, 0))


def test_more_than_the_queue_holds_is_refused_until_there_is_room(live: LiveServer):
    connections = [begin_stream(live), begin_stream(live), begin_stream(live)]
    wait_until(lambda: load(live) == (3, 2, 1))
    client = live.client()
    with pytest.raises(openai.RateLimitError) as e:
        client.completions.create(model=NAME, prompt="a tick", max_tokens=1)
    assert e.value.code == "rate_limit_exceeded"
    assert 1 <= int(e.value.response.headers["retry-after"]) <= 60
    assert httpx.get(f"{live.address}/health").json() == {
        "status": "ready",
        "model": NAME,
        "running": 2,
        "waiting": 1,
    }
    connections[0].close()
    wait_until(lambda: load(live)[0] == 2)
    assert client.completions.create(model=NAME, prompt="a tick", max_tokens=1).choices[0].text == " tock"
    for connection in connections[1:]:
        connection.close()
    wait_until(lambda: load(live) == (0, 0, 0))


def test_the_client_that_tries_again_gets_its_answer(live: LiveServer):
    """As OpenAI's client does by itself, after as many seconds as it is told."""
    connections = [begin_stream(live), begin_stream(live), begin_stream(live)]
    closing = threading.Timer(0.3, lambda: [connection.close() for connection in connections])
    closing.start()
    client = live.client(max_retries=2)
    assert client.completions.create(model=NAME, prompt="a tick", max_tokens=1).choices[0].text == " tock"
    closing.join()
    wait_until(lambda: load(live) == (0, 0, 0))


def test_a_stream_that_waits_is_kept_alive(live: LiveServer):
    connections = [begin_stream(live), begin_stream(live)]
    wait_until(lambda: load(live) == (2, 2, 0))
    waiting = begin_stream(live)
    assert b": still at work\n\n" in b"".join(waiting.recv(1000) for _ in range(3))
    for connection in (*connections, waiting):
        connection.close()
    wait_until(lambda: load(live) == (0, 0, 0))


def test_a_body_that_does_not_come(live: LiveServer):
    with socket.create_connection(live.host_and_port, timeout=20) as connection:
        connection.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b'Content-Length: 100\r\n\r\n{"model": '
        )
        answer = b"".join(iter(lambda: connection.recv(10_000), b""))
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"code":"request_timeout"' in answer


def test_metrics(live: LiveServer, http: httpx.Client):
    before = metric(live, "samosa_time_to_first_token_seconds_count")
    http.post(CHAT, json={"model": NAME, "messages": [{"role": "user", "content": "Hi"}]})
    http.get("/no/such/path")
    assert metric(live, "samosa_time_to_first_token_seconds_count") == before + 1
    assert metric(live, "samosa_tool_calls_total", outcome="ok") == 1
    assert metric(live, "samosa_requests_total", route=CHAT, status="200") == 1
    assert metric(live, "samosa_requests_total", route="other", status="404") == 1
    assert metric(live, "samosa_request_seconds_count", route=CHAT) == 1
    assert metric(live, "samosa_running_answers") == 0
    assert metric(live, "samosa_prompt_tokens_total", engine="0") > 100
    assert http.get("/metrics").headers["content-type"].startswith("text/plain; version=0.0.4")


def test_the_key(run: Path):
    with serving.serving(run, api_key="s3cret") as live:
        good = live.client(key="s3cret")
        assert good.models.list().data[0].id == NAME
        bad_keys = ({}, {"Authorization": "Bearer s3cre"}, {"Authorization": "Basic s3cret"})
        for headers in bad_keys:
            for path in ("/v1/models", "/metrics", "/v1/nothing"):
                response = httpx.get(f"{live.address}{path}", headers=headers)
                assert response.status_code == 401
                assert response.json()["error"]["code"] == "invalid_api_key"
                assert response.headers["www-authenticate"] == "Bearer"
        with pytest.raises(openai.AuthenticationError, match="the key is wrong"):
            live.client(key="other").completions.create(model=NAME, prompt="a", max_tokens=1)
        for path in ("/health", "/"):
            assert httpx.get(f"{live.address}{path}").status_code == 200
    assert "s3cret" not in repr(live.service.settings)


def test_other_pages_may_call_only_where_that_is_allowed(run: Path, http: httpx.Client):
    origin = {"Origin": "https://example.org", "Access-Control-Request-Method": "POST"}
    assert "access-control-allow-origin" not in http.get("/v1/models", headers=origin).headers
    with serving.serving(run, cors_origins=("https://example.org",), api_key="key") as live:
        preflight = httpx.options(
            f"{live.address}{CHAT}", headers={**origin, "Access-Control-Request-Headers": "authorization"}
        )
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == "https://example.org"
        assert "Authorization" in preflight.headers["access-control-allow-headers"]
        refused = httpx.get(f"{live.address}/v1/models", headers=origin)
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == "https://example.org"
        other = httpx.get(f"{live.address}/v1/models", headers={**origin, "Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers


def test_the_page_and_nothing_beside_it(http: httpx.Client):
    page = http.get("/")
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy
    assert "<script>" not in page.text
    for path in (serving.page_folder()).rglob("*.*"):
        file = http.get(f"/{path.relative_to(serving.page_folder()).as_posix()}")
        assert file.content == path.read_bytes()
        assert file.headers["x-content-type-options"] == "nosniff"
        assert file.headers["content-security-policy"] == policy
        again = http.get(file.request.url, headers={"If-None-Match": file.headers["etag"]})
        assert again.status_code == 304
    assert http.head("/").status_code == 200
    assert http.post("/").status_code == 405
    for path in (
        "/../serve.py",
        "/%2e%2e/serve.py",
        "/modules/../../errors.py",
        "/modules",
        "/..%2fserve.py",
    ):
        with socket.create_connection((http.base_url.host, http.base_url.port or 80), timeout=20) as raw:
            raw.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            answer = b"".join(iter(lambda: raw.recv(10_000), b""))
        assert answer.startswith(b"HTTP/1.1 404 "), path


@pytest.mark.parametrize("drain_seconds", [30.0, 0.2])
def test_draining(run: Path, drain_seconds: float):
    """Told to stop, it refuses new answers and ends; answers that run get their end, or an error in time."""
    with serving.serving(run, drain_seconds=drain_seconds, max_batch=1) as live:
        client = live.client()
        body = ENDLESS if drain_seconds < 1 else {**ENDLESS, "max_tokens": 400}
        stream = client.completions.create(**body, stream=True)
        chunks = [next(stream)]
        waiting = begin_stream(live, body)
        live.running.stop()
        wait_until(lambda: live.service.state == "draining")
        if drain_seconds > 1:  # else it may be gone before it is asked
            health = httpx.get(f"{live.address}/health")
            assert (health.status_code, health.json()["status"]) == (503, "draining")
            with pytest.raises(openai.InternalServerError) as e:
                client.completions.create(model=NAME, prompt="a", max_tokens=1)
            assert (e.value.status_code, e.value.code) == (503, "draining")
            assert e.value.response.headers["retry-after"]
        rest = b"".join(iter(lambda: waiting.recv(100_000), b""))
        if drain_seconds < 1:
            with pytest.raises(openai.APIError, match="the server is shutting down"):
                list(stream)
            assert b'"code":"draining"' in rest
        else:
            chunks += stream
            assert "".join(chunk.choices[0].text for chunk in chunks) == " tock tick" * 200
            assert chunks[-1].choices[0].finish_reason == "length"
            assert rest.rstrip(b"\r\n0").endswith(b"data: [DONE]")
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{live.address}/health")
