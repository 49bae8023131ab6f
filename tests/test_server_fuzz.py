"""Whatever is sent, the server answers as it says it does, and goes on serving."""

import json
import random
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
import serving
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)
from schemathesis.specs.openapi.schemas import OpenApiSchema
from serving import NAME, LiveServer

from samosa_jax.server.api_errors import UNSUPPORTED
from samosa_jax.server.requests import ChatRequest, CompletionRequest

NUM_REQUESTS = 2000
SEED = 20
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
]
DESCRIBED = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/models",
    "/v1/models/{name}",
    "/health",
    "/metrics",
)
PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/models", "/health", "/metrics", "/", "/openapi.json")
FIELDS = sorted({*ChatRequest.model_fields, *CompletionRequest.model_fields, *UNSUPPORTED})
ODD_BODIES = (
    b"",
    b"null",
    b"[]",
    b"[" * 50_000,
    b'{"a":' * 10_000,
    b'{"model": ' + b"1" * 20_000 + b"}",
    b"\x00" * 100,
    b"\xff\xfe" + b"{}" * 10,
    b"{" + b" " * 99_000 + b"}",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return serving.write_run(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def live(run: Path) -> Iterator[LiveServer]:
    limits = {"body_seconds": 0.2, "max_body_bytes": 100_000, "max_choices": 4}
    with serving.serving(run, max_tokens=8, tools=False, limits=limits) as live:
        yield live


@pytest.fixture(scope="module")
def api(live: LiveServer) -> OpenApiSchema:
    return schemathesis.openapi.from_url(f"{live.address}/openapi.json")


@pytest.mark.parametrize(
    ("path", "mode"),
    [
        *((path, GenerationMode.POSITIVE) for path in DESCRIBED),
        # The others take nothing that could be wrong.
        *((path, GenerationMode.NEGATIVE) for path in PATHS[:2]),
    ],
)
def test_the_server_keeps_to_its_own_description(api: OpenApiSchema, path: str, mode: GenerationMode):
    operation = next(iter(api[path].values()))

    @settings(
        max_examples=30,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case: schemathesis.Case) -> None:
        if mode is GenerationMode.POSITIVE and isinstance(case.body, dict):
            case.body["model"] = NAME
        case.call_and_validate(checks=CHECKS, timeout=60)

    check()


def test_all_that_is_described_is_tested(api: OpenApiSchema):
    assert set(api) == set(DESCRIBED)


def test_two_thousand_requests_of_every_kind(live: LiveServer):
    rng = random.Random(SEED)
    statuses: dict[str, int] = {}
    connection: socket.socket | None = None
    for number in range(NUM_REQUESTS):
        request, is_whole = make_request(rng)
        if connection is None:
            connection = socket.create_connection(live.host_and_port, timeout=30)
        status, closes = exchange(connection, request, waits=is_whole)
        statuses[status] = statuses.get(status, 0) + 1
        assert status != "500", request[:2000]
        if closes or not is_whole:
            connection.close()
            connection = None
        if number % 500 == 499:
            assert httpx.get(f"{live.address}/health").status_code == 200
    if connection is not None:
        connection.close()
    # Of every kind there were many, so that the test is about what it says.
    assert statuses["200"] > 50
    assert statuses["400"] > 300
    assert min(statuses[status] for status in ("404", "405", "413", "415", "none")) > 10
    answer = live.client().completions.create(model=NAME, prompt="a tick", max_tokens=3)
    assert answer.choices[0].text == " tock tick tock"
    assert live.service.admission.in_flight == 0


def make_request(rng: random.Random) -> tuple[bytes, bool]:
    """(bytes, whether that is all of a request)."""
    kind = rng.random()
    if kind < 0.05:
        return rng.randbytes(rng.randint(1, 300)) + b"\r\n\r\n", False
    path = (
        rng.choice(PATHS[:2]) if kind < 0.8 else rng.choice([*PATHS, "/v1/" + random_text(rng, ascii=True)])
    )
    method = (
        "POST" if rng.random() < 0.9 else rng.choice(["GET", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"])
    )
    body = make_body(rng, is_chat=path == PATHS[0])
    content_type = "application/json" if rng.random() < 0.95 else rng.choice(["text/plain", "", "a/b; c=d"])
    length = len(body)
    is_whole = True
    if rng.random() < 0.04:
        body = body[: rng.randint(0, len(body))]
        is_whole = len(body) == length
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: fuzz\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {length}\r\n\r\n"
    )
    # The answer to HEAD has the length of a body that does not come.
    return head.encode() + body, is_whole and method != "HEAD"


def make_body(rng: random.Random, *, is_chat: bool) -> bytes:
    request: dict[str, Any] = {"model": NAME, "max_tokens": rng.randint(1, 4)}
    if is_chat:
        request["messages"] = [{"role": "user", "content": random_text(rng)}]
    else:
        request["prompt"] = random_text(rng)
    for _ in range(rng.choice([0, 1, 1, 2, 4])):
        request[rng.choice(FIELDS)] = random_value(rng)
    if rng.random() < 0.1:
        target = rng.choice([request, *request.get("messages", [])])
        if isinstance(target, dict):
            target[random_text(rng)] = random_value(rng)
    if rng.random() < 0.02:
        request["user"] = "x" * 150_000
    body = json.dumps(request, allow_nan=True).encode()
    if rng.random() < 0.1 and body:
        place = rng.randrange(len(body))
        body = body[:place] + rng.randbytes(rng.randint(1, 4)) + body[place + rng.randint(0, 4) :]
    return rng.choice(ODD_BODIES) if rng.random() < 0.03 else body


def random_text(rng: random.Random, *, ascii: bool = False) -> str:
    top = 0x7A if ascii else rng.choice([0x7F, 0x2FF, 0x10FFFF])
    bottom = 0x61 if ascii else 0
    return "".join(chr(rng.randint(bottom, top)) for _ in range(rng.choice([0, 1, 5, 40])))


def random_value(rng: random.Random, depth: int = 0) -> Any:
    plain = [
        lambda: None,
        lambda: rng.random() < 0.5,
        lambda: rng.randint(-3, 3),
        lambda: rng.choice([10**9, -(10**18), 2**63, 10**40, -1]),
        lambda: rng.uniform(-3, 3),
        lambda: rng.choice([1e300, -1e-300, float("nan"), float("inf")]),
        lambda: random_text(rng),
        lambda: rng.choice(["auto", "required", "none", "user", "<|assistant_end|>", "\ud800"]),
    ]
    if depth < 3 and rng.random() < 0.4:
        inner = [random_value(rng, depth + 1) for _ in range(rng.randint(0, 4))]
        if rng.random() < 0.5:
            return inner
        return {rng.choice([*FIELDS, "role", "content", "type", "function", "name"]): item for item in inner}
    return rng.choice(plain)()


def exchange(connection: socket.socket, request: bytes, *, waits: bool) -> tuple[str, bool]:
    """(status, or "none" where no answer was waited for or came; whether the server closes)."""
    try:
        connection.sendall(request)
        if not waits:
            return "none", True
        answer = b""
        while b"\r\n\r\n" not in answer:
            part = connection.recv(65_536)
            if not part:
                return "none", True
            answer += part
        head, _, rest = answer.partition(b"\r\n\r\n")
        status = head.split(b" ", 2)[1].decode()
        lower = head.lower()
        if b"transfer-encoding: chunked" in lower:
            while not rest.endswith(b"0\r\n\r\n"):
                rest += connection.recv(65_536)
        elif b"content-length: " in lower:
            length = int(lower.partition(b"content-length: ")[2].partition(b"\r\n")[0])
            while len(rest) < length:
                rest += connection.recv(65_536)
        if status.startswith("4") and b"invalid http request" not in rest.lower():
            assert set(json.loads(rest)["error"]) == {"message", "type", "param", "code"}
        return status, b"connection: close" in lower
    except ConnectionError:
        # It closed while something was still being sent, as with bodies that are too large.
        return "none", True
