"""What happens while an answer is given, for whoever shows it: text, calls of tools, the end."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from samosa_jax.data.chat.conversation import Message
from samosa_jax.rollout.request import Generation
from samosa_jax.rollout.tools.registry import ToolResult

TextKind = Literal["text", "think"]
EndReason = Literal["stop", "length", "tool_calls", "cancelled", "error"]


class TokenLogprob(NamedTuple):
    """One token of a text, and how likely it was before temperature and filters."""

    token: str  # bytes that are no whole character read U+FFFD
    bytes: bytes
    logprob: float  # natural; 0 for a token that was forced
    top: tuple["TokenLogprob", ...] = ()  # the likeliest ones, as many as were asked for


@dataclass(frozen=True)
class TextDelta:
    """More of the answer or of the thought before it; all of one kind, joined, are the text.

    Whole characters only. `logprobs` are those of the tokens that the text is made of; a token that text of
    two deltas is made of is in the first of them.
    """

    choice: int
    kind: TextKind
    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class ToolCalled:
    """The model called a tool; what it wrote before has been given out."""

    choice: int
    call_id: str
    name: str
    arguments: str  # JSON of an object; what the model wrote where that is none
    runs_here: bool  # a ToolReturned follows; otherwise whoever asked is to run it, and the turn is over


@dataclass(frozen=True)
class ToolReturned:
    choice: int
    call_id: str
    result: ToolResult  # its text as the model reads it


@dataclass(frozen=True)
class Usage:
    prompt_tokens: int  # of the prompt, and those forced into the answer (what tools returned)
    cached_tokens: int  # of the prompt that did not have to be read again
    completion_tokens: int  # that the model chose


@dataclass(frozen=True)
class Ended:
    """The last event of a choice.

    Attributes:
        messages: what assistant and tools said in this turn, to append to the conversation. The last one is
            the assistant's; it has a call exactly if the reason is "tool_calls".
        error: one line where the reason is "error".
    """

    choice: int
    reason: EndReason
    messages: tuple[Message, ...]
    usage: Usage
    generation: Generation
    error: str = ""


Event = TextDelta | ToolCalled | ToolReturned | Ended
