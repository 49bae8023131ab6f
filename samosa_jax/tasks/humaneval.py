"""HumanEval (https://arxiv.org/abs/2107.03374): Python functions to write from their head and docstring.

Whoever runs `program(...)` learns whether an answer is right; this file runs nothing.
"""

import re
from collections.abc import Mapping
from typing import Any

from samosa_jax.data.chat.conversation import Conversation, Message
from samosa_jax.errors import UserError
from samosa_jax.tasks.task import Example

KEYS = ("task_id", "prompt", "entry_point", "test", "canonical_solution")
ASKED = (
    "Complete this Python function. Give the whole function in one block of code.\n\n```python\n{prompt}```"
)

_FENCE = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)


def example_of(row: Any, where: str) -> Example:
    """A row of HumanEval.jsonl. Raises UserError, with `where`, for one without all of its texts."""
    missing = [key for key in KEYS if not isinstance(row, Mapping) or not isinstance(row.get(key), str)]
    if missing:
        raise UserError(f"{where} has no text {missing[0]!r}; give a file of HumanEval")
    whole = row["prompt"] + row["canonical_solution"]
    messages = (
        Message(role="user", text=ASKED.format(prompt=row["prompt"])),
        Message(role="assistant", text=f"```python\n{whole.rstrip()}\n```"),
    )
    return Example(
        conversation=Conversation(messages=messages),
        answer=row["canonical_solution"],
        checks={"id": row["task_id"], **{key: row[key] for key in ("prompt", "entry_point", "test")}},
    )


def code_of(example: Example, answer_text: str) -> str:
    """The program part of an answer: its block of code that has the function, else its first, else all.

    What holds no function of that name is read as what goes on after the prompt.
    """
    entry, prompt = example.checks["entry_point"], example.checks["prompt"]
    head = re.compile(rf"^def\s+{re.escape(entry)}\b", re.MULTILINE)
    blocks = _FENCE.findall(answer_text)
    code = next((block for block in blocks if head.search(block)), blocks[0] if blocks else answer_text)
    if not head.search(code):
        return prompt + code
    # Imports and what else stands before the function in the prompt are the prompt's to give.
    before = prompt[: prompt.find(f"def {entry}")]
    return f"{before}\n{code}"


def program(example: Example, answer_text: str, *, passed: str) -> str:
    """Python that prints `passed` as its last line if the answer meets all tests.

    `passed` should be a word that nobody can guess, so that leaving early is no way to pass.
    """
    entry, test = example.checks["entry_point"], example.checks["test"]
    return f"{code_of(example, answer_text)}\n\n{test}\n\ncheck({entry})\nprint('\\n' + {passed!r})\n"
