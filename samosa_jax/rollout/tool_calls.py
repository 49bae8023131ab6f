"""What becomes of a call that a model writes: whether it is run, and its result as tokens of the answer."""

import logging
import time
from collections.abc import Sequence

from samosa_jax.data.chat.conversation import Message
from samosa_jax.data.tokenizer import Tokenizer
from samosa_jax.rollout.tools.registry import Registry, ToolContext, ToolResult
from samosa_jax.rollout.turn import RESULT_END, RESULT_START, Call

MAX_CALLS = 16  # of tools in one turn
TOOL_SECONDS = 10.0  # that one call may take
CUT = "\n[cut]"  # stands where a result was too long for the context
MIN_RESULT_TOKENS = 16  # less room, and the turn ends

_log = logging.getLogger(__name__)


def refusal(call: Call, *, num_calls: int, runs: bool, known: Sequence[str]) -> ToolResult | None:
    """The error that a call gets for its result instead of being run; None: it is to be run.

    Args:
        num_calls: of the turn so far, with this one.
        runs: whether there is such a tool here.
        known: names of those that there are.
    """
    if num_calls > MAX_CALLS:
        return error_result(f"{MAX_CALLS} calls of tools are the most in one turn; answer now")
    if call.problem:
        return error_result(call.problem)
    if runs:
        return None
    name = call.name if len(call.name) <= 40 else f"{call.name[:40]}..."
    return error_result(f"there is no tool {name!r}; known tools: {', '.join(known) or 'none'}")


def run_call(registry: Registry, call: Call, messages: tuple[Message, ...], *, seconds: float) -> ToolResult:
    """The result of a call within a conversation. Never raises."""
    context = ToolContext(messages, time.monotonic() + seconds)
    try:
        return registry.call(call.name, call.arguments, context)
    except Exception as error:
        _log.exception("the tool %s failed", call.name)
        return error_result(f"{call.name} failed ({type(error).__name__})")


def result_tokens(text: str, tokenizer: Tokenizer, *, room: int) -> list[int] | None:
    """<|output_start|>, the text or as much of it as may be, <|output_end|>; None without any room.

    room: tokens that the context has left; half of them are for the rest of the answer.
    """
    max_tokens = room // 2 - 2
    if max_tokens < MIN_RESULT_TOKENS:
        return None
    tokens = tokenizer.encode(text)
    if len(tokens) > max_tokens:
        left = max_tokens - len(tokenizer.encode(CUT))
        whole = tokenizer.decode_bytes(tokens[: max(0, left)]).decode("utf-8", "ignore")
        tokens = tokenizer.encode(whole + CUT)[:max_tokens]
    special = tokenizer.special_ids
    return [special[RESULT_START], *tokens, special[RESULT_END]]


def error_result(text: str) -> ToolResult:
    return ToolResult(f"error: {text}", is_error=True, seconds=0.0)
