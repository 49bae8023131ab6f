"""The tasks that can be synthesised, by name."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from samosa_jax.data.chat.conversation import Message
from samosa_jax.errors import UserError
from samosa_jax.tasks.arithmetic import DIFFICULTIES, ArithmeticTask
from samosa_jax.tasks.creative import CreativeTask
from samosa_jax.tasks.follow_up import FollowUpTask
from samosa_jax.tasks.identity import IdentityTask, Persona
from samosa_jax.tasks.joint import JointThinkToolTask
from samosa_jax.tasks.spelling import SpellingTask
from samosa_jax.tasks.task import Example, GeneratedTask, Split, Task
from samosa_jax.tasks.temporal import TemporalTask
from samosa_jax.tasks.word_problems import WordProblemsTask

ALL = "all"
_MAKERS: Mapping[str, Callable[[Persona, int | None], GeneratedTask]] = {
    "joint_think_tool": lambda persona, difficulty: JointThinkToolTask(difficulty),
    "temporal": lambda persona, difficulty: TemporalTask(),
    "arithmetic": lambda persona, difficulty: ArithmeticTask(difficulty),
    "word_problems": lambda persona, difficulty: WordProblemsTask(difficulty),
    "spelling": lambda persona, difficulty: SpellingTask(),
    "identity": lambda persona, difficulty: IdentityTask(persona),
    "multi_turn": lambda persona, difficulty: FollowUpTask(),
    "creative": lambda persona, difficulty: CreativeTask(),
}
TASK_NAMES = tuple(_MAKERS)
TAKES_DIFFICULTY = ("joint_think_tool", "arithmetic", "word_problems", ALL)


class AllTasks:
    """Every task in turn; an example is scored by the task that made it, which its checks name."""

    name = ALL

    def __init__(self, tasks: Sequence[GeneratedTask]) -> None:
        self._tasks = {task.name: task for task in tasks}

    def examples(self, split: Split, seed: int, count: int) -> Iterator[Example]:
        tasks = list(self._tasks.values())
        for index in range(count):
            task = tasks[index % len(tasks)]
            example = task.example(split, seed, index // len(tasks))
            yield replace(example, checks={**example.checks, "task": task.name})

    def score(self, example: Example, answer_text: str, messages: Sequence[Message] = ()) -> float:
        return self._tasks[example.checks["task"]].score(example, answer_text, messages)


def make_task(name: str, *, persona: Persona | None = None, difficulty: int | None = None) -> Task:
    """The task of this name, or all of them in turn.

    Raises:
      UserError: no such task, or a difficulty that there is not.
    """
    if name not in (*TASK_NAMES, ALL):
        raise UserError(f"{name!r} cannot be synthesised; expected one of {', '.join((*TASK_NAMES, ALL))}")
    if difficulty is not None and difficulty not in DIFFICULTIES:
        raise UserError(f"--difficulty is {difficulty}; expected {DIFFICULTIES[0]} to {DIFFICULTIES[-1]}")
    if difficulty is not None and name not in TAKES_DIFFICULTY:
        raise UserError(f"--difficulty is {difficulty}, but {name} has no grades; leave it out")
    if name == ALL:
        return AllTasks([make(persona or Persona(), difficulty) for make in _MAKERS.values()])
    return _MAKERS[name](persona or Persona(), difficulty)
