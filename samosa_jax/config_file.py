"""YAML files read with the line of every key, so that a mistake is named with its file and line."""

import dataclasses
import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from samosa_jax.errors import ConfigError
from samosa_jax.keys import Key, keys_of, near_miss


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a key was set, and to what, as the user wrote it."""

    where: str  # "configs/a.yaml:3: model.num_layers", or "--model.num_layers"
    text: str


def read_origins(path: Path, cls: type) -> dict[str, Origin]:
    """Every key that the file sets. Raises ConfigError for what is no file, no YAML, or no key of cls."""
    text = _read(path)
    root = _compose(text, path=str(path))
    if root is None:
        raise ConfigError(
            f"{path}: the file sets nothing; write keys such as `name: my-run`, or leave it out"
        )
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(f"{path}:{_line(root)}: the file is {_kind(root)}; expected `key: value` lines")
    return dict(_walk(root, path=str(path), prefix="", keys=keys_of(cls)))


def check_items(text: str, *, where: str, key: Key) -> None:
    """Raises ConfigError if the text of a flag is not YAML, or an item of its list has a wrong key."""
    node = _compose(text, path=where)
    if node is not None:
        _check_list(node, path="", where=where, key=key)


def _read(path: Path) -> str:
    if path.is_dir():
        raise ConfigError(f"--config: {path} is a folder; name a YAML file in it")
    if not path.is_file():
        folder = path.parent if path.parent.is_dir() else Path("configs")
        names = {entry.stem: str(entry) for entry in sorted(folder.glob("*.yaml"))}
        close = difflib.get_close_matches(path.stem, names, n=2, cutoff=0.5)
        hint = f"; did you mean {' or '.join(names[name] for name in close)}?" if close else ""
        raise ConfigError(f"--config: there is no file {path}{hint}")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8 text") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error


def _compose(text: str, *, path: str) -> yaml.Node | None:
    try:
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{path}:{mark.line + 1}" if mark else path
        reason = ", ".join(part for part in (error.context, error.problem) if part)
        raise ConfigError(f"{place}: not valid YAML: {reason}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error


def _walk(
    node: yaml.MappingNode, *, path: str, prefix: str, keys: Mapping[str, Key]
) -> Iterator[tuple[str, Origin]]:
    seen: dict[str, int] = {}
    for name_node, value in node.value:
        name, line = prefix + str(name_node.value), _line(name_node)
        here = f"{path}:{line}: {name}"
        if name in seen:
            raise ConfigError(f"{here} is set twice, first in line {seen[name]}; keep one of them")
        seen[name] = line
        if name in keys:
            _check_list(value, path=path, where=name, key=keys[name])
            yield name, Origin(where=here, text=_text(value))
        elif any(key.startswith(f"{name}.") for key in keys):
            if not isinstance(value, yaml.MappingNode):
                raise ConfigError(
                    f"{here} is {_text(value)!r}; expected keys below it, such as {_example(name, keys)}"
                )
            yield from _walk(value, path=path, prefix=f"{name}.", keys=keys)
        else:
            raise ConfigError(f"{here} is no key{near_miss(name, keys)}")


def _check_list(node: yaml.Node, *, path: str, where: str, key: Key) -> None:
    """Names a wrong or missing key inside a list of mappings; other types are for the parser to judge."""
    item_class = key.item_class
    if item_class is None or not isinstance(node, yaml.SequenceNode):
        return
    accepted = keys_of(item_class)
    required = [name for name, item in accepted.items() if item.default is dataclasses.MISSING]
    for position, item in enumerate(node.value):
        if not isinstance(item, yaml.MappingNode):
            continue
        entry = f"{path}:{_line(item)}: {where}[{position}]" if path else f"{where}[{position}]"
        names = [str(name_node.value) for name_node, _ in item.value]
        for name in names:
            if name not in accepted:
                raise ConfigError(f"{entry}.{name} is no key{near_miss(name, accepted)}")
        missing = [name for name in required if name not in names]
        if missing:
            raise ConfigError(f"{entry} has no {missing[0]}, which every entry needs")


def _example(group: str, keys: Mapping[str, Key]) -> str:
    return next(key for key in keys if key.startswith(f"{group}."))


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1


def _text(node: yaml.Node) -> str:
    return str(node.value) if isinstance(node, yaml.ScalarNode) else _kind(node)


def _kind(node: yaml.Node) -> str:
    if isinstance(node, yaml.ScalarNode):
        return "one value"
    return "a list" if isinstance(node, yaml.SequenceNode) else "a mapping"
