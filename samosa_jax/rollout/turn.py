"""One turn of the assistant, read token by token: what to show while it goes on, and the messages it makes.

A model may put special tokens anywhere. The reading is always the one that loses no text:

- a mark out of place (`</think>` without a thought, `<|python_end|>` without a call, a result that nobody
  returned, `<|assistant_start|>`, a mark within a call) is left out, and the text around it stays text;
- a thought that is not closed ends with the turn; one that comes late still is the message's thought;
- a call within a thought ends the thought;
- a call that is not closed is text;
- whatever would begin another's words (END_MARKS) ends the turn.

Messages are the text exactly as it was given out, white space included.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, groupby
from operator import itemgetter
from typing import Any, Literal

from samosa_jax.data.chat.conversation import Message, ToolCall
from samosa_jax.data.tokenizer import Tokenizer
from samosa_jax.rollout.events import TextDelta, TextKind, TokenLogprob
from samosa_jax.rollout.text_stream import StreamedText, TextStream
from samosa_jax.rollout.tools.registry import ToolCallError, parse_tool_call

END_MARKS = ("<|assistant_end|>", "<|bos|>", "<|user_start|>", "<|user_end|>")
CALL_END = "<|python_end|>"
RESULT_START, RESULT_END = "<|output_start|>", "<|output_end|>"
UNREADABLE = "unreadable"  # the name of a call that is none
MAX_NESTING = 64  # of a call's arguments; what is deeper is JSON for some programs and not for others
INTERRUPTED = "error: the call was interrupted"  # the result of a call that got none


@dataclass(frozen=True)
class Call:
    """What a model wrote between the marks of a call."""

    text: str
    name: str
    arguments: Mapping[str, Any]
    problem: str = ""  # why it is no call, a line for the model

    @property
    def arguments_text(self) -> str:
        """JSON of the arguments; the text itself if it is no call."""
        return self.text if self.problem else json.dumps(self.arguments, ensure_ascii=False)

    @classmethod
    def read(cls, text: str) -> "Call":
        """Never fails: a text that is no call is one of the tool UNREADABLE."""
        try:
            name, arguments = parse_tool_call(text)
            if _is_deeper_than(MAX_NESTING, arguments):
                raise ToolCallError("the call is nested too deeply")
            # What Python reads as JSON and others do not: NaN, and half a surrogate pair.
            json.dumps(arguments, allow_nan=False)
            ToolCall(name, arguments).text().encode()
        except ToolCallError as error:
            return cls(text, UNREADABLE, {"text": text}, str(error))
        except (ValueError, RecursionError):
            return cls(text, UNREADABLE, {"text": text}, "the call is not JSON that others can read")
        return cls(text, name, arguments)


@dataclass
class _Draft:
    """A message of the assistant that is being written."""

    has_thought: bool = False
    think: list[str] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)


class Turn:
    """Reads the tokens of one answer. No token makes it fail.

    Attributes:
        is_over: an end mark or a stop string was read; what follows is ignored.
        has_stopped: it was a stop string.
        call: a complete call that waits for its result: forced tokens from <|output_start|> to
            <|output_end|>.
        exact: for messages by their number, the tokens they were written with, where these say what the
            rendered message says and nothing else: no mark out of place, no text cut off by a stop string,
            no character left incomplete.
    """

    def __init__(
        self, tokenizer: Tokenizer, *, choice: int = 0, stop: Sequence[str] = (), reads_marks: bool = True
    ) -> None:
        """stop: strings that end the turn where the answer's text has one; thoughts and calls may.

        reads_marks: False for plain text, in which special tokens say nothing.
        """
        self.is_over = False
        self.has_stopped = False
        self.call: Call | None = None
        self.exact: dict[int, tuple[int, ...]] = {}
        self._tokenizer = tokenizer
        self._choice = choice
        self._stop = tuple(stop)
        self._marks = {i: name if reads_marks else "" for name, i in tokenizer.special_ids.items()}
        self._messages: list[Message] = []
        self._draft = _Draft()
        self._place: Literal["text", "think", "call", "result"] = "text"
        self._stream: TextStream[TokenLogprob] = TextStream(self._stop)
        self._inner: list[tuple[int, TokenLogprob]] = []  # tokens of a call or a result
        self._given: list[tuple[TextKind, StreamedText[TokenLogprob]]] = []  # out, and not taken yet

    @property
    def messages(self) -> tuple[Message, ...]:
        """Those that are complete."""
        return tuple(self._messages)

    def read(
        self,
        token: int,
        *,
        sampled: bool = True,
        logprob: float = 0.0,
        top: Sequence[tuple[int, float]] = (),
    ) -> None:
        """The next token. logprob, top: as in `Generation`."""
        if self.is_over:
            return
        mark = self._marks.get(token)
        if self.call is not None and self._place != "result":
            if mark == RESULT_START and not sampled:
                self._place = "result"
                return
            self._return(INTERRUPTED)
        if self._place == "result":
            self._read_result(token, mark)
            return
        if mark in END_MARKS:
            self.is_over = True
            return
        self._draft.tokens.append(token)
        if mark is not None:
            self._read_mark(mark)
            return
        source = self._logprob_of(token, logprob, top)
        if self._place == "call":
            self._inner.append((token, source))
        else:
            self._push(source)

    def take_deltas(self) -> list[TextDelta]:
        """The text that became certain since the last time."""
        given, self._given = self._given, []
        deltas: list[TextDelta] = []
        for kind, group in groupby(given, key=itemgetter(0)):
            pieces = [piece for _, piece in group]
            text = "".join(piece.text for piece in pieces)
            sources = chain.from_iterable(piece.sources for piece in pieces)
            deltas.append(TextDelta(self._choice, kind, text, tuple(sources)))
        return deltas

    def finish(self, *, awaits_result: bool = False) -> tuple[Message, ...]:
        """No more tokens follow. The messages of the turn; the last is the assistant's.

        awaits_result: the turn ends with a call that somebody else answers; otherwise a call without a result
        gets one that says so. Deltas of text that was held back are left to be taken.
        """
        self.is_over = True
        if self._place == "result":
            self._return(self._tokenizer.decode([token for token, _ in self._inner]))
        if self.call is not None:
            if awaits_result:
                return self.messages
            self._return(INTERRUPTED)
        if self._place == "call":  # not closed
            self._stream = TextStream()
            self._place = "text"
            for _, source in self._inner:
                self._push(source)
        self._flush()
        self._complete(None)
        return self.messages

    def _read_mark(self, mark: str) -> None:
        if mark == "<think>" and self._place == "text":
            self._enter("think")
            self._draft.has_thought = True
        elif mark == "</think>" and self._place == "think":
            self._enter("text")
        elif mark == "<|python_start|>" and (self._place == "text" or self._place == "think"):
            self._flush()
            self._place = "call"
        elif mark == CALL_END and self._place == "call":
            self.call = Call.read(self._tokenizer.decode([token for token, _ in self._inner]))
            self._complete(self.call)

    def _read_result(self, token: int, mark: str | None) -> None:
        if mark == RESULT_END:
            self._return(self._tokenizer.decode([token for token, _ in self._inner]))
        elif mark is None:
            self._inner.append((token, self._logprob_of(token, 0.0, ())))

    def _return(self, text: str) -> None:
        """The call has its result; the next message begins."""
        self._messages.append(Message(role="tool", text=text))
        self.call = None
        self._inner = []
        self._enter("text")

    def _complete(self, call: Call | None) -> None:
        draft, self._draft = self._draft, _Draft()
        think = "".join(draft.think) if draft.has_thought else None
        text = "".join(draft.text)
        wanted = text if think is None else f"<think>{think}</think>{text}"
        if call is not None:
            wanted += f"<|python_start|>{call.text}{CALL_END}"
            self._inner = []
        written = self._tokenizer.decode(draft.tokens, show_specials=True)
        if written == wanted and "\ufffd" not in written:
            self.exact[len(self._messages)] = tuple(draft.tokens)
        tool_call = None if call is None else ToolCall(call.name, call.arguments)
        self._messages.append(Message(role="assistant", text=text, think=think, tool_call=tool_call))

    def _enter(self, kind: TextKind) -> None:
        self._flush()
        self._place = kind
        self._stream = TextStream(self._stop if kind == "text" else ())

    def _push(self, source: TokenLogprob) -> None:
        if source.bytes:
            self._give(self._stream.push(source.bytes, source))

    def _flush(self) -> None:
        self._give(self._stream.flush())

    def _give(self, streamed: StreamedText[TokenLogprob]) -> None:
        if self._stream.has_stopped:
            self.has_stopped = self.is_over = True
        if not streamed.text:
            return
        kind: TextKind = "think" if self._place == "think" else "text"
        if kind == "text":
            self._draft.text.append(streamed.text)
        else:
            self._draft.think.append(streamed.text)
        self._given.append((kind, streamed))

    def _logprob_of(self, token: int, logprob: float, top: Sequence[tuple[int, float]]) -> TokenLogprob:
        data = self._tokenizer.bytes_of(token)
        likeliest = tuple(self._logprob_of(other, value, ()) for other, value in top) if top else ()
        return TokenLogprob(data.decode("utf-8", "replace"), data, logprob, likeliest)


def _is_deeper_than(limit: int, value: object) -> bool:
    level = [value]
    for _ in range(limit):
        lists = [list(item.values()) if isinstance(item, dict) else item for item in level]
        level = [child for item in lists if isinstance(item, list) for child in item]
    return bool(level)
