"""Every error as OpenAI's JSON: `{"error": {"message", "type", "param", "code"}}`. No traceback leaves."""

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import Response

MAX_MESSAGE_CHARS = 500

# Parameters of OpenAI's that change an answer and that are not there; others nobody knows.
UNSUPPORTED = frozenset(
    {
        "audio",
        "best_of",
        "echo",
        "function_call",
        "functions",
        "logit_bias",
        "modalities",
        "response_format",
        "suffix",
        "web_search_options",
    }
)

_TYPES = {401: "authentication_error", 429: "rate_limit_error", 503: "server_error", 500: "server_error"}
_CODES = {404: "not_found", 405: "method_not_allowed"}

_log = logging.getLogger(__name__)


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """What every answer with a status of 400 or more carries."""

    error: ErrorDetail


class ApiError(Exception):
    """A request that gets no answer, and why, in a sentence for whoever wrote the request."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})
        self.detail = ErrorDetail(
            message=_shortened(message),
            type=_TYPES.get(status, "invalid_request_error"),
            param=param,
            code=code,
        )

    def response(self) -> Response:
        return JsonResponse(self.body(), status_code=self.status, headers=self.headers)

    def body(self) -> dict[str, Any]:
        return ErrorBody(error=self.detail).model_dump()


class JsonResponse(Response):
    """JSON of anything; what UTF-8 cannot say (half of a surrogate pair) becomes a question mark."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return to_json_bytes(content)


def to_json_bytes(content: Any) -> bytes:
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "replace")


def too_busy(seconds: int) -> ApiError:
    return ApiError(
        429,
        f"the server has as many answers to give as it takes on; try again in {seconds} s",
        code="rate_limit_exceeded",
        headers={"Retry-After": str(seconds)},
    )


def unavailable(why: str, *, code: str, seconds: int) -> ApiError:
    return ApiError(503, why, code=code, headers={"Retry-After": str(seconds)})


def shutting_down() -> ApiError:
    return unavailable("the server is shutting down", code="draining", seconds=5)


def failed() -> ApiError:
    return ApiError(500, "the server failed; its log says why", code="internal_error")


def install_error_handlers(app: FastAPI) -> None:
    """Handlers for what routes raise and for what the framework itself finds wrong."""

    async def on_api_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        return error.response()

    async def on_invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return from_validation(error.errors(), error.body).response()

    async def on_http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return _from_http(request, error).response()

    async def on_bug(request: Request, error: Exception) -> Response:
        # The framework raises the error again after this, for the server to log with its traceback.
        return failed().response()

    app.add_exception_handler(ApiError, on_api_error)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(Exception, on_bug)


def from_validation(errors: Sequence[Mapping[str, Any]], body: Any) -> ApiError:
    """One error for what pydantic complains about, in the words of the parameter that comes first."""
    first = errors[0]
    if first["type"] == "json_invalid":
        detail = first.get("ctx", {}).get("error", "not JSON")
        return ApiError(400, f"the body is not JSON: {detail}", code="invalid_json")
    param = _path(first, body)
    name = param.rpartition(".")[2]
    if first["type"] == "extra_forbidden":
        if param in UNSUPPORTED:
            return ApiError(400, f"{param} is not supported here", param=param, code="unsupported_parameter")
        return ApiError(400, f"there is no parameter {param}", param=param, code="unknown_parameter")
    if first["type"] == "missing":
        return ApiError(
            400, f"{param or 'the body'} is missing", param=param or None, code="missing_parameter"
        )
    # A value that may be of several types has a complaint from each of them; the type that was understood
    # farthest is the one that was meant.
    paths = [_path(error, body) for error in errors]
    param = max((path for path in paths if path.startswith(param)), key=_depth)
    found = [error for path, error in zip(paths, errors, strict=True) if path == param]
    complaints = dict.fromkeys(map(_complaint, found))
    code = "unsupported_value" if name in UNSUPPORTED else "invalid_value"
    return ApiError(400, f"{param or 'the body'}: {' or '.join(complaints)}", param=param or None, code=code)


def _depth(path: str) -> int:
    return path.count(".") + path.count("[")


def _complaint(error: Mapping[str, Any]) -> str:
    message = str(error["msg"]).removeprefix("Value error, ")
    return message[:1].lower() + message[1:]


def _path(error: Mapping[str, Any], body: Any) -> str:
    """Where in the body an error is, as in messages[2].content, without pydantic's names for branches."""
    path = ""
    value = body
    location = [part for part in error["loc"] if part != "body"]
    for number, part in enumerate(location):
        is_last = number + 1 == len(location)
        if isinstance(value, Mapping) and (part in value or (is_last and error["type"] == "missing")):
            path += f".{part}" if path else str(part)
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            path += f"[{part}]"
            value = value[part]
    return path[:100]


def _from_http(request: Request, error: HTTPException) -> ApiError:
    messages = {
        404: f"there is no {request.url.path}; see /openapi.json for what there is",
        405: f"{request.method} does not go with {request.url.path}",
    }
    return ApiError(
        error.status_code,
        messages.get(error.status_code, error.detail),
        code=_CODES.get(error.status_code, "invalid_request"),
        headers=error.headers,
    )


def _shortened(text: str) -> str:
    text = " ".join(text.split()).encode("utf-8", "replace").decode()
    return text if len(text) <= MAX_MESSAGE_CHARS else f"{text[:MAX_MESSAGE_CHARS]}..."
