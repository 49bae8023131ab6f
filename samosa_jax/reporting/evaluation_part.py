"""What was measured on the models of a lineage, and which differences are more than chance."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from samosa_jax.errors import UserError
from samosa_jax.evals.promotion import read_promotion
from samosa_jax.evals.results import TaskResult, read_items
from samosa_jax.reporting.differences import (
    MIN_CHANGED,
    Measured,
    NotComparableError,
    check_alike,
    compare_paired,
    compare_unpaired,
    group_of,
)
from samosa_jax.reporting.document import (
    Block,
    Cell,
    Folded,
    IntervalRow,
    Intervals,
    Missing,
    Paragraph,
    Section,
    Table,
    Tone,
)
from samosa_jax.reporting.document import Warning as Alarm
from samosa_jax.reporting.figures_in_words import NONE, count, is_share, score, setting
from samosa_jax.reporting.items_in_words import answer_of, expected_of, failures_of, question_of
from samosa_jax.reporting.lineage import Lineage
from samosa_jax.reporting.run_history import RunHistory

PROBES = {"probes": "Probes passed, by category", "probes_heldout": "Held-out variants of the probes"}
MAX_FAILURES = 40  # shown of a category
UP, DOWN, UNLIKE = "▲", "▼", "≠"
TONES: Mapping[str, Tone] = {UP: "good", DOWN: "bad", UNLIKE: "muted", "": "plain"}
TITLES = {"": "Tasks", "core": "CORE"}

Key = tuple[str, str]  # task, metric


@dataclass(frozen=True)
class StageResults:
    """The newest result of every task of one run."""

    run: RunHistory
    of: Mapping[Key, TaskResult]


def latest_results(run: RunHistory) -> StageResults:
    """Of the highest step, and of several at that step the last written."""
    newest: dict[Key, TaskResult] = {}
    for result in run.results:
        key = (result.task, result.metric)
        if key not in newest or result.step >= newest[key].step:
            newest[key] = result
    return StageResults(run, newest)


def evaluation_section(lineage: Lineage) -> Section:
    stages = [latest_results(run) for run in lineage.runs]
    groups = _groups(stages)
    keys = [key for group, own in groups.items() if group not in PROBES for key in own]
    blocks: list[Block] = []
    if keys:
        blocks.append(
            Paragraph(
                f"Values with their 95 % intervals. {UP} and {DOWN}: better or worse than the stage before "
                "that has the task, by more than chance: 0 is outside the 95 % interval of the paired "
                f"bootstrap over the same items, of which at least {MIN_CHANGED} changed (where items were "
                "not kept, outside that of the difference of the two values). No sign: it may be chance. "
                f"{UNLIKE}: measured in another way, not to be compared."
            )
        )
        for group in sorted(groups.keys() - PROBES.keys()):
            blocks.extend(_group(TITLES.get(group, group), groups[group], stages))
    else:
        blocks.append(
            Missing(f"evaluation: nothing was evaluated; samosa evaluate {lineage.last.folder} does it")
        )
    unevaluated = [stage.run.name for stage in stages if not stage.of]
    if keys and unevaluated:
        blocks.append(Missing(f"evaluation of {', '.join(unevaluated)}: nothing was evaluated there"))
    blocks.extend(_gates(lineage))
    blocks.extend(_while_training(lineage.runs))
    return Section(name="evaluation", title="Evaluation", blocks=blocks)


def probe_section(lineage: Lineage) -> Section:
    stages = [latest_results(run) for run in lineage.runs]
    groups = _groups(stages)
    keys = [key for group in PROBES for key in groups.get(group, [])]
    blocks: list[Block] = []
    if not keys:
        blocks.append(Missing("probes: none was run on a stage of this lineage"))
    else:
        for group, title in PROBES.items():
            if group in groups:
                blocks.extend(_group(title, groups[group], stages))
        last = next(stage for stage in reversed(stages) if any(key in stage.of for key in keys))
        if last.run is not lineage.last:
            blocks.append(
                Missing(f"probes of {lineage.last.name}: none was run; those of {last.run.name} follow")
            )
        # The whole of a group holds the same answers once more.
        blocks.extend(
            _failing(last.run, last.of[key]) for key in keys if key in last.of and key[0] not in PROBES
        )
    return Section(name="probes", title="Probes", blocks=blocks)


def _groups(stages: Sequence[StageResults]) -> dict[str, list[Key]]:
    """The tasks of all stages by what stands before their slash, the whole of a group first."""
    keys = list(dict.fromkeys(key for stage in stages for key in stage.of))
    tasks = {task for task, _ in keys}
    groups: dict[str, list[Key]] = {}
    for key in sorted(keys, key=lambda key: "/" in key[0]):
        groups.setdefault(group_of(key[0], among=tasks), []).append(key)
    return groups


def _group(title: str, keys: Sequence[Key], stages: Sequence[StageResults]) -> Iterator[Block]:
    with_any = [stage for stage in stages if any(key in stage.of for key in keys)]
    rows, unlike = [], []
    for key in keys:
        found = [stage.of[key] for stage in with_any if key in stage.of]
        task, metric = key
        label = _label(task)
        row: list[str | Cell] = [Cell(label, metric), count(found[-1].num_items)]
        before: Measured | None = None
        for stage in with_any:
            if key not in stage.of:
                row.append(NONE)
                continue
            here = Measured(stage.run.folder, stage.of[key])
            sign, why = ("", "") if before is None else _versus(before, here)
            if why:
                unlike.append(why)
            row.append(_cell(here.result, sign))
            before = here
        rows.append(row)
    header = ("task", "items", *(f"{stage.run.name} ({stage.run.stage})" for stage in with_any))
    yield Table(caption=title, header=header, rows=rows)
    tasks = [task for task, _ in keys]
    if all(is_share(metric) for _, metric in keys):
        yield Intervals(
            title=title,
            stages=[stage.run.name for stage in with_any],
            rows=[
                IntervalRow(
                    label=f"{_label(task)} {metric.rpartition('_')[2]}"
                    if tasks.count(task) > 1
                    else _label(task),
                    values=[
                        (result.value, result.low, result.high)
                        if (result := stage.of.get((task, metric)))
                        else None
                        for stage in with_any
                    ],
                )
                for task, metric in keys
            ],
        )
    if unlike:
        yield Folded(summary=f"Not compared ({len(unlike)})", blocks=[Paragraph(why) for why in unlike])
    yield Folded(summary=f"How it was measured: {title}", blocks=[_settings(keys, with_any)])


def _label(task: str) -> str:
    return task.partition("/")[2] or ("all" if task in PROBES else task)


def _cell(result: TaskResult, sign: str) -> Cell:
    text = score(result.value, metric=result.metric)
    ends = [score(end, metric=result.metric).removesuffix(" %") for end in (result.low, result.high)]
    return Cell(f"{text} {sign}".strip(), f"[{ends[0]}, {ends[1]}]", TONES[sign])


def _versus(before: Measured, here: Measured) -> tuple[str, str]:
    """(sign, why there is nothing to compare)."""
    try:
        found = compare_paired(before, here)
        # Where a score is no mean over items (bits per byte of long and short texts), they may disagree.
        agrees = found.difference.value * (here.result.value - before.result.value) >= 0
        verdict = found.verdict if agrees else 0
    except NotComparableError as error:
        return UNLIKE, str(error)
    except UserError:
        try:
            check_alike(before, here)
            verdict = compare_unpaired(before, here).verdict
        except NotComparableError as error:
            return UNLIKE, str(error)
    return {1: UP, -1: DOWN, 0: ""}[verdict], ""


def _settings(keys: Sequence[Key], stages: Sequence[StageResults]) -> Table:
    rows = []
    for key in keys:
        for stage in stages:
            if (result := stage.of.get(key)) is None:
                continue
            settings = ", ".join(f"{name}={setting(value)}" for name, value in result.settings.items())
            counts = ", ".join(f"{name} {count(value)}" for name, value in result.counts.items())
            rows.append(
                (
                    Cell(key[0], stage.run.name),
                    str(result.step),
                    settings or NONE,
                    str(result.definition),
                    counts or NONE,
                    f"{result.seconds:.1f} s",
                    result.checkpoint[:12],
                    result.time,
                )
            )
    header = ("task", "step", "settings", "definition", "counted", "took", "checkpoint", "when")
    return Table(caption="Settings of every result", header=header, rows=rows, numeric=False, code=True)


def _gates(lineage: Lineage) -> Iterator[Block]:
    """What gates have said of the checkpoints shown."""
    for run in lineage.runs:
        verdict = read_promotion(run.folder)
        if verdict is None or verdict.step > run.last_step:
            continue
        said = f"{run.name} at step {count(verdict.step)}, gate {verdict.gate}"
        yield (
            Paragraph(f"{said}: passed.") if verdict.passed else Alarm(f"{said}: refused, {verdict.reason}.")
        )
    if read_promotion(lineage.last.folder) is None:
        yield Missing(f"gate: none has judged {lineage.last.name}")


def _while_training(runs: Sequence[RunHistory]) -> Iterator[Block]:
    rows = []
    for run in runs:
        for source, value in run.by_source.items():
            rows.append((Cell(source, run.name), f"{value:.4f}"))
    if rows:
        yield Folded(
            summary="What training measured at its end, by source (no intervals)",
            blocks=[
                Table(
                    caption="Held out: bits per byte of text, nats per token of conversations",
                    header=("source", "value"),
                    rows=rows,
                )
            ],
        )


def _failing(run: RunHistory, result: TaskResult) -> Block:
    name = result.task.removeprefix("probes/")
    try:
        lines = read_items(run.folder, result)
    except UserError as error:
        return Missing(f"the answers to the probes {name}: {error}")
    failing = [line for line in lines if (float(line["score"]) < 1) == result.higher_is_better]
    if not failing:
        return Paragraph(f"{name}: all {count(len(lines))} passed.")
    rows = [
        (
            Cell(question_of(line), str(line["item"])),
            answer_of(line) or NONE,
            "; ".join(failures_of(line)) or (f"expected {expected_of(line)}" if expected_of(line) else NONE),
        )
        for line in failing[:MAX_FAILURES]
    ]
    left_out = f", {MAX_FAILURES} shown" if len(failing) > MAX_FAILURES else ""
    return Folded(
        summary=f"{name}: {count(len(failing))} of {count(len(lines))} failed{left_out}",
        blocks=[
            Table(
                caption=f"Failing probes of {name}, {run.name} at step {result.step}",
                header=("question", "answer", "what failed"),
                rows=rows,
                numeric=False,
            )
        ],
    )
