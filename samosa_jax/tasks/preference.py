"""Preference pairs: a clean answer against the same answer spoiled by one artefact.

On disk a pair is `{"prompt": [message, ...], "chosen": [...], "rejected": [...], "artefact": name}`. Both
sides parse: a thought that never closes is written as a parser returns it, swallowing the answer.
"""

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from samosa_jax.data.chat.conversation import Conversation, Message, ToolCall, to_json
from samosa_jax.errors import UserError
from samosa_jax.tasks.direct import DirectTask
from samosa_jax.tasks.follow_up import FollowUpTask
from samosa_jax.tasks.identity import IdentityTask, Persona
from samosa_jax.tasks.joint import JointThinkToolTask
from samosa_jax.tasks.task import GeneratedTask, Split, tools_called
from samosa_jax.tasks.tool_schemas import WEB_SEARCH

Turn = tuple[Message, ...]


@dataclass(frozen=True, kw_only=True)
class PreferencePair:
    """Two turns of the assistant after one prompt, which differ in one artefact."""

    prompt: Conversation  # ends with the user
    chosen: Turn
    rejected: Turn
    artefact: str

    def to_json(self) -> dict[str, Any]:
        sides = {
            "prompt": self.prompt.messages,
            "chosen": self.chosen,
            "rejected": self.rejected,
        }
        written = {key: to_json(Conversation(messages=side))["messages"] for key, side in sides.items()}
        return {**written, "artefact": self.artefact}


class PreferenceSynthesis:
    """Pairs from the answers of several tasks; pair i depends on (split, seed, i) alone."""

    name = "preference"

    def __init__(
        self,
        persona: Persona | None = None,
        *,
        tasks: Sequence[GeneratedTask] | None = None,
        artefacts: Sequence[str] = (),
    ) -> None:
        """
        Args:
          tasks: their answers are spoiled, those of each as often; None: the tasks of longer conversations.
          artefacts: names of those to spoil answers by; empty: all ARTEFACTS.
        """
        own = (DirectTask(), FollowUpTask(), IdentityTask(persona), JointThinkToolTask())
        self._tasks: Sequence[GeneratedTask] = own if tasks is None else tasks
        self._artefacts = tuple(artefacts) or tuple(ARTEFACTS)

    def pair(self, split: Split, seed: int, index: int) -> PreferencePair:
        """Raises UserError if none of the artefacts fits the answer: some need a thought to spoil."""
        draw = random.Random(f"{self.name}/{split}/{seed}/{index}")
        example = draw.choice(self._tasks).compose(draw, split)
        clean = example.solution
        artefacts = self._artefacts
        # Artefacts take turns; one that this answer has no place for gives way to the next.
        for offset in range(len(artefacts)):
            name = artefacts[(index + offset) % len(artefacts)]
            spoiled = ARTEFACTS[name](draw, clean)
            if spoiled is not None:
                return PreferencePair(prompt=example.prompt, chosen=clean, rejected=spoiled, artefact=name)
        raise UserError(
            f"--artefacts {' '.join(artefacts)}: none of them fits the answer {clean[-1].text[:60]!r}; "
            "name one besides that fits any answer, such as stock_label"
        )

    def pairs(self, split: Split, seed: int, count: int) -> Iterator[PreferencePair]:
        for index in range(count):
            yield self.pair(split, seed, index)


def _with_text(turn: Turn, text: str) -> Turn:
    return (*turn[:-1], replace(turn[-1], text=text))


def _bold_tags(draw: random.Random, turn: Turn) -> Turn | None:
    words = turn[-1].text.split(" ")
    start = draw.randrange(max(1, len(words) - 2))
    tag = draw.choice(("b", "strong", "i", "em"))
    marked = [*words[:start], f"<{tag}>{' '.join(words[start : start + 2])}</{tag}>", *words[start + 2 :]]
    return _with_text(turn, " ".join(marked))


