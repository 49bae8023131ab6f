"""SVAMP (https://arxiv.org/abs/2103.07191): arithmetic word problems of one or two steps.

Their numbers are those of easier problems, told so that a model which does not read the question goes wrong.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from samosa_jax.data.chat.conversation import Conversation, Message
from samosa_jax.errors import UserError
from samosa_jax.tasks.scoring import gives_number, parse_number
from samosa_jax.tasks.task import Example

QUESTION_KEYS = (("question_concat",), ("Body", "Question"), ("context",), ("question",))
ANSWER_KEYS = ("Answer", "answer")


def example_of(row: Any, where: str) -> Example:
    """A row of the published file (Body, Question, Answer) or of its copies (context, answer).

    Raises UserError, with `where`, for a row without a question or without a number as its answer.
    """
    question = _question(row) if isinstance(row, Mapping) else ""
    if not question:
        raise UserError(
            f"{where} has no question; expected Body and Question, or context; give a file of SVAMP"
        )
    found = next((row[key] for key in ANSWER_KEYS if key in row), None)
    number = parse_number(str(found))
    if number is None:
        raise UserError(f"{where} has the answer {found!r}; expected a number; mend the row")
    # 5.0 in some files and 5 in others is the same answer.
    answer = str(number.numerator if number.denominator == 1 else float(number))
    messages = (Message(role="user", text=question), Message(role="assistant", text=answer))
    return Example(conversation=Conversation(messages=messages), answer=answer)


def score(example: Example, answer_text: str, messages: Sequence[Message] = ()) -> float:
    """1.0 if the final number of the answer is the problem's."""
    return float(gives_number(answer_text, example.answer))


def _question(row: Mapping[str, Any]) -> str:
    for keys in QUESTION_KEYS:
        parts = [row.get(key) for key in keys]
        if all(isinstance(part, str) and part.strip() for part in parts):
            return " ".join(str(part).strip() for part in parts)
    return ""
