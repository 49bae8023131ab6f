"""Rows of public data sets as conversations: one pure function per schema, which its docstring gives.

Each takes the JSON value of a row and raises ConversationError when it holds no sound conversation. Which
function a row belongs to is `formats`' business.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from string import ascii_uppercase
from typing import Any

from samosa_jax.data.chat.conversation import (
    THINK_CLOSE,
    THINK_OPEN,
    Conversation,
    ConversationError,
    parse_conversation,
    parse_json,
)

Row = Mapping[str, Any]
RawMessage = dict[str, Any]  # canonical JSON of a message

_SPEAKERS = {
    "human": "user",
    "user": "user",
    "prompter": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
    "observation": "tool",
    "tool": "tool",
}
_CALCULATION = re.compile(r"<<([^<>]*)=([^<>=]*)>>")
_INLINE_CALL = re.compile(r"<\|(python|output)_start\|>(.*?)<\|\1_end\|>", re.DOTALL)
_INLINE_MARK = re.compile(r"<\|(?:python|output)_(?:start|end)\|>")
_THOUGHT_MARK = "<|begin_of_thought|>"
_THOUGHT_AND_SOLUTION = re.compile(
    r"\s*<\|begin_of_thought\|>(.*?)<\|end_of_thought\|>\s*"
    r"(?:<\|begin_of_solution\|>(.*?)<\|end_of_solution\|>|((?:(?!<\|begin_of_solution\|>).)*))\s*",
    re.DOTALL,
)


def messages(row: Row) -> Conversation:
    """{"messages": [{"role", "content", ...}], "tools"?}: OpenAI's, SmolTalk, OpenR1-Math, NuminaMath."""
    return parse_conversation(row)


def message_list(row: Sequence[Any]) -> Conversation:
    """[{"role", "content"}, ...]: the bare messages."""
    return parse_conversation({"messages": list(row)})


def samosachaat(row: Row) -> Conversation:
    """{"conversation": [{"role", "content"}], "checks"?}, calls and results inline in the assistant's text:
    <|python_start|>call<|python_end|><|output_start|>result<|output_end|>, where the call is the JSON
    {"tool", "arguments"} or else an expression for the calculator."""
    written: list[Any] = []
    for index, raw in enumerate(_list(row, "conversation")):
        is_inline = isinstance(raw, Mapping) and raw.get("role") == "assistant"
        if is_inline and isinstance(raw.get("content"), str):
            written += _split_calls(raw["content"], f"message {index}")
        else:
            written.append(raw)  # parse_conversation says what is wrong with it
    return parse_conversation({"messages": written, "tools": row.get("tools")})


def sharegpt(row: Row) -> Conversation:
    """{"conversations": [{"from", "value"}], "system"?, "tools"?}: ShareGPT, glaive, OpenThoughts, Sky-T1.

    Speakers are human, gpt, system, function_call (JSON of name and arguments, or a list of these),
    observation and tool; "tools" is JSON. Thoughts between <|begin_of_thought|> marks become <think>, and a
    system message that asks for such marks goes. {"role", "content"} in place of from and value is fine.
    """
    found = raw_messages(_list(row, "conversations"))
    if system := text_field(row, "system").strip():
        found.insert(0, {"role": "system", "content": system})
    if found and found[0].get("role") == "system" and _THOUGHT_MARK in str(found[0].get("content")):
        del found[0]
    return parse_conversation({"messages": found, "tools": openai_tools(row.get("tools"))})


def alpaca(row: Row) -> Conversation:
    """{"instruction", "input"?, "output", "system"?, "history"?: [[user, assistant], ...]}: Alpaca."""
    found = [*_system(row)]
    for turn in row.get("history") or ():
        if not (isinstance(turn, list) and len(turn) == 2):
            raise ConversationError('"history" is no list of [user, assistant]')
        found += ({"role": "user", "content": turn[0]}, {"role": "assistant", "content": turn[1]})
    found += exchange(
        joined(text_field(row, "instruction"), text_field(row, "input")), text_field(row, "output")
    )
    return parse_conversation({"messages": found})


def dolly(row: Row) -> Conversation:
    """{"instruction", "context"?, "response"}: Dolly. The context follows the instruction."""
    question = joined(text_field(row, "instruction"), text_field(row, "context"))
    return parse_conversation({"messages": exchange(question, text_field(row, "response"))})


