"""Tasks that are evaluated by likelihood: tables of them in YAML, and how one is run.

configs/evals holds those that `samosa evaluate` knows; docs/evaluating.md says how to add one.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from samosa_jax.command_line import parse_dataclass
from samosa_jax.data.tokenizer import Tokenizer
from samosa_jax.errors import ConfigError, UserError
from samosa_jax.evals.chat_prompts import encode_in_conversation
from samosa_jax.evals.items import FIRST_FIELDS, ChoiceItem, Item, Kind, TextItem, read_item
from samosa_jax.evals.likelihood import Continuation, Score, Scorer
from samosa_jax.evals.prompts import SHOTS_SEED, draw_examples, encode_prompts, in_order, make_prompts
from samosa_jax.evals.published_rows import FORMS, published_item
from samosa_jax.evals.question_files import QuestionFile, find_file, read_file
from samosa_jax.evals.ranking import RankedBy, choice_score, rank_values
from samosa_jax.keys import near_miss

TABLES = Path(__file__).parents[2] / "configs" / "evals"
DEFINITION = 1  # of all of them together; each has a number of its own besides
ITEMS_AT_ONCE = 2000  # whose prompts are in memory at the same time

Progress = Callable[[int, int], None]  # items done, items to do


@dataclass(frozen=True, kw_only=True)
class LikelihoodTask:
    """One task; the keys of an entry in a table."""

    name: str
    kind: Kind
    hub: str = ""  # address of its file there; empty: it is not there, and is looked for in --data_dir alone
    local: tuple[str, ...]  # names of its file below --data_dir, without ending, tried in this order
    form: str = ""  # what rows look like that are not in the form of `evals.items`
    shots: int = 0  # examples before each question
    examples_hub: str = ""  # their file; empty: they are other questions of the task
    examples_local: tuple[str, ...] = ()
    delimiter: str = " "  # between a question and its answer
    asked: Literal["in_text", "in_conversation"] = (
        "in_text"  # in_conversation: by letters, in the chat template
    )
    baseline: float | None = None  # per cent that count as guessing where the task is centred
    ranked_by: tuple[RankedBy, ...] = ("mean",)  # the first is `accuracy`, the one by bytes `accuracy_norm`
    definition: int = 1  # goes up when the same model and data would give another number

    def __post_init__(self) -> None:
        if self.form and self.form not in FORMS:
            hint = near_miss(self.form, FORMS) or f"; there are {', '.join(FORMS)}"
            raise ConfigError(f"form of task {self.name} is {self.form!r}, which is none{hint}")
        if self.baseline is not None and not 0 <= self.baseline < 100:
            raise ConfigError(
                f"baseline of task {self.name} is {self.baseline}; expected 0 to under 100 per cent"
            )
        if self.asked == "in_conversation" and (self.kind != "multiple_choice" or self.shots):
            raise ConfigError(
                f"asked of task {self.name} is in_conversation, which takes multiple_choice without shots; "
                "take in_text"
            )
        if self.shots < 0:
            raise ConfigError(f"shots of task {self.name} is {self.shots}; expected 0 or more")
        if not self.ranked_by or not self.local:
            empty = "local" if self.ranked_by else "ranked_by"
            raise ConfigError(f"{empty} of task {self.name} is empty; expected at least one entry")

    @property
    def file(self) -> QuestionFile:
        return QuestionFile(hub=self.hub, local=self.local)


@dataclass(frozen=True, kw_only=True)
class TaskTable:
    """A YAML file of tasks."""

    prefix: str = ""  # before the tasks' names
    tasks: tuple[LikelihoodTask, ...]


@dataclass(frozen=True, kw_only=True)
class Questions:
    """The items of a task in the order in which they are asked, and where they are from."""

    items: tuple[Item, ...]
    examples: tuple[Item, ...]  # to show before them; empty: others of the items
    fingerprint: str  # SHA-256 of the files

    @property
    def chance(self) -> float:
        """The share that guessing gets right: 1 of as many choices as there are, nothing of free text."""
        return sum(_chance(item) for item in self.items) / len(self.items)


Outcome = Mapping[str, list[dict[str, Any]]]  # metric -> a record for each item, with item and score


def read_table(path: Path) -> dict[str, LikelihoodTask]:
    """The tasks of a YAML file by their full names. Raises ConfigError by line for a wrong key."""
    table = parse_dataclass([f"--config={path}"], TaskTable, description="A table of tasks.")
    found: dict[str, LikelihoodTask] = {}
    for task in table.tasks:
        name = f"{table.prefix}{task.name}"
        if name in found:
            raise ConfigError(f"{path} has two tasks of the name {name}; rename one of them")
        found[name] = task
    return found


def open_questions(task: LikelihoodTask, *, data_dir: Path | None) -> Questions:
    """Reads a task's files. Raises UserError for a file that is missing, empty or has a bad row."""
    paths = [_find(task.file, task.name, data_dir=data_dir)]
    items = _read_items(paths[0], task)
    examples: list[Item] = []
    if task.examples_local and task.shots:
        file = QuestionFile(hub=task.examples_hub, local=task.examples_local)
        paths.append(_find(file, task.name, data_dir=data_dir))
        examples = _read_items(paths[1], task)
        _check_examples(items, examples, task.shots, path=paths[1])
    elif task.shots >= len(items):
        raise UserError(
            f"{paths[0]} has {len(items)} questions; {task.shots} examples before each need at least "
            f"{task.shots + 1}"
        )
    digest = hashlib.sha256(b"".join(_sha256(path) for path in paths)).hexdigest()
    return Questions(items=tuple(in_order(items)), examples=tuple(examples), fingerprint=digest)


