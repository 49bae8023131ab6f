"""Probes: what a user would try first, each with checks that its answer must pass, read from YAML files.

    category: reasoning
    probes:
      - name: long_product
        say: "{a} × {b} = ?"
        with: {a: 23, b: 47}
        compute: {product: "{a} * {b}"}
        checks: {answer_number: "{product}"}
        variants:
          say: ["What number do I get from {a} times {b}?"]
          numbers: {a: [12, 99], b: [12, 99]}

A name in braces stands for a value of `with`, of `compute` (worked out by the calculator) or of the persona.
docs/probes_and_gates.md explains every key.
"""

import difflib
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from samosa_jax.errors import UserError
from samosa_jax.evals.probe_checks import ANY, CHECKS, STANDING, TOOL_NAMES
from samosa_jax.keys import near_miss
from samosa_jax.tasks.calculator import CalculatorError, calculate
from samosa_jax.tasks.catalog import TASK_NAMES
from samosa_jax.tasks.identity import Persona
from samosa_jax.tasks.tool_schemas import WEB_SEARCH

PLACE = re.compile(r"\{([a-z][a-z_]*)\}")  # {2} and {1,3} of a regular expression are none
PROBE_KEYS = (
    *("name", "say", "turns", "think", "tools", "must_pass"),
    *("with", "compute", "checks", "variants"),
)
VARIANT_KEYS = ("say", "numbers", "cases", "task")
MUST_PASS, ARTEFACTS = "must_pass", "artefacts"  # results of a suite that no category may be named like
OWN_PROBES = Path(__file__).parents[2] / "configs" / "probes"
PAGES_FILE = "pages.jsonl"  # what web_search finds


