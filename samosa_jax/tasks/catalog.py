"""The tasks that can be synthesised, by name."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from samosa_jax.data.chat.conversation import Message
from samosa_jax.errors import UserError
from samosa_jax.tasks.arithmetic import ArithmeticTask
from samosa_jax.tasks.creative import CreativeTask
from samosa_jax.tasks.follow_up import FollowUpTask
from samosa_jax.tasks.identity import IdentityTask, Persona
from samosa_jax.tasks.joint import JointThinkToolTask
from samosa_jax.tasks.spelling import SpellingTask
from samosa_jax.tasks.starter.echo import StarterEchoTask
from samosa_jax.tasks.starter.identity import StarterIdentityTask
from samosa_jax.tasks.starter.letters import StarterLettersTask
from samosa_jax.tasks.starter.manners import StarterMannersTask
from samosa_jax.tasks.starter.memory import StarterMemoryTask
from samosa_jax.tasks.starter.mixture import StarterTask, StarterThinkingTask
from samosa_jax.tasks.starter.stories import StarterStoriesTask
from samosa_jax.tasks.starter.sums import StarterSumsTask
from samosa_jax.tasks.sums import SumsTask
from samosa_jax.tasks.task import Example, GeneratedTask, Split, Task
from samosa_jax.tasks.temporal import TemporalTask
from samosa_jax.tasks.tool_choice import ToolChoiceTask
from samosa_jax.tasks.word_problems import WordProblemsTask

ALL = "all"
_MAKERS: Mapping[str, Callable[[Persona, Sequence[int]], GeneratedTask]] = {
    "joint_think_tool": lambda persona, levels: JointThinkToolTask(levels),
    "temporal": lambda persona, levels: TemporalTask(levels),
    "arithmetic": lambda persona, levels: ArithmeticTask(levels),
    "word_problems": lambda persona, levels: WordProblemsTask(levels),
    "spelling": lambda persona, levels: SpellingTask(levels),
    "identity": lambda persona, levels: IdentityTask(persona),
    "multi_turn": lambda persona, levels: FollowUpTask(),
    "creative": lambda persona, levels: CreativeTask(),
    "sums": lambda persona, levels: SumsTask(levels),
    "tool_choice": lambda persona, levels: ToolChoiceTask(persona),
    "starter": lambda persona, levels: StarterTask(persona),
    "starter_sums": lambda persona, levels: StarterSumsTask(levels),
    "starter_letters": lambda persona, levels: StarterLettersTask(levels),
    "starter_memory": lambda persona, levels: StarterMemoryTask(),
    "starter_identity": lambda persona, levels: StarterIdentityTask(persona),
    "starter_manners": lambda persona, levels: StarterMannersTask(),
    "starter_thinking": lambda persona, levels: StarterThinkingTask(persona),
    "starter_echo": lambda persona, levels: StarterEchoTask(),
    "starter_stories": lambda persona, levels: StarterStoriesTask(),
}
TASK_NAMES = tuple(_MAKERS)
LEVELS: Mapping[str, tuple[int, ...]] = {
    task.name: task.levels
    for task in (
        *(JointThinkToolTask, TemporalTask, ArithmeticTask, WordProblemsTask, SpellingTask),
        *(SumsTask, StarterSumsTask, StarterLettersTask),
    )
}
# Others repeat what these hold: a mixture of all would have it twice.
IN_ALL = tuple(
    name
    for name in TASK_NAMES
    if name not in (SumsTask.name, ToolChoiceTask.name) and not name.startswith(StarterTask.name)
)


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


def make_task(name: str, *, persona: Persona | None = None, levels: Sequence[int] = ()) -> Task:
    """The task of this name, or all of them in turn.

    Args:
      levels: of a graded task; empty: every level. Of all, tasks that have none of these are taken whole.

    Raises:
      UserError: no such task, or a level that there is not.
    """
    if name == ALL:
        own = {each: [level for level in levels if level in LEVELS.get(each, ())] for each in IN_ALL}
        if levels and not any(own.values()):
            raise UserError(f"no task has a level {_listed(levels)}; leave levels out to take all")
        return AllTasks([make_generated(each, persona=persona, levels=own[each]) for each in IN_ALL])
    return make_generated(name, persona=persona, levels=levels)


def make_generated(name: str, *, persona: Persona | None = None, levels: Sequence[int] = ()) -> GeneratedTask:
    """The one task of this name. Raises UserError as `make_task` does."""
    if name not in TASK_NAMES:
        raise UserError(f"{name!r} cannot be synthesised; expected one of {', '.join((*TASK_NAMES, ALL))}")
    if levels and name not in LEVELS:
        raise UserError(
            f"{name} has no levels, found {_listed(levels)}; leave them out, or name one of "
            f"{', '.join(LEVELS)}"
        )
    unknown = [level for level in levels if level not in LEVELS[name]]
    if unknown:
        raise UserError(f"{name} has no level {_listed(unknown)}; expected some of {_listed(LEVELS[name])}")
    return _MAKERS[name](persona or Persona(), levels)


def _listed(levels: Sequence[int]) -> str:
    return ", ".join(map(str, levels))
