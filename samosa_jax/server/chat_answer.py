"""POST /v1/chat/completions: the events of an answer as OpenAI's objects."""

import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from samosa_jax.rollout.events import Ended, Event, TextDelta, TokenLogprob, ToolCalled, ToolReturned, Usage
from samosa_jax.server.requests import ChatRequest
from samosa_jax.server.responses import (
    AnswerMessage,
    ChatChoice,
    ChatChunk,
    ChatCompletion,
    ChatLogprobs,
    ChunkChoice,
    ContentLogprob,
    Delta,
    FinishReason,
    FunctionCall,
    PromptDetails,
    ToolCallBody,
    ToolEvent,
    TopLogprob,
    UsageBody,
)
from samosa_jax.server.running_answer import Numbered


@dataclass
class _Choice:
    """One answer, as far as it is."""

    text: list[str] = field(default_factory=list)
    think: list[str] = field(default_factory=list)
    logprobs: list[ContentLogprob] = field(default_factory=list)
    tool_calls: list[ToolCallBody] = field(default_factory=list)
    tool_events: list[ToolEvent] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    usage: Usage | None = None


class ChatAnswer:
    """Turns the events of one request into the whole answer, or into the chunks of a stream."""

    def __init__(self, request: ChatRequest, *, model: str) -> None:
        self._id = f"chatcmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._model = model
        self._wants_logprobs = bool(request.logprobs)
        self._includes_usage = request.includes_usage()
        self._choices = [_Choice() for _ in range(request.n or 1)]
        self._tool_names: dict[str, str] = {}  # by the id of a call

    def read(self, numbered: Numbered) -> None:
        """An event of the whole answer."""
        choice = self._choices[numbered.choice]
        delta = self._delta(numbered.event)
        choice.text.append(delta.content)
        choice.think.append(delta.reasoning_content)
        choice.tool_calls += delta.tool_calls
        choice.tool_events += delta.tool_events
        if isinstance(numbered.event, TextDelta) and numbered.event.kind == "text":
            choice.logprobs += map(_content_logprob, numbered.event.logprobs)
        self._note_end(choice, numbered.event)

    def whole(self) -> ChatCompletion:
        """After all answers have ended."""
        return ChatCompletion(
            id=self._id,
            object="chat.completion",
            created=self._created,
            model=self._model,
            choices=[self._whole_choice(number, choice) for number, choice in enumerate(self._choices)],
            usage=self._usage(),
        )

    def chunks(self, numbered: Numbered) -> Iterator[ChatChunk]:
        """Those of one event; before the first of an answer, one that says who speaks."""
        choice = self._choices[numbered.choice]
        if not choice.text:
            choice.text.append("")
            yield self._chunk(numbered.choice, Delta(role="assistant", content=""))
        event = numbered.event
        delta = self._delta(event)
        for call in delta.tool_calls:
            call.index = 0  # a turn makes one call at most
        if delta.model_fields_set:
            logprobs = None
            if self._wants_logprobs and isinstance(event, TextDelta) and event.kind == "text":
                logprobs = ChatLogprobs(content=[*map(_content_logprob, event.logprobs)], refusal=None)
            yield self._chunk(numbered.choice, delta, logprobs=logprobs)
        self._note_end(choice, event)
        if choice.finish_reason is not None:
            yield self._chunk(numbered.choice, Delta(), finish_reason=choice.finish_reason)

    def last_chunk(self) -> ChatChunk | None:
        """What all of it took, if that was asked for."""
        if not self._includes_usage:
            return None
        return ChatChunk(
            id=self._id,
            object="chat.completion.chunk",
            created=self._created,
            model=self._model,
            choices=[],
            usage=self._usage(),
        )

    def _delta(self, event: Event) -> Delta:
        """What an event adds to a message; nothing for its end."""
        if isinstance(event, TextDelta):
            if event.kind == "think":
                return Delta(reasoning_content=event.text)
            return Delta(content=event.text)
        if isinstance(event, ToolCalled) and not event.runs_here:
            function = FunctionCall(name=event.name, arguments=event.arguments)
            return Delta(tool_calls=[ToolCallBody(id=event.call_id, type="function", function=function)])
        if isinstance(event, ToolCalled):
            self._tool_names[event.call_id] = event.name
            called = ToolEvent(type="call", id=event.call_id, name=event.name, arguments=event.arguments)
            return Delta(tool_events=[called])
        if isinstance(event, ToolReturned):
            returned = ToolEvent(
                type="result",
                id=event.call_id,
                name=self._tool_names.get(event.call_id, ""),
                content=event.result.text,
                is_error=event.result.is_error,
                seconds=round(event.result.seconds, 3),
            )
            return Delta(tool_events=[returned])
        return Delta()

    def _note_end(self, choice: _Choice, event: Event) -> None:
        if isinstance(event, Ended):
            choice.usage = event.usage
            if event.reason in ("stop", "length", "tool_calls"):
                choice.finish_reason = event.reason

    def _whole_choice(self, number: int, choice: _Choice) -> ChatChoice:
        text, think = "".join(choice.text), "".join(choice.think)
        message = AnswerMessage(
            role="assistant", content=None if choice.tool_calls and not text else text, refusal=None
        )
        if think:
            message.reasoning_content = think
        if choice.tool_calls:
            message.tool_calls = choice.tool_calls
        if choice.tool_events:
            message.tool_events = choice.tool_events
        assert choice.finish_reason is not None
        return ChatChoice(
            index=number,
            message=message,
            logprobs=ChatLogprobs(content=choice.logprobs, refusal=None) if self._wants_logprobs else None,
            finish_reason=choice.finish_reason,
        )

    def _chunk(
        self,
        number: int,
        delta: Delta,
        *,
        logprobs: ChatLogprobs | None = None,
        finish_reason: FinishReason | None = None,
    ) -> ChatChunk:
        choice = ChunkChoice(index=number, delta=delta, logprobs=logprobs, finish_reason=finish_reason)
        chunk = ChatChunk(
            id=self._id,
            object="chat.completion.chunk",
            created=self._created,
            model=self._model,
            choices=[choice],
        )
        if self._includes_usage:
            chunk.usage = None  # as OpenAI has it: null in all but the last
        return chunk

    def _usage(self) -> UsageBody:
        return usage_body([[choice.usage for choice in self._choices if choice.usage is not None]])


def usage_body(usages: Sequence[Sequence[Usage]]) -> UsageBody:
    """What answers took, listed by prompt: each prompt is counted once, every answer by itself."""
    prompt = sum(max((usage.prompt_tokens for usage in of_prompt), default=0) for of_prompt in usages)
    cached = sum(max((usage.cached_tokens for usage in of_prompt), default=0) for of_prompt in usages)
    completion = sum(usage.completion_tokens for of_prompt in usages for usage in of_prompt)
    return UsageBody(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=prompt + completion,
        prompt_tokens_details=PromptDetails(cached_tokens=cached),
    )


def _content_logprob(token: TokenLogprob) -> ContentLogprob:
    return ContentLogprob(
        token=token.token,
        logprob=token.logprob,
        bytes=list(token.bytes),
        top_logprobs=[
            TopLogprob(token=other.token, logprob=other.logprob, bytes=list(other.bytes))
            for other in token.top
        ],
    )