def _label(draw: random.Random, turn: Turn) -> Turn | None:
    return _with_text(turn, f"{draw.choice(('Answer:', 'Response:', 'Final answer:'))} {turn[-1].text}")


def _image_placeholder(draw: random.Random, turn: Turn) -> Turn | None:
    name = draw.choice(("image", "illustration", "chart", "photo of the scene"))
    return _with_text(turn, f"![{name}]\n\n{turn[-1].text}")


def _emoji_spam(draw: random.Random, turn: Turn) -> Turn | None:
    return _with_text(turn, f"{turn[-1].text} {''.join(draw.choices('😀😂🚀😍😎🙌', k=draw.randint(3, 6)))}")


def _stock_hedge(draw: random.Random, turn: Turn) -> Turn | None:
    hedge = draw.choice(
        (
            "As an AI language model, I do not have personal opinions, but here is what I found.",
            "As an AI language model, I may be wrong about this.",
        )
    )
    return _with_text(turn, f"{hedge} {turn[-1].text}")


def _stock_refusal(draw: random.Random, turn: Turn) -> Turn | None:
    refusal = draw.choice(
        (
            "I cannot provide that information. Please ask an expert or look it up in a reliable source.",
            "I cannot provide an answer to this question, as it is outside of what I may talk about.",
        )
    )
    thought = turn[0].think
    return (Message(role="assistant", think=thought, text=refusal),)


def _tripled_line(draw: random.Random, turn: Turn) -> Turn | None:
    line = turn[-1].text.splitlines()[-1]
    return _with_text(turn, "\n".join([turn[-1].text, *[line] * draw.randint(2, 4)]))


def _answer_in_thought(draw: random.Random, turn: Turn) -> Turn | None:
    last = turn[-1]
    if last.think is None:
        return None
    return (*turn[:-1], replace(last, think=f"{last.think} The answer is: {last.text}", text=""))


def _unclosed_thought(draw: random.Random, turn: Turn) -> Turn | None:
    last = turn[-1]
    return (
        None
        if last.think is None
        else (*turn[:-1], replace(last, think=f"{last.think}\n\n{last.text}", text=""))
    )


def _needless_call(draw: random.Random, turn: Turn) -> Turn | None:
    if tools_called(turn) or turn[-1].think is None:
        return None
    last = turn[-1]
    topic = " ".join(last.text.split()[:4]).strip(".,")
    call = ToolCall(WEB_SEARCH, {"query": topic})
    result = json.dumps({"query": topic, "results": []}, ensure_ascii=False)
    called = Message(role="assistant", think=last.think, tool_call=call)
    return (*turn[:-1], called, Message(role="tool", text=result), replace(last, think=None))


def _over_apology(draw: random.Random, turn: Turn) -> Turn | None:
    opening = draw.choice(
        (
            "I am so sorry for the confusion, and I sincerely apologize for any inconvenience.",
            "I apologize for the misunderstanding! I am truly sorry about that.",
        )
    )
    return _with_text(turn, f"{opening} {turn[-1].text} Once again, I apologize, and I am very sorry.")


ARTEFACTS: Mapping[str, Callable[[random.Random, Turn], Turn | None]] = {
    "answer_in_thought": _answer_in_thought,
    "bold_tags": _bold_tags,
    "stock_label": _label,
    "unclosed_thought": _unclosed_thought,
    "image_placeholder": _image_placeholder,
    "emoji_spam": _emoji_spam,
    "needless_call": _needless_call,
    "stock_hedge": _stock_hedge,
    "stock_refusal": _stock_refusal,
    "tripled_line": _tripled_line,
    "over_apology": _over_apology,
}
# Of scraped text: they stand before or after an answer, and leave it whole.
HABITS = ("stock_label", "image_placeholder", "emoji_spam", "stock_hedge")


def with_habit(draw: random.Random, messages: Turn) -> Turn:
    """The messages, the last answer spoiled by one of HABITS."""
    spoiled = ARTEFACTS[draw.choice(HABITS)](draw, messages)
    return messages if spoiled is None else spoiled
