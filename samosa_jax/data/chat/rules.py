"""What a conversation must be like to be trained on: named rules, each a pure function of the conversation.

`chat.conversation` refuses what cannot be a conversation at all: thoughts that do not close, roles that do
not alternate, arguments that are not JSON, no answer at the end. The rules are about what parses and should
still not be learnt; those on form also look at conversations built in code, which no parser has seen:

    rule                 a file that breaks it
    think_closed         is refused by the parser
    tool_after_think     parses: thoughts after a call, and calls written out inside a thought
    one_result_per_call  is refused by the parser; the rule finds a second result inside the text of the first
    clean_end            is refused by the parser
    all others           parses

An answer is all that the assistant says in one turn, as the template joins it: calls of tools and thoughts
left out. Patterns look at answers; what stands in code (fenced, or between backticks) is not prose.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from samosa_jax.data.chat.answer_patterns import (
    find_emoji_spam,
    find_hedge,
    find_html,
    find_image_placeholder,
    find_over_apology,
    find_refusal,
    find_stock_label,
    prose,
    without_fences,
)
from samosa_jax.data.chat.conversation import Conversation, Message
from samosa_jax.errors import UserError

COPIED_ANSWER_CHARS = 40  # a shorter answer, such as a number, may well be found while thinking
EXCERPT_CHARS = 80


@dataclass(frozen=True, kw_only=True)
class RuleOptions:
    """The numbers in the rules."""

    min_answer_chars: int = 40  # in the longest answer of a conversation; full-width ones count twice
    min_think_chars: int = 50  # in every thought


@dataclass(frozen=True)
class Rule:
    """`check` gives what is wrong, with an excerpt, or None."""

    name: str
    description: str
    check: Callable[[Conversation], str | None]


def make_rules(options: RuleOptions) -> tuple[Rule, ...]:
    """All rules, in the order in which a conversation's first failure is counted."""
    return (
        Rule("think_closed", "thoughts close, and stand at the start of a message", _think_closed),
        Rule("tool_after_think", "tools are called after the turn's thought has closed", _tool_after_think),
        Rule("one_result_per_call", "every tool call has one result, right after it", _one_result_per_call),
        Rule("clean_end", "the last message is an answer", _clean_end),
        Rule("no_markup", "no answer spells the template's special tokens", _no_markup),
        Rule("answer_present", "every turn ends in an answer", _answer_present),
        Rule("answer_outside_think", "no thought holds the answer", _answer_outside_think),
        Rule(
            "enough_reasoning",
            f"a thought has at least {options.min_think_chars} characters",
            lambda conversation: _enough_reasoning(conversation, options.min_think_chars),
        ),
        Rule("no_html", "no HTML tags b, i, u, strong, em", _in_answers(find_html)),
        Rule(
            "no_stock_label",
            "no line begins with Answer:, Response:, Final answer: or Q:",
            _in_answers(find_stock_label),
        ),
        Rule("no_image_placeholder", "no image without a URL", _in_answers(find_image_placeholder)),
        Rule("no_emoji_spam", "no three emoji in a row", _in_answers(find_emoji_spam)),
        Rule("no_hedge", 'no "As an AI language model"', _in_answers(find_hedge)),
        Rule("no_refusal", 'no stock refusal such as "I cannot provide"', _in_answers(find_refusal)),
        Rule("no_over_apology", "no stock apology, and no more than two in an answer", _over_apology),
        Rule("no_tripled_line", "no line of words three times in a row", _tripled_line),
        Rule(
            "long_enough",
            f"some answer has at least {options.min_answer_chars} characters",
            lambda conversation: _long_enough(conversation, options.min_answer_chars),
        ),
    )


_FORM = ("think_closed", "tool_after_think", "one_result_per_call", "clean_end", "no_markup")
_THOUGHT = ("answer_present", "answer_outside_think")
_POOL = (
    "no_html",
    "no_stock_label",
    "no_image_placeholder",
    "no_emoji_spam",
    "no_hedge",
    "no_refusal",
    "no_over_apology",
    "no_tripled_line",
    "long_enough",
)
PRESETS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "think_tool": (*_FORM, *_THOUGHT),  # thoughts and tools in one turn
        "reasoning": ("think_closed", "clean_end", "no_markup", *_THOUGHT, "enough_reasoning"),
        "pool": (*_THOUGHT, *_POOL),  # general chat
        "all": (*_FORM, *_THOUGHT, "enough_reasoning", *_POOL),
    }
)