@dataclass(frozen=True, kw_only=True)
class Variants:
    """How a probe is asked otherwise.

    Attributes:
        say: other wordings of the last turn; empty: the probe's own.
        numbers: (lowest, highest, step) to draw a value from.
        cases: values that belong together, one of which is taken.
        task: NAME or NAME/KIND of a task whose held-out examples are asked instead.
    """

    say: tuple[str, ...] = ()
    numbers: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
    cases: tuple[Mapping[str, str], ...] = ()
    task: str = ""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What the user says, and what the assistant is made to have said; None: the model answers."""

    user: str
    assistant: str | None = None


@dataclass(frozen=True, kw_only=True)
class Probe:
    """One probe, its places not yet filled.

    Attributes:
        thinks: every answer is made to begin with a thought.
        tools_run: calls of tools are answered.
        must_pass: it also counts in the result of those that no gate should forgive.
        values: what places stand for.
        computed: further values as expressions for the calculator, in the order they are worked out.
        checks: by name; the standing ones among them.
    """

    where: str  # file and name, for messages
    name: str
    category: str
    turns: tuple[Turn, ...]
    thinks: bool
    tools_run: bool
    must_pass: bool
    values: Mapping[str, str]
    computed: Mapping[str, str]
    checks: Mapping[str, Any]
    variants: Variants | None


@dataclass(frozen=True, kw_only=True)
class Suite:
    """All probes of a folder.

    Attributes:
        pages: JSONL that web_search searches; None: there is no such tool.
        fingerprint: of the files.
    """

    probes: tuple[Probe, ...]
    pages: Path | None
    fingerprint: str

    @property
    def categories(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(probe.category for probe in self.probes))


def load_suite(folder: Path) -> Suite:
    """The probes of all *.yaml of a folder, in the order of the files' names.

    Raises UserError if there is no such folder, or for what is wrong, by file, probe and key.
    """
    files = sorted(folder.glob("*.yaml")) if folder.is_dir() else []
    if not files:
        raise UserError(f"{folder} holds no *.yaml with probes; name a folder such as configs/probes")
    probes = [probe for path in files for probe in _read_file(path)]
    pages = folder / PAGES_FILE if (folder / PAGES_FILE).is_file() else None
    searching = next((probe for probe in probes if _wants_search(probe)), None)
    if pages is None and searching is not None:
        raise UserError(
            f"{searching.where} wants a search of {folder / PAGES_FILE}, which is not there; put a row of "
            "JSON per page in it"
        )
    seen: dict[str, str] = {}
    for probe in probes:
        if probe.name in seen:
            raise UserError(f"{probe.where}: the name is taken by {seen[probe.name]}; choose another one")
        seen[probe.name] = probe.where
    read = files if pages is None else [*files, pages]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in read))
    return Suite(probes=tuple(probes), pages=pages, fingerprint=digest.hexdigest()[:16])


def _wants_search(probe: Probe) -> bool:
    calls = (probe.checks.get("must_call", ()), probe.checks.get("call_contains", {}))
    return any(WEB_SEARCH in called for called in calls) or "citation_required" in probe.checks


def values_of(probe: Probe, given: Mapping[str, str], persona: Persona) -> dict[str, str]:
    """Everything that places of the probe may stand for, where `given` are its values.

    Raises UserError for an expression that cannot be worked out.
    """
    values = {**persona_values(persona), **given}
    for name, expression in probe.computed.items():
        filled = fill(expression, values, where=f"{probe.where}: compute.{name}")
        try:
            values[name] = calculate(filled)
        except CalculatorError as error:
            raise UserError(
                f"{probe.where}: compute.{name} is {filled!r}, which the calculator does not take ({error})"
            ) from None
    return values


def persona_values(persona: Persona) -> dict[str, str]:
    return {name: value for name, value in vars(persona).items() if isinstance(value, str)}


def fill(text: str, values: Mapping[str, str], *, where: str, escape: bool = False) -> str:
    """The text with its places filled. Raises UserError, with `where`, for a place without a value.

    escape: values stand in a regular expression.
    """

    def value(match: re.Match[str]) -> str:
        if match[1] not in values:
            hint = near_miss(match[1], values) or f"; there are {', '.join(values)}"
            raise UserError(f"{where} has {match[0]}, which stands for nothing{hint}")
        return re.escape(values[match[1]]) if escape else values[match[1]]

    return PLACE.sub(value, text)


def fill_checks(probe: Probe, values: Mapping[str, str]) -> dict[str, Any]:
    """The checks with their places filled. Raises UserError for a place without a value."""
    filled: dict[str, Any] = {}
    for name, value in probe.checks.items():
        where, escape = f"{probe.where}: checks.{name}", CHECKS[name].kind == "a regular expression"
        if isinstance(value, str):
            filled[name] = fill(value, values, where=where, escape=escape)
        elif isinstance(value, tuple):
            filled[name] = tuple(fill(item, values, where=where) for item in value)
        elif isinstance(value, Mapping):
            filled[name] = {key: fill(item, values, where=where) for key, item in value.items()}
        else:
            filled[name] = value
    return filled


def _read_file(path: Path) -> list[Probe]:
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: no YAML can be read from it ({' '.join(str(error).split())})") from None
    _check_keys(raw, ("category", "probes"), where=str(path), needed=("category", "probes"))
    category, rows = raw["category"], raw["probes"]
    if not isinstance(category, str) or not re.fullmatch(r"[a-z][a-z0-9_]*", category):
        raise UserError(f"{path}: category is {category!r}; expected a word such as tool_use")
    if category in (MUST_PASS, ARTEFACTS):
        raise UserError(f"{path}: category is {category!r}, which names another result; choose another word")
    if not isinstance(rows, list) or not rows:
        raise UserError(f"{path}: probes is {_kind(rows)}; expected a list of at least one probe")
    return [_read_probe(row, category, path, number) for number, row in enumerate(rows, start=1)]


def _read_probe(raw: Any, category: str, path: Path, number: int) -> Probe:
    where = f"{path}: probe {number}"
    _check_keys(raw, PROBE_KEYS, where=where, needed=("name",))
    if not isinstance(raw["name"], str) or not re.fullmatch(r"[a-z0-9_]+", raw["name"]):
        raise UserError(f"{where}: name is {raw['name']!r}; expected small letters, digits and underscores")
    where = f"{path}: probe {raw['name']}"
    checks = raw.get("checks") or {}
    probe = Probe(
        where=where,
        name=raw["name"],
        category=category,
        turns=_read_turns(raw, where),
        thinks=_boolean(raw, "think", where),
        tools_run=_boolean(raw, "tools", where),
        must_pass=_boolean(raw, "must_pass", where),
        values=_texts_by_name(raw.get("with"), f"{where}: with"),
        computed=_texts_by_name(raw.get("compute"), f"{where}: compute"),
        checks={**STANDING, **_read_checks(checks, where)},
        variants=_read_variants(raw["variants"], f"{where}: variants") if "variants" in raw else None,
    )
    _check_values(probe)
    return probe


def _check_values(probe: Probe) -> None:
    """That every place has a value, with the probe's own values and with every case of its variants."""
    variants = probe.variants or Variants()
    known = set(probe.values)
    drawn = [*variants.numbers, *(name for case in variants.cases for name in case)]
    for name in drawn:
        if name not in known:
            hint = near_miss(name, known) or f"; `with` has {', '.join(known) or 'nothing'}"
            raise UserError(f"{probe.where}: variants draw {name!r}, which `with` does not give{hint}")
    for case in variants.cases:
        fill_checks(probe, values_of(probe, {**probe.values, **case}, Persona()))
    values = values_of(probe, probe.values, Persona())
    wordings = [(f"turns[{number}]", turn.user) for number, turn in enumerate(probe.turns)]
    wordings += [(f"turns[{number}]", turn.assistant or "") for number, turn in enumerate(probe.turns)]
    wordings += [("variants.say", wording) for wording in variants.say]
    for key, wording in wordings:
        fill(wording, values, where=f"{probe.where}: {key}")
    pattern = fill_checks(probe, values).get("answer_regex")
    if pattern is not None:
        try:
            re.compile(pattern)
        except re.error as error:
            raise UserError(
                f"{probe.where}: checks.answer_regex is {pattern!r}, no regular expression ({error})"
            ) from None


