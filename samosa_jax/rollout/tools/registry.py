"""Runs the tool calls that a model writes; whatever it wrote, the answer is a text that it can read.

A tool that fails, hangs or floods gives a short error or a shortened text, and the turn goes on.
"""

import json
import logging
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from samosa_jax.data.chat.conversation import Message
from samosa_jax.rollout.tools.arguments import check_arguments, check_schema
from samosa_jax.tasks.calculator import CalculatorError, calculate
from samosa_jax.tasks.tool_schemas import CALCULATOR, CALCULATOR_SCHEMA

MAX_RESULT_CHARS = 4000
MAX_ABANDONED_CALLS = 8  # of one tool that are still running

_log = logging.getLogger(__name__)


class ToolError(Exception):
    """Why a tool could not answer: one short line, written for the model."""


class ToolCallError(ValueError):
    """Why a text is no tool call: one short line, written for the model."""


@dataclass(frozen=True)
class ToolContext:
    """What a tool may know about the turn it is called in."""

    messages: tuple[Message, ...] = ()  # the conversation so far
    deadline: float = field(default_factory=lambda: time.monotonic() + 10.0)  # of time.monotonic()

    def seconds_left(self) -> float:
        """Until the deadline; never negative."""
        return max(0.0, self.deadline - time.monotonic())


class Tool(Protocol):
    """Something a model can call by name with JSON arguments."""

    @property
    def name(self) -> str: ...

    @property
    def schema(self) -> Mapping[str, Any]:
        """OpenAI's `{"type": "function", "function": {"name", "description", "parameters"}}`."""
        ...

    @property
    def is_instant(self) -> bool:
        """Whether it is done at once whatever it is asked, so that it needs no thread and no time limit."""
        ...

    def run(self, arguments: Mapping[str, Any], context: ToolContext) -> str:
        """The result for arguments that fit the schema. Raises ToolError with a line for the model.

        Should be done by `context.deadline`: after it nobody waits for the result.
        """
        ...


@dataclass(frozen=True)
class ToolResult:
    text: str
    is_error: bool
    seconds: float  # that the call took


class CalculatorTool:
    """The calculator that the training data was made with."""

    name = CALCULATOR
    schema = CALCULATOR_SCHEMA
    is_instant = True  # expressions are short, and numbers no longer than it can write

    def run(self, arguments: Mapping[str, Any], context: ToolContext) -> str:
        try:
            return calculate(arguments["expression"])
        except CalculatorError as error:
            raise ToolError(str(error)) from error


