"""The registry of tools: what a model may write, and what becomes of tools that fail, hang or flood."""

import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samosa_jax.data.chat.conversation import ToolCall
from samosa_jax.rollout.tools.arguments import check_arguments, check_schema
from samosa_jax.rollout.tools.registry import (
    MAX_ABANDONED_CALLS,
    CalculatorTool,
    Registry,
    ToolCallError,
    ToolContext,
    ToolError,
    parse_tool_call,
)
from samosa_jax.tasks.tool_schemas import PYTHON_SCHEMA, TOOLS

WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "description": "where"},
        "days": {"type": "integer", "minimum": 1, "maximum": 10},
        "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
        "hours": {"type": "array", "items": {"type": "number", "minimum": 0}},
        "is_short": {"type": "boolean"},
        "place": {"type": "object", "properties": {"lat": {"type": "number"}}, "required": ["lat"]},
    },
    "required": ["city"],
}


class WeatherTool:
    """A tool that does what a test tells it to."""

    is_instant = False

    def __init__(self, act: Callable[[Mapping[str, Any], ToolContext], str], name: str = "weather") -> None:
        self.name = name
        self.schema = {"type": "function", "function": {"name": name, "parameters": WEATHER}}
        self._act = act

    def run(self, arguments: Mapping[str, Any], context: ToolContext) -> str:
        return self._act(arguments, context)


def soon(seconds: float = 30.0) -> ToolContext:
    return ToolContext(deadline=time.monotonic() + seconds)


@pytest.fixture
def calculator() -> Registry:
    return Registry([CalculatorTool()])


@pytest.mark.parametrize(
    ("text", "name", "arguments"),
    [
        (
            '{"tool": "calculator", "arguments": {"expression": "1 + 1"}}',
            "calculator",
            {"expression": "1 + 1"},
        ),
        (' {"name": "web_search", "arguments": {"query": "x"}}\n', "web_search", {"query": "x"}),
        ('{"tool": "web_search", "arguments": "{\\"query\\": \\"x\\"}"}', "web_search", {"query": "x"}),
        ('{"tool": "calculator", "expression": "2"}', "calculator", {"expression": "2"}),
        ('{"tool": "clock"}', "clock", {}),
        ("12 * (3 + 4)", "calculator", {"expression": "12 * (3 + 4)"}),
        ('"strawberry".count("r")', "calculator", {"expression": '"strawberry".count("r")'}),
        ("5", "calculator", {"expression": "5"}),
    ],
)
def test_calls_are_read(text: str, name: str, arguments: dict[str, Any]):
    assert parse_tool_call(text) == (name, arguments)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("  ", "the call is empty"),
        ('{"tool": "calculator", ', "the call is not JSON: .* at character"),
        ("{}", "names no tool"),
        ('{"tool": 3}', "names no tool"),
        ('{"tool": "x", "arguments": [1]}', "arguments of 'x' are no JSON object"),
        ('{"tool": "x", "arguments": "1 + 1"}', "text of the arguments is not JSON"),
        ('{"tool": "x", "arguments": "[]"}', "text of the arguments is no JSON object"),
        ('{"a":' * 100_000, "too large"),
        ('{"tool": "x", "n": ' + "9" * 5000 + "}", "too large"),
    ],
)
def test_what_is_no_call_is_named(text: str, complaint: str):
    with pytest.raises(ToolCallError, match=complaint) as caught:
        parse_tool_call(text)
    assert len(str(caught.value)) < 120
    assert "\n" not in str(caught.value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.text(min_size=1), st.dictionaries(st.text(), json_values, max_size=3))
def test_what_the_data_says_is_read_back(name: str, arguments: dict[str, Any]):
    assert parse_tool_call(ToolCall(name, arguments).text()) == (name, arguments)


@given(
    st.one_of(
        st.text(),
        st.dictionaries(
            st.sampled_from(["tool", "name", "arguments", "expression"]),
            st.one_of(json_values, st.sampled_from(["calculator", "1+1"])),
        ).map(json.dumps),
    )
)
def test_nothing_a_model_writes_raises(text: str):
    result = Registry([CalculatorTool()]).call_text(text, soon())
    assert result.is_error == result.text.startswith("error: ")
    assert "\n" not in result.text
    result.text.encode()


