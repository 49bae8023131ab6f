"""Answers to prompts by the model in training, with its tools, in lockstep.

The engine writes a block of tokens of every answer; then all calls of tools that ended with it are answered;
then comes the next block. So what is written never depends on how fast a tool was: two rollouts with the same
parameters and seeds are equal bit for bit. (A tool that runs into its time limit is the exception.)
"""

import gc
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from samosa_jax.data.chat.conversation import THINK_OPEN
from samosa_jax.data.chat.template import render
from samosa_jax.data.tokenizer import Tokenizer
from samosa_jax.rl.prompts import Prompted
from samosa_jax.rl.rewards import Completion, completion_of
from samosa_jax.rollout.engine_contract import Engine
from samosa_jax.rollout.events import Ended, EndReason
from samosa_jax.rollout.open_answer import OpenAnswer
from samosa_jax.rollout.request import Generation, Prompt, Sampling
from samosa_jax.rollout.tool_calls import MAX_CALLS, TOOL_SECONDS, refusal, result_tokens, run_call
from samosa_jax.rollout.tools.registry import Registry, ToolResult
from samosa_jax.rollout.turn import CALL_END, END_MARKS, Turn

MAX_CALLS_AT_ONCE = 16


@dataclass(frozen=True, kw_only=True)
class Answered:
    """One answer, as text and as tokens.

    Attributes:
        prompt: with the tokens that the answer was made to begin with.
        tokens, sampled, logprobs: int32, bool, float32 (L,), those after the prompt, as in `Generation`.
    """

    completion: Completion
    prompt: Prompt
    tokens: np.ndarray
    sampled: np.ndarray
    logprobs: np.ndarray


@dataclass(eq=False, kw_only=True)
class _Answering(OpenAnswer):
    prompted: Prompted
    forced_start: str
    reason: EndReason | None = None  # None: it goes on


