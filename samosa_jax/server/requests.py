"""What may be asked for: the bodies of requests, as OpenAI defines them and with a few fields of ours.

Checked strictly: a number in quotes is no number. Fields that would change the answer and that nothing here
does are refused by name (`api_errors.UNSUPPORTED`); those that change nothing are accepted and not used.
A long list fails with its first mistake: to tell a megabyte of them would hold up every answer.
"""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from samosa_jax.rollout.request import MAX_SEED, MAX_TOP_LOGPROBS, Sampling
from samosa_jax.server.api_errors import UNSUPPORTED

MAX_DEPTH = 64  # of brackets in a body
MAX_STOPS = 4
MAX_STOP_CHARS = 256
MAX_TOOLS = 128
MAX_TOP_K = 2**31 - 1
MAX_CHOICES = 128
HARMLESS_UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {
    # Values that ask for what happens anyway.
    "best_of": (1,),
    "echo": (False,),
    "logit_bias": ({},),
    "response_format": ({"type": "text"},),
    "suffix": ("",),
}

Unused = Annotated[Any, Field(description="Accepted and not used.")]
StopText = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]
Token = Annotated[int, Field(ge=0, le=2**31 - 1)]
Tokens = Annotated[list[Token], Field(min_length=1, fail_fast=True)]
FunctionName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


def check_depth(value: Any) -> Any:
    """The value itself. Raises ValueError where brackets are nested deeper than what follows can go."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                inner += item.values()
            elif isinstance(item, list):
                inner += item
        if not inner:
            return value
        level = inner
    raise ValueError(f"brackets are nested more than {MAX_DEPTH} deep")


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class _Lenient(BaseModel):
    """Of messages, of which programs send back all that they were given, and more."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)


class StreamOptions(_Strict):
    include_usage: bool | None = Field(None, description="Ends the stream with what it took.")
    include_obfuscation: Unused = None


