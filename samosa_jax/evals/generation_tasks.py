"""The tasks that are evaluated, and rewarded, by what a model writes, by name.

A task is questions and a score for any answer. Those made by `samosa_jax.tasks` have two splits: no training
example has the numbers and wordings of a held-out one.
"""

import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from samosa_jax.data.chat.conversation import Message
from samosa_jax.errors import UserError
from samosa_jax.evals.question_files import CACHE, QuestionFile, find_file, read_file
from samosa_jax.keys import near_miss
from samosa_jax.rollout.tools.sandbox import protections, run_python
from samosa_jax.tasks import gsm8k, humaneval, svamp
from samosa_jax.tasks.catalog import make_task
from samosa_jax.tasks.task import Example, Split

MADE_ITEMS = 200  # of a task that makes its questions, where no limit is given
INSIST = "--run_unsafe_code"


class Score(Protocol):
    def __call__(self, example: Example, answer_text: str, messages: Sequence[Message] = ()) -> float: ...


@dataclass(frozen=True, kw_only=True)
class GenerationTask:
    """Questions, and how answers to them are judged.

    Attributes:
        definition: goes up when the same model and data would give another number.
        max_tokens: of an answer, where no other number is given.
        file: where the questions are; None: they are made.
        train_file: those to learn from, if there are such.
        example_of: one question of a row; the second argument says where the row stands.
        runs_code: what the model writes is run, in the sandbox.
    """

    name: str
    definition: int = 1
    max_tokens: int = 512
    file: QuestionFile | None = None
    train_file: QuestionFile | None = None
    example_of: Callable[[Any, str], Example] | None = None
    score: Score
    runs_code: bool = False


@dataclass(frozen=True)
class Item:
    name: str  # unique in its task
    example: Example


def find_generation_task(name: str) -> GenerationTask:
    """Raises UserError for a name that there is not, with those near it."""
    if name not in GENERATION_TASKS:
        hint = near_miss(name, GENERATION_TASKS) or f"; there are {', '.join(GENERATION_TASKS)}"
        raise UserError(f"{name!r} is no task of generation{hint}")
    return GENERATION_TASKS[name]


def open_items(
    task: GenerationTask,
    *,
    data_dir: Path | None,
    seed: int = 0,
    limit: int | None = None,
    split: Split = "heldout",
    levels: Sequence[int] = (),
    cache: Path = CACHE,
    flag: str = "--data_dir",
) -> list[Item]:
    """The first `limit` questions, None for all, of a made task MADE_ITEMS. The same for the same arguments.

    Args:
        levels: of a graded task; empty: all.
        flag: names the setting of data_dir in errors.

    Raises UserError for a file that is missing, damaged or empty, a task without the split, and levels that
    there are not.
    """
    file = task.file if split == "heldout" else task.train_file
    if task.file is None or task.example_of is None:
        count = MADE_ITEMS if limit is None else limit
        examples: Iterable[Example] = make_task(task.name, levels=levels).examples(split, seed, count)
        return [Item(f"{seed}/{index}", example) for index, example in enumerate(examples)]
    if levels:
        raise UserError(f"{task.name} has no levels; leave them out")
    if file is None:
        raise UserError(
            f"{task.name} has no questions to learn from, only those it is evaluated by; name another task"
        )
    items: list[Item] = []
    rows = read_file(find_file(file, data_dir=data_dir, cache=cache, flag=flag))
    for number, (where, row) in enumerate(rows, start=1):
        if limit is not None and number > limit:
            break
        example = task.example_of(row, where)
        items.append(Item(str(example.checks.get("id", number)), example))
    return items


def check_sandbox(*, insist: bool) -> tuple[str, ...]:
    """What the sandbox does not stop here. Raises UserError if there is such a thing, unless one insists."""
    missing = tuple(found.name for found in protections() if not found.is_active)
    if missing and not insist:
        raise UserError(
            f"this task runs code that the model writes, and the sandbox does not stop {', '.join(missing)} "
            f"here; evaluate where it does, or insist with {INSIST}"
        )
    return missing


def _score_code(example: Example, answer_text: str, messages: Sequence[Message] = ()) -> float:
    """1.0 if the program passes all tests within the sandbox's limits."""
    passed = secrets.token_hex(16)
    result = run_python(humaneval.program(example, answer_text, passed=passed))
    lines = result.stdout.split()
    return float(result.exit_status == 0 and bool(lines) and lines[-1] == passed)


def _made(name: str) -> GenerationTask:
    return GenerationTask(name=name, score=make_task(name).score)


_FROM_FILES = (
    GenerationTask(
        name="gsm8k",
        file=QuestionFile(
            hub="hf://openai/gsm8k/main/test-*.parquet", local=("gsm8k/test", "gsm8k_test", "gsm8k")
        ),
        train_file=QuestionFile(
            hub="hf://openai/gsm8k/main/train-*.parquet", local=("gsm8k/train", "gsm8k_train")
        ),
        example_of=gsm8k.example_of,
        score=gsm8k.score,
    ),
    GenerationTask(
        name="svamp",
        max_tokens=256,
        file=QuestionFile(
            hub="hf://ChilleD/SVAMP/data/test-*.parquet",
            local=("svamp", "svamp/test", "llm_foundry_eval/symbolic_problem_solving/svamp"),
        ),
        example_of=svamp.example_of,
        score=svamp.score,
    ),
    GenerationTask(
        name="humaneval",
        max_tokens=768,
        file=QuestionFile(
            hub="hf://openai/openai_humaneval/openai_humaneval/test-*.parquet",
            local=("humaneval", "humaneval/HumanEval", "HumanEval"),
        ),
        example_of=humaneval.example_of,
        score=_score_code,
        runs_code=True,
    ),
)
_MADE = (
    *("arithmetic", "sums", "word_problems", "temporal", "spelling"),
    *("multi_turn", "joint_think_tool", "tool_choice"),
    *("starter_sums", "starter_letters", "starter_memory"),
    *("starter_identity", "starter_thinking", "starter_manners", "starter_stories", "starter_echo"),
)

GENERATION_TASKS: Mapping[str, GenerationTask] = {
    task.name: task for task in (*_FROM_FILES, *map(_made, _MADE))
}
