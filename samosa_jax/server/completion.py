"""POST /v1/completions: text that goes on, without turns and tools."""

import codecs
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from samosa_jax.rollout.assistant import Assistant, Job
from samosa_jax.rollout.events import Ended, TextDelta, TokenLogprob, Usage
from samosa_jax.rollout.request import Sampling
from samosa_jax.server.api_errors import ApiError
from samosa_jax.server.chat_answer import usage_body
from samosa_jax.server.chat_task import answer_tokens, check_length, does_not_fit
from samosa_jax.server.requests import CompletionRequest
from samosa_jax.server.responses import (
    Completion,
    CompletionChoice,
    CompletionLogprobs,
    FinishReason,
    UsageBody,
)
from samosa_jax.server.running_answer import Numbered, OnEvent
from samosa_jax.server.service import Begin
from samosa_jax.server.settings import Defaults

DEFAULT_TOKENS = 16  # OpenAI's


def completion_jobs(
    request: CompletionRequest,
    *,
    context_len: int,
    vocab_size: int,
    max_token_bytes: int,
    defaults: Defaults,
) -> list[Begin]:
    """A job for every prompt. Raises ApiError with 400; so do the jobs for prompts that do not fit."""
    sampling = request.sampling(
        temperature=defaults.temperature,
        top_k=defaults.top_k,
        max_tokens=answer_tokens(request.max_tokens, default=DEFAULT_TOKENS, context_len=context_len),
        top_logprobs=request.logprobs or 0,
    )
    prompts = request.prompts()
    for prompt in prompts:
        if isinstance(prompt, str):
            check_length(
                len(prompt), context_len=context_len, max_token_bytes=max_token_bytes, param="prompt"
            )
        elif max(prompt) >= vocab_size:
            raise ApiError(
                400,
                f"prompt has the token {max(prompt)}; this model's tokens are 0 to {vocab_size - 1}",
                param="prompt",
                code="invalid_value",
            )
    stops = request.stops()
    return [partial(_begin, prompt, sampling, choices=request.n or 1, stop=stops) for prompt in prompts]


def _begin(
    prompt: str | Sequence[int],
    sampling: Sampling,
    assistant: Assistant,
    on_event: OnEvent,
    *,
    choices: int,
    stop: Sequence[str],
) -> Job:
    try:
        return assistant.complete(prompt, sampling, on_event, choices=choices, stop=stop)
    except ValueError as error:
        raise does_not_fit(error, param="prompt") from error


@dataclass
class _Choice:
    """One answer, as far as it is."""

    text: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    num_characters: int = 0  # of the tokens that have been reported
    decoder: codecs.IncrementalDecoder = field(
        default_factory=lambda: codecs.getincrementaldecoder("utf-8")("replace")
    )


class CompletionAnswer:
    """Turns the events of one request into the whole answer, or into the chunks of a stream."""

    def __init__(self, request: CompletionRequest, *, model: str) -> None:
        self._id = f"cmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._model = model
        self._wants_logprobs = request.logprobs is not None
        self._includes_usage = request.includes_usage()
        self._choices_per_prompt = request.n or 1
        num_choices = len(request.prompts()) * self._choices_per_prompt
        self._choices = [_Choice() for _ in range(num_choices)]

    def read(self, numbered: Numbered) -> None:
        """An event of the whole answer."""
        choice = self._choices[numbered.choice]
        event = numbered.event
        if isinstance(event, TextDelta):
            choice.text.append(event.text)
            choice.logprobs += event.logprobs
        elif isinstance(event, Ended):
            choice.usage = event.usage
            choice.finish_reason = "length" if event.reason == "length" else "stop"

    def whole(self) -> Completion:
        """After all answers have ended."""
        choices = [
            self._part(number, "".join(choice.text), choice.logprobs, finish_reason=choice.finish_reason)
            for number, choice in enumerate(self._choices)
        ]
        completion = self._completion(choices)
        completion.usage = self._usage()
        return completion

    def chunks(self, numbered: Numbered) -> Iterator[Completion]:
        """Those of one event."""
        event = numbered.event
        part = None
        if isinstance(event, TextDelta):
            part = self._part(numbered.choice, event.text, event.logprobs)
        elif isinstance(event, Ended):
            self.read(numbered)
            part = self._part(
                numbered.choice, "", (), finish_reason=self._choices[numbered.choice].finish_reason
            )
        if part is not None:
            completion = self._completion([part])
            if self._includes_usage:
                completion.usage = None  # as OpenAI has it: null in all but the last
            yield completion

    def last_chunk(self) -> Completion | None:
        """What all of it took, if that was asked for."""
        if not self._includes_usage:
            return None
        completion = self._completion([])
        completion.usage = self._usage()
        return completion

    def _part(
        self,
        number: int,
        text: str,
        logprobs: Sequence[TokenLogprob],
        *,
        finish_reason: FinishReason | None = None,
    ) -> CompletionChoice:
        return CompletionChoice(
            index=number,
            text=text,
            logprobs=self._logprobs(self._choices[number], logprobs) if self._wants_logprobs else None,
            finish_reason=finish_reason,
        )

    def _logprobs(self, choice: _Choice, tokens: Sequence[TokenLogprob]) -> CompletionLogprobs:
        offsets: list[int] = []
        for token in tokens:
            offsets.append(choice.num_characters)
            choice.num_characters += len(choice.decoder.decode(token.bytes))
        return CompletionLogprobs(
            tokens=[token.token for token in tokens],
            token_logprobs=[token.logprob for token in tokens],
            top_logprobs=[{other.token: other.logprob for other in token.top} for token in tokens],
            text_offset=offsets,
        )

    def _completion(self, choices: list[CompletionChoice]) -> Completion:
        return Completion(
            id=self._id,
            object="text_completion",
            created=self._created,
            model=self._model,
            choices=choices,
        )

    def _usage(self) -> UsageBody:
        usages = [choice.usage for choice in self._choices if choice.usage is not None]
        size = self._choices_per_prompt
        return usage_body([usages[start : start + size] for start in range(0, len(usages), size)])
