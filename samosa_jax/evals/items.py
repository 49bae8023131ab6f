"""Questions that are answered by likelihood: the three kinds of CORE, read from rows of files.

Rows are those of llm-foundry and DCLM (https://arxiv.org/abs/2406.11794):

    multiple_choice     {"query": ..., "choices": [...], "gold": 2}
    schema              {"context_options": [...], "continuation": ..., "gold": 0}
    language_modeling   {"context": ..., "continuation": ...}
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from samosa_jax.errors import UserError

Kind = Literal["multiple_choice", "schema", "language_modeling"]
KINDS: tuple[Kind, ...] = ("multiple_choice", "schema", "language_modeling")


@dataclass(frozen=True, kw_only=True)
class ChoiceItem:
    """One context and several continuations of it."""

    name: str  # unique in its task
    query: str
    choices: tuple[str, ...]
    gold: int  # the right one
    group: str = ""  # examples of the same group are shown before it, as MMLU's subjects


@dataclass(frozen=True, kw_only=True)
class SchemaItem:
    """Several contexts and one continuation, likeliest after the right one."""

    name: str
    contexts: tuple[str, ...]
    continuation: str
    gold: int
    group: str = ""


@dataclass(frozen=True, kw_only=True)
class TextItem:
    """A context and the one right continuation, which is to be the likeliest token by token."""

    name: str
    context: str
    continuation: str
    group: str = ""


Item = ChoiceItem | SchemaItem | TextItem
FIRST_FIELDS: Mapping[Kind, str] = {  # rows of this form have it, others do not
    "multiple_choice": "query",
    "schema": "context_options",
    "language_modeling": "context",
}


def read_item(row: Any, *, kind: Kind, name: str, where: str) -> Item:
    """The item of a row in the form above; other fields of it are passed over.

    Raises UserError for a field that is missing or no text, and for a gold index out of range.
    """
    fields = Fields(row, where)
    if kind == "multiple_choice":
        choices = fields.texts("choices")
        return ChoiceItem(
            name=name, query=fields.text("query"), choices=choices, gold=fields.index("gold", len(choices))
        )
    if kind == "schema":
        contexts = fields.texts("context_options")
        gold = fields.index("gold", len(contexts))
        return SchemaItem(name=name, contexts=contexts, continuation=fields.text("continuation"), gold=gold)
    return TextItem(name=name, context=fields.text("context"), continuation=fields.text("continuation"))


class Fields:
    """The fields of a row, with errors that say where it stands and what it has."""

    def __init__(self, row: Any, where: str) -> None:
        if not isinstance(row, Mapping):
            raise UserError(f"{where} is {type(row).__name__}; expected an object with named fields")
        self.row = row
        self.where = where

    def text(self, name: str) -> str:
        value = self._get(name)
        if not isinstance(value, str) or not value.strip():
            raise self.wrong(name, "a text that is not empty")
        return value

    def texts(self, name: str, *, least: int = 2) -> tuple[str, ...]:
        value = self._get(name)
        if (
            not isinstance(value, list)
            or len(value) < least
            or not all(isinstance(x, str) and x for x in value)
        ):
            raise self.wrong(name, f"a list of at least {least} texts")
        return tuple(value)

    def index(self, name: str, count: int, *, first: int = 0) -> int:
        """A whole number, also written as a text, counted from `first`; returned counted from 0."""
        value = self._get(name)
        number = int(value) if isinstance(value, str) and value.strip().isdigit() else value
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number - first < count:
            raise self.wrong(name, f"a whole number from {first} to {first + count - 1}")
        return number - first

    def one_of(self, name: str, options: tuple[str, ...]) -> int:
        value = self._get(name)
        if value not in options:
            raise self.wrong(name, f"one of {', '.join(options)}")
        return options.index(value)

    def boolean(self, name: str) -> bool:
        value = self._get(name)
        if not isinstance(value, bool):
            raise self.wrong(name, "true or false")
        return value

    def group(self, name: str) -> "Fields":
        return Fields(self._get(name), f"{self.where}: {name}")

    def has_text(self, name: str) -> bool:
        return bool(self.row.get(name))

    def wrong(self, name: str, expected: str) -> UserError:
        return UserError(f"{self.where}: {name} is {self.row[name]!r:.60}; expected {expected}")

    def _get(self, name: str) -> Any:
        if name not in self.row:
            found = ", ".join(map(str, self.row)) or "nothing"
            raise UserError(f"{self.where} has no {name}; found {found}")
        return self.row[name]
