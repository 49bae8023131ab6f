"""POST /v1/chat/completions: what a request asks the assistant to do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from samosa_jax.data.chat.conversation import Conversation, ConversationError, parse_prompt
from samosa_jax.rollout.assistant import Assistant, Job
from samosa_jax.rollout.request import Sampling
from samosa_jax.server.api_errors import ApiError
from samosa_jax.server.requests import ChatRequest, NamedTool
from samosa_jax.server.running_answer import OnEvent
from samosa_jax.server.settings import Defaults

CALL_START = "<|python_start|>"


@dataclass(frozen=True, kw_only=True)
class ChatTask:
    """What the assistant is asked to do for one request."""

    conversation: Conversation
    sampling: Sampling
    choices: int
    stop: tuple[str, ...]
    tools_run: bool
    forced_start: str

    @classmethod
    def of(
        cls,
        request: ChatRequest,
        *,
        context_len: int,
        max_token_bytes: int,
        defaults: Defaults,
        server_tools: Sequence[Mapping[str, Any]],
        describe_tools: bool,
    ) -> "ChatTask":
        """describe_tools: the model reads the schemas of the server's tools. Raises ApiError with 400."""
        tools, tools_run = _tools(request, server_tools)
        conversation = _conversation(request, tools if describe_tools or not tools_run else ())
        check_length(
            sum(len(message.text.strip()) + len(message.think or "") for message in conversation.messages),
            context_len=context_len,
            max_token_bytes=max_token_bytes,
            param="messages",
        )
        return cls(
            conversation=conversation,
            sampling=request.sampling(
                temperature=defaults.temperature,
                top_k=defaults.top_k,
                max_tokens=answer_tokens(
                    request.max_answer_tokens(), default=defaults.max_tokens, context_len=context_len
                ),
                top_logprobs=request.top_logprobs or 0,
            ),
            choices=request.n or 1,
            stop=request.stops(),
            tools_run=tools_run,
            forced_start=_forced_start(request, tools),
        )

    def begin(self, assistant: Assistant, on_event: OnEvent) -> Job:
        """Raises ApiError with 400 for a conversation that does not fit."""
        try:
            return assistant.answer(
                self.conversation,
                self.sampling,
                on_event,
                choices=self.choices,
                stop=self.stop,
                tools_run=self.tools_run,
                forced_start=self.forced_start,
            )
        except ValueError as error:
            raise does_not_fit(error, param="messages") from error


def answer_tokens(asked: int | None, *, default: int, context_len: int) -> int:
    """Raises ApiError for more tokens than a context holds."""
    if asked is not None and asked > context_len:
        raise ApiError(
            400,
            f"max_tokens is {asked}; prompt and answer together have room for {context_len} tokens",
            param="max_tokens",
            code="invalid_value",
        )
    return min(default, context_len) if asked is None else asked


def check_length(num_characters: int, *, context_len: int, max_token_bytes: int, param: str) -> None:
    """Raises ApiError for a prompt that cannot fit, however it is written in tokens, without writing it."""
    least = num_characters // max_token_bytes
    if least >= context_len:
        room = f"the context of {context_len} has room for {context_len - 1} and an answer"
        raise does_not_fit(ValueError(f"the prompt has at least {least} tokens; {room}"), param=param)


def does_not_fit(error: ValueError, *, param: str) -> ApiError:
    return ApiError(400, str(error), param=param, code="context_length_exceeded")


def _tools(
    request: ChatRequest, server_tools: Sequence[Mapping[str, Any]]
) -> tuple[tuple[Mapping[str, Any], ...], bool]:
    """(schemas of what the model may call, whether the server runs it)."""
    if request.tool_choice == "none":
        return (), False
    if request.tools:
        return tuple(tool.as_shown() for tool in request.tools), False
    return tuple(server_tools), True


def _conversation(request: ChatRequest, tools: Sequence[Mapping[str, Any]]) -> Conversation:
    messages = [message.model_dump(exclude_none=True) for message in request.messages]
    try:
        return replace(parse_prompt({"messages": messages}), tools=tuple(tools))
    except ConversationError as error:
        raise ApiError(400, f"messages: {error}", param="messages", code="invalid_messages") from error


def _forced_start(request: ChatRequest, tools: Sequence[Mapping[str, Any]]) -> str:
    """What an answer that must call a tool begins with."""
    choice = request.tool_choice
    if choice is None or choice in ("none", "auto"):
        return ""
    names = [tool["function"]["name"] for tool in tools]
    if not names:
        raise ApiError(
            400,
            "tool_choice asks for a call, and there are no tools; give some",
            param="tool_choice",
            code="invalid_value",
        )
    if isinstance(choice, NamedTool):
        name = choice.function.name
    elif len(names) == 1:
        name = names[0]
    else:
        return CALL_START
    if name not in names:
        raise ApiError(
            400,
            f"tool_choice names {name}; the tools are {', '.join(names)}",
            param="tool_choice",
            code="invalid_value",
        )
    # Names are plain letters, digits, - and _, which JSON leaves as they are.
    return f'{CALL_START}{{"tool": "{name}", "arguments":'