def select_rules(
    names: Sequence[str], *, disabled: Sequence[str] = (), options: RuleOptions | None = None
) -> tuple[Rule, ...]:
    """The rules of presets and single names, in the order of `make_rules`; none where all are disabled.

    Args:
      names: presets or rules; one text may hold several, with commas between.
      disabled: likewise, of rules alone.

    Raises:
      UserError: a name that is neither.
    """
    rules = make_rules(options or RuleOptions())
    known = {rule.name for rule in rules}
    wanted: set[str] = set()
    for name in _split(names):
        wanted.update(PRESETS.get(name, (name,)))
    unwanted = set(_split(disabled))
    if unknown := sorted((wanted | unwanted) - known):
        raise UserError(
            f"{unknown[0]!r} is no rule; presets are {', '.join(PRESETS)}, "
            f"rules are {', '.join(rule.name for rule in rules)}"
        )
    return tuple(rule for rule in rules if rule.name in wanted - unwanted)


def _split(names: Sequence[str]) -> list[str]:
    return [part.strip() for name in names for part in name.split(",") if part.strip()]


def failures(conversation: Conversation, rules: Sequence[Rule]) -> dict[str, str]:
    """Rule -> what is wrong, for every rule that the conversation breaks, in the order of the rules."""
    found = ((rule.name, rule.check(conversation)) for rule in rules)
    return {name: reason for name, reason in found if reason is not None}


def turns(conversation: Conversation) -> Iterator[list[Message]]:
    """The assistant's turns: its messages, with the results among them, from one user message to the next."""
    turn: list[Message] = []
    for message in conversation.messages:
        if message.role in ("assistant", "tool"):
            turn.append(message)
        elif turn:
            yield turn
            turn = []
    if turn:
        yield turn


def answers(conversation: Conversation) -> list[str]:
    """What the assistant says in every turn, without thoughts, calls and results."""
    return [
        "".join(message.text for message in turn if message.role == "assistant")
        for turn in turns(conversation)
    ]


