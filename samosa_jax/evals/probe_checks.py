"""What a probe may ask of an answer, each check by its name in the YAML files.

A check is a function of (the answer, what the file gives it) that returns why the answer fails, in a few
words, or None. Where a check speaks of the answer's text, it is what is said last, without the thought.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from samosa_jax.data.chat.answer_patterns import HABITS, prose
from samosa_jax.data.chat.conversation import THINK_CLOSE, THINK_OPEN
from samosa_jax.evals.asking import Answer
from samosa_jax.tasks.scoring import gives_number, mentions
from samosa_jax.tasks.task import tools_called
from samosa_jax.tasks.tool_schemas import CALCULATOR, PYTHON, WEB_SEARCH

ANY = "any"
TOOL_NAMES = (CALCULATOR, WEB_SEARCH, PYTHON)
SHOWN_CHARS = 60
REPEATED_WORDS = 4

Kind = Literal["true or false", "text", "texts", "tools", "a whole number", "a regular expression", "calls"]
CheckFunction = Callable[[Answer, Any], str | None]

_MARK = re.compile(r"</?think>|<\|\w+\|>")
_ARTEFACTS: Mapping[str, Callable[[str], re.Match[str] | None]] = {
    **HABITS,
    "a call as text": re.compile(r'\{"(?:tool|name)":').search,
    "an unfilled place": re.compile(r"\{\{\w+\}\}").search,
}


@dataclass(frozen=True)
class Check:
    kind: Kind  # of the value that the file gives
    function: CheckFunction


def find_artefact(text: str) -> str | None:
    """The first habit in an answer that no answer should have, and where; code is its own language."""
    shown = prose(text)
    for name, find in _ARTEFACTS.items():
        if match := find(shown):
            return f"{name}: {_short(match[0])}"
    return None


def _must_call(answer: Answer, tools: Sequence[str]) -> str | None:
    called = tools_called(answer.messages)
    missing = [tool for tool in tools if tool not in called]
    return f"{missing[0]} was not called (calls: {', '.join(called) or 'none'})" if missing else None


def _must_not_call(answer: Answer, tools: Sequence[str]) -> str | None:
    called = tools_called(answer.messages)
    wrong = [tool for tool in called if tool in tools or ANY in tools]
    return f"{wrong[0]} was called" if wrong else None


def _call_contains(answer: Answer, wanted: Mapping[str, str]) -> str | None:
    for tool, text in wanted.items():
        calls = [
            json.dumps(message.tool_call.arguments, ensure_ascii=False)
            for message in answer.messages
            if message.tool_call is not None and message.tool_call.name == tool
        ]
        if not any(text.lower() in call.lower() for call in calls):
            return f"no call of {tool} has {text!r} (calls: {_short('; '.join(calls)) or 'none'})"
    return None


def _max_calls(answer: Answer, limit: int) -> str | None:
    called = tools_called(answer.messages)
    return f"{len(called)} calls, {limit} at most" if len(called) > limit else None


def _answer_contains(answer: Answer, texts: Sequence[str]) -> str | None:
    missing = [text for text in texts if not mentions(answer.text, text)]
    return f"{missing[0]!r} is not in the answer {_short(answer.text)!r}" if missing else None


def _answer_contains_any(answer: Answer, texts: Sequence[str]) -> str | None:
    if any(mentions(answer.text, text) for text in texts):
        return None
    return f"none of {', '.join(map(repr, texts))} is in the answer {_short(answer.text)!r}"


def _answer_lacks(answer: Answer, texts: Sequence[str]) -> str | None:
    found = [text for text in texts if mentions(answer.text, text)]
    return f"{found[0]!r} is in the answer" if found else None


def _answer_regex(answer: Answer, pattern: str) -> str | None:
    if re.search(pattern, answer.text, re.IGNORECASE | re.MULTILINE):
        return None
    return f"the answer {_short(answer.text)!r} does not match {pattern}"


def _answer_number(answer: Answer, number: str) -> str | None:
    right = gives_number(answer.text, number)
    return None if right else f"the last number is not {number}: {_short(answer.text)!r}"


def _must_think(answer: Answer, wanted: bool) -> str | None:
    thinks = any((message.think or "").strip() for message in answer.messages)
    return None if thinks == wanted else ("there is no thought" if wanted else "there is a thought")


def _must_close_think(answer: Answer, wanted: bool) -> str | None:
    """Every thought closes before a call, a result or the end."""
    is_open = False
    for mark in _MARK.findall(answer.written):
        if is_open and mark != THINK_CLOSE:
            return f"{mark} inside a thought"
        is_open = mark == THINK_OPEN
    return "the thought does not close" if is_open else None


def _answer_after_think(answer: Answer, wanted: bool) -> str | None:
    """All that is said stands after the thought, and something does."""
    before, mark, after = answer.written.partition(THINK_OPEN)
    if mark and before.strip():
        return f"the answer begins before the thought: {_short(before)!r}"
    if mark and THINK_CLOSE not in after:
        return "nothing stands after the thought, which does not close"
    return None if answer.text.strip() else "there is no answer after the thought"


def _no_artefacts(answer: Answer, wanted: bool) -> str | None:
    return find_artefact(answer.text)


def _citation_required(answer: Answer, wanted: bool) -> str | None:
    """The answer names the address, the site or the title of a page that a search has found."""
    results = [_pages(message.text) for message in answer.messages if message.role == "tool"]
    pages = [page for found in results for page in found]
    if not pages:
        return "no search has found a page to name"
    for page in pages:
        if any(name and name.lower() in answer.text.lower() for name in (_site(page["url"]), page["title"])):
            return None
    return f"the answer names none of its sources: {_short(answer.text)!r}"


def _site(url: str) -> str:
    try:
        return urlsplit(url).hostname or url
    except ValueError:  # a bracket that does not close: pages come from strangers
        return url


def _pages(text: str) -> list[Mapping[str, str]]:
    """Of a result of web_search; other tools return other texts."""
    try:
        results = json.loads(text)["results"]
    except (ValueError, TypeError, LookupError):
        return []
    return [
        page
        for page in results
        if isinstance(page, dict) and all(isinstance(page.get(key), str) for key in ("url", "title"))
    ]


def _min_length(answer: Answer, limit: int) -> str | None:
    length = len(answer.text.strip())
    return f"{length} characters, {limit} at least" if length < limit else None


def _max_length(answer: Answer, limit: int) -> str | None:
    length = len(answer.text.strip())
    return f"{length} characters, {limit} at most" if length > limit else None


def _num_lines(answer: Answer, wanted: int) -> str | None:
    lines = [line for line in answer.text.splitlines() if line.strip()]
    return f"{len(lines)} lines, {wanted} expected" if len(lines) != wanted else None


def _ends(answer: Answer, wanted: bool) -> str | None:
    if answer.reason == "stop":
        return None
    return {
        "length": "it does not end by itself",
        "no room": "the prompt fills the context",
        "tool_calls": "it ends with a call",
    }[answer.reason]


def _no_repetition(answer: Answer, wanted: bool) -> str | None:
    """Nothing of REPEATED_WORDS words comes three times."""
    words = answer.text.lower().split()
    runs = Counter(zip(*(words[start:] for start in range(REPEATED_WORDS)), strict=False))
    run, times = runs.most_common(1)[0] if runs else ((), 0)
    return f"{times} times: {_short(' '.join(run))!r}" if times > 2 else None


CHECKS: Mapping[str, Check] = {
    "must_call": Check("tools", _must_call),
    "must_not_call": Check("tools", _must_not_call),
    "call_contains": Check("calls", _call_contains),
    "max_calls": Check("a whole number", _max_calls),
    "answer_contains": Check("texts", _answer_contains),
    "answer_contains_any": Check("texts", _answer_contains_any),
    "answer_lacks": Check("texts", _answer_lacks),
    "answer_regex": Check("a regular expression", _answer_regex),
    "answer_number": Check("text", _answer_number),
    "must_think": Check("true or false", _must_think),
    "must_close_think": Check("true or false", _must_close_think),
    "answer_after_think": Check("true or false", _answer_after_think),
    "no_artefacts": Check("true or false", _no_artefacts),
    "no_repetition": Check("true or false", _no_repetition),
    "citation_required": Check("true or false", _citation_required),
    "min_length": Check("a whole number", _min_length),
    "max_length": Check("a whole number", _max_length),
    "num_lines": Check("a whole number", _num_lines),
    "ends": Check("true or false", _ends),
}
# Held against every probe that does not say otherwise.
STANDING: Mapping[str, bool] = {"ends": True, "no_artefacts": True, "must_close_think": True}


def find_failures(answer: Answer, checks: Mapping[str, Any]) -> dict[str, str]:
    """Why the answer fails, by the name of the check. A check that is given as false is not made."""
    failures: dict[str, str] = {}
    for name, value in checks.items():
        check = CHECKS[name]
        if value is False and name != "must_think":
            continue
        reason = check.function(answer, value)
        if reason is not None:
            failures[name] = reason
    return failures


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SHOWN_CHARS else f"{line[: SHOWN_CHARS - 1]}…"
