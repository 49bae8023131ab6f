"""What a task is: examples with their conversation and a score for any answer.

A generated task makes example i from (name, split, seed, i) alone, so no example depends on another one or on
how many are asked for. The held-out split has other wordings, other names, and other numbers: a problem's key
is hashed to one of the two splits and drawn again until it falls into the one that is wanted.
"""

import random
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, TypeVar

from samosa_jax.data.chat.conversation import Conversation, Message, ToolCall
from samosa_jax.tasks.tool_schemas import TOOLS

Split = Literal["train", "heldout"]
SPLITS: tuple[Split, Split] = ("train", "heldout")
HELDOUT_ONE_IN = 4
MAX_DRAWS = 2000

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Example:
    """A problem, a good solution of it, and what a score needs to know."""

    conversation: Conversation  # ends with a right answer
    answer: str  # what a score compares with, shorter than the sentence that says it
    checks: Mapping[str, Any] = field(default_factory=dict)  # further facts, as JSON

    @property
    def prompt(self) -> Conversation:
        """The conversation up to and with the last message of the user."""
        messages = self.conversation.messages
        last = max(index for index, message in enumerate(messages) if message.role == "user")
        return replace(self.conversation, messages=messages[: last + 1])

    @property
    def solution(self) -> tuple[Message, ...]:
        """The messages after the prompt: thoughts, calls, results and the answer."""
        return self.conversation.messages[len(self.prompt.messages) :]

    @property
    def answer_text(self) -> str:
        """The last message of the assistant, without its thought: what a score reads."""
        return self.conversation.messages[-1].text


class Task(Protocol):
    """Examples to learn from, and how good an answer to their prompt is."""

    @property
    def name(self) -> str: ...

    def examples(self, split: Split, seed: int, count: int) -> Iterator[Example]:
        """The first `count` examples of a split, always the same for the same arguments."""
        ...

    def score(self, example: Example, answer_text: str, messages: Sequence[Message] = ()) -> float:
        """1.0 for a right answer, 0.0 for a wrong one; each task states its rule.

        Args:
          answer_text: the last text of the assistant, without its thought.
          messages: all that the assistant and its tools said after the prompt, where that is known; a task
            that is about tools then also looks at the calls.
        """
        ...


class GeneratedTask(ABC):
    """A task whose examples are composed, without limit, from a random stream.

    A graded task has `levels`, the easiest first, and its examples say theirs in `checks["level"]`.
    """

    name: str
    levels: tuple[int, ...] = ()

    @abstractmethod
    def compose(self, draw: random.Random, split: Split) -> Example:
        """One example; the same stream gives the same example."""

    @abstractmethod
    def score(self, example: Example, answer_text: str, messages: Sequence[Message] = ()) -> float:
        """As in `Task`."""

    def example(self, split: Split, seed: int, index: int) -> Example:
        """The example of that number, always the same for the same arguments."""
        return self.compose(random.Random(f"{self.name}/{split}/{seed}/{index}"), split)

    def examples(self, split: Split, seed: int, count: int) -> Iterator[Example]:
        for index in range(count):
            yield self.example(split, seed, index)


@dataclass(frozen=True)
class Wordings:
    """Ways to say one thing; no way serves both splits."""

    train: Sequence[str]
    heldout: Sequence[str]

    def of(self, split: Split) -> Sequence[str]:
        return self.train if split == "train" else self.heldout

    def pick(self, draw: random.Random, split: Split) -> str:
        return draw.choice(self.of(split))


def split_of(*key: object) -> Split:
    """The one split that a problem with these numbers or words belongs to."""
    digest = zlib.crc32("/".join(map(str, key)).encode())
    # The low bits of a CRC differ little between similar keys; a multiplicative hash spreads them.
    return "heldout" if (digest * 2654435761 >> 16) % HELDOUT_ONE_IN == 0 else "train"


def draw_in_split(split: Split, sample: Callable[[], T], *, key: Callable[[T], object] = lambda x: x) -> T:
    """Samples until the key of what was drawn belongs to the split."""
    for _ in range(MAX_DRAWS):
        value = sample()
        if split_of(key(value)) == split:
            return value
    raise RuntimeError(
        f"{MAX_DRAWS} draws gave nothing for the split {split}; there is too little to draw from"
    )


def answered(user: str, *, think: str, answer: str) -> Conversation:
    """A question, a thought and the answer after it."""
    return Conversation(
        messages=(Message(role="user", text=user), Message(role="assistant", think=think, text=answer))
    )


def answered_with_tool(user: str, *, think: str, call: ToolCall, result: str, answer: str) -> Conversation:
    """A question, a thought that decides on a tool, its call and result, and the answer."""
    return Conversation(
        messages=(
            Message(role="user", text=user),
            Message(role="assistant", think=think, tool_call=call),
            Message(role="tool", text=result),
            Message(role="assistant", text=answer),
        )
    )


def with_tool_schemas(conversation: Conversation) -> Conversation:
    """The same conversation with the schemas of all tools in its prompt, which training leaves out."""
    return replace(conversation, tools=TOOLS)


def with_level(example: Example, level: int) -> Example:
    """The same example, its level among its checks."""
    return replace(example, checks={**example.checks, "level": level})


def tools_due(example: Example) -> set[str]:
    """The tool that the example's checks name (None: no tool), else those that its solution calls."""
    if "tool" in example.checks:
        tool = example.checks["tool"]
        return set() if tool is None else {tool}
    return set(tools_called(example.solution))


def tools_called(messages: Sequence[Message]) -> list[str]:
    """Names of the tools that were called, in order."""
    return [message.tool_call.name for message in messages if message.tool_call is not None]
