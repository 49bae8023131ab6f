"""Sums and small word problems for the calculator: a thought of one sentence, one call, the result.

1  two numbers      2  three numbers      3  a story of two numbers
"""

import random
from collections.abc import Sequence

from samosa_jax.data.chat.conversation import Message, ToolCall
from samosa_jax.tasks.arithmetic import as_printed
from samosa_jax.tasks.calculator import calculate
from samosa_jax.tasks.scoring import gives_number
from samosa_jax.tasks.starter.words import NAMES
from samosa_jax.tasks.task import (
    Example,
    GeneratedTask,
    Split,
    Wordings,
    answered_with_tool,
    draw_in_split,
    tools_called,
)
from samosa_jax.tasks.tool_schemas import CALCULATOR


class StarterSumsTask(GeneratedTask):
    """Right if the calculator was called once and the last number of the answer is the result."""

    name = "starter_sums"
    levels = (1, 2, 3)

    def __init__(self, levels: Sequence[int] = ()) -> None:
        """levels: those to take, each as often; empty: all."""
        self._chosen = tuple(levels) or self.levels

    def compose(self, draw: random.Random, split: Split) -> Example:
        level = draw.choice(self._chosen)
        if level == 3:
            expression, question = _story(draw, split)
        else:
            expression = draw_in_split(split, lambda: _expression(draw, numbers=level + 1))
            question = QUESTIONS.pick(draw, split).format(expression=as_printed(draw, expression))
        result = calculate(expression)
        conversation = answered_with_tool(
            question,
            think=draw.choice(THOUGHTS),
            call=ToolCall(CALCULATOR, {"expression": expression}),
            result=result,
            answer=draw.choice(ANSWERS).format(result=result),
        )
        return Example(conversation=conversation, answer=result, checks={"level": level, "tool": CALCULATOR})

    def score(self, example: Example, answer_text: str, messages: Sequence[Message] = ()) -> float:
        called = tools_called(messages)
        return float(gives_number(answer_text, example.answer) and (not messages or called == [CALCULATOR]))


def _expression(draw: random.Random, *, numbers: int) -> str:
    parts = [_number(draw)]
    for _ in range(numbers - 1):
        parts += [draw.choice("++-*"), _number(draw)]
    return " ".join(parts)


def _number(draw: random.Random) -> str:
    return str(draw.randrange(2, 10 ** draw.choice((1, 2, 2, 3))))


def _story(draw: random.Random, split: Split) -> tuple[str, str]:
    """An expression of two numbers and the question that asks for it."""
    operator = draw.choice("+-*")

    def numbers() -> tuple[int, int]:
        first, second = draw.randint(3, 99), draw.randint(2, 60)
        return (max(first, second), min(first, second)) if operator == "-" else (first, second)

    first, second = draw_in_split(split, numbers, key=lambda drawn: f"{drawn[0]} {operator} {drawn[1]}")
    question = STORIES[operator].pick(draw, split)
    name = draw_in_split(split, lambda: draw.choice(NAMES))
    thing = draw.choice(THINGS)
    return f"{first} {operator} {second}", question.format(a=first, b=second, name=name, thing=thing)


QUESTIONS = Wordings(
    train=(
        *("What is {expression}?", "{expression} = ?", "How much is {expression}?", "{expression}"),
        *("Calculate {expression}.", "Work out {expression}.", "Please compute {expression}."),
        *("I need the value of {expression}.", "Tell me what {expression} is.", "Find {expression}."),
        *("What does {expression} come to?", "What do I get for {expression}?", "Solve {expression}."),
        *("My homework asks for {expression}.", "Can you work out {expression} for me?", "{expression}?"),
        *("Do you know what {expression} is?", "Help me with {expression}.", "Give me {expression}, please."),
        *("Could you tell me the value of {expression}?", "What would {expression} be?"),
        *("I want to know {expression}.", "How much do I get for {expression}?", "Now what is {expression}?"),
        *("Hello! What is {expression}?", "Quick: {expression}?", "Please tell me how much {expression} is."),
    ),
    heldout=(
        *("Can you tell me how much {expression} is?", "Hi! Please work out {expression}."),
        *("What value does {expression} come to?", "I want the value of {expression}, please."),
        *("Do you know how much {expression} would be?", "Help me find {expression}."),
        *("Tell me, what do I get for {expression}?", "Could you compute {expression} for my homework?"),
    ),
)
STORIES = {
    "+": Wordings(
        train=(
            "{name} has {a} {thing} and gets {b} more. How many {thing} does {name} have now?",
            "{name} found {a} {thing} today and {b} {thing} before. How many are there together?",
            "There are {a} {thing} in one box and {b} {thing} in another. How many are there together?",
            "I had {a} {thing}. Then I got {b} more. How many do I have?",
            "{name} bought {a} {thing} and then {b} more. How many {thing} is that?",
            "{name} had {a} {thing} and got {b} more. How many {thing} does {name} have now?",
            "I have {a} {thing} and find {b} more. How many are there?",
            "{a} {thing} are in the box. {name} puts {b} more in. How many are there now?",
        ),
        heldout=(
            "{name} had {a} {thing} and found {b} more. How many {thing} does {name} have?",
            "I have {a} {thing} in a box and get {b} more. How many are there now?",
        ),
    ),
    "-": Wordings(
        train=(
            "{name} has {a} {thing} and gives {b} away. How many {thing} are left?",
            "There were {a} {thing} in the box. {name} took {b}. How many are left?",
            "I had {a} {thing} and lost {b}. How many do I have now?",
            "{name} had {a} {thing} and ate {b} of them. How many {thing} are left?",
            "Of {a} {thing}, {b} are gone. How many are left?",
            "There are {a} {thing} and I take {b} away. How many are there now?",
            "{name} has {a} {thing} and loses {b}. How many {thing} does {name} have left?",
        ),
        heldout=(
            "{name} had {a} {thing} and lost {b} of them. How many does {name} have left?",
            "There are {a} {thing} in the box and I give {b} away. How many are left?",
        ),
    ),
    "*": Wordings(
        train=(
            "{name} has {a} boxes with {b} {thing} in each. How many {thing} is that?",
            "There are {a} bags with {b} {thing} in each of them. How many {thing} are there?",
            "Each of {a} children has {b} {thing}. How many {thing} do they have together?",
            "I buy {a} bags of {b} {thing} each. How many do I have?",
            "{name} fills {a} boxes, {b} {thing} in each. How many {thing} are there together?",
            "In each of {a} boxes there are {b} {thing}. How many are there?",
            "{name} gets {b} {thing} on each of {a} days. How many {thing} does {name} have?",
        ),
        heldout=(
            "There are {a} boxes with {b} {thing} in each of them. How many are there together?",
            "{name} buys {a} bags with {b} {thing} in each. How many {thing} does {name} have?",
        ),
    ),
}
THINGS = (
    *("apples", "books", "balls", "stones", "cakes", "eggs", "pears", "cups", "shells", "flowers", "nuts"),
    *("fish", "hats", "keys", "coins", "cards", "stars", "cookies", "plums", "toys", "pens", "samosas"),
)
THOUGHTS = (
    "This is a sum for the calculator.",
    "I use the calculator for this.",
    "The calculator knows this for sure.",
)
ANSWERS = ("It is {result}.", "The answer is {result}.", "That makes {result}.")
