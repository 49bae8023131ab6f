"""The tools that a command gives to a model, by the names on its command line."""

import difflib
import os
from collections.abc import Sequence
from pathlib import Path

from samosa_jax.errors import UserError
from samosa_jax.rollout.tools.local_index import LocalIndex
from samosa_jax.rollout.tools.registry import CalculatorTool, Registry, Tool
from samosa_jax.rollout.tools.sandbox import PythonTool
from samosa_jax.rollout.tools.web_search import SearchBackend, TavilyBackend, WebSearch
from samosa_jax.tasks.tool_schemas import CALCULATOR, PYTHON, WEB_SEARCH

NAMES = (CALCULATOR, WEB_SEARCH, PYTHON)
NONE = "none"
KEY_VARIABLE = "TAVILY_API_KEY"


def open_tools(names: Sequence[str], *, search_in: str = "", flag: str = "--tools") -> Registry:
    """The tools of these names; one text may hold several, with commas between. "none" stands for no tools.

    Args:
        search_in: the documents of web_search, as `LocalIndex.open` reads them; empty: a search service,
            with the key in $TAVILY_API_KEY.
        flag: what names the tools, for errors.

    Raises:
        UserError: there is no such tool, or nothing to search in.
    """
    asked = list(dict.fromkeys(part for name in names for part in name.replace(",", " ").split()))
    return Registry([_open(name, search_in=search_in, flag=flag) for name in asked if asked != [NONE]])


def _open(name: str, *, search_in: str, flag: str) -> Tool:
    if name == CALCULATOR:
        return CalculatorTool()
    if name == WEB_SEARCH:
        return WebSearch(backend=_open_search(search_in, flag=flag))
    if name == PYTHON:
        return PythonTool()
    close = difflib.get_close_matches(name, NAMES, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(NAMES)}, or {NONE}"
    raise UserError(f"{flag} has {name!r}, which is no tool; {hint}")


def _open_search(search_in: str, *, flag: str) -> SearchBackend:
    if search_in:
        return LocalIndex.open(Path(search_in))
    key = os.environ.get(KEY_VARIABLE, "")
    if not key:
        raise UserError(
            f"{flag} has {WEB_SEARCH}, with nothing to search in; name documents with --search_in=PATH, "
            f"or set {KEY_VARIABLE} to the key of the search service"
        )
    return TavilyBackend(api_key=key)
