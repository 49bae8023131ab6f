"""From argv to frozen dataclasses, and from errors to one line and an exit code.

    parsed = parse_config(argv)                                  # for commands that take a whole `Config`
    request = parse_dataclass(argv, Request, description="...")  # for commands with a few flags of their own
    run(main)                                                    # at the bottom of every command

Values come from defaults, then `--config=FILE` (several times) and `--key=value`, in the order given: later
wins. A list of texts is `--key='[a, b]'`, `--key a b`, or `--key=a --key=b`. jsonargparse types, merges
and builds; this file names mistakes with file, line and near miss.
"""

import dataclasses
import functools
import gc
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, NoReturn, TypeVar

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from samosa_jax import dial
from samosa_jax.config import Config, to_dict
from samosa_jax.config_file import Origin, check_items, read_origins
from samosa_jax.errors import ConfigError, UserError
from samosa_jax.keys import Key, help_lines, keys_of, near_miss, type_in_words

T = TypeVar("T")

CONFIG_FLAGS = {
    "explain": "print every derived value with its formula and source, and stop",
    "dry_run": "build everything, run two steps on synthetic tokens, write nothing",
    "print_config": "print the resolved configuration as YAML, and stop",
}
CONFIG_SHORTHANDS = {
    "depth": "model.depth",
    "horizon": "train.horizon",
    "resume": "checkpoint.resume",
    "cost_per_hour": "log.cost_per_hour",
    "profile": "log.profile",
    "data": "data.sources",
}
WEIGHTED = {"data.sources": "path", "rl.tasks": "name"}  # lists of things with a weight, and what names one


@dataclass(frozen=True, kw_only=True)
class ParsedConfig:
    """A resolved configuration, and what to do with it other than run it."""

    config: Config
    dry_run: bool
    explain: bool


def parse_config(
    argv: Sequence[str],
    *,
    description: str = "Train a model.",
    inherit: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda given: {},
) -> ParsedConfig:
    """Resolves files, flags and the dial. --help and --print_config print and exit. Raises ConfigError.

    `inherit` gives further defaults by dotted key, for the values that were given; they stand below these.
    """
    reading = _read(
        argv, Config, description=description, flags=CONFIG_FLAGS, shorthands=CONFIG_SHORTHANDS, positional=()
    )
    given = reading.given()
    inherited = inherit(given)
    config = reading.build(defaults={**inherited, **dial.derive({**inherited, **given})})
    dial.check_horizon(config)
    if "print_config" in reading.flags:
        print(yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True), end="")
        sys.stdout.flush()
        raise SystemExit(0)
    return ParsedConfig(
        config=config,
        dry_run="dry_run" in reading.flags,
        explain="explain" in reading.flags,
    )


def load_config(path: Path) -> Config:
    """The configuration a file holds, such as the config.yaml of a run. Raises ConfigError."""
    return parse_config([f"--config={path}"]).config


def split_options(argv: Sequence[str], cls: type) -> tuple[list[str], list[str]]:
    """The words of argv that set fields of `cls`, and all others, which another parser reads.

    For commands that take a whole `Config` and a few flags beside it. A value may be the next word.
    """
    own: list[str] = []
    others: list[str] = []
    names = keys_of(cls).keys()
    words = list(argv)
    while words:
        word = words.pop(0)
        name, equals, _ = word[2:].partition("=")
        if word.startswith("--") and name.replace("-", "_") in names:
            own.append(word)
            if not equals and words and not words[0].startswith("--"):
                own.append(words.pop(0))
        else:
            others.append(word)
    return own, others


def parse_dataclass(
    argv: Sequence[str],
    cls: type[T],
    *,
    description: str,
    positional: Sequence[str] = (),
    letters: Mapping[str, str] = MappingProxyType({}),
) -> T:
    """Builds cls from flags named after its fields, with the same files and errors as `parse_config`.

    positional names fields that may also be given without a flag, in that order; a last one that is a
    tuple takes all that is left. `letters` gives fields a short flag, {"p": "prompt"} as in `-p TEXT`: its
    value is the next word, whatever that begins with. A field without a default must be given.
    """
    reading = _read(
        argv,
        cls,
        description=description,
        flags={},
        shorthands={},
        positional=tuple(positional),
        letters=letters,
    )
    return reading.build(defaults={})


