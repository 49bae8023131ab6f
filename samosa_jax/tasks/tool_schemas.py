"""The tools that the assistant can call, in OpenAI's function schema."""

from collections.abc import Mapping
from typing import Any

from samosa_jax.tasks.calculator_functions import FUNCTIONS

CALCULATOR = "calculator"
WEB_SEARCH = "web_search"
PYTHON = "python"


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


CALCULATOR_SCHEMA = _function(
    CALCULATOR,
    "Work out an arithmetic expression exactly.",
    "expression",
    "numbers, + - * / // % **, and brackets, as in (12 + 7.5) * 3; comparisons; "
    f"""{", ".join(function.signature for function in FUNCTIONS.values())} with rates in percent per year; """
    '"text".count("part") and len("text")',
)

WEB_SEARCH_SCHEMA = _function(
    WEB_SEARCH,
    "Search the web for facts that change or that are not well known.",
    "query",
    "a few words to search for",
)

PYTHON_SCHEMA = _function(
    PYTHON,
    "Run a Python program and read what it prints; it has the standard library, no network and no files.",
    "code",
    "the program, which prints its result",
)

# What the assistant is trained to call; python is only there where it is switched on.
TOOLS: tuple[Mapping[str, Any], ...] = (CALCULATOR_SCHEMA, WEB_SEARCH_SCHEMA)
