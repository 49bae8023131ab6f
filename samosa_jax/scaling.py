"""Trains a ladder of depths, fits how loss falls with size, predicts the next depth, and checks it.

    samosa scaling configs/scaling/news.yaml             # runs/scaling/news/dDEPTH-rRATIO-seedN, table.md
    samosa scaling configs/scaling/news.yaml --dry_run   # what would be trained
    samosa scaling configs/scaling/news.yaml --out=docs/scaling.md

Shapes come from the dial (`model.depth`). Every run is one of the ordinary train command, in a process of its
own; running the same command again trains what is not finished. docs/scaling.md says what is computed.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from samosa_jax.command_line import parse_dataclass, run
from samosa_jax.errors import UserError
from samosa_jax.experiments.ladder import (
    SYMBOLS,
    Ladder,
    measure_rungs,
    plan_check,
    plan_rungs,
    planned_x,
    predict,
    read_ladder,
)
from samosa_jax.experiments.ladder_page import Climbed, draw_ladder, ladder_section, prediction_in_words
from samosa_jax.experiments.outcome import read_outcome
from samosa_jax.experiments.page import check_page, picture_for, write_section
from samosa_jax.experiments.planned_run import PlannedRun, describe_runs
from samosa_jax.experiments.runner import train_all
from samosa_jax.training.interrupts import exit_code


@dataclass(frozen=True, kw_only=True)
class ScalingFlags:
    """The flags of `scaling`."""

    plan: str  # a file such as configs/scaling/news.yaml
    out_dir: str = "runs/scaling"  # a folder for the plan, with one for every run
    out: str = (
        ""  # the Markdown page whose section of the plan is written anew; empty: table.md beside the runs
    )
    jobs: int = 1  # runs at the same time
    dry_run: bool = False  # print what would be trained, and stop
    predict_only: bool = False  # train the ladder and predict, but do not train the predicted depth


def main(argv: list[str]) -> None:
    """Trains, fits, predicts and checks. Raises UserError; SystemExit with 143 or 130 when told to stop."""
    flags = parse_dataclass(
        argv,
        ScalingFlags,
        description="Fit how loss falls with size, and predict the next depth.",
        positional=("plan",),
    )
    if flags.jobs < 1:
        raise UserError(f"--jobs is {flags.jobs}; it must be at least 1")
    ladder = read_ladder(Path(flags.plan))
    out_dir = Path(flags.out_dir)
    page = Path(flags.out) if flags.out else out_dir / ladder.name / "table.md"
    check_page(page)
    rungs = {ratio: plan_rungs(ladder, ratio, out_dir=out_dir) for ratio in ladder.ratios}
    checks = {ratio: plan_check(ladder, ratio, out_dir=out_dir) for ratio in ladder.ratios}
    to_fit = [run for of_ratio in rungs.values() for of_depth in of_ratio.values() for run in of_depth]
    if flags.dry_run:
        print("\n".join(describe_runs([*to_fit, *(run for runs in checks.values() for run in runs)])))
        return
    train(to_fit, jobs=flags.jobs)
    climbed = [climb(ladder, ratio, rungs[ratio], checks[ratio]) for ratio in ladder.ratios]
    if not flags.predict_only:
        train([run for runs in checks.values() for run in runs], jobs=flags.jobs)
        climbed = [climb(ladder, ratio, rungs[ratio], checks[ratio], checked=True) for ratio in ladder.ratios]
    picture = picture_for(page, name=ladder.name)
    draw_ladder(climbed, picture, against=ladder.against, title=ladder.name)
    section = ladder_section(ladder, climbed, picture=picture.relative_to(page.parent).as_posix())
    write_section(page, mark=f"samosa scaling {ladder.name}", text=section)
    print(f"{section}\n\nwritten: {page}, {picture}")


def train(runs: list[PlannedRun], *, jobs: int) -> None:
    stopped_by = train_all(runs, jobs=jobs, say=say)
    if stopped_by is not None:
        print("stopped; the same command goes on from there")
        sys.exit(exit_code(stopped_by))


def climb(
    ladder: Ladder,
    ratio: float,
    rungs: dict[int, list[PlannedRun]],
    check: list[PlannedRun],
    *,
    checked: bool = False,
) -> Climbed:
    """Fits and predicts from the rungs alone; with `checked` also reads what the predicted depth reached."""
    outcomes = {depth: [read_outcome(run) for run in runs] for depth, runs in rungs.items()}
    measured = measure_rungs(outcomes, against=ladder.against)
    prediction = predict(measured, planned_x(check[0], ladder.against))
    if not checked:
        said = prediction_in_words(prediction, symbol=SYMBOLS[ladder.against])
        say(f"ratio {ratio:g}, depth {ladder.predict}: {said}")
        return Climbed(ratio=ratio, rungs=measured, prediction=prediction, check=None)
    reached = {**outcomes, ladder.predict: [read_outcome(run) for run in check]}
    (*_, last) = measure_rungs(reached, against=ladder.against)
    return Climbed(ratio=ratio, rungs=measured, prediction=prediction, check=last)


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    run(main)
