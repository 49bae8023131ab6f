"""YAML files that plan experiments, read with the line of every key, so that a mistake is named by it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from samosa_jax.config import Config
from samosa_jax.errors import UserError
from samosa_jax.keys import keys_of, near_miss, type_in_words

# What tells the runs of an experiment apart is for the experiment to choose.
CHOSEN = ("name", "out_dir", "seed")


@dataclass(frozen=True)
class Setting:
    """A key of the configuration and its value as a flag takes it."""

    key: str
    text: str
    where: str  # "configs/ablations/text.yaml:12: row mqa: set.model.num_kv_heads"

    @property
    def flag(self) -> str:
        return f"--{self.key}={self.text}"


class PlanTable:
    """A mapping of a plan: the whole file, or a row of it. Every error names file, line, row and key."""

    def __init__(self, node: yaml.Node, *, path: Path, trail: str = "") -> None:
        """trail: what stands before a key in errors, such as "row mqa: ". Raises UserError."""
        self.path = path
        self.trail = trail
        self._line = node.start_mark.line + 1
        if not isinstance(node, yaml.MappingNode):
            raise UserError(f"{path}:{self._line}: {trail}expected `key: value` lines")
        self._nodes: dict[str, yaml.Node] = {}
        for name, value in node.value:
            if name.value in self._nodes:
                line = name.start_mark.line + 1
                raise UserError(f"{path}:{line}: {trail}{name.value} is set twice; keep one of them")
            self._nodes[str(name.value)] = value

    @property
    def where(self) -> str:
        return f"{self.path}:{self._line}: {self.trail}".removesuffix(": ")

    def check_keys(self, accepted: Sequence[str]) -> None:
        """Raises UserError for a key that means nothing here."""
        for name in self._nodes:
            if name not in accepted:
                hint = near_miss(name, accepted) or f"; there are {', '.join(accepted)}"
                raise UserError(f"{self._place(name)} is no key{hint}")

    def has(self, key: str) -> bool:
        return key in self._nodes

    def place(self, key: str) -> str:
        """Where the key stands; of a key that is not given, where the table begins."""
        return self._place(key) if key in self._nodes else self.where

    def text(self, key: str, default: str | None = None) -> str:
        """A text; one that must be given if default is None."""
        value = self._value(key, default)
        if not isinstance(value, str) or not (value or default == ""):
            raise UserError(f"{self._place(key)} is {value!r}; expected text")
        return value

    def folder_name(self, key: str) -> str:
        """A text that names a folder, one that must be given."""
        value = self.text(key)
        if "/" in value or value.startswith("."):
            raise UserError(f"{self._place(key)} is {value!r}; it names a folder, without a slash")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts, empty if not given."""
        value = self._value(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
            raise UserError(f"{self._place(key)} is {value!r}; expected a list of texts")
        return tuple(value)

    def numbers(self, key: str, *, kind: type[int] | type[float], low: float) -> tuple[Any, ...]:
        """A list of different numbers, none below low; one that must be given."""
        value = self._value(key)
        accepted = (int,) if kind is int else (int, float)
        words = "whole numbers" if kind is int else "numbers"
        fits = isinstance(value, list) and all(
            isinstance(item, accepted) and not isinstance(item, bool) and low <= item < float("inf")
            for item in value
        )
        if not fits or not value:
            raise UserError(f"{self._place(key)} is {value!r}; expected a list of {words} from {low:g} on")
        if len(set(value)) != len(value):
            raise UserError(f"{self._place(key)} is {value!r}; give every number once")
        return tuple(kind(item) for item in value)

    def whole_number(self, key: str, *, low: int) -> int:
        """One that must be given."""
        value = self._value(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < low:
            raise UserError(f"{self._place(key)} is {value!r}; expected a whole number from {low} on")
        return value

    def tables(self, key: str, *, names: str) -> list["PlanTable"]:
        """A list of mappings, each of which has a `name`; `names` is what one is called in errors."""
        node = self._nodes.get(key)
        if not isinstance(node, yaml.SequenceNode) or not node.value:
            raise UserError(f"{self.place(key)}: {key} must be a list of {names}s, each with a name")
        found: dict[str, PlanTable] = {}
        for item in node.value:
            name = PlanTable(item, path=self.path, trail=f"{names}: ").text("name")
            table = PlanTable(item, path=self.path, trail=f"{names} {name}: ")
            if name in found:
                raise UserError(f"{table._place('name')} is taken; choose another one")
            found[name] = table
        return list(found.values())

    def settings(self, key: str, *, refused: Mapping[str, str] | None = None) -> tuple[Setting, ...]:
        """Keys of the configuration, nested or dotted. `refused` are those the plan decides, with why."""
        node = self._nodes.get(key)
        if node is None:
            return ()
        if not isinstance(node, yaml.MappingNode):
            raise UserError(f"{self._place(key)} must hold keys of the configuration, such as model.qk_norm")
        refusals = {**dict.fromkeys(CHOSEN, "the experiment gives every run its own"), **(refused or {})}
        found: dict[str, Setting] = {}
        self._collect(node, prefix="", trail=key, found=found)
        for setting in found.values():
            if setting.key in refusals:
                raise UserError(f"{setting.where} cannot be set here: {refusals[setting.key]}")
        return tuple(found.values())

    def _collect(self, node: yaml.MappingNode, *, prefix: str, trail: str, found: dict[str, Setting]) -> None:
        keys = keys_of(Config)
        for name_node, value in node.value:
            key = f"{prefix}{name_node.value}"
            where = f"{self.path}:{name_node.start_mark.line + 1}: {self.trail}{trail}.{key}"
            if key in keys:
                if key in found:
                    raise UserError(f"{where} is set twice; keep one of them")
                if isinstance(value, yaml.MappingNode):
                    raise UserError(f"{where} holds further keys; expected {type_in_words(keys[key].type)}")
                found[key] = Setting(key, _flag_text(value, where=where), where)
            elif any(known.startswith(f"{key}.") for known in keys):
                if not isinstance(value, yaml.MappingNode):
                    raise UserError(f"{where} is a group; set keys below it")
                self._collect(value, prefix=f"{key}.", trail=trail, found=found)
            else:
                raise UserError(f"{where} is no key{near_miss(key, keys)}")

    def _value(self, key: str, default: Any = None) -> Any:
        if key not in self._nodes:
            if default is None:
                raise UserError(f"{self.where}: {key} is missing")
            return default
        return _plain(self._nodes[key], where=self._place(key))

    def _place(self, key: str) -> str:
        line = self._nodes[key].start_mark.line + 1 if key in self._nodes else self._line
        return f"{self.path}:{line}: {self.trail}{key}"


def read_plan(path: Path) -> PlanTable:
    """The whole file. Raises UserError if it is none, no YAML, or no mapping."""
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except OSError as error:
        near = sorted(str(other) for other in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        hint = near_miss(str(path), near) or (f"; there are {', '.join(near)}" if near else "")
        raise UserError(f"{path} cannot be read ({error.strerror}){hint}") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: no YAML can be read from it ({' '.join(str(error).split())})") from error
    if root is None:
        raise UserError(f"{path}: the file is empty; it must plan an experiment")
    return PlanTable(root, path=path)


def _plain(node: yaml.Node, *, where: str) -> Any:
    """The value of a node. Raises UserError for what YAML cannot read, such as 2024-02-31 or !unknown."""
    try:
        return yaml.safe_load(yaml.serialize(node))
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(
            f"{where} cannot be read ({' '.join(str(error).split())}); put it in quotes"
        ) from error


def _flag_text(node: yaml.Node, *, where: str) -> str:
    if isinstance(node, yaml.ScalarNode):
        return "null" if _plain(node, where=where) is None else str(node.value)
    return json.dumps(_plain(node, where=where))
