"""Thinking and tools in one turn, in three equal parts: search, calculate, answer directly."""

import random
from collections.abc import Sequence

from samosa_jax.data.chat.conversation import Message
from samosa_jax.tasks.arithmetic import ArithmeticTask
from samosa_jax.tasks.direct import DirectTask
from samosa_jax.tasks.task import Example, GeneratedTask, Split, tools_called
from samosa_jax.tasks.tool_schemas import CALCULATOR
from samosa_jax.tasks.web_search import WebSearchTask
from samosa_jax.tasks.word_problems import WordProblemsTask

PATTERNS = 3


class JointThinkToolTask(GeneratedTask):
    """Right as the pattern's own task says; where messages are known, with the pattern's tool alone."""

    name = "joint_think_tool"

    levels = ArithmeticTask.levels

    def __init__(self, levels: Sequence[int] = ()) -> None:
        """levels: of the calculations; empty: all. The other patterns have none."""
        self._search = WebSearchTask()
        self._calculations = (WordProblemsTask(levels), ArithmeticTask(levels))
        self._direct = DirectTask()

    def example(self, split: Split, seed: int, index: int) -> Example:
        draw = random.Random(f"{self.name}/{split}/{seed}/{index}")
        if index % PATTERNS == 1:
            return draw.choice(self._calculations).compose(draw, split)
        return (self._direct if index % PATTERNS else self._search).compose(draw, split)

    def compose(self, draw: random.Random, split: Split) -> Example:
        """One example of a pattern that the stream chooses."""
        tasks = (self._search, draw.choice(self._calculations), self._direct)
        return draw.choice(tasks).compose(draw, split)

    def score(self, example: Example, answer_text: str, messages: Sequence[Message] = ()) -> float:
        if example.checks["tool"] is None:
            return self._direct.score(example, answer_text, messages)
        if example.checks["tool"] == CALCULATOR:
            right = self._calculations[0].score(example, answer_text)
            return right * float(not messages or tools_called(messages) == [CALCULATOR])
        return self._search.score(example, answer_text, messages)
