"""All that the quickstart teaches, in one task: each example is one of the others', in fixed shares."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

from samosa_jax.data.chat.conversation import Conversation, Message
from samosa_jax.tasks.identity import Persona
from samosa_jax.tasks.scoring import has_habit
from samosa_jax.tasks.starter.echo import StarterEchoTask
from samosa_jax.tasks.starter.identity import StarterIdentityTask
from samosa_jax.tasks.starter.letters import StarterLettersTask
from samosa_jax.tasks.starter.manners import StarterMannersTask
from samosa_jax.tasks.starter.memory import StarterMemoryTask
from samosa_jax.tasks.starter.stories import StarterStoriesTask
from samosa_jax.tasks.starter.sums import StarterSumsTask
from samosa_jax.tasks.task import Example, GeneratedTask, Split

SHARES: Mapping[str, float] = {
    StarterLettersTask.name: 0.30,
    StarterSumsTask.name: 0.19,
    StarterMemoryTask.name: 0.16,
    StarterIdentityTask.name: 0.10,
    StarterStoriesTask.name: 0.10,
    StarterMannersTask.name: 0.08,
    StarterEchoTask.name: 0.07,
}

JOINED_SHARE = 0.1  # of conversations that are about two things
BEFORE = {name: share for name, share in SHARES.items() if name != StarterStoriesTask.name}  # the short ones


class StarterTask(GeneratedTask):
    """Right if the task that made the example says so and the answer has no habit of scraped text."""

    name = "starter"

    def __init__(self, persona: Persona | None = None) -> None:
        tasks = (
            *(StarterLettersTask(), StarterSumsTask(), StarterMemoryTask()),
            *(StarterIdentityTask(persona), StarterMannersTask(), StarterStoriesTask(), StarterEchoTask()),
        )
        self._tasks = {task.name: task for task in tasks}

    def compose(self, draw: random.Random, split: Split) -> Example:
        name = _pick(draw, SHARES)
        example = self._tasks[name].compose(draw, split)
        if draw.random() < JOINED_SHARE:
            other = self._tasks[_pick(draw, BEFORE)].compose(draw, split)
            example = _joined(draw, other, example)
        return replace(example, checks={**example.checks, "task": name})

    def score(self, example: Example, answer_text: str, messages: Sequence[Message] = ()) -> float:
        is_right = self._tasks[example.checks["task"]].score(example, answer_text, messages)
        return 0.0 if has_habit(answer_text) else is_right


def _pick(draw: random.Random, shares: Mapping[str, float]) -> str:
    (name,) = draw.choices(list(shares), weights=list(shares.values()))
    return name


def _joined(draw: random.Random, other: Example, example: Example) -> Example:
    """Both in one conversation: the other first, or between what was said and the question about it."""
    messages = example.conversation.messages
    num_said = len(example.prompt.messages) - 1
    cut = num_said if draw.random() < 0.5 else 0
    if any(message.tool_call for message in messages[:cut]):
        cut = 0  # a sum that goes on follows at once
    joined = (*messages[:cut], *other.conversation.messages, *messages[cut:])
    return replace(example, conversation=Conversation(messages=joined))


class StarterThinkingTask(StarterTask):
    """Questions that want a thought; right if it comes and closes, and an answer stands outside of it."""

    name = "starter_thinking"

    def compose(self, draw: random.Random, split: Split) -> Example:
        while True:
            example = super().compose(draw, split)
            if example.solution[0].think is not None:
                return example

    def score(self, example: Example, answer_text: str, messages: Sequence[Message] = ()) -> float:
        # A thought that does not close swallows the answer; one that never came leaves none in the messages.
        is_thought = any((message.think or "").strip() for message in messages)
        return float(is_thought and bool(answer_text.strip()))