def test_the_calculator_answers(calculator: Registry):
    context = soon()
    result = calculator.call("calculator", {"expression": "tip(45, 17)"}, context)
    assert (result.text, result.is_error) == ("7.65", False)
    assert 0 <= result.seconds < 30
    assert calculator.call("calculator", '{"expression": "6 * 7"}', context).text == "42"
    assert calculator.call_text("6 * 7", context).text == "42"
    assert calculator.schemas() == TOOLS[:1]


@pytest.mark.parametrize(
    ("name", "arguments", "text"),
    [
        ("calculator", {"expression": "1 / 0"}, "error: division by zero"),
        ("calculator", {}, "error: calculator: argument 'expression' is missing"),
        (
            "calculator",
            {"expression": 5},
            "error: calculator: argument 'expression' should be of type string, found integer",
        ),
        (
            "calculator",
            {"expression": "1", "precision": 3},
            "error: calculator: unknown argument 'precision'; known: 'expression'",
        ),
        ("calculator", "[1]", "error: the text of the arguments is no JSON object"),
        ("calculator", "{", "error: the text of the arguments is not JSON: .*"),
        ("calculators", {}, "error: there is no tool 'calculators'; known tools: calculator"),
        (
            "x" * 500,
            {},
            f"error: there is no tool '{'x' * 40}...'; known tools: calculator",
        ),
    ],
)
def test_wrong_calls_get_an_answer(calculator: Registry, name: str, arguments: Any, text: str):
    result = calculator.call(name, arguments, soon())
    assert result.is_error
    if text.endswith(".*"):
        assert result.text.startswith(text.removesuffix(".*"))
    else:
        assert result.text == text


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"city": "Pune"}, ""),
        ({"city": "Pune", "days": 3, "unit": "celsius", "hours": [1, 2.5], "place": {"lat": 18}}, ""),
        ({"city": None}, "argument 'city' should be of type string, found null"),
        ({"city": "Pune", "days": True}, "argument 'days' should be of type integer, found boolean"),
        ({"city": "Pune", "days": 2.5}, "argument 'days' should be of type integer, found number"),
        ({"city": "Pune", "days": 0}, "argument 'days' should be at least 1"),
        ({"city": "Pune", "days": 10**400}, "argument 'days' should be at most 10"),
        ({"city": "Pune", "unit": "kelvin"}, "argument 'unit' should be one of 'celsius', 'fahrenheit'"),
        ({"city": "Pune", "hours": [1, "2"]}, "argument 'hours[1]' should be of type number, found string"),
        ({"city": "Pune", "hours": [float("nan")]}, "argument 'hours[0]' should be a finite number"),
        ({"city": "Pune", "is_short": 1}, "argument 'is_short' should be of type boolean, found integer"),
        ({"city": "Pune", "place": {}}, "argument 'place.lat' is missing"),
        ({"city": "Pune", "place": {"lat": 1, "lon": 2}}, "unknown argument 'place.lon'; known: 'lat'"),
        ([], "the arguments should be of type object, found array"),
    ],
)
def test_arguments_are_checked(arguments: Any, complaint: str):
    assert check_arguments(arguments, WEATHER) == complaint


@pytest.mark.parametrize(
    ("schema", "complaint"),
    [
        ({"properties": {}}, 'expected a schema with "type"'),
        ({"type": ["string", "null"]}, 'expected a schema with "type"'),
        ({"type": "string", "pattern": "a+"}, "t: pattern in a schema is not checked"),
        ({"type": "object", "properties": {"a": {"type": "text"}}}, "t.a: expected"),
        ({"type": "array", "items": {"type": "x"}}, r"t\[\]: expected"),
        ({"type": "object", "required": ["a"]}, "required a is not among the properties"),
        ({"type": "object", "additionalProperties": True}, "can only be false"),
    ],
)
def test_schemas_that_say_more_than_is_checked_are_refused(schema: Any, complaint: str):
    with pytest.raises(ValueError, match=complaint):
        check_schema(schema, "t")


def test_the_schemas_of_the_tools_are_checked_in_full():
    for schema in (*TOOLS, PYTHON_SCHEMA):
        check_schema(schema["function"]["parameters"], schema["function"]["name"])