def _read_turns(raw: Mapping[str, Any], where: str) -> tuple[Turn, ...]:
    if ("say" in raw) == ("turns" in raw):
        raise UserError(f"{where} needs one of say (a text) and turns (a list)")
    if "say" in raw:
        return (Turn(user=_text(raw["say"], f"{where}: say")),)
    if not isinstance(raw["turns"], list) or not raw["turns"]:
        raise UserError(f"{where}: turns is {_kind(raw['turns'])}; expected a list of what the user says")
    turns: list[Turn] = []
    for number, turn in enumerate(raw["turns"]):
        here = f"{where}: turns[{number}]"
        if isinstance(turn, Mapping):
            _check_keys(turn, ("user", "assistant"), where=here, needed=("user", "assistant"))
            turns.append(Turn(user=_text(turn["user"], here), assistant=_text(turn["assistant"], here)))
        else:
            turns.append(Turn(user=_text(turn, here)))
    if turns[-1].assistant is not None:
        raise UserError(f"{where}: turns ends with an answer; the last turn is for the model to answer")
    return tuple(turns)


def _read_checks(raw: Any, where: str) -> dict[str, Any]:
    _check_keys(raw, CHECKS, where=f"{where}: checks")
    return {name: _read_check(name, value, f"{where}: checks.{name}") for name, value in raw.items()}


def _read_check(name: str, value: Any, where: str) -> Any:
    kind = CHECKS[name].kind
    if kind == "true or false" and isinstance(value, bool):
        return value
    if kind == "a whole number" and isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if kind in ("text", "a regular expression") and _is_text(value):
        return str(value)
    if kind in ("texts", "tools"):
        texts = value if isinstance(value, list) else [value]
        if texts and all(_is_text(text) for text in texts):
            if kind == "tools":
                _check_tools([*map(str, texts)], where, (*TOOL_NAMES, ANY))
            return tuple(map(str, texts))
    if kind == "calls" and isinstance(value, Mapping) and value:
        _check_tools([*map(str, value)], where, TOOL_NAMES)
        return _texts_by_name(value, where)
    expected = {"tools": f"names of {', '.join(TOOL_NAMES)}", "calls": "a text for every tool's name"}
    raise UserError(f"{where} is {value!r}; expected {expected.get(kind, kind)}")