def gsm8k(row: Row) -> Conversation:
    """{"question", "answer"} with <<48/2=24>> marks and a last line `#### 24`: GSM8K.

    Every mark becomes a call of the calculator and its result; the last line stays, to be scored by.
    """
    parts: list[RawMessage] = []
    said, *calculations = _CALCULATION.split(text_field(row, "answer"))
    parts.append({"type": "text", "text": said})
    for expression, result, after in zip(*(calculations[first::3] for first in range(3)), strict=True):
        parts += (
            {"type": "python", "text": expression.strip()},
            {"type": "python_output", "text": result.strip()},
            {"type": "text", "text": after},
        )
    question = {"role": "user", "content": text_field(row, "question")}
    return parse_conversation({"messages": [question, {"role": "assistant", "content": parts}]})


def question_answer(row: Row) -> Conversation:
    """{"question", "answer"}."""
    return parse_conversation({"messages": exchange(text_field(row, "question"), text_field(row, "answer"))})


def prompt_completion(row: Row) -> Conversation:
    """{"prompt", "completion"} or {"prompt", "response"}, each a string or a list of messages (as TRL's)."""
    answer = row["completion"] if "completion" in row else row.get("response")
    found = [*_system(row), *side(row.get("prompt"), "user"), *side(answer, "assistant")]
    return parse_conversation({"messages": found, "tools": openai_tools(row.get("tools"))})


def problem_solution(row: Row) -> Conversation:
    """{"problem", "solution"}: NuminaMath without messages. <think> in the solution stays a thought."""
    return parse_conversation({"messages": exchange(text_field(row, "problem"), text_field(row, "solution"))})


def open_math_reasoning(row: Row) -> Conversation:
    """{"problem", "generated_solution"}, the solution with <think>...</think>: OpenMathReasoning."""
    return parse_conversation(
        {"messages": exchange(text_field(row, "problem"), text_field(row, "generated_solution"))}
    )


def limo(row: Row) -> Conversation:
    """{"question", "solution", "answer"}: LIMO. The solution is one long thought, so it becomes the thought,
    and the answer is given in \\boxed{}."""
    thought, answer = text_field(row, "solution").strip(), text_field(row, "answer").strip()
    written = {"role": "assistant", "content": f"\\boxed{{{answer}}}" if answer else ""}
    question = {"role": "user", "content": text_field(row, "question")}
    return parse_conversation({"messages": [question, written | {"reasoning_content": thought}]})


def open_thoughts_parts(row: Row) -> Conversation:
    """{"problem", "deepseek_reasoning", "deepseek_solution"}: OpenThoughts' rows with their parts apart."""
    answer = {"role": "assistant", "content": text_field(row, "deepseek_solution")}
    answer["reasoning_content"] = text_field(row, "deepseek_reasoning")
    return parse_conversation({"messages": [{"role": "user", "content": text_field(row, "problem")}, answer]})


def multiple_choice(row: Row) -> Conversation:
    """{"question", "choices": [...], "answer": index or letter}: MMLU, its training rows under "train"."""
    row = row["train"] if isinstance(row.get("train"), Mapping) else row
    choices = _list(row, "choices")
    answer = row.get("answer")
    index = ascii_uppercase.find(answer) if isinstance(answer, str) and len(answer) == 1 else answer
    if not isinstance(index, int) or not 0 <= index < min(len(choices), 26):
        raise ConversationError(f'"answer" is {answer!r}, which is none of the {len(choices)} choices')
    lines = [f"{letter}. {choice}" for letter, choice in zip(ascii_uppercase, choices, strict=False)]
    question = "\n".join([text_field(row, "question").strip(), *lines, "", "Answer with the letter alone."])
    return parse_conversation({"messages": exchange(question, ascii_uppercase[index])})


def ai2_reasoning(row: Row) -> Conversation:
    """{"question", "choices": {"text": [...], "label": [...]}, "answerKey"}: ARC. Labels become letters."""
    choices = row["choices"]
    labels = _list(choices, "label")
    if row.get("answerKey") not in labels:
        raise ConversationError(f'"answerKey" is {row.get("answerKey")!r}, which is none of the labels')
    plain = {"question": row.get("question"), "choices": _list(choices, "text")}
    return multiple_choice(plain | {"answer": labels.index(row["answerKey"])})


def daily_dialog(row: Row) -> Conversation:
    """{"dialog": [utterance, ...]}: DailyDialog. The first to speak is the user, whose last word may go."""
    utterances = _list(row, "dialog")
    for index, utterance in enumerate(utterances):
        if not isinstance(utterance, str):
            raise ConversationError(f"utterance {index} is a {type(utterance).__name__}, expected text")
    utterances = [utterance.strip() for utterance in utterances]
    found: list[RawMessage] = []
    for question, answer in zip(utterances[::2], utterances[1::2], strict=False):
        found += exchange(question, answer)
    return parse_conversation({"messages": found})


