"""What a model is told of a conversation so far: how much of it fits, and its own words as it wrote them.

A text can be written with many sequences of tokens, and a model does not always choose the one that encoding
its text gives. `ExactHistory` remembers the tokens of answers, so that the prompt of the next turn begins
with the very tokens that the engine has read already and keeps. They stand for a message only where it is
the one they were read as, after the same messages and with the same tools. Two things do not count, as
JSON does not keep them: white space at the ends of texts and thoughts, and how a call was laid out; there
the model is told what it wrote. A message that was edited, or whose thought was left out, is rendered anew.
"""

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from samosa_jax.data.chat.conversation import Conversation, Message
from samosa_jax.data.chat.template import Role, pieces, render
from samosa_jax.data.tokenizer import Tokenizer
from samosa_jax.rollout.request import Prompt

MAX_REMEMBERED_TOKENS = 1 << 20  # 4 MiB
MAX_REMEMBERED_MESSAGES = 1 << 14


@dataclass(frozen=True)
class Fitted:
    conversation: Conversation
    num_dropped_turns: int


def fit(
    conversation: Conversation, tokenizer: Tokenizer, *, max_tokens: int, max_turns: int | None = None
) -> Fitted:
    """Without its oldest turns, so that its prompt has at most max_tokens tokens and max_turns turns.

    A turn is a message of the user and all that answers it. The system message, the tools and the last turn
    always stay, so that the prompt may still be longer than max_tokens.
    """
    messages = conversation.messages
    head = 1 if messages and messages[0].role == "system" else 0
    # What stands before the first message of the user goes with it.
    begins = [i for i, message in enumerate(messages) if message.role == "user"]
    num_turns = len(begins)
    if num_turns < 2:
        return Fitted(conversation, 0)
    rendered = render(conversation, tokenizer, for_answer=True)
    num_system = int(np.count_nonzero(rendered.roles == Role.SYSTEM))
    starts = np.flatnonzero(rendered.tokens == tokenizer.special_ids["<|user_start|>"])
    # <|bos|> and the system's words, which move on to the first message of the user that is left.
    num_fixed = 1 + num_system
    lengths = np.append(0, len(rendered.tokens) - starts[1:]) + num_fixed
    lengths[0] = len(rendered.tokens)
    dropped = 0 if max_turns is None else max(0, num_turns - max(1, max_turns))
    while dropped < num_turns - 1 and lengths[dropped] > max_tokens:
        dropped += 1
    if dropped == 0:
        return Fitted(conversation, 0)
    return Fitted(replace(conversation, messages=messages[:head] + messages[begins[dropped] :]), dropped)


class ExactHistory:
    """Prompts with the tokens that answers were written with. Thread-safe.

    Forgets what was not used for longest when it holds more than max_tokens or max_messages.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        max_tokens: int = MAX_REMEMBERED_TOKENS,
        max_messages: int = MAX_REMEMBERED_MESSAGES,
    ) -> None:
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens
        self._max_messages = max_messages
        self._num_tokens = 0
        self._tokens: OrderedDict[bytes, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    def remember(
        self,
        conversation: Conversation,
        messages: Sequence[Message],
        exact: Mapping[int, Sequence[int]],
    ) -> None:
        """exact: for some of the messages that answered the conversation, by number, their tokens.

        These are without what stands around a message in the template: <|assistant_start|> and
        <|assistant_end|>.
        """
        whole = replace(conversation, messages=(*conversation.messages, *messages))
        keys = list(_keys(whole))[len(conversation.messages) :]
        with self._lock:
            for number, tokens in exact.items():
                self._forget(keys[number])
                self._tokens[keys[number]] = np.array(tokens, np.int32)
                self._num_tokens += len(tokens)
            while self._num_tokens > self._max_tokens or len(self._tokens) > self._max_messages:
                self._forget(next(iter(self._tokens)))

    def prompt(self, conversation: Conversation) -> Prompt:
        """As `template.render(..., for_answer=True)`, answers with their exact tokens where it has them."""
        exact = self._exact_tokens(conversation)
        special = self._tokenizer.special_ids
        tokens: list[int] = []
        turns: list[int] = []
        num_spoken = 0  # messages of the assistant that have begun
        for piece in pieces(conversation, for_answer=True):
            if piece.begins_turn:
                turns.append(len(tokens))
            is_text = piece.role is Role.ASSISTANT and not piece.closing  # of every message exactly one
            spoken = None
            if is_text or piece.role is Role.THINK:
                spoken = exact[num_spoken]
            elif piece.role is Role.TOOL_CALL:
                spoken = exact[num_spoken - 1]
            num_spoken += is_text
            if spoken is not None:
                tokens += spoken.tolist() if is_text else ()
                continue
            tokens += [special[piece.opening]] if piece.opening else ()
            tokens += self._tokenizer.encode(piece.text)
            tokens += [special[piece.closing]] if piece.closing else ()
        begins_turn = np.zeros(len(tokens), bool)
        begins_turn[turns] = True
        return Prompt(np.array(tokens, np.int32), begins_turn)

    def _exact_tokens(self, conversation: Conversation) -> list[np.ndarray | None]:
        """For every message of the assistant its tokens, or None."""
        found: list[np.ndarray | None] = []
        with self._lock:
            for message, key in zip(conversation.messages, _keys(conversation), strict=True):
                if message.role == "assistant":
                    found.append(self._tokens.get(key))
                    if found[-1] is not None:
                        self._tokens.move_to_end(key)
        return found

    def _forget(self, key: bytes) -> None:
        tokens = self._tokens.pop(key, None)
        self._num_tokens -= 0 if tokens is None else len(tokens)


def _keys(conversation: Conversation) -> Iterator[bytes]:
    """For every message a digest of all up to it, and of the tools."""
    digest = hashlib.sha256(_canonical(conversation.tools))
    for message in conversation.messages:
        call = message.tool_call
        digest.update(
            _canonical(
                (
                    message.role,
                    message.text if message.role == "tool" else message.text.strip(),
                    None if message.think is None else message.think.strip(),
                    None if call is None else (call.name, call.arguments),
                )
            )
        )
        yield digest.digest()


def _canonical(value: object) -> bytes:
    # Mappings of any kind are objects; text may hold half of a surrogate pair.
    text = json.dumps(value, sort_keys=True, default=dict)
    return f"{text}\n".encode()
