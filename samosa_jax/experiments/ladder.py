"""Ladders: models of rising depth at a fixed ratio of tokens to parameters, and one that is predicted."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from samosa_jax.errors import UserError
from samosa_jax.evals.intervals import Interval
from samosa_jax.experiments.outcome import Outcome, check_comparable
from samosa_jax.experiments.plan_file import PlanTable, Setting, read_plan
from samosa_jax.experiments.planned_run import PlannedRun, plan_runs
from samosa_jax.experiments.power_law import MIN_POINTS, PowerLaw, fit_rungs, seed_interval, without_one

KEYS = (
    "name",
    "note",
    "configs",
    "set",
    "per_depth",
    "seeds",
    "ratios",
    "depths",
    "predict",
    "check_seeds",
    "against",
)
AGAINST = {"parameters": "scaling parameters", "flops": "training FLOPs"}
SYMBOLS = {"parameters": "N", "flops": "C"}
DECIDED = {
    "model.depth": "depths and predict say it",
    "model.num_layers": "depths and predict say it",
    "train.horizon": "ratios say it",
    "train.horizon_value": "ratios say it",
    "train.num_steps": "they follow from ratios",
}


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """What a file plans.

    Attributes:
        per_depth: whole-numbered keys, each this many times the depth, such as model.model_dim.
        seeds: of the rungs that the law is fitted to.
        ratios: tokens per scaling parameter (`sizes.scaling_parameters`), a law for each.
        predict: the depth that is predicted, then trained with `check_seeds`.
        against: what the law is in, a key of AGAINST.
    """

    path: Path
    name: str
    note: str
    configs: tuple[str, ...]
    settings: tuple[Setting, ...]
    per_depth: tuple[Setting, ...]
    seeds: tuple[int, ...]
    ratios: tuple[float, ...]
    depths: tuple[int, ...]
    predict: int
    check_seeds: tuple[int, ...]
    against: str


def read_ladder(path: Path) -> Ladder:
    """Raises UserError, by file, line and key."""
    plan = read_plan(path)
    plan.check_keys(KEYS)
    depths = plan.numbers("depths", kind=int, low=1)
    if len(depths) < MIN_POINTS or list(depths) != sorted(depths):
        raise UserError(
            f"{plan.place('depths')} is {list(depths)}; a law needs at least {MIN_POINTS}, in rising order"
        )
    predict = plan.whole_number("predict", low=1)
    if predict in depths:
        raise UserError(
            f"{plan.place('predict')} is {predict}, which is among depths; predict one that is not fitted"
        )
    against = plan.text("against", "flops")
    if against not in AGAINST:
        raise UserError(f"{plan.place('against')} is {against!r}; expected {' or '.join(AGAINST)}")
    seeds = plan.numbers("seeds", kind=int, low=0)
    return Ladder(
        path=path,
        name=plan.folder_name("name"),
        note=plan.text("note", ""),
        configs=plan.texts("configs"),
        settings=plan.settings("set", refused=DECIDED),
        per_depth=_per_depth(plan),
        seeds=seeds,
        ratios=plan.numbers("ratios", kind=float, low=1e-3),
        depths=depths,
        predict=predict,
        check_seeds=plan.numbers("check_seeds", kind=int, low=0) if plan.has("check_seeds") else seeds,
        against=against,
    )


def _per_depth(plan: PlanTable) -> tuple[Setting, ...]:
    found = plan.settings("per_depth", refused=DECIDED)
    for setting in found:
        if not setting.text.isdecimal() or int(setting.text) == 0:
            raise UserError(f"{setting.where} is {setting.text!r}; expected a whole number above 0")
    return found


def plan_rungs(ladder: Ladder, ratio: float, *, out_dir: Path) -> dict[int, list[PlannedRun]]:
    """The runs of every depth to fit, in the order of the seeds. Raises UserError."""
    return {depth: _plan(ladder, depth, ratio, ladder.seeds, out_dir=out_dir) for depth in ladder.depths}


def plan_check(ladder: Ladder, ratio: float, *, out_dir: Path) -> list[PlannedRun]:
    """The runs of the predicted depth. Raises UserError."""
    return _plan(ladder, ladder.predict, ratio, ladder.check_seeds, out_dir=out_dir)


def _plan(
    ladder: Ladder, depth: int, ratio: float, seeds: Sequence[int], *, out_dir: Path
) -> list[PlannedRun]:
    where = f"{ladder.path}: depth {depth}, ratio {ratio:g}"
    decided = {"model.depth": depth, "train.horizon": "ratio", "train.horizon_value": f"{ratio:g}"}
    multiples = {setting.key: depth * int(setting.text) for setting in ladder.per_depth}
    settings = [Setting(key, str(value), where) for key, value in {**decided, **multiples}.items()]
    return plan_runs(
        label=f"depth {depth}, ratio {ratio:g}",
        name=f"d{depth}-r{ratio:g}",
        out_dir=out_dir / ladder.name,
        seeds=seeds,
        configs=ladder.configs,
        settings=(*ladder.settings, *settings),
        where=where,
    )


@dataclass(frozen=True, kw_only=True)
class Rung:
    """The measured runs of one depth."""

    depth: int
    x: float  # what the law is in: parameters or FLOPs
    outcomes: tuple[Outcome, ...]

    @property
    def losses(self) -> list[float]:
        return [outcome.value for outcome in self.outcomes]

    @property
    def mean(self) -> float:
        return sum(self.losses) / len(self.losses)


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What the fitted rungs say of a depth that none of them has.

    Attributes:
        loss: with the interval over redrawn seeds; infinite where each rung has one seed.
        without_one: lowest and highest if one rung is left out; None with three rungs.
        trend: of the last two rungs alone, carried on as a straight line in log loss over log x: what a
            ruler would say.
    """

    law: PowerLaw
    x: float
    loss: Interval
    without_one: tuple[float, float] | None
    trend: float