def run_task(
    task: LikelihoodTask,
    questions: Questions,
    *,
    scorer: Scorer,
    tokenizer: Tokenizer,
    limit: int | None = None,
    seed: int = SHOTS_SEED,
    on_progress: Progress = lambda done, total: None,
) -> tuple[Outcome, dict[str, int]]:
    """What every item scores, and counts of what happened on the way.

    Args:
        limit: items to ask, the first of the order; None: all.
        seed: of the examples shown.
    """
    count = len(questions.items) if limit is None else min(limit, len(questions.items))
    before = vars(scorer.spent).copy()
    outcome: dict[str, list[dict[str, Any]]] = {metric_of(by): [] for by in task.ranked_by}
    counts = {"truncated_prompts": 0, "cut_answers": 0, "not_a_number": 0}
    for start in range(0, count, ITEMS_AT_ONCE):
        places = range(start, min(start + ITEMS_AT_ONCE, count))
        asked, answers = _encode(task, questions, places, tokenizer, seed=seed)

        def hear(share: float, places: range = places) -> None:
            on_progress(places.start + int(share * len(places)), count)

        scored = score_groups(scorer, asked, on_progress=hear)
        for place, texts, continuations, scores in zip(places, answers, asked, scored, strict=True):
            counts["truncated_prompts"] += any(score.num_cut for score in scores)
            counts["cut_answers"] += any(
                score.num_tokens < len(one.continuation)
                for score, one in zip(scores, continuations, strict=True)
            )
            counts["not_a_number"] += any(score.logprob != score.logprob for score in scores)
            for by in task.ranked_by:
                record = _judge(questions.items[place], scores, texts, by)
                outcome[metric_of(by)].append(record)
        on_progress(places.stop, count)
    counts["programs"] = scorer.spent.programs - before["programs"]
    counts["tokens"] = scorer.spent.tokens - before["tokens"]
    return outcome, counts


def score_groups(
    scorer: Scorer,
    groups: Sequence[Sequence[Continuation]],
    *,
    on_progress: Callable[[float], None] = lambda share: None,
) -> list[list[Score]]:
    """Scores of continuations in groups, in groups; `on_progress` hears the share that is done."""
    flat = [one for group in groups for one in group]
    scores = iter(scorer.score(flat, on_progress=lambda done, total: on_progress(done / total)))
    return [[next(scores) for _ in group] for group in groups]