class Registry:
    """The tools of one assistant, by name.

    Raises ValueError when made from tools of the same name, of a name that its schema does not give, or with
    a schema that says more than is checked.
    """

    def __init__(self, tools: Iterable[Tool], *, max_result_chars: int = MAX_RESULT_CHARS) -> None:
        self._tools: dict[str, Tool] = {}
        self._max_result_chars = max_result_chars
        self._lock = threading.Lock()
        self._abandoned: dict[str, list[threading.Thread]] = {}
        for tool in tools:
            if tool.name in self._tools:
                raise ValueError(f"two tools are called {tool.name!r}; names must differ")
            function = tool.schema["function"]
            if function["name"] != tool.name:
                raise ValueError(f"the schema of {tool.name!r} is named {function['name']!r}")
            check_schema(function["parameters"], tool.name)
            self._tools[tool.name] = tool

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._tools)

    def is_instant(self, name: str) -> bool:
        """Whether a call of this tool returns at once; one of a tool that there is not does."""
        tool = self._tools.get(name)
        return tool is None or tool.is_instant

    def schemas(self) -> tuple[Mapping[str, Any], ...]:
        """OpenAI's list of tools, in the order they were given."""
        return tuple(tool.schema for tool in self._tools.values())

    def call_text(self, text: str, context: ToolContext) -> ToolResult:
        """The result of what a model wrote between the tool marks. Never raises for what it wrote."""
        try:
            name, arguments = parse_tool_call(text)
        except ToolCallError as error:
            return self._result(f"error: {error}", is_error=True, start=time.monotonic())
        return self.call(name, arguments, context)

    def call(self, name: str, arguments: str | Mapping[str, Any], context: ToolContext) -> ToolResult:
        """The result of one tool for arguments as JSON text or as a mapping. Never raises for either."""
        start = time.monotonic()
        try:
            text = self._run(name, arguments, context)
        except ToolError as error:
            return self._result(f"error: {_one_line(str(error))}", is_error=True, start=start)
        return self._result(text, is_error=False, start=start)

    def _run(self, name: str, arguments: str | Mapping[str, Any], context: ToolContext) -> str:
        tool = self._tools.get(name)
        if tool is None:
            known = ", ".join(self._tools) or "none"
            raise ToolError(f"there is no tool {_shortened(name)}; known tools: {known}")
        if isinstance(arguments, str):
            arguments = _parse_arguments(arguments)
        complaint = check_arguments(arguments, tool.schema["function"]["parameters"])
        if complaint:
            raise ToolError(f"{name}: {complaint}")
        if not tool.is_instant:
            return self._run_until_deadline(tool, arguments, context)
        outcome = _outcome(tool, arguments, context)
        if isinstance(outcome, ToolError):
            raise outcome
        return outcome

    def _run_until_deadline(self, tool: Tool, arguments: Mapping[str, Any], context: ToolContext) -> str:
        with self._lock:
            running = [thread for thread in self._abandoned.get(tool.name, ()) if thread.is_alive()]
            self._abandoned[tool.name] = running
            if len(running) >= MAX_ABANDONED_CALLS:
                raise ToolError(f"{tool.name} is not answering; go on without it")
        outcome: list[str | ToolError] = []

        def work() -> None:
            outcome.append(_outcome(tool, arguments, context))

        # A daemon, so that a call that never ends does not keep the program from ending.
        thread = threading.Thread(target=work, name=f"tool-{tool.name}", daemon=True)
        seconds = context.seconds_left()
        thread.start()
        thread.join(seconds)
        if not outcome:
            with self._lock:
                self._abandoned[tool.name].append(thread)
            raise ToolError(f"{tool.name} did not answer within {seconds:.2g} seconds")
        if isinstance(outcome[0], ToolError):
            raise outcome[0]
        return outcome[0]

    def _result(self, text: str, *, is_error: bool, start: float) -> ToolResult:
        # What cannot be written as UTF-8 cannot be tokenized either.
        text = text.encode("utf-8", "replace").decode("utf-8")
        if len(text) > self._max_result_chars:
            shown = text[: self._max_result_chars]
            text = f"{shown}\n[cut: {self._max_result_chars} of {len(text)} characters]"
        return ToolResult(text, is_error, time.monotonic() - start)


def _outcome(tool: Tool, arguments: Mapping[str, Any], context: ToolContext) -> str | ToolError:
    """What a call comes to, whatever the tool does."""
    try:
        return tool.run(arguments, context)
    except ToolError as error:
        return error
    except (Exception, SystemExit) as error:
        _log.warning("tool %s failed", tool.name, exc_info=True)
        return ToolError(f"{tool.name} failed ({type(error).__name__})")


def parse_tool_call(text: str) -> tuple[str, Mapping[str, Any]]:
    """(name, arguments) of what a model wrote between the tool marks.

    The form that is trained is `{"tool": name, "arguments": {...}}`. Also understood: OpenAI's "name" for
    "tool", arguments as JSON text, arguments beside the name instead of under "arguments", and, as nanochat
    writes them, a bare expression for the calculator.

    Raises:
        ToolCallError: the text is empty, or begins as an object and is none that names a tool.
    """
    text = text.strip()
    if not text:
        raise ToolCallError('the call is empty; write {"tool": name, "arguments": {...}}')
    if not text.startswith("{"):
        return CALCULATOR, {"expression": text}
    call = _parse_object(text, "the call")
    name_key = "tool" if "tool" in call else "name"
    name = call.pop(name_key, None)
    if not isinstance(name, str) or not name:
        raise ToolCallError('the call names no tool; write {"tool": name, "arguments": {...}}')
    arguments = call.get("arguments", call)
    if isinstance(arguments, str):
        arguments = _parse_object(arguments, "the text of the arguments")
    if not isinstance(arguments, dict):
        raise ToolCallError(f"the arguments of {_shortened(name)} are no JSON object")
    return name, arguments


def _parse_arguments(text: str) -> Mapping[str, Any]:
    try:
        return _parse_object(text, "the text of the arguments")
    except ToolCallError as error:
        raise ToolError(str(error)) from error


def _parse_object(text: str, what: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ToolCallError(f"{what} is not JSON: {error.msg} at character {error.pos + 1}") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets without end
        raise ToolCallError(f"{what} is JSON that is too large") from error
    if not isinstance(value, dict):
        raise ToolCallError(f"{what} is no JSON object")
    return value


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _shortened(name: str) -> str:
    return repr(name if len(name) <= 40 else f"{name[:40]}...")
