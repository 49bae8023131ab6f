"""Asks a model many questions at once, through an assistant, and hands out what it answered.

Every sample has a seed of its own, made from the evaluation's seed, the task, the item and the sample's
number: an answer does not depend on how many others are asked for, nor on their order.
"""

import hashlib
import queue
from collections.abc import Callable, Collection, Generator, Iterable
from dataclasses import dataclass, replace
from typing import Literal

from samosa_jax.data.chat.conversation import THINK_OPEN, Conversation, Message
from samosa_jax.data.tokenizer import Tokenizer
from samosa_jax.rollout.assistant import Assistant, Job
from samosa_jax.rollout.events import Ended, Event
from samosa_jax.rollout.request import Sampling

IN_FLIGHT = 64  # questions that wait or are answered at once; the engine decodes as many as its batch holds

Reason = Literal["stop", "length", "tool_calls", "no room"]


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked.

    Attributes:
        item: its name, unique in its task.
        thinks: the answer is made to begin with a thought.
        tools_run: the assistant's tools answer calls; without it a call of one gets an error.
    """

    item: str
    conversation: Conversation
    thinks: bool = False
    tools_run: bool = True

    @property
    def forced_start(self) -> str:
        return THINK_OPEN if self.thinks else ""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answer to one question.

    Attributes:
        messages: what assistant and tools said; empty where the prompt left no room.
        written: all that the assistant wrote and tools returned, special tokens by name.
        reason: why it ended; "no room": the prompt fills the context, so that nothing was asked.
        num_tokens: that the model chose.
    """

    item: str
    sample: int
    messages: tuple[Message, ...]
    written: str
    reason: Reason
    num_tokens: int

    @property
    def text(self) -> str:
        """The last text of the assistant, without its thought."""
        return self.messages[-1].text if self.messages else ""


def seed_of(seed: int, *key: object) -> int:
    """A seed for `Sampling`, for these words and numbers alone."""
    digest = hashlib.sha256("\n".join(map(str, (seed, *key))).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def ask(
    assistant: Assistant,
    tokenizer: Tokenizer,
    questions: Iterable[Question],
    sampling: Sampling,
    *,
    task: str,
    seed: int,
    samples: int = 1,
    skip: Collection[tuple[str, int]] = (),
    in_flight: int = IN_FLIGHT,
) -> Generator[Answer, None, None]:
    """Answers as they come, `samples` to every question except the (item, sample) of `skip`.

    Closing the iterator cancels what has not ended. Raises RuntimeError where the engine fails.
    """
    ended: queue.SimpleQueue[tuple[Question, int, Ended]] = queue.SimpleQueue()
    jobs: dict[tuple[str, int], Job] = {}
    wanted = ((question, sample) for question in questions for sample in range(samples))
    try:
        for question, sample in wanted:
            if (question.item, sample) in skip:
                continue
            while len(jobs) >= in_flight:
                yield _take(ended, jobs, tokenizer)
            if not _has_room(assistant, question):
                yield Answer(
                    item=question.item, sample=sample, messages=(), written="", reason="no room", num_tokens=0
                )
                continue
            own = replace(sampling, seed=seed_of(seed, task, question.item, sample))
            jobs[question.item, sample] = assistant.answer(
                question.conversation,
                own,
                _listener(ended, question, sample),
                tools_run=question.tools_run,
                forced_start=question.forced_start,
            )
        while jobs:
            yield _take(ended, jobs, tokenizer)
    finally:
        for job in jobs.values():
            job.cancel()


def _listener(
    ended: "queue.SimpleQueue[tuple[Question, int, Ended]]", question: Question, sample: int
) -> Callable[[Event], None]:
    def listen(event: Event) -> None:
        if isinstance(event, Ended):
            ended.put((question, sample, event))

    return listen


def _has_room(assistant: Assistant, question: Question) -> bool:
    """For the prompt, what is forced, and one token."""
    return assistant.num_prompt_tokens(question.conversation) + question.thinks < assistant.context_len


def _take(
    ended: "queue.SimpleQueue[tuple[Question, int, Ended]]",
    jobs: dict[tuple[str, int], Job],
    tokenizer: Tokenizer,
) -> Answer:
    question, sample, event = ended.get()
    del jobs[question.item, sample]
    if event.reason in ("error", "cancelled"):
        raise RuntimeError(f"the answer to {question.item} ended with {event.reason}: {event.error}")
    written = tokenizer.decode(event.generation.tokens, show_specials=True)
    return Answer(
        item=question.item,
        sample=sample,
        messages=event.messages,
        written=question.forced_start + written,
        reason=event.reason,
        num_tokens=event.usage.completion_tokens,
    )
