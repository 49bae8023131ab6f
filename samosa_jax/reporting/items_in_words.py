"""One item of an evaluation for a reader: what was asked, what was answered, and what was wrong with it.

Tasks keep different things of an item; whatever they keep under these names is shown.
"""

import json
from collections.abc import Mapping
from typing import Any

MAX_CHARS = 600


def question_of(line: Mapping[str, Any]) -> str:
    """What was asked; the name of the item if its line does not say."""
    for key in ("question", "prompt", "context"):
        if line.get(key):
            return short(_text(line[key]))
    messages = line.get("messages")
    if isinstance(messages, list):
        asked = [message for message in messages if message.get("role") in ("system", "user")]
        return short(_text(asked)) if asked else str(line["item"])
    return str(line["item"])


def answer_of(line: Mapping[str, Any]) -> str:
    """All that was written in the first answer that is not right, or in the first."""
    answer = _shown_answer(line)
    for key in ("written", "answer", "chosen", "predicted"):
        if answer.get(key) not in (None, ""):
            return short(_text(answer[key]))
    return "(no text)" if "answer" in answer or "written" in answer else ""


def failures_of(line: Mapping[str, Any]) -> list[str]:
    """The checks that failed, each with its reason if that is kept."""
    for place in (_shown_answer(line), line):
        for key in ("failures", "artefact"):
            if key in place:
                return _failed(place[key])
    return []


def expected_of(line: Mapping[str, Any]) -> str:
    found = next((line[key] for key in ("expected", "gold") if line.get(key) not in (None, "")), None)
    return "" if found is None else short(_text(found))


def short(text: str, *, max_chars: int = MAX_CHARS) -> str:
    """The beginning, and how much is left out."""
    if len(text) <= max_chars:
        return text
    return f"{text[:max_chars]} … ({len(text) - max_chars:,} more characters)"


def _shown_answer(line: Mapping[str, Any]) -> Mapping[str, Any]:
    answers = line.get("answers")
    if not isinstance(answers, list) or not answers or not isinstance(answers[0], dict):
        return line
    wrong = [answer for answer in answers if not float(answer.get("score", 0) or 0)]
    return (wrong or answers)[0]


def _failed(value: Any) -> list[str]:
    """Of {check: reason}, or of one reason."""
    if isinstance(value, Mapping):
        return [f"{name}: {_text(reason)}" for name, reason in value.items()]
    return [] if value is None else [_text(value)]


def _text(value: Any) -> str:
    """Messages by their roles; anything else as it is, or as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        said = [
            (str(item.get("role", "")), str(item.get("content") or item.get("text") or "")) for item in value
        ]
        if len(said) == 1:
            return said[0][1]
        return "\n".join(f"{role}: {text}" for role, text in said)
    return json.dumps(value, ensure_ascii=False)
