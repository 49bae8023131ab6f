"""Two runs side by side: what was evaluated on both, their configurations, how they trained."""

import dataclasses
import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samosa_jax.errors import UserError
from samosa_jax.evals.results import TaskResult
from samosa_jax.reporting.differences import (
    MIN_CHANGED,
    GroupDifference,
    Measured,
    NotComparableError,
    TaskDifference,
    check_alike,
    compare_paired,
    compare_unpaired,
    group_difference,
    group_of,
    survivors,
)
from samosa_jax.reporting.document import Block, Cell, Missing, Paragraph, Section, Table, Tone
from samosa_jax.reporting.document import Warning as Alarm
from samosa_jax.reporting.figures_in_words import NONE, count, figure, is_share, large, score
from samosa_jax.reporting.items_in_words import answer_of, expected_of, failures_of, question_of
from samosa_jax.reporting.overview_part import differing_settings, held_out_figure
from samosa_jax.reporting.run_history import RunHistory, read_run
from samosa_jax.reporting.training_part import bad_steps, final_loss, speed_in_words
from samosa_jax.training.display import format_seconds

OF_THE_RUN = ("name", "out_dir")  # what sets two runs apart in any case


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What the results of two runs say of each other."""

    differences: Sequence[TaskDifference]
    only: Sequence[str]  # a line for each task that one run alone has

    def lines(self, *, names: tuple[str, str]) -> Iterator[str]:
        """How many of the differences are real, and what to think of so many tests."""
        real = [one for one in self.differences if one.is_real]
        for verdict, name in ((1, names[1]), (-1, names[0])):
            better = [one.task for one in real if one.verdict == verdict]
            if better:
                yield f"{name} is better on {', '.join(better)}"
        if not real:
            yield "no difference is real: each may be chance"
        paired = [one for one in self.differences if one.p_value is not None]
        if len(paired) > 1:
            yield (
                f"{len(real)} of {len(self.differences)} differences are real one by one; tried together, "
                f"{survivors(paired)} of {len(paired)} paired ones hold (Holm, 5 %)"
            )


def compare_runs(
    a: RunHistory, b: RunHistory, *, tasks: Collection[str] = (), unpaired: bool = False
) -> Comparison:
    """Every task that both have, or those named; a group's name stands for all of its tasks.

    Raises:
        UserError: nothing to compare, or an unknown task.
        NotComparableError: a task was measured in two ways, and `unpaired` does not allow for it.
    """
    keys = [list(dict.fromkeys((result.task, result.metric) for result in run.results)) for run in (a, b)]
    known = list(dict.fromkeys(task for of_run in keys for task, _ in of_run))
    chosen = _chosen(known, tasks, runs=(a, b))
    both = [key for key in keys[0] if key in keys[1] and key[0] in chosen]
    only = [
        f"{task} ({metric}): evaluated on {run.name} alone"
        for run, own, others in ((a, keys[0], keys[1]), (b, keys[1], keys[0]))
        for task, metric in own
        if (task, metric) not in others and task in chosen
    ]
    if not both and (known or tasks):
        raise UserError(
            f"{a.folder} and {b.folder} have no task in common ({'; '.join(only)}); evaluate the same tasks "
            "on both with samosa evaluate"
        )
    return Comparison(differences=[_compare(a, b, key, unpaired=unpaired) for key in both], only=only)


def comparison_sections(
    a: RunHistory, b: RunHistory, comparison: Comparison, *, shown_items: int
) -> list[Section]:
    return [
        Section(
            name="results", title="Results", blocks=[*_results(a, b, comparison, shown_items=shown_items)]
        ),
        Section(name="training", title="Training", blocks=[_training(a, b)]),
        Section(name="settings", title="Configuration", blocks=[_settings(a, b)]),
    ]


def _chosen(known: Sequence[str], tasks: Collection[str], *, runs: tuple[RunHistory, RunHistory]) -> set[str]:
    if not tasks:
        return set(known)
    chosen: set[str] = set()
    for name in tasks:
        found = {task for task in known if task == name or task.startswith(f"{name}/")}
        if not found:
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known) or 'none'}"
            raise UserError(
                f"--tasks: {name} was evaluated on neither {runs[0].folder} nor {runs[1].folder}; {hint}"
            )
        chosen |= found
    return chosen


def _compare(a: RunHistory, b: RunHistory, key: tuple[str, str], *, unpaired: bool) -> TaskDifference:
    """The newest results of both that were measured alike; without such, the newest of all."""
    ours, theirs = (
        [
            Measured(run.folder, result)
            for result in _newest_first(run.results)
            if (result.task, result.metric) == key
        ]
        for run in (a, b)
    )
    pair = next(((one, other) for one in ours for other in theirs if _are_alike(one, other)), None)
    first, second = pair or (ours[0], theirs[0])
    try:
        if not first.result.items and not second.result.items:  # a mean over tasks has none of its own
            check_alike(first, second)
            return compare_unpaired(first, second)
        return compare_paired(first, second)
    except UserError:
        if not unpaired:
            raise
        return compare_unpaired(ours[0], theirs[0])


def _newest_first(results: Sequence[TaskResult]) -> list[TaskResult]:
    """Of several at one step, that which was written last comes first."""
    places = sorted(range(len(results)), key=lambda place: (results[place].step, place), reverse=True)
    return [results[place] for place in places]


def _are_alike(a: Measured, b: Measured) -> bool:
    try:
        check_alike(a, b)
    except NotComparableError:
        return False
    return True


def _results(a: RunHistory, b: RunHistory, comparison: Comparison, *, shown_items: int) -> Iterator[Block]:
    differences = comparison.differences
    if not differences:
        yield Missing("results: nothing was evaluated on both")
        return
    yield from (Paragraph(f"{line}.") for line in comparison.lines(names=(a.name, b.name)))
    unpaired = [one.task for one in differences if not one.is_paired and one.a.items]
    if unpaired:
        yield Alarm(
            f"Compared without pairs: {', '.join(unpaired)}. Settings or items differ there, so that a "
            "difference may be theirs and not the models'."
        )
    without_items = [one.task for one in differences if not one.is_paired and not one.a.items]
    if without_items:
        yield Paragraph(
            f"Without items of their own, so by their two intervals alone, which sees less: "
            f"{', '.join(without_items)}."
        )
    yield Table(
        caption=f"{b.name} against {a.name}: differences with their 95 % intervals",
        header=("task", a.name, b.name, "difference", "95 % interval", "p", "items", "changed", "verdict"),
        rows=[_row(one, a, b) for one in differences],
    )
    if any(_has_other_scale(one) for one in differences):
        yield Paragraph(
            "Differences are those of the items' mean score, which some metrics put on another scale or "
            "weigh by length."
        )
    yield from _by_category(differences)
    for one in differences:
        if one.changed and shown_items and one.p_value is not None:
            yield _changed(one, a, b, shown_items=shown_items)
    yield from map(Missing, comparison.only)


def _row(one: TaskDifference, a: RunHistory, b: RunHistory) -> tuple[str | Cell, ...]:
    metric = one.a.metric
    better = {1: f"{b.name} is better", -1: f"{a.name} is better", 0: "may be chance"}[one.verdict]
    tones: dict[int, Tone] = {1: "good", -1: "bad", 0: "muted"}
    values = (score(result.value, metric=metric) for result in (one.a, one.b))
    return (
        Cell(one.task, metric),
        *values,
        _signed(one.difference.value, metric=metric),
        f"[{_signed(one.difference.low, metric=metric)}, {_signed(one.difference.high, metric=metric)}]",
        _p_value(one),
        count(one.num_items),
        count(len(one.changed)) if one.is_paired else NONE,
        Cell(better, tone=tones[one.verdict]),
    )


def _p_value(one: TaskDifference) -> str:
    if one.p_value is None or len(one.changed) < MIN_CHANGED:
        return NONE
    return f"{one.p_value:.3f}" if one.p_value >= 0.001 else "< 0.001"


def _signed(value: float, *, metric: str) -> str:
    """Shares in points of 100."""
    return f"{100 * value:+.1f}" if is_share(metric) else f"{value:+.4f}"


def _has_other_scale(one: TaskDifference) -> bool:
    return one.is_paired and abs((one.b.value - one.a.value) - one.difference.value) > 1e-6


def _by_category(differences: Sequence[TaskDifference]) -> Iterator[Block]:
    rows = []
    tasks = {one.task for one in differences}
    groups: dict[str, list[TaskDifference]] = {}
    for one in differences:
        group = group_of(one.task, among=tasks)
        if "/" in one.task and len(one.item_differences):
            groups.setdefault(f"{group} ({one.a.metric})", []).append(one)
    for group, members in groups.items():
        if len(members) > 1:
            difference = group_difference(members)
            metric = members[0].a.metric
            rows.append(_category_row(f"{group}, mean of {len(members)}", difference, metric))
    for one in differences:
        if len(one.by_category) > 1 and not any(task.startswith(f"{one.task}/") for task in tasks):
            rows += [
                _category_row(f"{one.task}: {category}", difference, one.a.metric)
                for category, difference in one.by_category.items()
            ]
    if rows:
        header = ("category", "difference", "95 % interval", "")
        yield Table(caption="By category", header=header, rows=rows)


def _category_row(name: str, found: GroupDifference, metric: str) -> tuple[str, ...]:
    difference = found.difference
    return (
        name,
        _signed(difference.value, metric=metric),
        f"[{_signed(difference.low, metric=metric)}, {_signed(difference.high, metric=metric)}]",
        "real" if found.is_real else "may be chance",
    )


def _changed(one: TaskDifference, a: RunHistory, b: RunHistory, *, shown_items: int) -> Table:
    rows = []
    for item in one.changed[:shown_items]:
        said = [_said(line) for line in (item.a, item.b)]
        question = question_of(item.a)
        expected = expected_of(item.a)
        label = item.item if question == item.item else f"{item.item}: {question}"
        rows.append((Cell(label, f"expected {expected}" if expected else ""), *said))
    more = len(one.changed) - len(rows)
    left_out = f", {more:,} more not shown" if more else ""
    return Table(
        caption=f"{one.task}, {one.a.metric}: {len(one.changed):,} items changed their score{left_out}",
        header=("item", a.name, b.name),
        rows=rows,
        numeric=False,
    )


def _said(line: Mapping[str, Any]) -> str:
    """What was answered to an item, and what it was worth."""
    worth = {0.0: "wrong", 1.0: "right"}.get(float(line["score"]), figure(float(line["score"])))
    answer, failures = answer_of(line), "; ".join(failures_of(line))
    return "\n".join(filter(None, [f"{worth}: {answer}" if answer else worth, failures]))


def _training(a: RunHistory, b: RunHistory) -> Table:
    figures = {
        "stage": lambda run: run.stage,
        "steps": lambda run: count(run.last_step),
        "tokens": lambda run: large(run.tokens),
        "loss at the end": lambda run: figure(final_loss(run)),
        "held out": lambda run: " ".join(held_out_figure(run)),
        "time": lambda run: NONE if run.seconds is None else format_seconds(run.seconds),
        "hours": lambda run: NONE if run.seconds is None else f"{run.seconds / 3600:.3f}",
        "speed": lambda run: speed_in_words(run) or NONE,
        "skipped steps": lambda run: count(len(bad_steps(run))),
        "devices": lambda run: run.hardware or NONE,
    }
    rows = [(name, of_run(a), of_run(b)) for name, of_run in figures.items()]
    return Table(caption="How they trained", header=("", a.name, b.name), rows=rows)


def _settings(a: RunHistory, b: RunHistory) -> Block:
    for run in (a, b):
        if not run.config:
            return Missing(f"configuration of {run.name}: its folder has no config.yaml")
    rows = [row for row in differing_settings(a.config, b.config) if row[0] not in OF_THE_RUN]
    if not rows:
        return Paragraph("Their configurations are the same but for their names.")
    header = ("key", a.name, b.name)
    caption = f"{len(rows)} settings differ"
    return Table(caption=caption, header=header, rows=rows, numeric=False, code=True)


def open_side(path: Path) -> RunHistory:
    """The run of a folder; of the folder of a checkpoint, the run as it was at that step.

    Raises UserError if it is neither.
    """
    if not (path.name.isdigit() and path.parent.name == "checkpoints"):
        return read_run(path)
    if not path.is_dir():
        raise UserError(f"{path} does not exist; name the folder of a run or of one of its checkpoints")
    run = read_run(path.parents[1]).until(int(path.name))
    # Two checkpoints of one run are told apart by their steps.
    return dataclasses.replace(run, config={**run.config, "name": f"{run.name} at {run.last_step}"})
