"""Which tool a question needs, if any: questions of other tasks, half of which must call none."""

import random
from collections.abc import Sequence

from samosa_jax.data.chat.conversation import Message
from samosa_jax.tasks.arithmetic import ArithmeticTask
from samosa_jax.tasks.direct import DirectTask
from samosa_jax.tasks.identity import IdentityTask, Persona
from samosa_jax.tasks.task import Example, GeneratedTask, Split, tools_called, tools_due
from samosa_jax.tasks.temporal import TemporalTask
from samosa_jax.tasks.web_search import WebSearchTask
from samosa_jax.tasks.word_problems import WordProblemsTask


class ToolChoiceTask(GeneratedTask):
    """Right if the tools that were called are the ones due, whatever the answer says.

    Where messages are unknown nothing can be told of tools, and no answer is right.
    """

    name = "tool_choice"

    def __init__(self, persona: Persona | None = None) -> None:
        self._need_a_tool = (WebSearchTask(), ArithmeticTask(), WordProblemsTask())
        self._need_none = (IdentityTask(persona), DirectTask(), TemporalTask())

    def compose(self, draw: random.Random, split: Split) -> Example:
        task = draw.choice(draw.choice((self._need_a_tool, self._need_none)))
        return task.compose(draw, split)

    def score(self, example: Example, answer_text: str, messages: Sequence[Message] = ()) -> float:
        return float(bool(messages) and set(tools_called(messages)) == tools_due(example))