def excerpt(text: str, start: int = 0, end: int | None = None) -> str:
    """At most EXCERPT_CHARS characters of a text, text[start:end] in their middle, on one line."""
    middle = (start + (start if end is None else end)) // 2
    # Begins no later than at `start`: of something long its beginning is shown.
    first = max(0, min(start, middle - EXCERPT_CHARS // 2, len(text) - EXCERPT_CHARS))
    shown = " ".join(text[first : first + EXCERPT_CHARS].split())
    return f"{'...' if first else ''}{shown}{'...' if first + EXCERPT_CHARS < len(text) else ''}"


# Form


_THINK_MARK = re.compile("</?think>")
_TOOL_MARK = re.compile(r"<\|(?:python|output)_(?:start|end)\|>")
_SPECIAL_TOKEN = re.compile(r"<\|[a-z][a-z0-9_]*\|>")


def _think_closed(conversation: Conversation) -> str | None:
    for message in conversation.messages:
        if message.role == "assistant":
            for part in (message.think or "", message.text):
                if match := _THINK_MARK.search(part):
                    return f"{match[0]} stands alone: {excerpt(part, *match.span())}"
    return None


def _tool_after_think(conversation: Conversation) -> str | None:
    for turn in turns(conversation):
        has_called = False
        for message in turn:
            if message.think is not None:
                if has_called:
                    return f"thinks after a tool call of the same turn: {excerpt(message.think)}"
                if match := _TOOL_MARK.search(message.think):
                    return f"{match[0]} inside a thought: {excerpt(message.think, *match.span())}"
            has_called = has_called or message.tool_call is not None
    return None


def _one_result_per_call(conversation: Conversation) -> str | None:
    messages = conversation.messages
    for index, message in enumerate(messages):
        follows_call = index > 0 and messages[index - 1].tool_call is not None
        if message.role == "tool":
            if not follows_call:
                return f"message {index} is a result without a call: {excerpt(message.text)}"
            if match := _TOOL_MARK.search(message.text):
                return f"{match[0]} inside a result: {excerpt(message.text, *match.span())}"
        elif follows_call:
            return f"message {index - 1} calls a tool and no result follows"
    if messages and messages[-1].tool_call is not None:
        return f"message {len(messages) - 1} calls a tool and no result follows"
    return None


def _clean_end(conversation: Conversation) -> str | None:
    role = conversation.messages[-1].role if conversation.messages else "nobody"
    return None if role == "assistant" else f"ends with a message of role {role}"


def _no_markup(conversation: Conversation) -> str | None:
    for answer in answers(conversation):
        if match := "<|" in answer and _SPECIAL_TOKEN.search(answer):
            return f"{match[0]} in an answer: {excerpt(answer, *match.span())}"
    return None


# Thoughts


_ANSWER_IN_THOUGHT = re.compile(r"\\boxed\s*\{|\b(?:final )?answer\b\s*(?:\*\*)?\s*(?::|is\b)", re.IGNORECASE)


def _answers_inside(turn: Sequence[Message]) -> str | None:
    """Where the turn ends in a thought and nothing after it: the answer that the thought labels as such."""
    last = turn[-1]
    if last.think is None or last.text.strip() or last.tool_call is not None:
        return None
    match = _ANSWER_IN_THOUGHT.search(last.think)
    return excerpt(last.think, *match.span()) if match else None


def _answer_present(conversation: Conversation) -> str | None:
    """A turn whose answer stands in its thought breaks `answer_outside_think`, and not this rule as well."""
    end = conversation.messages[-1] if conversation.messages else None
    for turn in turns(conversation):
        last = turn[-1]
        if last.role == "tool" and last is not end:
            return f"no answer after the result: {excerpt(last.text, len(last.text))}"
        is_silent = last.role == "assistant" and not last.text.strip() and last.tool_call is None
        if is_silent and _answers_inside(turn) is None:
            return f"no answer after the thought: {excerpt(last.think or '', len(last.think or ''))}"
    return None


def _answer_outside_think(conversation: Conversation) -> str | None:
    for turn in turns(conversation):
        thoughts = [message.think for message in turn if message.think]
        if not thoughts:
            continue
        if inside := _answers_inside(turn):
            return f"the answer stands in the thought and nothing after it: {inside}"
        answer = " ".join(turn[-1].text.split())
        if len(answer) >= COPIED_ANSWER_CHARS and any(
            answer in " ".join(think.split()) for think in thoughts
        ):
            return f"the thought holds the whole answer: {excerpt(answer)}"
    return None


def _enough_reasoning(conversation: Conversation, min_chars: int) -> str | None:
    for message in conversation.messages:
        if message.think is not None and len(message.think.strip()) < min_chars:
            return f"a thought of {len(message.think.strip())} characters: {excerpt(message.think)}"
    return None


# Answers


def _in_answers(find: Callable[[str], re.Match[str] | None]) -> Callable[[Conversation], str | None]:
    """The check that no answer has what `find` finds, in its prose."""

    def check(conversation: Conversation) -> str | None:
        for answer in answers(conversation):
            # Hardly any answer has what is looked for: code is only taken out of those that seem to.
            if find(answer) and (match := find(text := prose(answer))):
                return excerpt(text, *match.span())
        return None

    return check


_ASKED_TO_APOLOGISE = re.compile(r"apolog|sorry|complain|regret", re.IGNORECASE)


def _over_apology(conversation: Conversation) -> str | None:
    for answer in answers(conversation):
        if match := find_over_apology(answer):
            # A letter of apology that was asked for is no bad habit.
            users = (message.text for message in conversation.messages if message.role == "user")
            return None if any(map(_ASKED_TO_APOLOGISE.search, users)) else excerpt(answer, *match.span())
    return None


_LETTER = re.compile(r"[^\W_]")


def _tripled_line(conversation: Conversation) -> str | None:
    """Thoughts too: a loop is learnt wherever it stands. Lines without a letter or digit, blank ones and
    closing braces for instance, neither count nor break a row."""
    for message in conversation.messages:
        if message.role != "assistant":
            continue
        for text in (message.think or "", message.text):
            if text.count("\n") < 2:
                continue
            lines = [line.rstrip() for line in without_fences(text).split("\n") if _LETTER.search(line)]
            for first, second, third in zip(lines, lines[1:], lines[2:], strict=False):
                if first == second == third:
                    return excerpt(first)
    return None


def _long_enough(conversation: Conversation, min_chars: int) -> str | None:
    """The longest counts: `You are welcome!` at the end is no reason to drop a conversation."""
    longest = max((answer.strip() for answer in answers(conversation)), key=len, default="")
    # No answer at all is what other rules are about.
    if not longest or len(longest) >= min_chars or _width(longest) >= min_chars:
        return None
    return f"{_width(longest)} characters: {excerpt(longest)}"


def _width(text: str) -> int:
    """Characters; those of full width, a Chinese syllable for instance, say as much as two letters."""
    return (
        len(text)
        if text.isascii()
        else len(text) + sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    )