def metric_of(by: RankedBy) -> Literal["accuracy", "accuracy_norm"]:
    return "accuracy_norm" if by == "bytes" else "accuracy"


def _encode(
    task: LikelihoodTask, questions: Questions, places: range, tokenizer: Tokenizer, *, seed: int
) -> tuple[list[list[Continuation]], list[tuple[str, ...]]]:
    """The continuations of the items at these places, and the texts of their answers."""
    items = [questions.items[place] for place in places]
    if task.asked == "in_conversation":
        choices = [item for item in items if isinstance(item, ChoiceItem)]
        return encode_in_conversation(choices, tokenizer), [item.choices for item in choices]
    prompts = [
        make_prompts(item, _examples(task, questions, place, seed=seed), delimiter=task.delimiter)
        for place, item in zip(places, items, strict=True)
    ]
    boundary = "shared" if "mean" in task.ranked_by else "context"
    return encode_prompts(prompts, tokenizer, boundary=boundary), [prompt.answers for prompt in prompts]


def _examples(task: LikelihoodTask, questions: Questions, place: int, *, seed: int) -> list[Item]:
    if not task.shots:
        return []
    if not task.examples_local:
        return draw_examples(questions.items, place, task.shots, seed=seed)
    group = questions.items[place].group
    return [item for item in questions.examples if item.group == group][: task.shots]


def _check_examples(items: Sequence[Item], examples: Sequence[Item], shots: int, *, path: Path) -> None:
    """Raises UserError where some questions would be asked after fewer examples than the task says."""
    counts = Counter(example.group for example in examples)
    short = next((item.group for item in items if counts[item.group] < shots), None)
    if short is not None:
        of_group = f" of {short}" if short else ""
        raise UserError(
            f"{path} has {counts[short]} examples{of_group}; the task shows {shots} before each question: "
            "add some, or lower its shots"
        )


def _judge(item: Item, scores: Sequence[Score], answers: Sequence[str], by: RankedBy) -> dict[str, Any]:
    if isinstance(item, TextItem):
        return {
            "item": item.name,
            "score": float(scores[0].is_greedy),
            "logprob": _finite(scores[0].logprob),
            "gold": item.continuation,
        }
    values = rank_values(scores, answers, by)
    chosen = max(range(len(values)), key=lambda number: (values[number] == values[number], values[number]))
    return {
        "item": item.name,
        "score": choice_score(values, item.gold),
        "gold": item.gold,
        "chosen": chosen,
        "values": [_finite(value) for value in values],
    }


def _chance(item: Item) -> float:
    if isinstance(item, TextItem):
        return 0.0
    return 1 / len(item.choices if isinstance(item, ChoiceItem) else item.contexts)


def _finite(value: float) -> float | None:
    return round(value, 6) if abs(value) < float("inf") else None


def _find(file: QuestionFile, name: str, *, data_dir: Path | None) -> Path:
    if file.hub:
        return find_file(file, data_dir=data_dir)
    if data_dir is not None:
        try:
            return find_file(file, data_dir=data_dir)
        except UserError:
            if not data_dir.is_dir():
                raise
    where = "the hub" if data_dir is None else str(data_dir)
    raise UserError(
        f"{where} has no {file.local[0]}.jsonl, the questions of {name}; name a folder that has it with "
        "--data_dir (docs/evaluating.md says where to get it)"
    )


def _read_items(path: Path, task: LikelihoodTask) -> list[Item]:
    items: list[Item] = []
    for number, (where, row) in enumerate(read_file(path)):
        is_plain = not task.form or (isinstance(row, Mapping) and FIRST_FIELDS[task.kind] in row)
        item = (
            read_item(row, kind=task.kind, name=str(number), where=where)
            if is_plain
            else published_item(row, form=task.form, name=str(number), where=where)
        )
        items.append(item)
    return items


def _sha256(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
