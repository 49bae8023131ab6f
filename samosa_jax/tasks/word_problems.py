"""Word problems and money: a story is turned into one expression, which the calculator works out."""

import random
from collections.abc import Sequence
from fractions import Fraction

from samosa_jax.data.chat.conversation import Message, ToolCall
from samosa_jax.tasks.calculator import calculate, evaluate, show
from samosa_jax.tasks.scoring import gives_number
from samosa_jax.tasks.task import Example, GeneratedTask, Split, answered_with_tool, draw_in_split
from samosa_jax.tasks.tool_schemas import CALCULATOR
from samosa_jax.tasks.word_problem_stories import NAMES, STORIES, THINGS, Story


class WordProblemsTask(GeneratedTask):
    """Right if the final number of the answer equals the result; to the cent where money is rounded."""

    name = "word_problems"

    levels = (1, 2, 3, 4, 5)

    def __init__(self, levels: Sequence[int] = ()) -> None:
        """levels: numbers of steps; empty: all. Every story of them is taken as often."""
        self._stories = [story for story in STORIES if not levels or story.steps in levels]

    def compose(self, draw: random.Random, split: Split) -> Example:
        story = draw.choice(self._stories)
        numbers, value = _numbers(draw, story, split)
        name, other = draw.sample(NAMES.of(split), 2)
        words = {"name": name, "other": other, "things": draw.choice(THINGS.of(split)), **numbers}
        expression = story.expression.format(**words)
        result = show(value)
        said = _as_money(value) if story.is_money else result
        plan = " ".join(step.format(**words) for step in story.plan)
        conversation = answered_with_tool(
            story.wordings.pick(draw, split).format(**words),
            think=f"{draw.choice(_OPENINGS)} {plan} {draw.choice(_HANDOVERS).format(expression=expression)}",
            call=ToolCall(CALCULATOR, {"expression": expression}),
            result=result,
            answer=story.answer.format(result=said, **words),
        )
        checks = {"kind": story.kind, "level": story.steps, "tool": CALCULATOR}
        if story.is_money:
            checks["places"] = 2
        return Example(conversation=conversation, answer=said, checks=checks)

    def score(self, example: Example, answer_text: str, messages: Sequence[Message] = ()) -> float:
        return float(gives_number(answer_text, example.answer, places=example.checks.get("places")))


def _numbers(draw: random.Random, story: Story, split: Split) -> tuple[dict[str, str], Fraction]:
    """Numbers of the split and the value of their expression, positive, and whole unless it is money."""

    def sample() -> dict[str, str]:
        return {name: span.draw(draw) for name, span in story.numbers.items()}

    while True:
        found = draw_in_split(split, sample, key=lambda drawn: f"{story.kind} {' '.join(drawn.values())}")
        for name, expression in story.derived.items():
            found[name] = calculate(expression.format(**found))
        value = evaluate(story.expression.format(**found))
        if value > 0 and (story.is_money or value.denominator == 1):
            return found, value


def _as_money(value: Fraction) -> str:
    """To the cent, as 1250 or 7.65."""
    cents = round(value, 2)
    return show(cents) if cents.denominator == 1 else f"{float(cents):.2f}"


_OPENINGS = (
    "First I turn the story into one expression.",
    "Let me set down what is known.",
    "I go through it sentence by sentence.",
    "What matters here are the numbers and what is done to them.",
    "Let me translate this into arithmetic.",
)
_HANDOVERS = (
    "So I need {expression}, which the calculator can do.",
    "In one line that is {expression}.",
    "The expression is {expression}; I let the calculator do it.",
    "Put together: {expression}. The calculator will be exact.",
)
