"""The one chat template: a conversation as token ids, with the role of every token.

    <|bos|><|user_start|>system, tools, text<|user_end|><|assistant_start|><think>thought</think>text
    <|python_start|>{"tool": ..., "arguments": ...}<|python_end|><|output_start|>result<|output_end|>
    text<|assistant_end|><|user_start|>...

(without line breaks). The system message stands at the head of the first user message, as in nanochat, whose
special tokens these are. `chat_template.jinja` beside this file is the same for Hugging Face's transformers.
"""

import enum
import json
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from typing import Any, NamedTuple

import numpy as np

from samosa_jax.data.chat.conversation import Conversation, Message
from samosa_jax.data.tokenizer import Tokenizer

TEMPLATE_FILE = "chat_template.jinja"  # where transformers looks for it, beside the tokenizer
TOOLS_HEADER = "You may call these tools:"


class Role(enum.IntEnum):
    """What a token is; all but STRUCTURE have a weight in a loss curriculum."""

    STRUCTURE = 0  # <|bos|> and <|assistant_start|>: always given
    SYSTEM = 1
    HUMAN = 2
    ASSISTANT = 3  # answers, and <|assistant_end|>
    THINK = 4
    TOOL_CALL = 5
    TOOL_RESULT = 6


class Rendered(NamedTuple):
    """All (L,), L the tokens of the conversation."""

    tokens: np.ndarray  # int32
    roles: np.ndarray  # uint8, Role
    begins_turn: np.ndarray  # bool: <|bos|>, every <|assistant_start|>, every <|user_start|> but the first


class Piece(NamedTuple):
    """Tokens that belong together: special tokens around text."""

    role: Role
    opening: str  # special token, or ""
    text: str
    closing: str
    begins_turn: bool = False


def pieces(conversation: Conversation, *, for_answer: bool = False) -> Iterator[Piece]:
    """The template itself. `for_answer` leaves the last turn open, ready for the assistant to speak."""
    yield Piece(Role.STRUCTURE, "<|bos|>", "", "", begins_turn=True)
    messages = conversation.messages
    system = messages[0].text.strip() if messages and messages[0].role == "system" else ""
    if conversation.tools:
        system = "\n\n".join(filter(None, (system, _describe_tools(conversation.tools))))
    is_answering = False
    has_spoken = False  # the user
    for message in messages:
        if message.role == "user":
            if is_answering:
                yield Piece(Role.ASSISTANT, "", "", "<|assistant_end|>")
                is_answering = False
            yield Piece(Role.HUMAN, "<|user_start|>", "", "", begins_turn=has_spoken)
            if system and not has_spoken:
                yield Piece(Role.SYSTEM, "", f"{system}\n\n", "")
            yield Piece(Role.HUMAN, "", message.text.strip(), "<|user_end|>")
            has_spoken = True
        elif message.role == "tool":
            yield Piece(Role.TOOL_RESULT, "<|output_start|>", message.text, "<|output_end|>")
        elif message.role == "assistant":
            if not is_answering:
                yield Piece(Role.STRUCTURE, "<|assistant_start|>", "", "", begins_turn=True)
                is_answering = True
            yield from _spoken(message)
    if not is_answering and for_answer:
        yield Piece(Role.STRUCTURE, "<|assistant_start|>", "", "", begins_turn=True)
    elif is_answering and not for_answer:
        yield Piece(Role.ASSISTANT, "", "", "<|assistant_end|>")


def _spoken(message: Message) -> Iterator[Piece]:
    if message.think is not None:
        yield Piece(Role.THINK, "<think>", message.think, "</think>")
    yield Piece(Role.ASSISTANT, "", message.text, "")
    if message.tool_call is not None:
        yield Piece(Role.TOOL_CALL, "<|python_start|>", message.tool_call.text(), "<|python_end|>")


def _describe_tools(tools: Sequence[Mapping[str, Any]]) -> str:
    return "\n".join([TOOLS_HEADER, *(json.dumps(tool, ensure_ascii=False) for tool in tools)])


def render(conversation: Conversation, tokenizer: Tokenizer, *, for_answer: bool = False) -> Rendered:
    """The tokens of a conversation; with `for_answer` those of a prompt that the assistant answers.

    Text never becomes a special token, whatever it spells.
    """
    ids: list[int] = []
    counts: list[int] = []
    roles: list[int] = []
    turns: list[int] = []
    special = tokenizer.special_ids
    for piece in pieces(conversation, for_answer=for_answer):
        before = len(ids)
        if piece.begins_turn:
            turns.append(before)
        if piece.opening:
            ids.append(special[piece.opening])
        if piece.text:
            ids += tokenizer.encode(piece.text)
        if piece.closing:
            ids.append(special[piece.closing])
        counts.append(len(ids) - before)
        roles.append(piece.role)
    begins_turn = np.zeros(len(ids), bool)
    begins_turn[turns] = True
    return Rendered(np.array(ids, np.int32), np.repeat(np.array(roles, np.uint8), counts), begins_turn)


def render_text(conversation: Conversation, *, for_answer: bool = False) -> str:
    """The template as text, special tokens by name: for reading, and for comparing templates."""
    return "".join(
        piece.opening + piece.text + piece.closing for piece in pieces(conversation, for_answer=for_answer)
    )


def chat_template_text() -> str:
    """The template in Jinja, for `tokenizer.chat_template` of transformers.

    Its text and assistant masks are `render`'s, save for two things: text that spells a special token becomes
    it, unless the tokenizer is told not to (`sanitize_control_tokens`), and arguments given as text stand as
    they are written.
    """
    return resources.files("samosa_jax.data.chat").joinpath(TEMPLATE_FILE).read_text(encoding="utf-8")
