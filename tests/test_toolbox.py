"""The tools that a command line names."""

import json
from pathlib import Path

import pytest

from samosa_jax.errors import UserError
from samosa_jax.rollout.tools.registry import ToolContext
from samosa_jax.toolbox import KEY_VARIABLE, open_tools


def test_names_with_commas_or_one_by_one():
    assert open_tools(["calculator"]).names == ("calculator",)
    assert open_tools(["python,calculator", "python"]).names == ("python", "calculator")
    assert open_tools([]).names == ()
    assert open_tools(["none"]).names == ()


def test_what_is_found_is_what_can_be_called(tmp_path: Path):
    rows = [{"title": "Rivers", "url": "https://example.org/r", "content": "The Elbe is 1094 km long."}]
    index = tmp_path / "index.jsonl"
    index.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    registry = open_tools(["web_search, calculator"], search_in=str(index))
    assert "1094 km" in registry.call("web_search", {"query": "Elbe"}, ToolContext()).text
    assert registry.call("calculator", {"expression": "2 + 3"}, ToolContext()).text == "5"


def test_the_search_service_needs_a_key(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    with pytest.raises(UserError, match=f"--search_in=PATH, or set {KEY_VARIABLE}"):
        open_tools(["web_search"])
    with pytest.raises(UserError, match=r"^rl\.tools has web_search"):
        open_tools(["web_search"], flag="rl.tools")
    monkeypatch.setenv(KEY_VARIABLE, "tvly-something")
    assert open_tools(["web_search"]).names == ("web_search",)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("calcluator", "did you mean calculator?"),
        ("xyz", "there are calculator, web_search, python, or none"),
        ("none,python", "'none', which is no tool"),
    ],
)
def test_other_names_are_refused(name: str, says: str):
    with pytest.raises(UserError, match=says):
        open_tools([name])
