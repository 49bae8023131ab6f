"""Multi-step arithmetic, graded 1 to 5: think about the order of the steps, call the calculator, answer.

1  one step with small numbers           4  brackets, exact division and percentages
2  two-digit products, sums of three     5  five or more numbers, decimals, powers
3  three steps with a bracket
"""

import random
from collections.abc import Callable, Sequence
from fractions import Fraction

from samosa_jax.data.chat.conversation import Message, ToolCall
from samosa_jax.tasks.calculator import calculate, evaluate
from samosa_jax.tasks.scoring import gives_number
from samosa_jax.tasks.task import Example, GeneratedTask, Split, Wordings, answered_with_tool, draw_in_split
from samosa_jax.tasks.tool_schemas import CALCULATOR

_PRINTED = str.maketrans({"*": "×", "/": "÷", "-": "−"})


class ArithmeticTask(GeneratedTask):
    """Right if the final number of the answer equals the result."""

    name = "arithmetic"

    levels = (1, 2, 3, 4, 5)

    def __init__(self, levels: Sequence[int] = ()) -> None:
        """levels: those to take, each as often; empty: all."""
        self._chosen = tuple(levels) or self.levels

    def compose(self, draw: random.Random, split: Split) -> Example:
        level = self._chosen[0] if len(self._chosen) == 1 else draw.choice(self._chosen)
        expression = draw_in_split(split, lambda: draw.choice(_SHAPES[level])(draw))
        result = calculate(expression)
        shown = as_printed(draw, expression)
        conversation = answered_with_tool(
            QUESTIONS.pick(draw, split).format(expression=shown),
            think=_thought(draw, expression),
            call=ToolCall(CALCULATOR, {"expression": expression}),
            result=result,
            answer=_ANSWERS.pick(draw, split).format(expression=shown, result=result),
        )
        checks = {"level": level, "tool": CALCULATOR}
        return Example(conversation=conversation, answer=result, checks=checks)

    def score(self, example: Example, answer_text: str, messages: Sequence[Message] = ()) -> float:
        return float(gives_number(answer_text, example.answer))


def as_printed(draw: random.Random, expression: str) -> str:
    """The expression as a question shows it, often with the signs of print."""
    shown = expression.replace("**", "^")
    return shown.translate(_PRINTED) if draw.random() < 0.6 else shown


def _one_step(draw: random.Random) -> str:
    operator = draw.choice("+-*")
    if operator == "*":
        return f"{draw.randint(3, 12)} * {draw.randint(11, 99)}"
    high, low = sorted((draw.randint(12, 99), draw.randint(12, 99)), reverse=True)
    return f"{high} {operator} {low}"


def _product(draw: random.Random) -> str:
    return f"{draw.randint(12, 99)} * {draw.randint(12, 99)}"


def _sum_of_three(draw: random.Random) -> str:
    return f"{draw.randint(100, 999)} + {draw.randint(100, 999)} - {draw.randint(10, 99)}"


def _bracket_first(draw: random.Random) -> str:
    return (
        f"({draw.randint(12, 99)} {draw.choice('+-')} {draw.randint(2, 40)}) * {draw.randint(3, 29)}"
        f" {draw.choice('+-')} {draw.randint(10, 200)}"
    )


def _two_products(draw: random.Random) -> str:
    return (
        f"{draw.randint(11, 60)} * {draw.randint(3, 19)} {draw.choice('+-')} "
        f"{draw.randint(11, 60)} * {draw.randint(3, 19)}"
    )


def _exact_division(draw: random.Random) -> str:
    divisor, quotient, other = draw.randint(3, 24), draw.randint(12, 150), draw.randint(15, 400)
    return f"({divisor * quotient + other} - {other}) / {divisor} + {draw.randint(11, 99)}"


def _percentage(draw: random.Random) -> str:
    share, whole = draw.choice((5, 8, 12, 15, 17, 18, 20, 24, 35, 45, 60, 72)), draw.randint(20, 900)
    return f"{share} / 100 * {whole} {draw.choice('+-')} {draw.randint(2, 19)}"


def _long_chain(draw: random.Random) -> str:
    return (
        f"({draw.randint(100, 999)} + {draw.randint(100, 999)}) * {draw.randint(3, 19)} "
        f"- {draw.randint(11, 99)} * {draw.randint(11, 99)} + {draw.randint(2, 15)}**{draw.choice((2, 3))}"
    )