def exchange(question: str, answer: str) -> list[RawMessage]:
    """Two messages: a question and its answer."""
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def joined(*texts: str) -> str:
    """The texts that are not blank, a blank line between them."""
    return "\n\n".join(filter(None, (text.strip() for text in texts)))


def text_field(row: Row, key: str) -> str:
    """The text under a key, "" where it is missing or null. Raises ConversationError if it is no text."""
    value = row.get(key)
    if value is not None and not isinstance(value, str):
        raise ConversationError(f'"{key}" is a {type(value).__name__}, expected text')
    return value or ""


def side(value: Any, role: str) -> list[RawMessage]:
    """A string as one message of that role; one message, or a list of them, as they are."""
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    return raw_messages([value] if isinstance(value, Mapping) else value)


def raw_messages(values: Any) -> list[RawMessage]:
    """Messages of {"from", "value"} or {"role", "content"} as the latter; thought marks become <think>."""
    if not isinstance(values, list):
        raise ConversationError(f"a {type(values).__name__} stands where messages belong")
    found: list[RawMessage] = []
    for index, value in enumerate(values):
        where = f"message {index}"
        if not isinstance(value, Mapping):
            raise ConversationError(f"{where} is no object")
        if "from" not in value:
            found.append(dict(value))
            continue
        text = value.get("value")
        if value["from"] == "function_call":
            calls = parse_json(str(text), f"{where}, a function_call")
            calls = calls if isinstance(calls, list) else [calls]
            if found and found[-1].get("role") == "assistant" and "tool_calls" not in found[-1]:
                found[-1]["tool_calls"] = calls
            else:
                found.append({"role": "assistant", "content": None, "tool_calls": calls})
            continue
        role = _SPEAKERS.get(str(value["from"]))
        if role is None:
            raise ConversationError(
                f"{where} is from {value['from']!r}; expected {', '.join(_SPEAKERS)} or function_call",
                reason="unknown role",
            )
        if role == "tool" and not isinstance(text, str):
            text = json.dumps(text, ensure_ascii=False)
        if role == "assistant" and isinstance(text, str) and _THOUGHT_MARK in text:
            text = _with_think(text, where)
        found.append({"role": role, "content": text})
    return found


def openai_tools(tools: Any) -> list[Any]:
    """Tools as a list or the JSON of one, each in OpenAI's {"type": "function", "function": {...}}."""
    if isinstance(tools, str) and tools.strip():
        tools = parse_json(tools, '"tools"')
    if not isinstance(tools, list | None | str):
        raise ConversationError('"tools" is no list of objects')
    return [
        {"type": "function", "function": tool}
        if isinstance(tool, Mapping) and "function" not in tool
        else tool
        for tool in tools or ()
    ]


def _split_calls(content: str, where: str) -> list[RawMessage]:
    """The messages that an assistant's text stands for, once calls and results are taken out of it."""
    text, *rest = _INLINE_CALL.split(content)
    written: list[RawMessage] = []
    for kind, inside, after in _triples(rest):
        if kind == "python":
            call = _inline_call(inside.strip(), where)
            written.append({"role": "assistant", "content": text, "tool_calls": [call]})
        elif text.strip() or not written:
            raise ConversationError(
                f"{where} has a result that no call is right before", reason="wrong order"
            )
        else:
            written.append({"role": "tool", "content": inside})
        text = after
    if text.strip() or not written:
        written.append({"role": "assistant", "content": text})
    for message in written:
        if message["role"] == "assistant" and (mark := _INLINE_MARK.search(message["content"])):
            raise ConversationError(f"{where} has {mark.group()} without its partner")
    return written


def _triples(values: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    yield from zip(values[::3], values[1::3], values[2::3], strict=True)


def _inline_call(text: str, where: str) -> RawMessage:
    if not text.startswith("{"):
        return {"name": "calculator", "arguments": {"expression": text}}
    call = parse_json(text, f"{where}, a tool call")
    return {"name": call.get("tool", call.get("name")), "arguments": call.get("arguments", {})}


def _with_think(text: str, where: str) -> str:
    matched = _THOUGHT_AND_SOLUTION.fullmatch(text)
    if matched is None:
        raise ConversationError(f"{where}: {_THOUGHT_MARK} is not balanced", reason="unbalanced think")
    thought, solution, rest = matched.groups()
    return f"{THINK_OPEN}\n{thought.strip()}\n{THINK_CLOSE}\n\n{(solution or rest or '').strip()}"


def _system(row: Row) -> Iterator[RawMessage]:
    if system := text_field(row, "system").strip():
        yield {"role": "system", "content": system}


def _list(row: Row, key: str) -> list[Any]:
    value = row.get(key)
    if not isinstance(value, list):
        raise ConversationError(f'"{key}" is a {type(value).__name__}, expected a list')
    return value
