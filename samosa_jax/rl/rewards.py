"""What an answer earns, part by part: functions of the example and of what was answered, and of nothing else.

A part is between 0 and 1, or None where it does not apply to the example (a citation where no search was
due). Whether it applies depends on the example alone, so that the answers of a group are always compared by
the same parts. An answer that was never begun, for want of room, earns 0 in each.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from samosa_jax.data.chat.conversation import THINK_CLOSE, THINK_OPEN
from samosa_jax.data.tokenizer import Tokenizer
from samosa_jax.errors import UserError
from samosa_jax.evals.asking import Answer
from samosa_jax.evals.generation_tasks import Score, find_generation_task
from samosa_jax.evals.probe_checks import CHECKS
from samosa_jax.keys import near_miss
from samosa_jax.rl.advantages import overlong_penalty
from samosa_jax.rollout.events import Ended
from samosa_jax.rollout.turn import UNREADABLE
from samosa_jax.tasks.scoring import gives_number, mentions, parse_number
from samosa_jax.tasks.task import Example, tools_called, tools_due
from samosa_jax.tasks.tool_schemas import WEB_SEARCH

# An answer's special tokens, one letter each: thought [ ], call ( ), result < >, end $.
_LETTERS: Mapping[str, str] = {
    THINK_OPEN: "[",
    THINK_CLOSE: "]",
    "<|python_start|>": "(",
    "<|python_end|>": ")",
    "<|output_start|>": "<",
    "<|output_end|>": ">",
    "<|assistant_end|>": "$",
}
_WELL_FORMED = re.compile(r"(?:(?:\[\])?\(\)<>)*(?:\[\])?\$")
_MARKED_ANSWER = re.compile(r"\s*####\s*")


@dataclass(frozen=True, kw_only=True)
class Completion(Answer):
    """An answer together with the special tokens in it.

    Attributes:
        marks: their names in order, with those that the answer was made to begin with. Read from the tokens:
            text that merely spells one is text.
    """

    marks: tuple[str, ...]


@dataclass(frozen=True)
class Reward:
    parts: Mapping[str, float]  # by name, before they are weighted; without those that do not apply
    total: float  # their sum by weight


RewardPart = Callable[[Example, Completion], float | None]
RewardFunction = Callable[[Example, Completion], Reward]


def completion_of(
    ended: Ended, tokenizer: Tokenizer, *, item: str, sample: int, forced_start: str = ""
) -> Completion:
    """What the assistant's last event says of an answer that began with `forced_start`.

    Raises RuntimeError where the answer was cancelled or the engine failed.
    """
    if ended.reason in ("error", "cancelled"):
        raise RuntimeError(f"the answer to {item} ended with {ended.reason}: {ended.error}")
    tokens = ended.generation.tokens
    return Completion(
        item=item,
        sample=sample,
        messages=ended.messages,
        written=forced_start + tokenizer.decode(tokens, show_specials=True),
        reason=ended.reason,
        num_tokens=ended.usage.completion_tokens,
        marks=marks_of((*tokenizer.encode_with_specials(forced_start), *tokens), tokenizer.special_ids),
    )


def marks_of(tokens: Sequence[int], special_ids: Mapping[str, int]) -> tuple[str, ...]:
    """Names of the special tokens among the tokens, in order."""
    names = {number: name for name, number in special_ids.items()}
    return tuple(names[token] for token in tokens if token in names)


def make_reward(
    weights: Mapping[str, float], *, score: Score, length_free: int, length_limit: int
) -> RewardFunction:
    """A reward of the parts of weight above 0.

    Args:
      weights: by name: `task`, what `score` gives; `length`, see `length_part`; and those of PARTS.
      score: that of the task the examples are from.

    Raises UserError for a name that is no part. Whoever gives `code` a weight makes sure beforehand, by
    `evals.generation_tasks.check_sandbox`, that the sandbox holds.
    """

    def task_part(example: Example, completion: Completion) -> float:
        return score(example, completion.text, completion.messages)

    def length(example: Example, completion: Completion) -> float:
        return length_part(completion, free=length_free, limit=length_limit)

    known: dict[str, RewardPart] = {"task": task_part, **PARTS, "length": length}
    for name in weights:
        if name not in known:
            hint = near_miss(name, known) or f"; there are {', '.join(known)}"
            raise UserError(f"{name!r} is no part of a reward{hint}")
    used = {name: known[name] for name, weight in weights.items() if weight}

    def reward(example: Example, completion: Completion) -> Reward:
        parts: dict[str, float] = {}
        for name, part in used.items():
            value = part(example, completion)
            if value is not None:
                parts[name] = value if completion.messages else 0.0
        return Reward(parts, sum(weights[name] * value for name, value in parts.items()))

    return reward


def exact_answer(example: Example, completion: Completion) -> float:
    """1 if the final answer is the one wanted.

    A number is compared as a number, as GSM8K is scored: the one after the last `####`, else the last of all.
    Another answer is compared with the text after the last `####`, else with all of it, whatever its case,
    white space and final full stop.
    """
    if parse_number(example.answer) is not None:
        return float(gives_number(completion.text, example.answer))
    given = _MARKED_ANSWER.split(completion.text)[-1]
    return float(_normalised(given) == _normalised(example.answer))


def code(example: Example, completion: Completion) -> float | None:
    """1 if the program passes the example's tests within the sandbox's limits, as HumanEval is scored."""
    if not {"entry_point", "prompt", "test"} <= example.checks.keys():
        return None
    return find_generation_task("humaneval").score(example, completion.text, completion.messages)


def well_formed(example: Example, completion: Completion) -> float:
    """1 if the answer is well made, right or wrong.

    It ends by itself; before each call and before the final text stands at most one thought, which closes;
    every call can be read and has its result; there are no more calls than the example's solution has, or
    one; and something is said in the end.
    """
    called = tools_called(completion.messages)
    due = tools_called(example.solution)
    marks = "".join(_LETTERS.get(mark, "?") for mark in completion.marks)
    return float(
        completion.reason == "stop"
        and _WELL_FORMED.fullmatch(marks) is not None
        and UNREADABLE not in called
        and len(called) <= max(1, len(due))
        and bool(completion.text.strip())
    )


def tool_choice(example: Example, completion: Completion) -> float:
    """1 if the tools that were called are the ones due, however often, and no other."""
    return float(set(tools_called(completion.messages)) == tools_due(example))


def answer_contains(example: Example, completion: Completion) -> float | None:
    """Share of the phrases in the example's `mentions` that the answer has, as whole words in any case."""
    wanted: Sequence[str] = example.checks.get("mentions", ())
    if not wanted:
        return None
    return sum(mentions(completion.text, phrase) for phrase in wanted) / len(wanted)


