"""Synthesises conversations with known answers, offline, the same for the same flags.

    python -m samosa_jax.prepare synth joint_think_tool --count 3000 --out data/joint.jsonl
    python -m samosa_jax.prepare synth temporal --split heldout --count 200 --out data/temporal_heldout.jsonl
    python -m samosa_jax.prepare synth identity --persona my_model.yaml --count 500 --out data/identity.jsonl
    python -m samosa_jax.prepare synth preference --count 5000 --out data/pairs.jsonl

With --teacher-url and --teacher-model, another model rewrites the thoughts and answers.
"""

import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from samosa_jax.command_line import parse_dataclass, run
from samosa_jax.data.chat.conversation import to_json
from samosa_jax.data.chat.rules import RuleOptions, failures, make_rules
from samosa_jax.errors import UserError
from samosa_jax.keys import near_miss
from samosa_jax.tasks.catalog import ALL, TASK_NAMES, make_generated, make_task
from samosa_jax.tasks.identity import Persona, load_persona
from samosa_jax.tasks.preference import ARTEFACTS, PreferenceSynthesis, with_habit
from samosa_jax.tasks.task import Example, Split, Task, with_tool_schemas
from samosa_jax.tasks.teacher import TeacherOptions, taught
from samosa_jax.tasks.variety import VarietyCounter

PREFERENCE = PreferenceSynthesis.name
MAX_COMPARED = 3000  # conversations of the other split that the variety is measured against
REPORT_EVERY_S = 10.0


@dataclass(frozen=True, kw_only=True)
class SynthFlags:
    """The flags of `prepare synth`."""

    name: str  # what to synthesise; all mixes every task but preference
    out: str  # JSONL file to write
    count: int = 1000  # conversations, or pairs
    seed: int = 0  # other seeds give other conversations
    split: Literal["train", "heldout"] = "train"  # heldout has other wordings, names and numbers
    persona: str | None = None  # YAML file of who the assistant is; without it, samosaChaat
    levels: tuple[int, ...] = ()  # of a graded task, as in --levels=[1,2]; all of them if not given
    of: str = ""  # of preference: the task whose answers the pairs are made of; several if not given
    artefacts: tuple[str, ...] = ()  # likewise: by which they are spoiled; all if not given
    spoiled: float = 0.0  # share of answers with a habit of scraped text, for preferences to take out again
    include_tools: bool = False  # put the schemas of the tools into every conversation
    overwrite: bool = False  # replace the file if it exists
    teacher_url: str | None = None  # http://HOST:PORT/v1 of a model that rewrites thoughts and answers
    teacher_model: str | None = None  # its name
    teacher_threads: int = 4  # requests at the same time
    teacher_timeout_s: float = 60.0  # for one reply
    teacher_attempts: int = 4  # tries of one request


def main(argv: list[str]) -> None:
    names = ", ".join((*TASK_NAMES, PREFERENCE, ALL))
    flags = parse_dataclass(
        argv, SynthFlags, description=f"Synthesise conversations: {names}.", positional=("name",)
    )
    synthesize(flags)


def synthesize(flags: SynthFlags) -> None:
    """Writes the file whole or not at all, and prints what is in it. Raises UserError."""
    out = Path(flags.out)
    _check(flags, out)
    persona = load_persona(Path(flags.persona)) if flags.persona else Persona()
    started = time.monotonic()
    variety, other = VarietyCounter(), VarietyCounter()
    rejected: Counter[str] = Counter()
    other_split: Split = "heldout" if flags.split == "train" else "train"
    if flags.name == PREFERENCE:
        tasks = [make_generated(flags.of, persona=persona)] if flags.of else None
        synthesis = PreferenceSynthesis(persona, tasks=tasks, artefacts=flags.artefacts)
        rows = _pair_rows(synthesis, flags, variety)
        others = (pair.prompt for pair in synthesis.pairs(other_split, flags.seed, _compared(flags)))
    else:
        task = make_task(flags.name, persona=persona, levels=flags.levels)
        rows = _example_rows(task, flags, variety, rejected, kept=out.with_name(f"{out.name}.partial.jsonl"))
        others = (example.prompt for example in task.examples(other_split, flags.seed, _compared(flags)))
    _write(out, rows)
    seconds = time.monotonic() - started
    for prompt in others:
        other.add(prompt.messages)
    _report(flags, variety, other, rejected, seconds)


