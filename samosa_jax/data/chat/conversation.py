"""What a conversation is: messages with thoughts, tool calls and their results, in one canonical form.

The canonical JSON is OpenAI's: `{"messages": [{"role": ..., "content": ...}, ...], "tools": [...]}`. A
message of the assistant may think first (`<think>...</think>` at the start of its content, or
`reasoning_content`) and may end in tool calls, each answered by a message of role `tool`. From one user
message to the next is one turn of the assistant, however many calls it makes.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
_THINK_MARK = re.compile("</?think>")

Speaker = Literal["system", "user", "assistant", "tool"]


Reason = Literal[
    "no assistant turn",
    "no last answer",
    "unknown role",
    "wrong order",
    "empty message",
    "unbalanced think",
    "tool call is not JSON",
    "tool call without result",
    "equal sides",
    "malformed",
]


class ConversationError(ValueError):
    """What is wrong with a conversation, in a few words; who reads the file adds its name and row.

    Attributes:
        reason: the kind of mistake, to count by.
    """

    def __init__(self, message: str, *, reason: Reason = "malformed") -> None:
        super().__init__(message)
        self.reason: Reason = reason


@dataclass(frozen=True)
class ToolCall:
    """One call of one tool by the assistant."""

    name: str
    arguments: Mapping[str, Any]  # a JSON object

    def text(self) -> str:
        """As the model writes it between <|python_start|> and <|python_end|>."""
        return json.dumps({"tool": self.name, "arguments": self.arguments}, ensure_ascii=False)


@dataclass(frozen=True, kw_only=True)
class Message:
    """One message; an assistant's is thought, text and at most one tool call, in this order."""

    role: Speaker
    text: str = ""
    think: str | None = None
    tool_call: ToolCall | None = None


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """An optional system message, then turns of user and assistant; a result follows every tool call."""

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()  # OpenAI's schema of every tool the assistant may call


def parse_conversation(value: Any) -> Conversation:
    """Canonical JSON, or any of OpenAI's variants of it, as a Conversation.

    Content may be a string, null beside tool calls, or a list of parts: `text`, `thinking`, and nanochat's
    `python` and `python_output` (a call of the calculator and its result). Arguments of a call, and "tools",
    may be JSON or text of it. Several calls in one message become as many messages, each followed by its
    result. The older `function_call` with role `function`, and the role `developer`, are understood.

    Raises:
        ConversationError: what is wrong, and in which message, counted from 0.
    """
    conversation = _read(value)
    check(conversation)
    return conversation


def parse_prompt(value: Any) -> Conversation:
    """As `parse_conversation`, of what the assistant is to answer: it ends with the user or a tool's result.

    System messages that follow each other at the start become one, as do messages of the user: programs
    send them so.

    Raises:
        ConversationError: what is wrong, and in which message, counted from 0 after they are joined.
    """
    conversation = _read(value)
    conversation = replace(conversation, messages=_joined(conversation.messages))
    check_order(conversation)
    messages = conversation.messages
    if not messages or messages[-1].role not in ("user", "tool"):
        last = _ending(messages[-1]) if messages else "nothing"
        raise ConversationError(
            f"it ends with the {last}; an answer follows the user's message or the result of a tool",
            reason="wrong order",
        )
    return conversation


def _read(value: Any) -> Conversation:
    """Whatever messages there are, in whatever order."""
    if not isinstance(value, Mapping) or not isinstance(value.get("messages"), list):
        raise ConversationError('expected an object with a list "messages"')
    messages: list[Message] = []
    raw_messages = value["messages"]
    index = 0
    while index < len(raw_messages):
        raw = raw_messages[index]
        where = f"message {index}"
        if not isinstance(raw, Mapping) or "role" not in raw:
            raise ConversationError(f'{where} is no object with a "role"')
        if raw["role"] != "assistant":
            messages.append(_parse_other(raw, where))
            index += 1
            continue
        parts = _parse_assistant(raw, where)
        index += 1
        calls = _tool_calls(raw)
        if len(calls) > 1:
            results = _ordered_results(calls, raw_messages[index : index + len(calls)], where, index)
            parts = _answered(parts, results)
            index += len(calls)
        messages += parts
    tools = value.get("tools") or ()
    if isinstance(tools, str):
        tools = parse_json(tools, '"tools"')
    if not isinstance(tools, list | tuple) or not all(isinstance(tool, Mapping) for tool in tools):
        raise ConversationError('"tools" is no list of objects')
    return Conversation(messages=tuple(messages), tools=tuple(tools))


