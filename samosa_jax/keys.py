"""The dotted keys of a tree of configuration dataclasses: their types in words, their help, near misses.

The help text of a key is the comment beside its field, so that it is written once.
"""

import builtins
import dataclasses
import difflib
import functools
import inspect
import io
import re
import sys
import textwrap
import tokenize
import types
import typing
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Key:
    """One value that a file or a flag can set."""

    name: str  # dotted: model.num_layers
    type: object
    default: object  # dataclasses.MISSING if the key must be given
    help: str

    @property
    def is_bool(self) -> bool:
        return self.type is bool

    @property
    def is_list(self) -> bool:
        return typing.get_origin(self.type) is tuple

    @property
    def is_text_list(self) -> bool:
        return self.is_list and typing.get_args(self.type)[0] is str

    @property
    def item_class(self) -> builtins.type | None:
        """Of a list of dataclasses, that dataclass."""
        item = typing.get_args(self.type)[0] if self.is_list else None
        return item if isinstance(item, type) and dataclasses.is_dataclass(item) else None


@functools.cache
def keys_of(cls: type) -> dict[str, Key]:
    """All keys of a dataclass whose fields may be dataclasses, in the order they are written."""
    found: dict[str, Key] = {}
    comments = _field_comments(cls)
    hints = typing.get_type_hints(cls)
    for spec in dataclasses.fields(cls):
        factory = spec.default_factory
        default = spec.default if factory is dataclasses.MISSING else factory()
        if dataclasses.is_dataclass(default):
            for name, key in keys_of(type(default)).items():
                inner = functools.reduce(getattr, name.split("."), default)
                dotted = f"{spec.name}.{name}"
                found[dotted] = dataclasses.replace(key, name=dotted, default=inner)
        else:
            found[spec.name] = Key(
                name=spec.name, type=hints[spec.name], default=default, help=comments.get(spec.name, "")
            )
    return found


def near_miss(name: str, candidates: Iterable[str], *, prefix: str = "") -> str:
    """`; did you mean ...?`, or nothing: a key with the same or a similar last part, or a similar whole.

    prefix is written before each key that is offered.
    """
    names = list(dict.fromkeys(candidates))
    last = name.rpartition(".")[2]
    leaves: dict[str, list[str]] = {}
    for candidate in names:
        leaves.setdefault(candidate.rpartition(".")[2], []).append(candidate)
    similar = list(leaves.get(last, ()))
    similar += difflib.get_close_matches(name, names, n=2, cutoff=0.75)
    for leaf in difflib.get_close_matches(last, leaves, n=2, cutoff=0.75):
        similar += leaves[leaf]
    likeness = {key: difflib.SequenceMatcher(None, name, key).ratio() for key in similar}
    if not likeness:
        return ""
    best = max(likeness.values())
    chosen = [
        prefix + key for key in sorted(likeness, key=lambda key: -likeness[key]) if likeness[key] > best - 0.1
    ]
    return f"; did you mean {' or '.join(chosen[:3])}?"


def type_in_words(annotation: object) -> str:
    """What a value of this type looks like, for an error message or for help."""
    if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
        return "{" + ", ".join(spec.name for spec in dataclasses.fields(annotation)) + "}"
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return ("one of " if len(arguments) > 1 else "") + ", ".join(str(argument) for argument in arguments)
    if origin is tuple:
        plain = {str: "texts", int: "integers", float: "numbers"}
        return f"a list of {plain.get(arguments[0]) or type_in_words(arguments[0])}"
    if origin in (typing.Union, types.UnionType):
        parts = [type_in_words(argument) for argument in arguments if argument is not types.NoneType]
        return " or ".join([*parts, "null"] if types.NoneType in arguments else parts)
    words = {int: "an integer", float: "a number", bool: "true or false", str: "text"}
    return next((text for kind, text in words.items() if annotation is kind), str(annotation))


def help_lines(cls: type) -> list[str]:
    """One line per key, aligned: flag with its default, then what it is."""
    rows = []
    for key in keys_of(cls).values():
        default = "" if key.default is dataclasses.MISSING else f"={_short(key.default)}"
        note = key.help
        if typing.get_origin(key.type) is typing.Literal:
            choices = "|".join(str(choice) for choice in typing.get_args(key.type))
            note = f"{choices}{'; ' if note else ''}{note}"
        rows.append((f"  --{key.name}{default}", note))
    width = min(44, max(len(flag) for flag, _ in rows))
    return [f"{flag:<{width}}  {note}".rstrip() for flag, note in rows]


def _short(value: object) -> str:
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    if isinstance(value, (tuple, list)):
        text = "[" + ", ".join(map(str, value)) + "]"
    return text


def _source(cls: type) -> str:
    """The text of a class. inspect.getsource would parse the file's syntax tree, which CPython 3.11 does
    wrongly, with a SystemError, if another thread or the garbage collector parses anything meanwhile."""
    lines, _ = inspect.findsource(sys.modules[cls.__module__])
    start = next(row for row, line in enumerate(lines) if re.match(rf"\s*class {cls.__name__}\b", line))
    return textwrap.dedent("".join(inspect.getblock(lines[start:])))


def _field_comments(cls: type) -> dict[str, str]:
    """Field -> the comment at the end of its line."""
    comments: dict[str, str] = {}
    field_name = ""
    source = _source(cls)
    previous = None
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if (
            token.type == tokenize.OP
            and token.string == ":"
            and previous is not None
            and previous.start[1] == 4
        ):
            field_name = previous.string
        elif token.type == tokenize.COMMENT and field_name and token.line.strip() != token.string:
            comments[field_name] = token.string.removeprefix("#").strip()
        elif token.type == tokenize.NEWLINE:
            field_name = ""
        previous = token
    return comments
