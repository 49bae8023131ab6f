"""Questions with lettered choices, as in MMLU (https://arxiv.org/abs/2009.03300) and ARC (https://arxiv.org/abs/1803.05457)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from samosa_jax.data.chat.conversation import Conversation, Message
from samosa_jax.errors import UserError
from samosa_jax.tasks.task import Example

LETTERS = "ABCDEFGHIJ"


@dataclass(frozen=True, kw_only=True)
class ChoiceQuestion:
    question: str
    choices: tuple[str, ...]
    answer: int  # index into choices


def example_of(question: ChoiceQuestion) -> Example:
    """The question with lettered choices, answered in a sentence that names letter and text."""
    lettered = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, question.choices, strict=False)]
    letter, text = LETTERS[question.answer], question.choices[question.answer]
    prompt = "\n".join(
        [question.question.strip(), "", *lettered, "", "Which choice is right? Give its letter."]
    )
    messages = (
        Message(role="user", text=prompt),
        Message(role="assistant", text=f"The correct choice is {letter}: {text}"),
    )
    return Example(conversation=Conversation(messages=messages), answer=letter)


def read_choice_row(row: Mapping[str, Any], where: str) -> ChoiceQuestion:
    """A row of MMLU (`choices`, index `answer`) or of ARC (`choices.text`, `choices.label`, `answerKey`).

    Args:
      where: file and row, for errors.

    Raises:
      UserError: fields that are missing or do not fit together.
    """
    question, choices = row.get("question"), row.get("choices")
    if isinstance(choices, Mapping):
        labels, texts, key = choices.get("label"), choices.get("text"), row.get("answerKey")
        answer = labels.index(key) if isinstance(labels, list) and key in labels else None
    else:
        texts, answer = choices, row.get("answer")
    if (
        not isinstance(question, str)
        or not isinstance(texts, list)
        or not all(isinstance(text, str) for text in texts)
        or not 2 <= len(texts) <= len(LETTERS)
        or not isinstance(answer, int)
        or not 0 <= answer < len(texts)
    ):
        raise UserError(
            f"{where} is no multiple-choice question: expected question, choices (2 to {len(LETTERS)} texts) "
            "and the index of the right one in answer, or ARC's choices.text, choices.label and answerKey; "
            f"found {', '.join(map(str, row)) or 'nothing'}"
        )
    return ChoiceQuestion(question=question, choices=tuple(texts), answer=answer)
