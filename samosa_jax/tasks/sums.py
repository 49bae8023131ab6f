"""Sums for the calculator, graded 1 to 6: no thought, one call, a short answer. Small models can learn them.

Graded by how much has to be copied without a slip, not by what is to be worked out: the calculator does that.
Held out are numbers alone. Questions are worded in the same few ways in both splits, because a model that
has read nothing but sums cannot be expected to understand others.

1  two numbers of two digits           4  three numbers of three digits
2  two numbers of three digits         5  four numbers of three digits
3  three numbers of two digits         6  four numbers of four digits, two of them in a bracket
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from samosa_jax.data.chat.conversation import Conversation, Message, ToolCall
from samosa_jax.tasks.arithmetic import QUESTIONS, as_printed
from samosa_jax.tasks.calculator import calculate
from samosa_jax.tasks.scoring import gives_number
from samosa_jax.tasks.task import Example, GeneratedTask, Split, draw_in_split
from samosa_jax.tasks.tool_schemas import CALCULATOR


@dataclass(frozen=True, kw_only=True)
class Shape:
    numbers: int
    digits: int
    has_bracket: bool = False


SHAPES: dict[int, Shape] = {
    1: Shape(numbers=2, digits=2),
    2: Shape(numbers=2, digits=3),
    3: Shape(numbers=3, digits=2),
    4: Shape(numbers=3, digits=3),
    5: Shape(numbers=4, digits=3),
    6: Shape(numbers=4, digits=4, has_bracket=True),
}


class SumsTask(GeneratedTask):
    """Right if the final number of the answer equals the result."""

    name = "sums"
    levels = tuple(SHAPES)

    def __init__(self, levels: Sequence[int] = ()) -> None:
        """levels: those to take, each as often; empty: all."""
        self._chosen = tuple(levels) or self.levels

    def compose(self, draw: random.Random, split: Split) -> Example:
        level = self._chosen[0] if len(self._chosen) == 1 else draw.choice(self._chosen)
        expression = draw_in_split(split, lambda: _expression(draw, SHAPES[level]))
        result = calculate(expression)
        shown = as_printed(draw, expression)
        conversation = Conversation(
            messages=(
                Message(role="user", text=draw.choice(QUESTIONS.train).format(expression=shown)),
                Message(role="assistant", tool_call=ToolCall(CALCULATOR, {"expression": expression})),
                Message(role="tool", text=result),
                Message(role="assistant", text=f"It is {result}."),
            )
        )
        return Example(conversation=conversation, answer=result, checks={"level": level, "tool": CALCULATOR})

    def score(self, example: Example, answer_text: str, messages: Sequence[Message] = ()) -> float:
        return float(gives_number(answer_text, example.answer))


def _expression(draw: random.Random, shape: Shape) -> str:
    low, high = 10 ** (shape.digits - 1), 10**shape.digits - 1
    parts = [str(draw.randint(low, high))]
    for _ in range(shape.numbers - 1):
        parts += [draw.choice("+-*"), str(draw.randint(low, high))]
    if shape.has_bracket:
        first = 2 * draw.randrange(shape.numbers - 1)
        parts[first], parts[first + 2] = f"({parts[first]}", f"{parts[first + 2]})"
    return " ".join(parts)