def test_a_registry_refuses_tools_that_cannot_be_told_apart():
    with pytest.raises(ValueError, match="two tools are called 'calculator'"):
        Registry([CalculatorTool(), CalculatorTool()])
    tool = WeatherTool(lambda arguments, context: "")
    tool.name = "climate"
    with pytest.raises(ValueError, match="the schema of 'climate' is named 'weather'"):
        Registry([tool])


def test_a_tool_sees_its_arguments_and_the_conversation():
    context = soon()
    seen: list[object] = []

    def act(arguments: Mapping[str, Any], context: ToolContext) -> str:
        seen.extend((arguments, context))
        return "sunny"

    registry = Registry([CalculatorTool(), WeatherTool(act)])
    assert registry.names == ("calculator", "weather")
    assert registry.call("weather", {"city": "Pune"}, context).text == "sunny"
    assert seen == [{"city": "Pune"}, context]


def test_a_tool_that_fails_gives_a_short_error(caplog: pytest.LogCaptureFixture):
    def fail(arguments: Mapping[str, Any], context: ToolContext) -> str:
        if arguments["city"] == "Pune":
            raise ToolError("no station\nin Pune")
        if arguments["city"] == "exit":
            raise SystemExit(3)
        raise KeyError("a secret")

    registry = Registry([WeatherTool(fail)])
    assert registry.call("weather", {"city": "Pune"}, soon()).text == "error: no station in Pune"
    assert not caplog.records
    assert registry.call("weather", {"city": "Goa"}, soon()).text == "error: weather failed (KeyError)"
    assert "a secret" in caplog.text  # for who runs the server, not for the model
    assert registry.call("weather", {"city": "exit"}, soon()).text == "error: weather failed (SystemExit)"


def test_an_instant_tool_runs_in_the_thread_of_its_caller():
    threads: list[int] = []

    def act(arguments: Mapping[str, Any], context: ToolContext) -> str:
        threads.append(threading.get_ident())
        if arguments["city"] == "Atlantis":
            raise RuntimeError("it sank")
        return "sunny"

    tool = WeatherTool(act)
    for tool.is_instant in (True, False):
        registry = Registry([tool])
        assert registry.is_instant("weather") is tool.is_instant
        assert registry.call("weather", {"city": "Pune"}, soon()).text == "sunny"
        failed = registry.call("weather", {"city": "Atlantis"}, soon())
        assert (failed.is_error, failed.text) == (True, "error: weather failed (RuntimeError)")
    assert [thread == threading.get_ident() for thread in threads] == [True, True, False, False]
    assert registry.is_instant("no such tool")


def test_tools_that_hang_are_left_behind_and_then_not_called():
    release = threading.Event()
    calls = 0

    def hang(arguments: Mapping[str, Any], context: ToolContext) -> str:
        nonlocal calls
        calls += 1
        release.wait()
        return "late"

    registry = Registry([CalculatorTool(), WeatherTool(hang)])
    for _ in range(MAX_ABANDONED_CALLS):
        result = registry.call("weather", {"city": "Pune"}, soon(0.02))
        assert result.is_error
        assert re.fullmatch(r"error: weather did not answer within 0\.0[0-9]* seconds", result.text)
    assert registry.call("calculator", {"expression": "1"}, soon()).text == "1"
    refused = registry.call("weather", {"city": "Pune"}, soon())
    assert refused.text == "error: weather is not answering; go on without it"
    assert calls == MAX_ABANDONED_CALLS
    release.set()
    for thread in threading.enumerate():
        if thread.name == "tool-weather":
            thread.join(10)
    assert registry.call("weather", {"city": "Pune"}, soon()).text == "late"


def test_a_flood_is_cut():
    registry = Registry([WeatherTool(lambda arguments, context: "rain " * 10**6)], max_result_chars=50)
    result = registry.call("weather", {"city": "Pune"}, soon())
    assert not result.is_error
    assert result.text == "rain " * 10 + "\n[cut: 50 of 5000000 characters]"


def test_results_can_be_written_as_utf8():
    registry = Registry([WeatherTool(lambda arguments, context: "a\ud800b")])
    assert registry.call("weather", {"city": "Pune"}, soon()).text == "a?b"


def test_the_deadline_counts_down_and_ends_at_nought():
    context = soon(100)
    assert 90 < context.seconds_left() <= 100
    assert soon(-1).seconds_left() == 0