def measure_rungs(outcomes: Mapping[int, Sequence[Outcome]], *, against: str) -> list[Rung]:
    """Raises UserError if they were trained on other data."""
    check_comparable([outcome for of_depth in outcomes.values() for outcome in of_depth], same_tokens=False)
    return [
        Rung(depth=depth, x=_x(of_depth[0], against), outcomes=tuple(of_depth))
        for depth, of_depth in outcomes.items()
    ]


def predict(rungs: Sequence[Rung], at: float) -> Prediction:
    """What a model at x = `at` would reach.

    Raises:
        ValueError: fewer than three rungs.
        UserError: loss does not fall from rung to rung, so that there is no law to speak of.
    """
    points = [(rung.x, rung.losses) for rung in rungs]
    law = fit_rungs(points)
    if law.scale <= 0:
        losses = ", ".join(f"{rung.mean:.4f}" for rung in rungs)
        raise UserError(
            f"loss does not fall with size ({losses} from depth {rungs[0].depth} to {rungs[-1].depth}); give "
            "every rung more tokens (ratios), or other learning rates"
        )
    before, last = rungs[-2:]
    slope = math.log(last.mean / before.mean) / math.log(last.x / before.x)
    return Prediction(
        law=law,
        x=at,
        loss=seed_interval(points, at),
        without_one=without_one(points, at),
        trend=last.mean * (at / last.x) ** slope,
    )


def planned_x(run: PlannedRun, against: str) -> float:
    """Where a run that is still to be trained will stand."""
    return _size(run, run.config.train.num_steps * run.config.train.batch_tokens, against)


def _x(outcome: Outcome, against: str) -> float:
    return _size(outcome.run, outcome.tokens, against)


def _size(run: PlannedRun, tokens: int, against: str) -> float:
    if against == "parameters":
        return float(run.scaling_parameters)
    return float(run.flops_per_token * tokens)