def _joined(messages: Sequence[Message]) -> tuple[Message, ...]:
    joined: list[Message] = []
    for message in messages:
        if joined and message.role == joined[-1].role and message.role in ("system", "user"):
            text = "\n\n".join(filter(str.strip, (joined[-1].text, message.text)))
            joined[-1] = replace(message, text=text)
        else:
            joined.append(message)
    return tuple(joined)


def check(conversation: Conversation) -> None:
    """Raises ConversationError unless the messages alternate as they must and there is something to learn."""
    messages = conversation.messages
    if not messages:
        raise ConversationError("it has no messages", reason="no assistant turn")
    if not any(message.role == "assistant" for message in messages):
        raise ConversationError("no message is the assistant's", reason="no assistant turn")
    check_order(conversation)
    for index, message in enumerate(messages):
        if message.role == "assistant" and not (message.text.strip() or message.tool_call or message.think):
            raise ConversationError(f"message {index}: the assistant says nothing", reason="empty message")
    if messages[-1].role != "assistant" or messages[-1].tool_call is not None:
        raise ConversationError(
            f"it ends with the {_ending(messages[-1])}, not with an answer", reason="no last answer"
        )


def check_order(conversation: Conversation) -> None:
    """Raises ConversationError unless each message may follow the one before it. It may end anywhere."""
    previous: Message | None = None
    for index, message in enumerate(conversation.messages):
        where = f"message {index}"
        called = previous is not None and previous.tool_call is not None
        if called != (message.role == "tool"):
            expected = (
                "the result of the tool call before it" if called else "no tool result, as none was called"
            )
            raise ConversationError(
                f"{where} is the {_name(message.role)}; expected {expected}",
                reason="tool call without result" if called else "wrong order",
            )
        if message.role == "system" and index:
            raise ConversationError(
                f"{where} is a system message; only the first may be one", reason="wrong order"
            )
        if message.role == "user" and previous is not None and previous.role == "user":
            raise ConversationError(f"{where} is the second user message in a row", reason="wrong order")
        if message.role == "assistant":
            if previous is None or previous.role == "system":
                raise ConversationError(
                    f"{where}: the assistant speaks before the user", reason="wrong order"
                )
            if previous.role == "assistant":
                raise ConversationError(
                    f"{where} is the second assistant message in a row", reason="wrong order"
                )
        elif message.role == "user" and not message.text.strip():
            raise ConversationError(f"{where} is empty", reason="empty message")
        previous = message


def to_json(conversation: Conversation) -> dict[str, Any]:
    """The canonical JSON; `parse_conversation` gives the same conversation back."""
    messages: list[dict[str, Any]] = []
    for message in conversation.messages:
        content = message.text
        if message.think is not None:
            content = f"{THINK_OPEN}\n{message.think}\n{THINK_CLOSE}\n\n{message.text}".rstrip()
        raw: dict[str, Any] = {"role": message.role, "content": content}
        if message.tool_call is not None:
            function = {"name": message.tool_call.name, "arguments": dict(message.tool_call.arguments)}
            raw["tool_calls"] = [{"type": "function", "function": function}]
        messages.append(raw)
    tools = {"tools": [dict(tool) for tool in conversation.tools]} if conversation.tools else {}
    return {"messages": messages, **tools}


def filled(conversation: Conversation, values: Mapping[str, str]) -> Conversation:
    """With every {{key}} in what is said replaced by its value: identities are published with such places."""

    if not values:
        return conversation

    def fill(text: str) -> str:
        for key, value in values.items():
            text = text.replace(f"{{{{{key}}}}}", value)
        return text

    messages = tuple(
        replace(
            message,
            text=fill(message.text),
            think=None if message.think is None else fill(message.think),
        )
        for message in conversation.messages
    )
    return replace(conversation, messages=messages)


def split_think(content: str) -> tuple[str | None, str]:
    """(thought, rest) of an assistant's content, both stripped where they meet; (None, content) without one.

    Raises ConversationError unless at most one thought opens at the start and closes.
    """
    marks = _THINK_MARK.findall(content)
    if not marks:
        return None, content
    if marks != [THINK_OPEN, THINK_CLOSE]:
        raise ConversationError(
            f"<think> is not balanced: found {' '.join(marks[:4])}", reason="unbalanced think"
        )
    before, _, rest = content.partition(THINK_OPEN)
    if before.strip():
        raise ConversationError(
            "<think> comes after other text; a thought comes first", reason="unbalanced think"
        )
    think, _, text = rest.partition(THINK_CLOSE)
    return think.strip(), text.strip()


