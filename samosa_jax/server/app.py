"""The API itself: routes, and what stands before them."""

from pathlib import Path
from typing import Annotated, Any

from fastapi import Body, Depends, FastAPI, Request
from pydantic import BaseModel
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from samosa_jax.server.api_errors import ApiError, ErrorBody, JsonResponse, install_error_handlers
from samosa_jax.server.chat_answer import ChatAnswer
from samosa_jax.server.chat_task import ChatTask
from samosa_jax.server.completion import CompletionAnswer, completion_jobs
from samosa_jax.server.event_stream import EventStream, HungUpError, read_to_end
from samosa_jax.server.gate import BearerKey, BodyLimit, RequestCount
from samosa_jax.server.metrics import CONTENT_TYPE
from samosa_jax.server.page import page_routes
from samosa_jax.server.requests import AnswerRequest, ChatRequest, CompletionRequest
from samosa_jax.server.responses import (
    ChatCompletion,
    Completion,
    DefaultsBody,
    Health,
    ModelCard,
    ModelList,
    dump,
)
from samosa_jax.server.running_answer import RunningAnswer
from samosa_jax.server.service import Service

CLIENT_CLOSED = 499  # nobody reads it; it is what is counted


def create_app(service: Service, *, page: Path | None = None) -> FastAPI:
    """OpenAI's API on a service, and the web page of a folder.

    Starting and stopping the service is for who runs the app (`running.serve`).
    """
    app = FastAPI(
        title="samosa_jax",
        summary="OpenAI's API, answered by a model of one's own.",
        openapi_url="/openapi.json",
        docs_url=None,  # its scripts would come from another host
        redoc_url=None,
        redirect_slashes=False,
    )
    install_error_handlers(app)
    _add_routes(app, service)
    if page is not None:
        app.router.routes += page_routes(page)
    settings = service.settings
    # The last one added is the first to see a request.
    app.add_middleware(BodyLimit, limits=settings.limits)
    if settings.api_key:
        app.add_middleware(BearerKey, key=settings.api_key)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
            expose_headers=["Retry-After"],
        )
    app.add_middleware(RequestCount, report=service.metrics.count_request)
    return app


# FastAPI takes these for what a body that is not valid gets, instead of its own 422.
_ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorBody, "description": "The request is at fault, or comes at a bad time."},
    "5XX": {"model": ErrorBody, "description": "The server is at fault, or not there (503)."},
}
_EVENT = {
    "type": "object",
    "properties": {"data": {"type": "string", "description": "JSON of a chunk, or [DONE] at the end."}},
    "required": ["data"],
}


def _whole_or_stream(model: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    return {
        200: {
            "model": model,
            "description": "Whole, or as a stream of events.",
            "content": {"text/event-stream": {"schema": _EVENT}},
        }
    }


def require_json(request: Request) -> None:
    """Raises ApiError with 415 for a body of any other type, such as a form of another page sends."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, "send JSON, with `Content-Type: application/json`", code="unsupported_media_type")


def _add_routes(app: FastAPI, service: Service) -> None:
    settings = service.settings

    def check_model(name: str) -> None:
        if name != settings.model_name:
            raise ApiError(
                404,
                f"there is no model {name}; this server has {settings.model_name}",
                param="model",
                code="model_not_found",
            )

    def card() -> ModelCard:
        return ModelCard(
            id=settings.model_name,
            object="model",
            created=settings.created,
            owned_by="samosa_jax",
            context_length=service.assistant.context_len,
            tools=list(service.tool_names),
            defaults=DefaultsBody(
                temperature=settings.defaults.temperature,
                top_k=settings.defaults.top_k,
                max_tokens=min(settings.defaults.max_tokens, service.assistant.context_len),
            ),
        )

    async def respond(
        http: Request,
        request: AnswerRequest,
        running: RunningAnswer,
        answer: ChatAnswer | CompletionAnswer,
    ) -> Response:
        if request.stream:
            return EventStream(
                running,
                chunks=answer.chunks,
                last=answer.last_chunk,
                keep_alive_seconds=settings.keep_alive_seconds,
            )
        try:
            await read_to_end(http, running, read=answer.read)
        except HungUpError:
            return Response(status_code=CLIENT_CLOSED)
        return JsonResponse(dump(answer.whole()))

    @app.post(
        "/v1/chat/completions",
        dependencies=[Depends(require_json)],
        responses={**_whole_or_stream(ChatCompletion), **_ERRORS},
    )
    async def chat_completions(http: Request, request: Annotated[ChatRequest, Body()]) -> Response:
        """The assistant's answer to a conversation."""
        check_model(request.model)
        task = ChatTask.of(
            request,
            context_len=service.assistant.context_len,
            max_token_bytes=settings.max_token_bytes,
            defaults=settings.defaults,
            server_tools=service.tool_schemas,
            describe_tools=settings.describe_tools,
        )
        running = await service.begin(task.begin, choices=task.choices)
        return await respond(http, request, running, ChatAnswer(request, model=settings.model_name))

    @app.post(
        "/v1/completions",
        dependencies=[Depends(require_json)],
        responses={**_whole_or_stream(Completion), **_ERRORS},
    )
    async def completions(http: Request, request: Annotated[CompletionRequest, Body()]) -> Response:
        """Text that goes on where a prompt ends."""
        check_model(request.model)
        jobs = completion_jobs(
            request,
            context_len=service.assistant.context_len,
            vocab_size=settings.vocab_size,
            max_token_bytes=settings.max_token_bytes,
            defaults=settings.defaults,
        )
        running = await service.begin(*jobs, choices=request.n or 1)
        return await respond(http, request, running, CompletionAnswer(request, model=settings.model_name))

    @app.get("/v1/models", response_model=ModelList, responses=_ERRORS)
    async def models() -> Response:
        """The one model that is served."""
        return JsonResponse(dump(ModelList(object="list", data=[card()])))

    @app.get("/v1/models/{name:path}", response_model=ModelCard, responses=_ERRORS)
    async def model(name: str) -> Response:
        check_model(name)
        return JsonResponse(dump(card()))

    @app.get("/health", response_model=Health, responses={503: {"model": Health}})
    async def health() -> Response:
        """200 if requests are answered, 503 while they are not yet or not any more."""
        running, waiting = service.load()
        body = Health(status=service.state, model=settings.model_name, running=running, waiting=waiting)
        return JsonResponse(dump(body), status_code=200 if service.state == "ready" else 503)

    @app.get("/metrics", responses={200: {"content": {"text/plain": {}}}, **_ERRORS})
    def metrics() -> Response:
        """What Prometheus reads."""
        return Response(service.metrics.text(), headers={"Content-Type": CONTENT_TYPE})
