"""Probes as they are asked: with their own values, or as held-out variants with other numbers and wordings.

A variant depends on (seed, probe, number) alone. What it computes falls into the held-out split of
`samosa_jax.tasks`, so that no synthesised example of training has the same sum.
"""

import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from samosa_jax.data.chat.conversation import Conversation, Message
from samosa_jax.errors import UserError
from samosa_jax.evals.asking import Answer
from samosa_jax.evals.probe_checks import CHECKS, Kind, find_failures
from samosa_jax.evals.probes import Probe, Suite, Turn, Variants, fill, fill_checks, values_of
from samosa_jax.tasks.catalog import make_task
from samosa_jax.tasks.identity import Persona
from samosa_jax.tasks.task import Example, Task, draw_in_split

LOOKED_THROUGH = 2000  # examples of a task for those of one kind
RIGHT_ANSWER = "right_answer"  # the check that a task's own score makes
ABOUT_FORM: tuple[Kind, ...] = ("true or false", "tools", "a whole number")  # whatever the question is


@dataclass(frozen=True, kw_only=True)
class AskedProbe:
    """A probe with every place filled.

    Attributes:
        item: unique among those asked together.
        task: what scores the answer beside the checks, and the example that was asked.
    """

    item: str
    category: str
    turns: tuple[Turn, ...]
    thinks: bool
    tools_run: bool
    checks: Mapping[str, Any]
    must_pass: bool = False
    task: tuple[Task, Example] | None = None

    def failures(self, answer: Answer) -> dict[str, str]:
        """Why the answer fails, by the name of the check; nothing if it passes."""
        found = find_failures(answer, self.checks)
        if self.task is not None:
            task, example = self.task
            if task.score(example, answer.text, answer.messages) < 1.0:
                found[RIGHT_ANSWER] = f"{example.answer!r} is the right answer"
        return found


def as_written(suite: Suite, persona: Persona) -> list[AskedProbe]:
    """Every probe with its own values."""
    return [_filled(probe, probe.values, persona, item=probe.name) for probe in suite.probes]


def held_out(suite: Suite, persona: Persona, *, seed: int, per_probe: int) -> list[AskedProbe]:
    """`per_probe` variants of every probe that has as many, else all that it has.

    Raises UserError where a probe's numbers leave nothing to draw, or its task has no example of that kind.
    """
    return [
        asked
        for probe in suite.probes
        if probe.variants is not None
        for asked in _variants(probe, probe.variants, persona, seed=seed, count=per_probe)
    ]


def _variants(
    probe: Probe, variants: Variants, persona: Persona, *, seed: int, count: int
) -> list[AskedProbe]:
    if variants.task:
        return _from_task(probe, variants.task, persona, seed=seed, count=count)
    found: list[AskedProbe] = []
    start = random.Random(f"probes/{seed}/{probe.name}").randrange(1 << 30)
    for number in range(count):
        draw = random.Random(f"probes/{seed}/{probe.name}/{number}")
        values = {**probe.values, **_numbers(probe, variants, draw)}
        if variants.cases:
            values |= variants.cases[(start + number) % len(variants.cases)]
        wording = variants.say[(start + number) % len(variants.say)] if variants.say else None
        last = probe.turns[-1] if wording is None else Turn(user=wording)
        reworded = replace(probe, turns=(*probe.turns[:-1], last))
        asked = _filled(reworded, values, persona, item=f"{probe.name}/{number}")
        # Few wordings and no numbers give the same question twice.
        if all(asked.turns != earlier.turns for earlier in found):
            found.append(asked)
    return found


def _numbers(probe: Probe, variants: Variants, draw: random.Random) -> dict[str, str]:
    if not variants.numbers:
        return {}

    def sample() -> dict[str, str]:
        return {
            name: str(draw.randrange(low, high + 1, step))
            for name, (low, high, step) in variants.numbers.items()
        }

    def key(values: dict[str, str]) -> object:
        # The first expression is what the tasks that make arithmetic go by.
        expression = next(iter(probe.computed.values()), None)
        if expression is None:
            return "/".join(values.values())
        return fill(expression, {**probe.values, **values}, where=f"{probe.where}: compute")

    try:
        return draw_in_split("heldout", sample, key=key)
    except RuntimeError:
        raise UserError(
            f"{probe.where}: variants.numbers leave no held-out numbers to draw; make the ranges wider"
        ) from None


def _filled(probe: Probe, values: Mapping[str, str], persona: Persona, *, item: str) -> AskedProbe:
    known = values_of(probe, values, persona)

    def filled(text: str | None) -> str | None:
        return None if text is None else fill(text, known, where=f"{probe.where}: say")

    return AskedProbe(
        item=item,
        category=probe.category,
        turns=tuple(
            Turn(user=filled(turn.user) or "", assistant=filled(turn.assistant)) for turn in probe.turns
        ),
        thinks=probe.thinks,
        tools_run=probe.tools_run,
        checks=fill_checks(probe, known),
        must_pass=probe.must_pass,
    )


def _from_task(probe: Probe, named: str, persona: Persona, *, seed: int, count: int) -> list[AskedProbe]:
    name, _, kind = named.partition("/")
    task = make_task(name, persona=persona)
    examples = (
        example
        for example in task.examples("heldout", seed, LOOKED_THROUGH)
        if not kind or example.checks.get("kind") == kind
    )
    found = list(itertools.islice(examples, count))
    if len(found) < count:
        raise UserError(
            f"{probe.where}: variants.task is {named}; {LOOKED_THROUGH} examples of {name} have {len(found)} "
            f"of kind {kind!r}, {count} are needed"
        )
    checks = {check: value for check, value in probe.checks.items() if CHECKS[check].kind in ABOUT_FORM}
    return [
        AskedProbe(
            item=f"{probe.name}/{number}",
            category=probe.category,
            turns=_turns_of(example.prompt),
            thinks=probe.thinks,
            tools_run=probe.tools_run,
            checks=checks,
            task=(task, example),
        )
        for number, example in enumerate(found)
    ]


def _turns_of(prompt: Conversation) -> tuple[Turn, ...]:
    """What the user says, each with the words that follow it up to the next."""
    turns: list[Turn] = []
    messages: Sequence[Message] = prompt.messages
    for message in messages:
        if message.role == "user":
            turns.append(Turn(user=message.text))
        elif message.role == "assistant" and turns:
            turns[-1] = replace(turns[-1], assistant=message.text)
    return tuple(turns)
