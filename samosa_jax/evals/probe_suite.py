"""Runs a suite of probes on a checkpoint: its probes, their held-out variants, and samples without artefacts.

probes, probes/CATEGORY                    share of the probes that pass, all together and of each category
probes_heldout, probes_heldout/CATEGORY    likewise of their variants
probes/must_pass                           likewise of those that no gate should forgive
probes/artefacts                           share of ARTEFACT_SAMPLES samples with an artefact in the answer
"""

import hashlib
import json
import time
from collections.abc import Collection, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from samosa_jax.data.chat.conversation import Conversation, Message, to_json
from samosa_jax.errors import UserError
from samosa_jax.evals import probes as names
from samosa_jax.evals.asking import Answer, Question, ask
from samosa_jax.evals.generation import Subject
from samosa_jax.evals.probe_checks import find_artefact
from samosa_jax.evals.probe_variants import AskedProbe, as_written, held_out
from samosa_jax.evals.probes import Suite
from samosa_jax.evals.results import TaskResult, append_result, mean_interval, read_items, write_items
from samosa_jax.rollout.request import Sampling
from samosa_jax.rollout.tools.local_index import LocalIndex
from samosa_jax.rollout.tools.registry import CalculatorTool, Registry
from samosa_jax.rollout.tools.web_search import WebSearch
from samosa_jax.tasks.identity import Persona

DEFINITION = 1  # goes up when the same model and suite would give another number
PROBES, HELD_OUT = "probes", "probes_heldout"
REQUIRED, ARTEFACTS = f"{PROBES}/{names.MUST_PASS}", f"{PROBES}/{names.ARTEFACTS}"
ARTEFACT_SAMPLES = 100


@dataclass(frozen=True, kw_only=True)
class ProbeSettings:
    """How a suite is run.

    Attributes:
        temperature: of the probes; 0 takes the likeliest token.
        variants: held-out variants of every probe; 0: none.
        artefact_samples: answers that are looked through for artefacts; 0: none.
        artefact_temperature: of those.
    """

    temperature: float = 0.0
    max_tokens: int = 512
    seed: int = 0
    variants: int = 2
    artefact_samples: int = ARTEFACT_SAMPLES
    artefact_temperature: float = 0.8


@dataclass(frozen=True, kw_only=True)
class GradedProbe:
    """What came of one probe."""

    probe: AskedProbe
    answer: Answer
    messages: tuple[Message, ...]  # the whole conversation
    failures: dict[str, str]  # by the name of the check

    @property
    def passed(self) -> bool:
        return not self.failures


def parts_of(suite: Suite, settings: ProbeSettings) -> dict[str, list[str]]:
    """The results of every part that a suite is run in; the first of them has the part's name."""
    varied = dict.fromkeys(probe.category for probe in suite.probes if probe.variants is not None)
    required = [REQUIRED] if any(probe.must_pass for probe in suite.probes) else []
    parts = {PROBES: [PROBES, *(f"{PROBES}/{category}" for category in suite.categories), *required]}
    if settings.variants and varied:
        parts[HELD_OUT] = [HELD_OUT, *(f"{HELD_OUT}/{category}" for category in varied)]
    if settings.artefact_samples:
        parts[ARTEFACTS] = [ARTEFACTS]
    return parts


def result_names(suite: Suite) -> list[str]:
    """The tasks that running the suite gives results of."""
    return [name for names in parts_of(suite, ProbeSettings()).values() for name in names]


def metric_of(part: str) -> str:
    return "artefact_rate" if part == ARTEFACTS else "pass_rate"


def persona_fingerprint(persona: Persona) -> str:
    """Of all that a persona says of itself."""
    return hashlib.sha256(json.dumps(asdict(persona)).encode()).hexdigest()[:16]


def probe_tools(suite: Suite) -> Registry:
    """What probes may call: the calculator, and a search of the suite's own pages, if it has some."""
    searches = () if suite.pages is None else (WebSearch(backend=LocalIndex.open(suite.pages)),)
    return Registry([CalculatorTool(), *searches])