def parse_json(text: str, what: str) -> Any:
    """The JSON in `text`; ConversationError naming `what` if it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: also an integer of more than 4300 digits
        raise ConversationError(f"{what}: not JSON ({error})", reason="tool call is not JSON") from error


def _parse_other(raw: Mapping[str, Any], where: str) -> Message:
    role = {"developer": "system", "function": "tool"}.get(str(raw["role"]), raw["role"])
    if role not in ("system", "user", "tool"):
        raise ConversationError(
            f"{where} has the role {role!r}; expected system, user, assistant or tool", reason="unknown role"
        )
    return Message(role=role, text="".join(text for _, text in _parts(raw, where, allowed=("text",))))


def _parse_assistant(raw: Mapping[str, Any], where: str) -> list[Message]:
    """One message, or several where it has several calls; results among the parts follow their call."""
    think = str(raw.get("reasoning_content") or "").strip() or None
    messages: list[Message] = []
    text: list[str] = []

    def add(call: ToolCall | None = None) -> None:
        nonlocal think
        thought, rest = split_think("".join(text))
        if thought is not None and (think is not None or messages):
            raise ConversationError(
                f"{where} thinks twice; a message has one thought, at its start", reason="unbalanced think"
            )
        if think is not None:
            thought, rest = think, rest.strip()
            if _THINK_MARK.search(think):
                raise ConversationError(f"{where}: a <think> mark in the thought", reason="unbalanced think")
        messages.append(Message(role="assistant", text=rest, think=thought, tool_call=call))
        think = None
        text.clear()

    for kind, part in _parts(raw, where, allowed=("text", "thinking", "python", "python_output")):
        if kind == "text":
            text.append(part)
        elif kind == "thinking":
            if think is not None or text or messages:
                raise ConversationError(
                    f"{where} thinks after other parts; a thought comes first", reason="unbalanced think"
                )
            think = part.strip()
        elif kind == "python":
            add(ToolCall("calculator", {"expression": part}))
        else:
            messages.append(Message(role="tool", text=part))
    for call in _tool_calls(raw):
        add(_parse_call(call, where))
    if text or think is not None or not messages or messages[-1].role == "tool":
        add()
    return messages


def _tool_calls(raw: Mapping[str, Any]) -> list[Any]:
    calls = raw.get("tool_calls") or ([raw["function_call"]] if raw.get("function_call") else [])
    return calls if isinstance(calls, list) else [calls]


def _parse_call(raw: Any, where: str) -> ToolCall:
    function = raw.get("function", raw) if isinstance(raw, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise ConversationError(f"{where} has a tool call without a name")
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        arguments = parse_json(arguments, f"{where}: the arguments of {function['name']}")
    if not isinstance(arguments, Mapping):
        raise ConversationError(
            f"{where}: the arguments of {function['name']} are no JSON object", reason="tool call is not JSON"
        )
    return ToolCall(function["name"], arguments)


def _parts(raw: Mapping[str, Any], where: str, *, allowed: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    content = raw.get("content")
    if content is None and _tool_calls(raw):
        return
    if isinstance(content, str):
        yield "text", content
        return
    if not isinstance(content, list):
        raise ConversationError(f"{where} has no content; expected a string or a list of parts")
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        text = part.get("thinking" if kind == "thinking" else "text") if isinstance(part, Mapping) else None
        if kind not in allowed or not isinstance(text, str):
            raise ConversationError(
                f"{where} has a part of type {kind!r}; expected {' or '.join(allowed)} with text"
            )
        yield kind, text


def _ordered_results(
    calls: Sequence[Mapping[str, Any]], following: Sequence[Any], where: str, first: int
) -> list[Message]:
    """The results among the messages that follow, in the order of the calls."""
    found = [result for result in following if isinstance(result, Mapping) and result.get("role") == "tool"]
    if len(found) != len(calls):
        raise ConversationError(
            f"{where} calls {len(calls)} tools and {len(found)} results follow",
            reason="tool call without result",
        )
    by_id = {str(result.get("tool_call_id")): result for result in found}
    ids = [str(call.get("id")) for call in calls]
    if len(by_id) == len(calls) and set(ids) == set(by_id):
        found = [by_id[call_id] for call_id in ids]
    return [_parse_other(result, f"message {first + number}") for number, result in enumerate(found)]


def _answered(parts: Sequence[Message], results: Sequence[Message]) -> list[Message]:
    """The parts, each of whose last calls is followed by its result; earlier calls have theirs."""
    first = len(parts) - len(results)
    messages = list(parts[:first])
    for call, result in zip(parts[first:], results, strict=True):
        messages += (call, result)
    return messages


def _ending(message: Message) -> str:
    return "call of a tool" if message.tool_call else _name(message.role)


def _name(role: Speaker) -> str:
    return {"system": "system message", "user": "user", "assistant": "assistant", "tool": "result of a tool"}[
        role
    ]
