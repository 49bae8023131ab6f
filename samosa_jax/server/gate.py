"""What stands before the routes: the key, the size and the pace of bodies, and the count of requests."""

import asyncio
import hashlib
import hmac
import time
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from samosa_jax.server.api_errors import ApiError
from samosa_jax.server.settings import Limits

BEARER = "bearer "
OTHER_ROUTE = "other"


class BearerKey:
    """Asks for the key where the path needs one; the page itself and /health need none."""

    def __init__(self, app: ASGIApp, *, key: str) -> None:
        self._app = app
        self._digest = _digest(key)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and _needs_key(scope["path"]):
            given = Headers(scope=scope).get("authorization", "")
            is_bearer = given[: len(BEARER)].lower() == BEARER
            # Digests are of one length, so that the time it takes says nothing about the key.
            if not is_bearer or not hmac.compare_digest(_digest(given[len(BEARER) :].strip()), self._digest):
                error = ApiError(
                    401,
                    "the key is wrong" if is_bearer else "send the key as `Authorization: Bearer KEY`",
                    code="invalid_api_key",
                    headers={"WWW-Authenticate": "Bearer"},
                )
                await error.response()(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _needs_key(path: str) -> bool:
    return path.startswith("/v1/") or path == "/metrics"


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "replace")).digest()


class BodyLimit:
    """Reads a body whole before anything else happens, and refuses what is too large or too slow."""

    def __init__(self, app: ASGIApp, *, limits: Limits) -> None:
        self._app = app
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        try:
            body = await self._read(scope, receive)
        except ApiError as error:
            # What is left of the body is not read, so that the connection is of no use any more.
            error.headers["Connection"] = "close"
            await error.response()(scope, receive, send)
            return
        if body is not None:
            await self._app(scope, _replaying(body, receive), send)

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        """None if the client left before the end. Raises ApiError."""
        length = Headers(scope=scope).get("content-length", "")
        if length.isdecimal() and int(length[:20]) > self._limits.max_body_bytes:
            raise self._too_large()
        body = bytearray()
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    body += message.get("body", b"")
                    if len(body) > self._limits.max_body_bytes:
                        raise self._too_large()
                    if not message.get("more_body", False):
                        return bytes(body)
        except TimeoutError:
            raise ApiError(
                408,
                f"the body did not come within {self._limits.body_seconds:g} s",
                code="request_timeout",
            ) from None

    def _too_large(self) -> ApiError:
        return ApiError(
            413,
            f"the body is larger than {self._limits.max_body_bytes} bytes",
            code="request_too_large",
        )


def _replaying(body: bytes, receive: Receive) -> Receive:
    """The body once, then what happens to the connection."""
    is_first = True

    async def replay() -> Message:
        nonlocal is_first
        if is_first:
            is_first = False
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return replay


class RequestCount:
    """Reports route, status and seconds of every request."""

    def __init__(self, app: ASGIApp, *, report: Callable[[str, int, float], None]) -> None:
        self._app = app
        self._report = report

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.monotonic()
        status = 499  # of a client that left without an answer, as nginx has it

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception:
            status = 500
            raise
        finally:
            # Only paths that exist become labels; anyone can make up others.
            route = getattr(scope.get("route"), "path", OTHER_ROUTE)
            self._report(route, status, time.monotonic() - began)