class AnswerRequest(_Strict):
    """What both ways to ask have in common."""

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = Field(None, ge=1, le=MAX_CHOICES)
    max_tokens: int | None = Field(None, ge=1)
    stop: StopText | Annotated[list[StopText], Field(max_length=MAX_STOPS)] | None = None
    seed: int | None = Field(None, ge=-MAX_SEED, le=MAX_SEED)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    top_k: int | None = Field(None, ge=0, le=MAX_TOP_K, description="0: no limit. Not OpenAI's.")
    min_p: float | None = Field(None, ge=0, le=1, description="Of the likeliest token's. Not OpenAI's.")
    repetition_penalty: float | None = Field(None, gt=0, le=100, description="Not OpenAI's.")
    user: Unused = None

    @model_validator(mode="before")
    @classmethod
    def _prepare(cls, value: Any) -> Any:
        check_depth(value)
        if not isinstance(value, dict):
            return value
        return {key: given for key, given in value.items() if not _asks_for_nothing(key, given)}

    @model_validator(mode="after")
    def _check_stream_options(self) -> "AnswerRequest":
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options goes with stream=true only")
        return self

    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    def includes_usage(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    def sampling(
        self, *, temperature: float, top_k: int, max_tokens: int | None, top_logprobs: int
    ) -> Sampling:
        """Temperature and top_k are for where the request names none."""
        return Sampling(
            temperature=temperature if self.temperature is None else self.temperature,
            top_k=top_k if self.top_k is None else self.top_k,
            top_p=1.0 if self.top_p is None else self.top_p,
            min_p=self.min_p or 0.0,
            repetition_penalty=1.0 if self.repetition_penalty is None else self.repetition_penalty,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            seed=self.seed,
            max_tokens=max_tokens,
            top_logprobs=top_logprobs,
        )


def _asks_for_nothing(key: str, value: Any) -> bool:
    if key not in UNSUPPORTED:
        return False
    harmless = HARMLESS_UNSUPPORTED.get(key, ())
    return value is None or any(type(value) is type(other) and value == other for other in harmless)


class ContentPart(_Lenient):
    type: Literal["text"]
    text: str


class CalledFunction(_Lenient):
    name: str
    arguments: str | dict[str, Any] = Field(description="JSON of an object, as text or as it is.")

    @field_validator("arguments")
    @classmethod
    def _check_size(cls, value: str | dict[str, Any]) -> str | dict[str, Any]:
        """The depth of the body says nothing of JSON in a text; whether it is JSON, `parse_prompt` says."""
        if isinstance(value, str):
            try:
                parsed = json.loads(value)
            except json.JSONDecodeError:
                return value
            except (ValueError, RecursionError):
                raise ValueError("it has a number of thousands of digits, or brackets without end") from None
            check_depth(parsed)
        return value


class CalledTool(_Lenient):
    id: str | None = None
    type: Literal["function"] = "function"
    function: CalledFunction


class ChatMessage(_Lenient):
    """Keys other than these are not used."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Annotated[list[ContentPart], Field(fail_fast=True)] | None = None
    reasoning_content: str | None = Field(None, description="What an assistant thought. Not OpenAI's.")
    tool_calls: Annotated[list[CalledTool], Field(fail_fast=True)] | None = None
    tool_call_id: str | None = None


class FunctionSchema(_Strict):
    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = Field(None, description="JSON Schema of an object.")
    strict: Unused = None

    @model_validator(mode="after")
    def _check_parameters(self) -> "FunctionSchema":
        problem = _problem_of_schema(self.parameters or {})
        if problem:
            raise ValueError(f"the parameters of {self.name}: {problem}")
        return self


def _problem_of_schema(schema: Mapping[str, Any]) -> str:
    if schema.get("type", "object") != "object":
        return 'expected {"type": "object", "properties": ...}'
    properties = schema.get("properties", {})
    if not isinstance(properties, dict) or not all(isinstance(value, dict) for value in properties.values()):
        return '"properties" must map each argument to a schema'
    required = schema.get("required", [])
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        return '"required" must be a list of names'
    unknown = [name for name in required if name not in properties]
    return f'"required" names {unknown[0]!r}, which is not among the properties' if unknown else ""


class ToolSchema(_Strict):
    type: Literal["function"]
    function: FunctionSchema

    def as_shown(self) -> dict[str, Any]:
        """As the model reads it, with the keys and the order of those it was trained on."""
        function = self.function
        return {
            "type": "function",
            "function": {
                "name": function.name,
                "description": function.description or "",
                "parameters": function.parameters or {"type": "object", "properties": {}},
            },
        }


class NamedFunction(_Strict):
    name: str


class NamedTool(_Strict):
    type: Literal["function"]
    function: NamedFunction


class ChatRequest(AnswerRequest):
    """The body of POST /v1/chat/completions."""

    messages: list[ChatMessage] = Field(min_length=1, fail_fast=True)
    max_completion_tokens: int | None = Field(None, ge=1)
    tools: Annotated[list[ToolSchema], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    modalities: list[Literal["text"]] | None = None
    metadata: Unused = None
    parallel_tool_calls: Unused = None  # a turn makes one call after the other
    prediction: Unused = None
    prompt_cache_key: Unused = None
    prompt_cache_retention: Unused = None
    reasoning_effort: Unused = None
    safety_identifier: Unused = None
    service_tier: Unused = None
    store: Unused = None
    verbosity: Unused = None

    @model_validator(mode="after")
    def _check_together(self) -> "ChatRequest":
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs goes with logprobs=true only")
        limits = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(limits) > 1:
            raise ValueError("max_tokens and max_completion_tokens differ; give one of them")
        names = [tool.function.name for tool in self.tools or ()]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two tools are called {twice}")
        return self

    def max_answer_tokens(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


class CompletionRequest(AnswerRequest):
    """The body of POST /v1/completions."""

    prompt: (
        str
        | Annotated[list[str], Field(min_length=1, fail_fast=True)]
        | Tokens
        | Annotated[list[Tokens], Field(min_length=1, fail_fast=True)]
    ) = Field(description="Text or its tokens, or a list of either.")
    logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)

    def prompts(self) -> list[str | list[int]]:
        """One prompt after the other."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        texts_or_lists: list[str | list[int]] = []
        tokens: list[int] = []
        for item in self.prompt:
            if isinstance(item, int):
                tokens.append(item)
            else:
                texts_or_lists.append(item)
        return texts_or_lists or [tokens]