def run_suite(
    suite: Suite, persona: Persona, subject: Subject, settings: ProbeSettings, *, parts: Collection[str]
) -> list[TaskResult]:
    """Asks the probes of these parts (see `parts_of`) and adds their results to the run.

    `subject.assistant` has the tools of `probe_tools`.
    """
    results: list[TaskResult] = []
    if PROBES in parts:
        results += _evaluate(as_written(suite, persona), PROBES, suite, persona, subject, settings)
    if HELD_OUT in parts:
        variants = held_out(suite, persona, seed=settings.seed, per_probe=settings.variants)
        results += _evaluate(variants, HELD_OUT, suite, persona, subject, settings)
    if ARTEFACTS in parts:
        results.append(_count_artefacts(suite, persona, subject, settings))
    return results


def grade(
    probes: Sequence[AskedProbe], subject: Subject, *, temperature: float, max_tokens: int, seed: int
) -> list[GradedProbe]:
    """Asks the probes, turn by turn, and holds the last answers against the checks."""
    said: dict[str, list[Message]] = {probe.item: [] for probe in probes}
    if len(said) < len(probes):
        raise UserError("two probes of the same name are asked together; rename one of them")
    answers: dict[str, Answer] = {}
    sampling = Sampling(temperature=temperature, max_tokens=max_tokens)
    for number in range(max((len(probe.turns) for probe in probes), default=0)):
        questions = []
        for probe in probes:
            if number >= len(probe.turns):
                continue
            turn, messages = probe.turns[number], said[probe.item]
            messages.append(Message(role="user", text=turn.user))
            if turn.assistant is not None:
                messages.append(Message(role="assistant", text=turn.assistant))
                continue
            questions.append(
                Question(
                    item=probe.item,
                    conversation=Conversation(messages=tuple(messages)),
                    thinks=probe.thinks,
                    tools_run=probe.tools_run,
                )
            )
        asked = ask(
            subject.assistant,
            subject.tokenizer,
            questions,
            sampling,
            task=f"{PROBES}/turn {number}",
            seed=seed,
        )
        with closing(asked):
            for answer in asked:
                answers[answer.item] = answer
                # Whoever had no room for an answer still has the turn of one.
                said[answer.item] += answer.messages or [Message(role="assistant", text="")]
    return [
        GradedProbe(
            probe=probe,
            answer=answers[probe.item],
            messages=tuple(said[probe.item]),
            failures=probe.failures(answers[probe.item]),
        )
        for probe in probes
    ]


def failed_probes(run: Path, results: Sequence[TaskResult], *, checkpoint: str) -> list[str]:
    """A line for every probe that the checkpoint fails, with the checks and why; from its newest results.

    Raises UserError where the items of a result are gone.
    """
    newest = {one.task: one for one in results if one.checkpoint == checkpoint}
    lines = []
    for task in (PROBES, HELD_OUT):
        if task not in newest:
            continue
        for item in read_items(run, newest[task]):
            why = "; ".join(f"{check}: {reason}" for check, reason in item["failures"].items())
            if why:
                lines.append(f"{task}: {item['item']} fails {why}")
    return lines