@contextmanager
def _untouched_heap() -> Iterator[None]:
    """The garbage collector looks at new objects only: answers make many, and JAX has half a million."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


class Sampler:
    """Writes groups of answers with one engine, which must have nothing else to do."""

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        registry: Registry,
        *,
        samples: int,
        max_tokens: int,
        temperature: float,
        thinks: bool,
    ) -> None:
        """samples: R, answers to every prompt. max_tokens: sampled ones of each. thinks: as in `RlConfig`."""
        self.samples = samples
        self._engine = engine
        self._tokenizer = tokenizer
        self._registry = registry
        self._sampling = Sampling(temperature=temperature, max_tokens=max_tokens)
        self._forced_start = THINK_OPEN if thinks else ""
        self._end_ids = frozenset(tokenizer.special_ids[mark] for mark in END_MARKS)
        self._pause_ids = frozenset([tokenizer.special_ids[CALL_END]])

    def sample(
        self, prompted: Sequence[Prompted], *, seed_of_item: Callable[[str], int]
    ) -> list[list[Answered]]:
        """R answers to every prompt, in the order of the prompts."""
        with _untouched_heap():
            return self._sample(prompted, seed_of_item)

    def _sample(
        self, prompted: Sequence[Prompted], seed_of_item: Callable[[str], int]
    ) -> list[list[Answered]]:
        groups = [self._submit(one, seed=seed_of_item(one.item)) for one in prompted]
        answers = {answer.generation: answer for group in groups for answer in group}
        ended: list[_Answering] = []
        finished: dict[_Answering, Answered] = {}

        def finish_ended() -> None:
            finished.update((answer, self._finished(answer)) for answer in ended)
            ended.clear()

        with ThreadPoolExecutor(MAX_CALLS_AT_ONCE, thread_name_prefix="tool-call") as pool:
            while self._engine.has_work:
                # Ended answers are read while the device writes more of the others.
                changed = [answers[one] for one in self._engine.step(meanwhile=finish_ended)]
                # Before calls are answered: what ends by that is news of the next step.
                ended += [answer for answer in changed if self._has_ended(answer)]
                calling = [
                    answer
                    for answer in changed
                    if answer.generation.state == "paused" and self._go_on(answer)
                ]
                waited_for = [
                    answer if self._is_instant(answer) else pool.submit(self._result_of, answer)
                    for answer in calling
                ]
                for answer, waited in zip(calling, waited_for, strict=True):
                    result = waited.result() if isinstance(waited, Future) else self._result_of(waited)
                    self._give_result(answer, result)
        finish_ended()
        return [[finished.get(one) or self._finished(one) for one in group] for group in groups]

    def _submit(self, prompted: Prompted, *, seed: int) -> list[_Answering]:
        forced = self._tokenizer.encode_with_specials(self._forced_start)
        asked = Prompt.of(render(prompted.example.prompt, self._tokenizer, for_answer=True))
        prompt = Prompt(
            np.append(asked.tokens, np.array(forced, np.int32)),
            np.append(asked.begins_turn, np.zeros(len(forced), bool)),
        )
        sampling = Sampling(
            temperature=self._sampling.temperature, max_tokens=self._sampling.max_tokens, seed=seed
        )
        if len(prompt) < self._engine.context_len:
            generations = self._engine.submit(
                prompt,
                sampling,
                end_ids=self._end_ids,
                pause_ids=self._pause_ids,
                num_samples=self.samples,
            )
        else:
            generations = [
                Generation(prompt, sampling, self._end_ids, self._pause_ids, sample, state="finished")
                for sample in range(self.samples)
            ]
        answers = [
            _Answering(
                generation=generation,
                turn=Turn(self._tokenizer, choice=sample),
                prompted=prompted,
                forced_start=self._forced_start,
            )
            for sample, generation in enumerate(generations)
        ]
        for answer in answers:
            for token in forced:
                answer.turn.read(token, sampled=False)
        return answers

    def _has_ended(self, answer: _Answering) -> bool:
        """Whether it is finished; one that was cut is so under another reason."""
        if answer.generation.state != "finished":
            return False
        answer.reason = answer.reason or answer.generation.finish_reason
        return True

    def _go_on(self, answer: _Answering) -> bool:
        """Reads an answer that came to a stop, and ends it or lets it go on; whether a call is to be made."""
        answer.read()
        if answer.turn.call is None:  # the mark was out of place
            self._engine.resume(answer.generation, ())
            return False
        answer.num_calls += 1
        if answer.num_calls <= MAX_CALLS + 1:
            return True
        self._cut(answer)
        return False

    def _is_instant(self, answer: _Answering) -> bool:
        """Whether its call returns at once: then a thread would only take time."""
        call = answer.turn.call
        assert call is not None
        return self._registry.is_instant(call.name)

    def _result_of(self, answer: _Answering) -> ToolResult:
        """Of the call that waits. Also called in threads of the pool."""
        call, known = answer.turn.call, self._registry.names
        assert call is not None
        refused = refusal(call, num_calls=answer.num_calls, runs=call.name in known, known=known)
        messages = (*answer.prompted.example.prompt.messages, *answer.turn.messages)
        return refused or run_call(self._registry, call, messages, seconds=TOOL_SECONDS)

    def _give_result(self, answer: _Answering, result: ToolResult) -> None:
        room = answer.room(self._engine.context_len)
        forced = result_tokens(result.text, self._tokenizer, room=room)
        if forced is None:
            self._cut(answer)
        else:
            self._engine.resume(answer.generation, forced)

    def _cut(self, answer: _Answering) -> None:
        """Ends an answer that would go on for too long."""
        answer.reason = "length"
        self._engine.cancel(answer.generation)

    def _finished(self, answer: _Answering) -> Answered:
        generation = answer.generation
        if generation.state != "finished":
            raise RuntimeError(f"the answer to {answer.prompted.item} is {generation.state} at the end")
        answer.read()
        if answer.reason is None:
            completion = Completion(
                item=answer.prompted.item,
                sample=generation.sample,
                messages=(),
                written=answer.forced_start,
                reason="no room",
                num_tokens=0,
                marks=(),
            )
        else:
            messages = answer.turn.finish()
            ended = Ended(generation.sample, answer.reason, messages, answer.usage(), generation)
            completion = completion_of(
                ended,
                self._tokenizer,
                item=answer.prompted.item,
                sample=generation.sample,
                forced_start=answer.forced_start,
            )
        return Answered(
            completion=completion,
            prompt=generation.prompt,
            tokens=np.array(generation.tokens, np.int32),
            sampled=np.array(generation.sampled, bool),
            logprobs=np.array(generation.logprobs, np.float32),
        )
