"""Trains a baseline and rows that change one thing each, and says which changes make a difference.

    samosa ablate configs/ablations/text.yaml                    # runs/ablations/text/ROW-seedN, and table.md
    samosa ablate configs/ablations/text.yaml --dry_run          # what would be trained
    samosa ablate configs/ablations/text.yaml configs/ablations/chat.yaml --out=docs/ablations.md

Every run is one of the ordinary train command, in a process of its own. Running the same command again trains
what is not finished; Ctrl-C lets the runs under way save themselves. docs/ablations.md says what is computed.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from samosa_jax.command_line import parse_dataclass, run
from samosa_jax.errors import UserError
from samosa_jax.experiments.ablation import (
    Ablation,
    measure_rows,
    plan_ablation,
    read_ablation,
    seed_by_seed,
)
from samosa_jax.experiments.ablation_page import ablation_section, draw_ablation
from samosa_jax.experiments.outcome import read_outcome
from samosa_jax.experiments.page import check_page, picture_for, write_section
from samosa_jax.experiments.planned_run import describe_runs
from samosa_jax.experiments.runner import train_all
from samosa_jax.training.interrupts import exit_code


@dataclass(frozen=True, kw_only=True)
class AblateFlags:
    """The flags of `ablate`."""

    plans: tuple[str, ...] = ()  # files such as configs/ablations/text.yaml
    out_dir: str = "runs/ablations"  # a folder for every plan, with one for every run
    out: str = (
        ""  # the Markdown page whose section of the plan is written anew; empty: table.md beside the runs
    )
    jobs: int = 1  # runs at the same time; their speeds are then those of a shared machine
    dry_run: bool = False  # print what would be trained, and stop
    only_finished: bool = False  # train nothing: the table of those seeds that all rows have finished


def main(argv: list[str]) -> None:
    """Trains, and writes tables and plots. Raises UserError; SystemExit with 143 or 130 when told to stop."""
    flags = parse_dataclass(
        argv, AblateFlags, description="Train a baseline and its ablations.", positional=("plans",)
    )
    if not flags.plans:
        raise UserError("no plan is given; name one, such as configs/ablations/text.yaml")
    if flags.jobs < 1:
        raise UserError(f"--jobs is {flags.jobs}; it must be at least 1")
    ablations = [read_ablation(Path(path)) for path in flags.plans]
    names = [ablation.name for ablation in ablations]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"two plans are named {twice}; their runs would share a folder, so rename one")
    for ablation in ablations:
        page = Path(flags.out) if flags.out else Path(flags.out_dir) / ablation.name / "table.md"
        check_page(page)
        ablate(ablation, flags=flags, page=page)


def ablate(ablation: Ablation, *, flags: AblateFlags, page: Path) -> None:
    """Trains what one plan asks for, and writes its section of the page."""
    runs = plan_ablation(ablation, out_dir=Path(flags.out_dir))
    in_order = seed_by_seed(runs)
    if flags.dry_run:
        print("\n".join(describe_runs(in_order)))
        return
    seeds = list(ablation.seeds)
    if flags.only_finished:
        whole = [all(of_row[place].is_finished for of_row in runs.values()) for place in range(len(seeds))]
        seeds = [seed for seed, is_whole in zip(seeds, whole, strict=True) if is_whole]
        if not seeds:
            raise UserError(
                f"{Path(flags.out_dir) / ablation.name} has no seed that all rows have finished; run the "
                "same command without --only_finished"
            )
    else:
        stopped_by = train_all(in_order, jobs=flags.jobs, say=say)
        if stopped_by is not None:
            print("stopped; the same command goes on from there")
            sys.exit(exit_code(stopped_by))
    outcomes = [[read_outcome(run) for run in of_row if run.seed in seeds] for of_row in runs.values()]
    measured = measure_rows(ablation.rows, outcomes)
    picture = picture_for(page, name=ablation.name)
    draw_ablation(measured, picture, title=f"{ablation.name}, {len(seeds)} seeds")
    section = ablation_section(
        ablation, measured, seeds=seeds, picture=picture.relative_to(page.parent).as_posix()
    )
    write_section(page, mark=f"samosa ablate {ablation.name}", text=section)
    print(f"{section}\n\nwritten: {page}, {picture}")


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    run(main)
