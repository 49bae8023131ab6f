"""Preference pairs: two answers to one prompt, one of them better. One pure function per public schema."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from samosa_jax.data.chat.adapters import RawMessage, Row, joined, openai_tools, side, text_field
from samosa_jax.data.chat.conversation import Conversation, ConversationError, Message, parse_conversation


@dataclass(frozen=True, kw_only=True)
class PreferencePair:
    """Two whole conversations that differ in the last turn of the assistant alone."""

    prompt: Conversation  # what both begin with; ends with a message of the user
    chosen: Conversation
    rejected: Conversation


def conversations_pair(row: Row) -> PreferencePair:
    """{"conversations": [{"from", "value"}], "chosen": {"from", "value"}, "rejected", "system"?, "tools"?}:
    LLaMA-Factory."""
    return _pair(row, row.get("conversations"))


def messages_pair(row: Row) -> PreferencePair:
    """{"chosen": [{"role", "content"}], "rejected": [...], "prompt"?}: UltraFeedback binarized, distilabel's
    capybara, TRL's. The sides hold the prompt, or else "prompt" does (text or messages)."""
    return _pair(row, row.get("prompt"))


def instruction_pair(row: Row) -> PreferencePair:
    """{"instruction", "input"?, "chosen": text, "rejected": text}: llms_from_scratch, LLaMA-Factory."""
    return _pair(row, joined(text_field(row, "instruction"), text_field(row, "input")))


def prompt_pair(row: Row) -> PreferencePair:
    """{"prompt": text or messages, "chosen": text, "rejected": text, "system"?}."""
    return _pair(row, row.get("prompt"))


def orca_pair(row: Row) -> PreferencePair:
    """{"system"?, "input" or "question": text, "chosen": text, "rejected": text}: Intel's Orca pairs, and
    distilabel's edition of them."""
    return _pair(row, row["input"] if row.get("input") is not None else row.get("question"))


def _pair(row: Row, prompt: Any) -> PreferencePair:
    tools = openai_tools(row.get("tools"))
    system = side(text, "system") if (text := text_field(row, "system")).strip() else []
    chosen, rejected = (
        parse_conversation({"messages": [*system, *_whole(prompt, row.get(key), key)], "tools": tools})
        for key in ("chosen", "rejected")
    )
    begin, end = _last_turn(chosen.messages)
    other_begin, other_end = _last_turn(rejected.messages)
    if begin != other_begin:
        raise ConversationError("chosen and rejected answer different prompts", reason="malformed")
    if _stripped(end) == _stripped(other_end):
        raise ConversationError("chosen and rejected are equal", reason="equal sides")
    return PreferencePair(prompt=replace(chosen, messages=begin), chosen=chosen, rejected=rejected)


def _whole(prompt: Any, answer: Any, key: str) -> list[RawMessage]:
    if answer is None:
        raise ConversationError(f'"{key}" is missing', reason="no assistant turn")
    written = side(answer, "assistant")
    if any(message.get("role") == "user" for message in written):
        return written
    return [*side(prompt, "user"), *written]


def _last_turn(messages: Sequence[Message]) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    """(up to the user's last message, what the assistant makes of it)."""
    border = max(index for index, message in enumerate(messages) if message.role == "user") + 1
    return tuple(messages[:border]), tuple(messages[border:])


def _stripped(messages: Sequence[Message]) -> list[Message]:
    return [replace(message, text=message.text.strip()) for message in messages]
