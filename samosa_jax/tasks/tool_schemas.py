"""The tools that the assistant is trained to call, in OpenAI's function schema."""

from collections.abc import Mapping
from typing import Any

CALCULATOR = "calculator"
WEB_SEARCH = "web_search"


def _function(name: str, description: str, argument: str, meaning: str) -> Mapping[str, Any]:
    """A tool with one argument, a required text."""
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": description,
            "parameters": {
                "type": "object",
                "properties": {argument: {"type": "string", "description": meaning}},
                "required": [argument],
            },
        },
    }


TOOLS: tuple[Mapping[str, Any], ...] = (
    _function(
        CALCULATOR,
        "Work out an arithmetic expression exactly.",
        "expression",
        "numbers, + - * / // % **, and brackets, as in (12 + 7.5) * 3",
    ),
    _function(
        WEB_SEARCH,
        "Search the web for facts that change or that are not well known.",
        "query",
        "a few words to search for",
    ),
)
