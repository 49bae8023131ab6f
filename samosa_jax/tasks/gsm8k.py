"""GSM8K (https://arxiv.org/abs/2110.14168): school word problems whose solutions mark every calculation.

A solution `... 48/2 = <<48/2=24>>24 clips ...` becomes text, a call of the calculator, its result, and more
text. The final `#### 72` stays: it is the form that the score reads.
"""

import re
from collections.abc import Sequence
from typing import Any

from samosa_jax.data.chat.conversation import Conversation, Message, ToolCall
from samosa_jax.errors import UserError
from samosa_jax.tasks.calculator import CalculatorError, calculate
from samosa_jax.tasks.scoring import gives_number, parse_number
from samosa_jax.tasks.task import Example
from samosa_jax.tasks.tool_schemas import CALCULATOR

_CALCULATION = re.compile(r"<<([^<>=]+)=([^<>]*)>>")


def score(example: Example, answer_text: str, messages: Sequence[Message] = ()) -> float:
    """1.0 if the number after the last `####`, else the last number of all, is the solution's."""
    return float(gives_number(answer_text, example.answer))


def conversation_of(question: str, solution: str) -> Conversation:
    """A solution with its calculations as calls.

    A mark whose result is not that of our calculator (rounded by the author, or not arithmetic) is left
    out and its text kept, so that no call is followed by a result the tool would not give.
    """
    messages = [Message(role="user", text=question.strip())]
    text, end = "", 0
    for mark in _CALCULATION.finditer(solution):
        text += solution[end : mark.start()]
        end = mark.end()
        result = _result(mark[1], mark[2])
        if result is not None:
            call = ToolCall(CALCULATOR, {"expression": mark[1].strip()})
            messages += [
                Message(role="assistant", text=text, tool_call=call),
                Message(role="tool", text=result),
            ]
            text = ""
    messages.append(Message(role="assistant", text=text + solution[end:].rstrip()))
    return Conversation(messages=tuple(messages))


def _result(expression: str, stated: str) -> str | None:
    try:
        result = calculate(expression)
    except CalculatorError:
        return None
    return result if parse_number(result) == parse_number(stated) else None


def example_of(row: Any, where: str) -> Example:
    """A row `{"question": ..., "answer": ...}`. Raises UserError, with `where`, for any other."""
    question, solution = (row.get("question"), row.get("answer")) if isinstance(row, dict) else (None, None)
    if not isinstance(question, str) or not isinstance(solution, str):
        raise UserError(f'{where} has no texts "question" and "answer"; give a file of GSM8K')
    answer = solution.rpartition("####")[2].strip() if "####" in solution else ""
    if parse_number(answer) is None:
        raise UserError(f"{where} does not end in #### and a number, found {answer!r}; mend the row")
    return Example(conversation=conversation_of(question, solution), answer=answer)
