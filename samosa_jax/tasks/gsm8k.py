"""GSM8K (https://arxiv.org/abs/2110.14168): school word problems whose solutions mark every calculation.

A solution `... 48/2 = <<48/2=24>>24 clips ...` becomes text, a call of the calculator, its result, and more
text. The final `#### 72` stays: it is the form that the score reads.
"""

import gzip
import json
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from samosa_jax.data.chat.conversation import Conversation, Message, ToolCall
from samosa_jax.errors import UserError
from samosa_jax.tasks.calculator import CalculatorError, calculate
from samosa_jax.tasks.scoring import gives_number, parse_number
from samosa_jax.tasks.task import Example, Split
from samosa_jax.tasks.tool_schemas import CALCULATOR

_CALCULATION = re.compile(r"<<([^<>=]+)=([^<>]*)>>")


class Gsm8kTask:
    """Right if the number after `####` (else the last number) equals the solution's."""

    name = "gsm8k"

    def __init__(self, *, train: Path, heldout: Path) -> None:
        """Files of lines `{"question": ..., "answer": ...}`, .jsonl or .jsonl.gz, one for each split.

        Raises:
          UserError: a file that cannot be read, or a row without question, answer or `####`.
        """
        self._rows: dict[Split, list[Example]] = {"train": _read(train), "heldout": _read(heldout)}

    def examples(self, split: Split, seed: int, count: int) -> Iterator[Example]:
        """Rows in an order that the seed gives; another order of all rows each time they are through."""
        rows = self._rows[split]
        for start in range(0, count, len(rows)):
            order = list(range(len(rows)))
            random.Random(f"{self.name}/{split}/{seed}/{start}").shuffle(order)
            yield from (rows[row] for row in order[: count - start])

    def score(self, example: Example, answer_text: str, messages: Sequence[Message] = ()) -> float:
        return score(example, answer_text, messages)


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


def _read(path: Path) -> list[Example]:
    try:
        data = path.read_bytes()
        lines = (gzip.decompress(data) if path.suffix == ".gz" else data).split(b"\n")
    except (OSError, EOFError) as error:
        raise UserError(f"{path}: cannot be read ({error}); give a .jsonl or .jsonl.gz of GSM8K") from None
    examples = [
        _parsed(line, f"{path}: row {row}") for row, line in enumerate(lines, start=1) if line.strip()
    ]
    if not examples:
        raise UserError(f"{path}: no rows; give a .jsonl or .jsonl.gz of GSM8K")
    return examples


def _parsed(line: bytes, where: str) -> Example:
    try:
        return example_of(json.loads(line), where)
    except ValueError as error:
        raise UserError(f"{where} is not JSON ({error}); mend the row") from None


def example_of(row: Any, where: str) -> Example:
    """A row `{"question": ..., "answer": ...}`. Raises UserError, with `where`, for any other."""
    question, solution = (row.get("question"), row.get("answer")) if isinstance(row, dict) else (None, None)
    if not isinstance(question, str) or not isinstance(solution, str):
        raise UserError(f'{where} has no texts "question" and "answer"; give a file of GSM8K')
    answer = solution.rpartition("####")[2].strip() if "####" in solution else ""
    if parse_number(answer) is None:
        raise UserError(f"{where} does not end in #### and a number, found {answer!r}; mend the row")
    return Example(conversation=conversation_of(question, solution), answer=answer)