def _decimals(draw: random.Random) -> str:
    first, second = draw.randint(101, 9999) / 100, draw.randint(11, 999) / 10
    times, other_times = draw.randint(3, 40), draw.randint(3, 40)
    return f"{first:.2f} * {times} + {second:.1f} * {other_times} - {draw.randint(10, 999)}"


_SHAPES: dict[int, tuple[Callable[[random.Random], str], ...]] = {
    1: (_one_step,),
    2: (_product, _product, _sum_of_three),
    3: (_bracket_first, _two_products),
    4: (_exact_division, _percentage, _two_products),
    5: (_long_chain, _decimals),
}


def _thought(draw: random.Random, expression: str) -> str:
    """The order of the steps and a rough size to hold the result against, before the exact call."""
    rough = draw.choice(_ESTIMATES).format(rough=_rounded(evaluate(expression)))
    return f"{_order(draw, expression)} {rough} {draw.choice(_HANDOVERS)}"


def _order(draw: random.Random, expression: str) -> str:
    """What comes first; for a product, the partial products of long multiplication."""
    words = expression.split()
    if len(words) > 3:
        return draw.choice(_CHAINS).format(first=_first_step(expression))
    if words[1] == "*" and int(words[2]) % 10 and int(words[2]) > 10:
        left, tens, ones = int(words[0]), int(words[2]) // 10 * 10, int(words[2]) % 10
        return (
            f"I can split {words[2]} into {tens} and {ones}: {left} * {tens} = {left * tens} and "
            f"{left} * {ones} = {left * ones}, which are added."
        )
    return draw.choice(_SINGLE_STEPS).format(first=expression)


def _first_step(expression: str) -> str:
    """What comes before the rest: a bracket, else a product, else the leftmost step."""
    if "(" in expression:
        return expression[expression.index("(") + 1 : expression.index(")")]
    words = expression.split()
    for index, word in enumerate(words):
        if word in ("*", "/"):
            return " ".join(words[index - 1 : index + 2])
    return " ".join(words[:3])


def _rounded(value: Fraction) -> str:
    """To two significant digits, the way one estimates."""
    size = len(str(abs(int(value))))
    unit = 10 ** max(0, size - 2)
    return f"{round(value / unit) * unit:,}"


QUESTIONS = Wordings(
    train=(
        "What is {expression}?",
        "Calculate {expression}.",
        "Can you work out {expression} for me?",
        "Please compute {expression}.",
        "I need the exact value of {expression}.",
        "How much is {expression}?",
        "{expression} = ?",
        "My homework asks for {expression}. What do I write?",
        "Help me check a sum: what does {expression} come to?",
        "Evaluate {expression} and tell me the result.",
    ),
    heldout=(
        "Could you tell me what {expression} equals?",
        "Solve this one: {expression}",
        "What number do I get from {expression}?",
        "Quick sum please, {expression}, as precisely as possible.",
    ),
)
_ANSWERS = Wordings(
    train=(
        "The exact value of {expression} works out to {result}.",
        "Worked out on the calculator, {expression} = {result}.",
        "That comes to an exact figure: {expression} is {result}.",
        "According to the calculator, {expression} gives {result}.",
        "Here is the result you asked for: {expression} = {result}.",
    ),
    heldout=(
        "Taking everything in its proper order, {expression} makes {result}.",
        "You end up with this for {expression}: the result is {result}.",
    ),
)
_SINGLE_STEPS = (
    "There is a single step here, {first}, so nothing has to be ordered.",
    "Only one operation is asked for: {first}.",
    "This is one short step, {first}, with two whole numbers.",
)
_CHAINS = (
    "Several steps are chained, and {first} has to come before the rest.",
    "The order matters: {first} goes first, then what is left from the left to the right.",
    "Brackets and products bind before sums, so I begin with {first}.",
    "Let me see what depends on what. The part {first} is needed before anything else can be done.",
)
_ESTIMATES = (
    "Roughly it should be around {rough}, which I can hold the exact value against.",
    "By rounding the numbers I expect something near {rough}.",
    "A rough estimate is {rough}; a result far from that would be a slip.",
    "In my head I land close to {rough}, but that is not exact.",
)
_HANDOVERS = (
    "The calculator gives the exact value.",
    "I will let the calculator do the exact work.",
    "One call of the calculator settles it.",
    "An exact figure is wanted, so I use the calculator.",
)