def run(main: Callable[[list[str]], None], argv: Sequence[str] | None = None) -> NoReturn:
    """Runs a command and exits: 0, 2 after a UserError (one line on stderr), 130 if interrupted.

    A reader of stdout that went away (`| head`) ends it silently with 141. Anything else is a bug of ours
    and keeps its traceback.
    """
    gc.freeze()  # what is imported stays: collections that visit all of JAX took a tenth of a short run
    try:
        main(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
    except UserError as error:
        print(f"error: {_one_line(error)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # The interpreter flushes stdout once more on its way out; give it somewhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    sys.exit(0)


@dataclass(frozen=True, kw_only=True)
class _Reading(Generic[T]):
    """An argv whose keys are all known, in canonical form, ready for the parser."""

    cls: type[T]
    keys: Mapping[str, Key]
    arguments: list[str]  # --config=FILE and --key=value
    origins: dict[str, Origin]  # where each key was last set
    flags: set[str] = field(default_factory=set)

    def given(self) -> dict[str, Any]:
        """The values that files and flags set, typed, by dotted key."""
        namespace = self._parse({}, only_given=True)
        return {name: value for name, value in namespace.items() if name != "config"}

    def build(self, *, defaults: Mapping[str, object]) -> T:
        """The dataclass, where `defaults` come before those of its fields."""
        for name, key in self.keys.items():
            if key.default is dataclasses.MISSING and name not in self.origins:
                raise ConfigError(f"--{name} is missing; expected {type_in_words(key.type)}")
        namespace = self._parse(defaults, only_given=False)
        values = _plain_parser(self.cls).instantiate(namespace)
        return self.cls(**{spec.name: values[spec.name] for spec in _fields(self.cls)})

    def _parse(self, defaults: Mapping[str, object], *, only_given: bool):
        parser = _plain_parser(self.cls)
        if defaults:
            parser = _make_parser(self.cls)
            parser.set_defaults(dict(defaults))
        try:
            return parser.parse_args(self.arguments, defaults=not only_given)
        except ArgumentError as error:
            raise ConfigError(self._in_one_line(error)) from error

    def _in_one_line(self, error: ArgumentError) -> str:
        named = re.search(r'Parser key "([^"]+)"', str(error))
        name = named.group(1) if named else ""
        if name not in self.keys or name not in self.origins:
            return _one_line(error)
        origin = self.origins[name]
        return f"{origin.where} is {origin.text!r}; expected {type_in_words(self.keys[name].type)}"


@functools.cache
def _plain_parser(cls: type) -> ArgumentParser:
    """With the defaults of the dataclass; to make one takes longer than to parse."""
    return _make_parser(cls)


def _make_parser(cls: type) -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False, allow_abbrev=False, add_help=False)
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(cls, as_group=False)
    return parser


def _read(
    argv: Sequence[str],
    cls: type[T],
    *,
    description: str,
    flags: Mapping[str, str],
    shorthands: Mapping[str, str],
    positional: tuple[str, ...],
    letters: Mapping[str, str] = MappingProxyType({}),
) -> _Reading[T]:
    """Checks every key of argv and of its files; prints help and exits if asked."""
    keys = keys_of(cls)
    reading = _Reading(cls=cls, keys=keys, arguments=[], origins={})
    words: dict[str, list[str]] = {}  # of lists given word by word
    options = _options(argv, keys=keys, switches={*flags, "help"}, positional=positional, letters=letters)
    for name, text in options:
        if name == "help":
            _print_help(
                cls, description, flags=flags, shorthands=shorthands, positional=positional, letters=letters
            )
            raise SystemExit(0)
        if name in flags:
            if text not in ("true", "false"):
                raise ConfigError(f"--{name} is {text!r}; it is a switch and takes no value")
            reading.flags.discard(name)
            reading.flags.update([name] if text == "true" else [])
        elif name == "config":
            reading.origins.update(read_origins(Path(text), cls))
            reading.arguments.append(f"--config={text}")
        else:
            key, value = shorthands.get(name, name), text
            if key in WEIGHTED:
                value = weighted_from_text(text, flag=f"--{name}", names=WEIGHTED[key])
            if key not in keys:
                raise ConfigError(_unknown(key, keys, extra=[*flags, *shorthands, "config", "help"]))
            if keys[key].is_text_list and not text.startswith("["):
                words.setdefault(key, []).append(text)
                value = json.dumps(words[key])
            if keys[key].type is not str:  # text may be anything
                check_items(value, where=f"--{key}", key=keys[key])
            reading.origins[key] = Origin(where=f"--{name}", text=text)
            reading.arguments.append(f"--{key}={value}")
    return reading


def _options(
    argv: Sequence[str],
    *,
    keys: Mapping[str, Key],
    switches: set[str],
    positional: tuple[str, ...],
    letters: Mapping[str, str],
) -> Iterator[tuple[str, str]]:
    """(name, text) of each option: --a=b, --a b, --a (a switch, a bool), --a b c (a list), or by position.

    A letter of `letters` always takes the next word: -a b.
    """
    words = list(argv)
    places = list(positional)
    while words:
        word = words.pop(0)
        if word in ("-h", "--help"):
            yield "help", "true"
        elif word.startswith("-") and word[1:] in letters:
            name = letters[word[1:]]
            if not words:
                raise ConfigError(f"{word} has no value; expected {type_in_words(keys[name].type)}")
            yield name, words.pop(0)
        elif word.startswith("--"):
            name, equals, text = word[2:].partition("=")
            name = name.replace("-", "_")
            if not equals:
                follows = bool(words) and not words[0].startswith("--")
                if name in switches or (name in keys and keys[name].is_bool):
                    text = words.pop(0) if follows and words[0] in ("true", "false") else "true"
                elif follows:
                    text = words.pop(0)
                    while (
                        name in keys and keys[name].is_text_list and words and not words[0].startswith("--")
                    ):
                        yield name, text
                        text = words.pop(0)
                elif name in keys:
                    raise ConfigError(f"--{name} has no value; expected {type_in_words(keys[name].type)}")
            yield name, text
        elif not places:
            hint = f"; did you mean --{word}?" if word.partition("=")[0] in keys else ""
            raise ConfigError(f"{word!r} belongs to no flag; values are given as --key=value{hint}")
        else:
            yield (places[0] if keys[places[0]].is_list else places.pop(0)), word


def weighted_from_text(text: str, *, flag: str, names: str) -> str:
    """`a` or `a=0.83,b=0.17` as the YAML list of entries with a weight; a list already is left as it is.

    names: the key of what names an entry. Raises ConfigError for a weight that is no number.
    """
    if text.lstrip().startswith("["):
        return text
    entries: list[dict[str, object]] = []
    for part in text.split(","):
        name, equals, weight = part.strip().rpartition("=")
        entry: dict[str, object] = {names: name if equals else weight}
        if equals:
            try:
                entry["weight"] = float(weight)
            except ValueError as error:
                raise ConfigError(
                    f"{flag} gives {name} the weight {weight!r}; expected a number, as in {flag}={name}=0.5"
                ) from error
        entries.append(entry)
    return json.dumps(entries)


def _print_help(
    cls: type,
    description: str,
    *,
    flags: Mapping[str, str],
    shorthands: Mapping[str, str],
    positional: tuple[str, ...],
    letters: Mapping[str, str],
) -> None:
    print(f"{description}\n\n{' '.join(['usage: [--config=FILE ...] [--key=value ...]', *positional])}\n")
    switches = {"config=FILE": "read keys from a YAML file; several times, later wins", **flags}
    for name, note in switches.items():
        print(f"  --{name:<16}{note}")
    for letter, name in letters.items():
        print(f"  -{letter + ' TEXT':<17}the same as --{name}=TEXT")
    for short, name in shorthands.items():
        note = ", written FOLDER or FOLDER=WEIGHT,FOLDER=WEIGHT" if name == "data.sources" else ""
        print(f"  --{short:<16}the same as --{name}{note}")
    print("\n" + "\n".join(help_lines(cls)))
    sys.stdout.flush()


def _unknown(name: str, keys: Mapping[str, Key], *, extra: Sequence[str] | set[str]) -> str:
    group = [key for key in keys if key.startswith(f"{name}.")]
    if group:
        return f"--{name} is a group; set its keys, such as --{group[0]}"
    hint = near_miss(name, [*keys, *extra], prefix="--")
    return f"--{name} is no flag{hint or '; see --help for all of them'}"


def _fields(cls: Any) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(cls)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