def _check(flags: SynthFlags, out: Path) -> None:
    if flags.name not in (*TASK_NAMES, PREFERENCE, ALL):
        names = ", ".join((*TASK_NAMES, PREFERENCE, ALL))
        raise UserError(f"{flags.name!r} cannot be synthesised; expected one of {names}")
    if flags.count < 1:
        raise UserError(f"--count is {flags.count}; it must be at least 1")
    if flags.teacher_model and not flags.teacher_url:
        raise UserError(
            "--teacher-model is given without --teacher-url; name the endpoint, http://HOST:PORT/v1"
        )
    if flags.name == PREFERENCE and (
        flags.teacher_url or flags.levels or flags.include_tools or flags.spoiled
    ):
        raise UserError(
            "preference pairs take no --teacher-url, --levels, --include-tools or --spoiled; leave them out"
        )
    if (flags.of or flags.artefacts) and flags.name != PREFERENCE:
        raise UserError(
            f"--of and --artefacts say how preference pairs are made, not {flags.name}; drop them"
        )
    for artefact in flags.artefacts:
        if artefact not in ARTEFACTS:
            hint = near_miss(artefact, ARTEFACTS) or f"; there are {', '.join(ARTEFACTS)}"
            raise UserError(f"--artefacts has {artefact!r}, which is none{hint}")
    if not 0 <= flags.spoiled <= 1:
        raise UserError(f"--spoiled is {flags.spoiled}; expected a share from 0 to 1")
    if out.exists() and not flags.overwrite:
        raise UserError(f"{out} exists; choose another --out, or pass --overwrite to replace it")
    if out.suffix != ".jsonl":
        raise UserError(f"--out is {out}; expected a name that ends in .jsonl")


def _example_rows(
    task: Task, flags: SynthFlags, variety: VarietyCounter, rejected: Counter[str], *, kept: Path
) -> Iterator[dict[str, Any]]:
    draw = random.Random(f"spoiled/{flags.split}/{flags.seed}")
    for example in _examples(task, flags, rejected, kept=kept):
        variety.add(example.conversation.messages)
        conversation = example.conversation
        if draw.random() < flags.spoiled:
            conversation = replace(conversation, messages=with_habit(draw, conversation.messages))
        if flags.include_tools:
            conversation = with_tool_schemas(conversation)
        task_name = example.checks.get("task", flags.name)
        yield {
            **to_json(conversation),
            "task": task_name,
            "answer": example.answer,
            "checks": dict(example.checks),
        }


def _examples(task: Task, flags: SynthFlags, rejected: Counter[str], *, kept: Path) -> Iterator[Example]:
    examples = task.examples(flags.split, flags.seed, flags.count)
    if flags.teacher_url is None:
        yield from examples
        return
    options = TeacherOptions(
        url=flags.teacher_url,
        model=flags.teacher_model or "",
        threads=flags.teacher_threads,
        timeout_s=flags.teacher_timeout_s,
        attempts=flags.teacher_attempts,
    )
    rules = make_rules(RuleOptions())
    results = taught(
        list(examples), task, options, kept=kept, broken_rules=lambda found: failures(found, rules)
    )
    shown = time.monotonic()
    for number, result in enumerate(results, start=1):
        if time.monotonic() - shown > REPORT_EVERY_S:
            shown = time.monotonic()
            print(f"{number:,} of {flags.count:,} answered, {rejected.total():,} rejected", flush=True)
        if result.rejection is None:
            yield result.example
        else:
            rejected[result.rejection] += 1


def _pair_rows(
    synthesis: PreferenceSynthesis, flags: SynthFlags, variety: VarietyCounter
) -> Iterator[dict[str, Any]]:
    for pair in synthesis.pairs(flags.split, flags.seed, flags.count):
        variety.add((*pair.prompt.messages, *pair.chosen))
        yield pair.to_json()


def _write(out: Path, rows: Iterator[dict[str, Any]]) -> None:
    """The rows as JSONL, beside the place first and then renamed."""
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
            if file.tell() == 0:
                raise UserError(
                    f"{out} would be empty, as the teacher's replies were all rejected; nothing is written"
                )
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, out)
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror}); choose another --out") from error
    finally:
        temporary.unlink(missing_ok=True)


def _compared(flags: SynthFlags) -> int:
    return min(flags.count, MAX_COMPARED)


def _report(
    flags: SynthFlags, variety: VarietyCounter, other: VarietyCounter, rejected: Counter[str], seconds: float
) -> None:
    found = variety.result()
    heldout, train = (other, variety) if flags.split == "train" else (variety, other)
    print(
        f"{flags.out}: {found.count:,} {'pairs' if flags.name == PREFERENCE else 'conversations'} of "
        f"{flags.name}, {flags.split}, in {seconds:.1f} s ({found.count / max(seconds, 1e-9):,.0f}/s)"
    )
    print(
        f"unique prompts {found.unique_prompts:,}; unique 4-grams {found.unique_prompt_ngrams:,} in prompts, "
        f"{found.unique_ngrams:,} with thoughts and answers"
    )
    print(
        f"4-grams of held-out prompts not in train: {heldout.share_not_in(train):.1%} "
        f"({heldout.count:,} against {train.count:,}); prompts in both: {heldout.prompts_shared_with(train)}"
    )
    if rejected:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in rejected.most_common())
        print(f"rejected replies of the teacher: {rejected.total():,} ({reasons})")


if __name__ == "__main__":
    run(main, sys.argv[1:])