def _read_variants(raw: Any, where: str) -> Variants:
    _check_keys(raw, VARIANT_KEYS, where=where)
    say = raw.get("say", [])
    if not isinstance(say, list) or not all(_is_text(text) for text in say):
        raise UserError(f"{where}.say is {say!r}; expected a list of wordings")
    numbers: dict[str, tuple[int, int, int]] = {}
    ranges = raw.get("numbers") or {}
    if not isinstance(ranges, Mapping):
        raise UserError(f"{where}.numbers is {ranges!r}; expected a name with [lowest, highest] each")
    for name, bounds in ranges.items():
        is_range = isinstance(bounds, list) and len(bounds) in (2, 3)
        if not is_range or not all(type(bound) is int for bound in bounds) or bounds[0] > bounds[1]:
            raise UserError(f"{where}.numbers.{name} is {bounds!r}; expected [lowest, highest] or a step too")
        low, high, step = (*bounds, 1)[:3]
        if step < 1:
            raise UserError(f"{where}.numbers.{name} has the step {step}; expected at least 1")
        numbers[name] = (low, high, step)
    cases = raw.get("cases") or []
    if not isinstance(cases, list):
        raise UserError(f"{where}.cases is {cases!r}; expected a list of values that belong together")
    task = raw.get("task", "")
    if task and str(task).partition("/")[0] not in TASK_NAMES:
        hint = near_miss(str(task), TASK_NAMES) or f"; there are {', '.join(TASK_NAMES)}"
        raise UserError(f"{where}.task is {task!r}, which is no task{hint}")
    if not (say or numbers or cases or task):
        raise UserError(f"{where} changes nothing; give one of {', '.join(VARIANT_KEYS)}")
    return Variants(
        say=tuple(map(str, say)),
        numbers=numbers,
        cases=tuple(_texts_by_name(case, f"{where}.cases[{at}]") for at, case in enumerate(cases)),
        task=str(task),
    )


def _check_keys(raw: Any, known: Iterable[str], *, where: str, needed: Sequence[str] = ()) -> None:
    names = tuple(known)
    if not isinstance(raw, Mapping):
        raise UserError(f"{where} is {_kind(raw)}; expected keys such as {', '.join(names[:3])}")
    for key in raw:
        if key not in names:
            close = difflib.get_close_matches(str(key), names, n=2, cutoff=0.5)
            hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(names)}"
            raise UserError(f"{where}: {key!r} is no key; {hint}")
    for key in needed:
        if key not in raw:
            raise UserError(f"{where} has no {key}, which is needed")


def _check_tools(names: Sequence[str], where: str, known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            hint = near_miss(name, known) or f"; there are {', '.join(known)}"
            raise UserError(f"{where} has {name!r}, which is no tool{hint}")


def _texts_by_name(raw: Any, where: str) -> dict[str, str]:
    if raw is None:
        return {}
    if not isinstance(raw, Mapping) or not all(isinstance(name, str) for name in raw):
        raise UserError(f"{where} is {_kind(raw)}; expected names with a text or a number each")
    return {name: _text(value, f"{where}.{name}") for name, value in raw.items()}


def _text(value: Any, where: str) -> str:
    if not _is_text(value):
        raise UserError(f"{where} is {value!r}; expected a text that is not empty")
    return str(value).strip()


def _is_text(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number or (isinstance(value, str) and bool(value.strip()))


def _boolean(raw: Mapping[str, Any], key: str, where: str) -> bool:
    value = raw.get(key, False)
    if not isinstance(value, bool):
        raise UserError(f"{where}: {key} is {value!r}; expected true or false")
    return value


def _kind(value: Any) -> str:
    return "empty" if value is None else f"{value!r}"[:60]
