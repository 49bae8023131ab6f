"""The formats in which conversations and preference pairs are published, and which of them a row is.

`FORMATS` is the table: what a row must hold to be of a format, and the adapter that reads it. The first that
fits counts, so the more telling ones stand before those that ask for less.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from samosa_jax.data.chat import adapters as adapters
from samosa_jax.data.chat import preferences as preferences
from samosa_jax.data.chat import trees as trees
from samosa_jax.data.chat.conversation import Conversation
from samosa_jax.data.chat.preferences import PreferencePair
from samosa_jax.errors import UserError

Types = type | tuple[type, ...]


@dataclass(frozen=True, kw_only=True)
class Format:
    """One format of rows.

    Attributes:
        name: what `--format` and messages call it.
        fields: the keys a row must have, and the types of their values; none for rows that are lists.
        convert: the adapter.
        optional: further keys that the adapter reads; all others are the row's own.
        holds: what else must be true of a row that has the fields.
        every: all conversations of a row, for rows that hold several; `convert` gives the best.
        gather: where a row is a single message: the (number, row) of a whole file -> rows of another format.
    """

    name: str
    fields: Mapping[str, Types]
    convert: Callable[[Any], Conversation | PreferencePair]
    optional: tuple[str, ...] = ()
    holds: Callable[[Any], bool] = field(default=lambda row: True)
    every: Callable[[Any], Iterator[Conversation]] | None = None
    gather: Callable[[Iterable[tuple[int, Any]]], Iterator[tuple[int, Any]]] | None = None

    def fits(self, row: Any) -> bool:
        """Whether a row, a JSON value, is of this format."""
        return self.misfit(row) is None and self.holds(row)

    def misfit(self, row: Any) -> str | None:
        """What the fields of a row lack, or None."""
        if not self.fields:
            return (
                None
                if isinstance(row, list)
                else f"it is a {type(row).__name__}, expected a list of messages"
            )
        if not isinstance(row, Mapping):
            return f"it is a {type(row).__name__}, expected an object with {', '.join(self.fields)}"
        for key, types in self.fields.items():
            if key not in row:
                return f'it has no "{key}"'
            if not isinstance(row[key], types):
                return f'"{key}" is a {type(row[key]).__name__}'
        return None

    def other_keys(self, row: Any) -> dict[str, Any]:
        """What a row holds besides the conversation."""
        if not isinstance(row, Mapping):
            return {}
        return {
            key: value for key, value in row.items() if key not in self.fields and key not in self.optional
        }


def _one_conversation(rows: Iterable[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
    numbers, messages = zip(*rows, strict=True)
    yield numbers[0], list(messages)


_MESSAGES: Types = (list, Mapping)
_SIDES = {"chosen": str, "rejected": str}

FORMATS: tuple[Format, ...] = (
    Format(
        name="conversations_pair",
        fields={"conversations": list, "chosen": (str, *_MESSAGES), "rejected": (str, *_MESSAGES)},
        convert=preferences.conversations_pair,
        optional=("system", "tools"),
    ),
    Format(
        name="messages_pair",
        fields={"chosen": _MESSAGES, "rejected": _MESSAGES},
        convert=preferences.messages_pair,
        optional=("prompt", "messages", "system", "tools"),
    ),
    Format(
        name="instruction_pair",
        fields={"instruction": str, **_SIDES},
        convert=preferences.instruction_pair,
        optional=("input", "output", "system"),
    ),
    Format(
        name="prompt_pair",
        fields={"prompt": (str, *_MESSAGES), **_SIDES},
        convert=preferences.prompt_pair,
        optional=("system", "tools"),
    ),
    Format(
        name="orca_pair", fields={"input": str, **_SIDES}, convert=preferences.orca_pair, optional=("system",)
    ),
    Format(
        name="question_pair",
        fields={"question": str, **_SIDES},
        convert=preferences.orca_pair,
        optional=("system",),
    ),
    Format(name="messages", fields={"messages": list}, convert=adapters.messages, optional=("tools",)),
    Format(name="message_list", fields={}, convert=adapters.message_list),
    Format(
        name="samosachaat", fields={"conversation": list}, convert=adapters.samosachaat, optional=("tools",)
    ),
    Format(
        name="sharegpt",
        fields={"conversations": list},
        convert=adapters.sharegpt,
        optional=("system", "tools"),
    ),
    Format(name="oasst_tree", fields={"prompt": Mapping}, convert=trees.best_path, every=trees.every_path),
    Format(
        name="mmlu",
        fields={"question": str, "choices": list, "answer": (int, str)},
        convert=adapters.multiple_choice,
    ),
    Format(name="mmlu_train", fields={"train": Mapping}, convert=adapters.multiple_choice),
    Format(
        name="arc",
        fields={"question": str, "choices": Mapping, "answerKey": str},
        convert=adapters.ai2_reasoning,
    ),
    Format(
        name="open_thoughts",
        fields={"problem": str, "deepseek_reasoning": str, "deepseek_solution": str},
        convert=adapters.open_thoughts_parts,
    ),
    Format(
        name="open_math_reasoning",
        fields={"problem": str, "generated_solution": str},
        convert=adapters.open_math_reasoning,
    ),
    Format(name="limo", fields={"question": str, "solution": str, "answer": str}, convert=adapters.limo),
    Format(
        name="problem_solution", fields={"problem": str, "solution": str}, convert=adapters.problem_solution
    ),
    Format(
        name="gsm8k",
        fields={"question": str, "answer": str},
        convert=adapters.gsm8k,
        holds=lambda row: "\n#### " in row["answer"],
    ),
    Format(name="question_answer", fields={"question": str, "answer": str}, convert=adapters.question_answer),
    Format(
        name="prompt_completion",
        fields={"prompt": (str, *_MESSAGES), "completion": (str, *_MESSAGES)},
        convert=adapters.prompt_completion,
        optional=("system", "tools"),
    ),
    Format(
        name="prompt_response",
        fields={"prompt": (str, *_MESSAGES), "response": (str, *_MESSAGES)},
        convert=adapters.prompt_completion,
        optional=("system", "tools"),
    ),
    Format(
        name="dolly",
        fields={"instruction": str, "response": str},
        convert=adapters.dolly,
        optional=("context",),
    ),
    Format(
        name="alpaca",
        fields={"instruction": str, "output": str},
        convert=adapters.alpaca,
        optional=("input", "system", "history"),
    ),
    Format(name="daily_dialog", fields={"dialog": list}, convert=adapters.daily_dialog),
    Format(
        name="oasst_messages",
        fields={"message_id": str, "parent_id": (str, type(None)), "role": str, "text": str},
        convert=trees.best_path,
        gather=trees.grow_trees,
    ),
    Format(
        name="message_rows",
        fields={"role": str, "content": object},
        convert=adapters.message_list,
        holds=lambda row: row["role"] in ("system", "developer", "user", "assistant", "tool", "function"),
        gather=_one_conversation,
    ),
)

BY_NAME = {known.name: known for known in FORMATS}


def detect(row: Any) -> Format | None:
    """The format of a row, or None when it is of none."""
    return next((known for known in FORMATS if known.fits(row)), None)


def named(name: str) -> Format:
    """The format of that name. Raises UserError naming them all."""
    if name not in BY_NAME:
        raise UserError(f"format {name!r} is unknown; expected auto or one of {', '.join(sorted(BY_NAME))}")
    return BY_NAME[name]
