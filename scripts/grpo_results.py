"""What runs of GRPO with different seeds came to: a table in Markdown, and a picture of their curves.

python scripts/grpo_results.py runs/sums_grpo_0 runs/sums_grpo_1 --picture docs/results/grpo_arithmetic.png
"""

import argparse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from samosa_jax.errors import UserError
from samosa_jax.experiments.seed_statistics import paired_difference
from samosa_jax.training.metrics import is_train_record, read_json_lines
from samosa_jax.training.run_folder import RunFolder

PASS = "pass@1"
BLUE, ORANGE, GREEN = "#3b6ea5", "#c8742b", "#4c8c5a"


@dataclass(frozen=True)
class Run:
    """One run: its steps, and what was measured on held-out prompts between them."""

    name: str
    steps: Sequence[Mapping[str, Any]]
    evaluations: Sequence[Mapping[str, Any]]

    @classmethod
    def read(cls, folder: Path) -> "Run":
        """Raises UserError for a run without steps, or without evaluations at both ends."""
        run = RunFolder(folder)
        steps = [record for record in read_json_lines(run.metrics) if is_train_record(record)]
        evaluations = [record for record in read_json_lines(run.evals) if f"eval/{PASS}" in record]
        if not steps or len(evaluations) < 2:
            raise UserError(
                f"{folder} has {len(steps)} steps and {len(evaluations)} evaluations of held-out prompts; "
                "name runs of stage=grpo that have ended"
            )
        return cls(folder.name, steps, evaluations)

    def values(self, name: str) -> np.ndarray:
        return np.array([record[name] for record in self.steps if record.get(name) is not None], np.float64)


def table(runs: Sequence[Run]) -> list[str]:
    """A row for every run."""
    lines = [
        "| run | steps | pass@1 before | after | gain | largest `rl/logprob_gap` | zero variance | step, s "
        "| of it rollout / reward / train |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for run in runs:
        before, after = run.evaluations[0], run.evaluations[-1]
        # The first step compiles.
        seconds = [
            float(np.median(run.values(f"perf/{part}_ms")[1:])) / 1e3
            for part in ("step", "rollout", "reward", "train")
        ]
        lines.append(
            f"| {run.name} | {len(run.steps)} | {_in_words(before)} | {_in_words(after)} "
            f"| {_points(after[f'eval/{PASS}'] - before[f'eval/{PASS}'])} "
            f"| {run.values('rl/logprob_gap').max():.1e} | {run.values('rl/zero_variance_frac').mean():.0%} "
            f"| {seconds[0]:.1f} | {seconds[1]:.2f} / {seconds[2]:.3f} / {seconds[3]:.2f} |"
        )
    gain = paired_difference(
        [run.evaluations[0][f"eval/{PASS}"] for run in runs],
        [run.evaluations[-1][f"eval/{PASS}"] for run in runs],
    )
    lines += ["", f"Mean gain {_points(gain.value)}, Student's 95 % interval over seeds "]
    lines[-1] += f"{_points(gain.low)} to {_points(gain.high)}."
    return lines


def levels(runs: Sequence[Run]) -> list[str]:
    """pass@1 by level, before and after, mean over the runs."""
    names = sorted(runs[0].evaluations[0].get("by_level", {}))
    if not names:
        return []
    rows = [
        (name, *(_mean(run.evaluations[end]["by_level"][name][PASS] for run in runs) for end in (0, -1)))
        for name in names
    ]
    return [
        "| level | before | after |",
        "|---|---|---|",
        *(f"| {name} | {before:.1%} | {after:.1%} |" for name, before, after in rows),
    ]


def draw(runs: Sequence[Run], picture: Path) -> None:
    """pass@1 on held-out prompts with its intervals; rewards; prompts without signal; lengths."""
    figure = Figure(figsize=(10, 6.5), dpi=150, layout="constrained")
    axes = figure.subplots(2, 2)
    colors = [BLUE, ORANGE, GREEN]
    for number, run in enumerate(runs):
        color = colors[number % len(colors)]
        steps = [record["step"] for record in run.evaluations]
        value, low, high = (
            np.array([record[f"eval/{PASS}{end}"] for record in run.evaluations])
            for end in ("", "_low", "_high")
        )
        axes[0, 0].errorbar(
            np.array(steps) + 0.4 * number,
            value,
            yerr=[value - low, high - value],
            color=color,
            marker="o",
            markersize=4,
            capsize=2,
            label=run.name,
        )
        curves = (
            (axes[0, 1], "reward/task"),
            (axes[1, 0], "rl/zero_variance_frac"),
            (axes[1, 1], "completions/mean_length"),
        )
        for axis, name in curves:
            values = run.values(name)
            at = np.arange(1, len(values) + 1)
            axis.plot(at, values, color=color, alpha=0.25, linewidth=0.8)
            axis.plot(at, _moving_mean(values), color=color, linewidth=1.6, label=run.name)
    axes[0, 0].set(title="Held-out prompts answered right (95 % intervals)", ylabel=PASS, ylim=(0, 1))
    axes[0, 1].set(title="Right answers while training, sampled", ylabel="share", ylim=(0, 1))
    axes[1, 0].set(title="Prompts whose answers all earned the same", ylabel="share", ylim=(0, 1))
    axes[1, 1].set(title="Length of answers", ylabel="tokens")
    for axis in axes.flat:
        axis.grid(alpha=0.25)
        axis.set(xlabel="step")
    axes[0, 0].legend(loc="lower right", frameon=False)
    figure.savefig(picture)


def _moving_mean(values: np.ndarray, window: int = 5) -> np.ndarray:
    return np.array([values[max(0, end - window) : end].mean() for end in range(1, len(values) + 1)])


def _in_words(record: Mapping[str, Any]) -> str:
    value, low, high = (record[f"eval/{PASS}{end}"] for end in ("", "_low", "_high"))
    return f"{value:.1%} ({low:.1%} to {high:.1%})"


def _points(share: float) -> str:
    return f"{100 * share:+.1f} points"


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs")
    parser.add_argument("--picture", type=Path, required=True, help="PNG file to write")
    given = parser.parse_args()
    try:
        runs = [Run.read(folder) for folder in given.runs]
    except UserError as error:
        parser.exit(2, f"error: {error}\n")
    print("\n".join([*table(runs), "", *levels(runs)]))
    draw(runs, given.picture)


if __name__ == "__main__":
    main()