def citation(example: Example, completion: Completion) -> float | None:
    """1 if the answer names the site or the title of a page that its search has found."""
    if WEB_SEARCH not in tools_due(example):
        return None
    return float(CHECKS["citation_required"].function(completion, True) is None)


def length_part(completion: Completion, *, free: int, limit: int) -> float:
    """1 up to `free` tokens, falling to 0 at `limit`; 0 for an answer that says nothing or does not end."""
    if completion.reason != "stop" or not completion.text.strip():
        return 0.0
    return 1.0 + float(overlong_penalty(completion.num_tokens, limit=limit, margin=limit - free))


PARTS: Mapping[str, RewardPart] = {
    "exact_answer": exact_answer,
    "code": code,
    "format": well_formed,
    "tool_choice": tool_choice,
    "answer_contains": answer_contains,
    "citation": citation,
}


def mean_parts(rewards: Sequence[Reward]) -> dict[str, float]:
    """Mean of every part over the rewards that have it, and `total`: what is logged of a step."""
    values: dict[str, list[float]] = {}
    for reward in rewards:
        for name, value in (*reward.parts.items(), ("total", reward.total)):
            values.setdefault(name, []).append(value)
    return {name: sum(parts) / len(parts) for name, parts in values.items()}


def _normalised(text: str) -> str:
    return " ".join(text.casefold().split()).removesuffix(".")