def _evaluate(
    probes: Sequence[AskedProbe],
    name: str,
    suite: Suite,
    persona: Persona,
    subject: Subject,
    settings: ProbeSettings,
) -> list[TaskResult]:
    """A result for all of them, then one for each category."""
    started = time.perf_counter()
    graded = grade(
        probes,
        subject,
        temperature=settings.temperature,
        max_tokens=settings.max_tokens,
        seed=settings.seed,
    )
    seconds = time.perf_counter() - started
    described = {**described_settings(name, suite, persona, settings), "config": subject.config}
    categories = dict.fromkeys(one.probe.category for one in graded)
    groups = {name: graded}
    groups |= {
        f"{name}/{category}": [one for one in graded if one.probe.category == category]
        for category in categories
    }
    required = [one for one in graded if one.probe.must_pass]
    if name == PROBES and required:
        groups[REQUIRED] = required
    return [
        _add(
            task,
            metric_of(name),
            [(float(one.passed), _record(one)) for one in group],
            subject,
            described,
            seconds=seconds * len(group) / len(graded),
            higher_is_better=True,
            counts={
                "failed": sum(not one.passed for one in group),
                "truncated": sum(one.answer.reason == "length" for one in group),
            },
        )
        for task, group in groups.items()
    ]


def _count_artefacts(suite: Suite, persona: Persona, subject: Subject, settings: ProbeSettings) -> TaskResult:
    """The probes are sampled again and again until there are enough answers, one after another."""
    started = time.perf_counter()
    once = as_written(suite, persona)
    probes = []
    for number in range(settings.artefact_samples):
        round_number, index = divmod(number, len(once))
        probe = once[index]
        probes.append(
            AskedProbe(
                item=f"{probe.item}/sample {round_number}",
                category=probe.category,
                turns=probe.turns,
                thinks=probe.thinks,
                tools_run=probe.tools_run,
                checks={},
            )
        )
    graded = grade(
        probes,
        subject,
        temperature=settings.artefact_temperature,
        max_tokens=settings.max_tokens,
        seed=settings.seed,
    )
    found = {one.probe.item: find_artefact(one.answer.text) for one in graded}
    rows = [
        (
            float(found[one.probe.item] is not None),
            {**_record(one), "artefact": found[one.probe.item]},
        )
        for one in graded
    ]
    return _add(
        ARTEFACTS,
        metric_of(ARTEFACTS),
        rows,
        subject,
        {**described_settings(ARTEFACTS, suite, persona, settings), "config": subject.config},
        seconds=time.perf_counter() - started,
        higher_is_better=False,
        counts={"artefacts": sum(artefact is not None for artefact in found.values())},
    )


def described_settings(part: str, suite: Suite, persona: Persona, settings: ProbeSettings) -> dict[str, Any]:
    """What decides the numbers of a part for a given model, as its results keep it."""
    described: dict[str, Any] = {
        "suite": suite.fingerprint,
        "persona": persona.name,
        "persona_facts": persona_fingerprint(persona),
        "temperature": settings.artefact_temperature if part == ARTEFACTS else settings.temperature,
        "max_tokens": settings.max_tokens,
        "seed": settings.seed,
    }
    return described | ({"variants": settings.variants} if part == HELD_OUT else {})


def _record(graded: GradedProbe) -> dict[str, Any]:
    """What is kept of a probe beside its score."""
    return {
        "item": graded.probe.item,
        "category": graded.probe.category,
        "failures": graded.failures,
        "answer": graded.answer.text,
        "written": graded.answer.written,
        "reason": graded.answer.reason,
        "messages": to_json(Conversation(messages=graded.messages))["messages"],
    }


def _add(
    task: str,
    metric: str,
    rows: Sequence[tuple[float, dict[str, Any]]],
    subject: Subject,
    settings: dict[str, Any],
    *,
    seconds: float,
    higher_is_better: bool,
    counts: dict[str, int],
) -> TaskResult:
    interval = mean_interval([score for score, _ in rows])
    items = [{**record, "score": score} for score, record in rows]
    path = write_items(subject.run, step=subject.step, task=task, items=items)
    result = TaskResult(
        task=task,
        metric=metric,
        value=interval.value,
        low=interval.low,
        high=interval.high,
        num_items=len(rows),
        higher_is_better=higher_is_better,
        settings=settings,
        definition=DEFINITION,
        step=subject.step,
        checkpoint=subject.checkpoint,
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(seconds, 3),
        counts=counts,
        items=path,
    )
    append_result(subject.run, result)
    return result
