"""What is answered: OpenAI's objects, with a few fields of ours.

A field that was never set is left out of the JSON, one that was set to None reads null (`dump`).
"""

from typing import Any, Literal

from pydantic import BaseModel

FinishReason = Literal["stop", "length", "tool_calls"]


def dump(value: BaseModel) -> dict[str, Any]:
    """As JSON has it."""
    return value.model_dump(mode="json", exclude_unset=True)


class PromptDetails(BaseModel):
    cached_tokens: int  # whose keys and values were still there


class UsageBody(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails


class FunctionCall(BaseModel):
    name: str
    arguments: str


class ToolCallBody(BaseModel):
    id: str
    type: Literal["function"]
    function: FunctionCall
    index: int = 0  # in a stream only


class ToolEvent(BaseModel):
    """A tool of the server was called, or returned. Not OpenAI's."""

    type: Literal["call", "result"]
    id: str
    name: str
    arguments: str = ""  # of a call: JSON
    content: str = ""  # of a result: what the model reads
    is_error: bool = False  # of a result
    seconds: float = 0.0  # of a result: that the call took


class TopLogprob(BaseModel):
    token: str
    logprob: float
    bytes: list[int]


class ContentLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    content: list[ContentLogprob]
    refusal: None


class AnswerMessage(BaseModel):
    role: Literal["assistant"]
    content: str | None
    refusal: None
    reasoning_content: str = ""  # not OpenAI's
    tool_calls: list[ToolCallBody] = []
    tool_events: list[ToolEvent] = []  # not OpenAI's


class ChatChoice(BaseModel):
    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason


class ChatCompletion(BaseModel):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: UsageBody


class Delta(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str = ""
    reasoning_content: str = ""  # not OpenAI's
    tool_calls: list[ToolCallBody] = []
    tool_events: list[ToolEvent] = []  # not OpenAI's


class ChunkChoice(BaseModel):
    index: int
    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None


class ChatChunk(BaseModel):
    """One event of a stream."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: UsageBody | None = None


class CompletionLogprobs(BaseModel):
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]  # characters of the answer before each token


class CompletionChoice(BaseModel):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason | None


class Completion(BaseModel):
    """A whole answer, or one event of a stream."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: UsageBody | None = None


class DefaultsBody(BaseModel):
    temperature: float
    top_k: int
    max_tokens: int


class ModelCard(BaseModel):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    context_length: int  # tokens of prompt and answer; this and what follows is not OpenAI's
    tools: list[str]  # that the server runs
    defaults: DefaultsBody


class ModelList(BaseModel):
    object: Literal["list"]
    data: list[ModelCard]


class Health(BaseModel):
    status: Literal["starting", "ready", "draining"]
    model: str
    running: int  # answers in the making
    waiting: int
