"""Ablations: a baseline, and rows that differ from it in one thing each, on the same tokens and seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from samosa_jax.config import Config
from samosa_jax.errors import UserError
from samosa_jax.evals.intervals import Interval
from samosa_jax.experiments.outcome import Outcome, check_comparable
from samosa_jax.experiments.plan_file import Setting, read_plan
from samosa_jax.experiments.planned_run import PlannedRun, plan_runs
from samosa_jax.experiments.seed_statistics import deviation, paired_difference

KEYS = ("name", "note", "configs", "set", "seeds", "rows")
ROW_KEYS = ("name", "note", "set")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One change to the baseline; the baseline itself is the first row."""

    name: str
    note: str  # what a reader must know of it
    settings: tuple[Setting, ...]
    where: str


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """What a file plans.

    Attributes:
        name: of the folder of its runs.
        note: what a reader must know of all rows.
        configs: files that every run begins with.
        settings: of every run, above the files.
    """

    path: Path
    name: str
    note: str
    configs: tuple[str, ...]
    settings: tuple[Setting, ...]
    seeds: tuple[int, ...]
    rows: tuple[Row, ...]


def read_ablation(path: Path) -> Ablation:
    """Raises UserError, by file, line, row and key."""
    plan = read_plan(path)
    plan.check_keys(KEYS)
    rows = []
    for table in plan.tables("rows", names="row"):
        table.check_keys(ROW_KEYS)
        rows.append(
            Row(
                name=table.folder_name("name"),
                note=table.text("note", ""),
                settings=table.settings("set"),
                where=table.where,
            )
        )
    if len(rows) < 2:
        raise UserError(f"{plan.place('rows')} has one row; add one to compare with it")
    for row in rows[1:]:
        if not row.settings:
            raise UserError(f"{row.where}: set is missing; say what the row changes")
    return Ablation(
        path=path,
        name=plan.folder_name("name"),
        note=plan.text("note", ""),
        configs=plan.texts("configs"),
        settings=plan.settings("set"),
        seeds=plan.numbers("seeds", kind=int, low=0),
        rows=tuple(rows),
    )


def plan_ablation(ablation: Ablation, *, out_dir: Path) -> dict[str, list[PlannedRun]]:
    """The runs of every row, in the order of the seeds. Raises UserError for a row that cannot be trained.

    Rows that would see other tokens than the baseline are refused.
    """
    runs = {
        row.name: plan_runs(
            label=row.name,
            name=row.name,
            out_dir=out_dir / ablation.name,
            seeds=ablation.seeds,
            configs=ablation.configs,
            settings=(*ablation.settings, *row.settings),
            where=row.where,
        )
        for row in ablation.rows
    }
    baseline = runs[ablation.rows[0].name][0].config
    for row in ablation.rows[1:]:
        changed = _unlike(baseline, runs[row.name][0].config)
        if changed:
            raise UserError(
                f"{row.where}: {changed} is not the baseline's; rows are compared on the same data, the same "
                "number of tokens and the same measure"
            )
    return runs


def seed_by_seed(runs: dict[str, list[PlannedRun]]) -> list[PlannedRun]:
    """In the order of training: all rows with one seed before the next, so that stopping leaves whole pairs
    and a machine that slows down slows all rows."""
    return [run for of_seed in zip(*runs.values(), strict=True) for run in of_seed]


def _unlike(baseline: Config, other: Config) -> str | None:
    """The first thing in which two runs may not differ if their losses are to be compared."""

    def fair(config: Config) -> dict[str, object]:
        return {
            "the stage's content": config.content,
            "data.sources": config.data.sources,
            "train.horizon": (config.train.horizon, config.train.horizon_value)
            if config.train.horizon == "epochs"
            else "",
            "the number of tokens (train.num_steps x train.batch_tokens)": ""
            if config.train.horizon == "epochs"
            else config.train.num_steps * config.train.batch_tokens,
            "model.vocab_size": config.model.vocab_size,
            "model.context_len": config.model.context_len,
            "eval.max_tokens": config.eval.max_tokens,
        }

    ours, theirs = fair(baseline), fair(other)
    return next((name for name in ours if ours[name] != theirs[name]), None)


@dataclass(frozen=True, kw_only=True)
class MeasuredRow:
    """A row of the table.

    Attributes:
        outcomes: of its seeds, in their order.
        mean, deviation: over the seeds; no deviation of one.
        difference: to the baseline over the same seeds; None of the baseline itself.
    """

    row: Row
    outcomes: tuple[Outcome, ...]
    mean: float
    deviation: float | None
    difference: Interval | None

    @property
    def parameters(self) -> int:
        return self.outcomes[0].run.parameters

    @property
    def tokens_per_sec(self) -> float | None:
        """Mean over the seeds; None where no run was long enough to tell."""
        speeds = [outcome.tokens_per_sec for outcome in self.outcomes]
        known = [speed for speed in speeds if speed is not None]
        return sum(known) / len(known) if known else None

    @property
    def parts(self) -> dict[str, list[float]]:
        """The seeds' values by part."""
        return {name: [outcome.parts[name] for outcome in self.outcomes] for name in self.outcomes[0].parts}


def measure_rows(rows: Sequence[Row], outcomes: Sequence[Sequence[Outcome]]) -> list[MeasuredRow]:
    """Sets the outcomes of every row, in the order of the seeds, against those of the first row.

    Raises UserError if data or tokens were not the same.
    """
    check_comparable([outcome for of_row in outcomes for outcome in of_row], same_tokens=True)
    measured = []
    base = [outcome.value for outcome in outcomes[0]]
    for number, (row, of_row) in enumerate(zip(rows, outcomes, strict=True)):
        values = [outcome.value for outcome in of_row]
        measured.append(
            MeasuredRow(
                row=row,
                outcomes=tuple(of_row),
                mean=sum(values) / len(values),
                deviation=deviation(values),
                difference=paired_difference(base, values) if number else None,
            )
        )
    return measured
