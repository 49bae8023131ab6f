"""Draws what `samosa evaluate --tasks=positions,needle` found of several runs, and prints it as tables.

python scripts/context_results.py runs/base runs/longer --old_len=2048 --picture=context.png
"""

import argparse
from pathlib import Path

from samosa_jax.evals.needle import DEPTHS
from samosa_jax.evals.results import TaskResult, read_results


def parts(run: Path, task: str) -> dict[int, TaskResult]:
    """The newest results of a task's parts, by the place where the part ends."""
    newest = {result.task: result for result in read_results(run) if result.task.startswith(f"{task}/")}
    found = {int(name.split("/")[1].split("-")[-1]): result for name, result in newest.items()}
    return dict(sorted(found.items()))


def table(runs: list[Path], task: str, *, precision: int) -> str:
    columns = {run.name: parts(run, task) for run in runs}
    ends = sorted({end for column in columns.values() for end in column})
    names = {end: one.task.split("/")[1] for column in columns.values() for end, one in column.items()}
    lines = [
        f"| {task} | " + " | ".join(columns) + " |",
        "| --- |" + " ---: |" * len(columns),
    ]
    for end in ends:
        found = [column.get(end) for column in columns.values()]
        cells = [
            "-"
            if one is None
            else f"{one.value:.{precision}f} ({one.low:.{precision}f} to {one.high:.{precision}f})"
            for one in found
        ]
        lines.append(f"| {names[end]} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def depth_table(run: Path) -> str:
    """Right answers by length and depth."""
    lines = [
        f"| {run.name} | " + " | ".join(f"depth {depth:.0%}" for depth in DEPTHS) + " |",
        "| --- |" + " ---: |" * len(DEPTHS),
    ]
    for length, result in parts(run, "needle").items():
        per_cell = result.num_items // len(DEPTHS)
        cells = [f"{result.counts[f'right_at_{100 * depth:.0f}']}/{per_cell}" for depth in DEPTHS]
        lines.append(f"| {length} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(runs: list[Path], picture: Path, *, old_len: int) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2))
    for run in runs:
        for axes, task in ((left, "positions"), (right, "needle")):
            found = parts(run, task)
            values = [result.value for result in found.values()]
            (line,) = axes.plot(list(found), values, marker="o", label=run.name)
            low, high = ([getattr(one, end) for one in found.values()] for end in ("low", "high"))
            axes.fill_between(list(found), low, high, color=line.get_color(), alpha=0.12, linewidth=0)
    left.set(xlabel="place in the document (end of the bucket)", ylabel="bits per byte", title="by place")
    right.set(xlabel="tokens of the text", ylabel="right, of 8 words", title="needle", ylim=(0, 1))
    right.axhline(1 / 8, color="grey", linestyle=":", label="guessing")
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.axvline(old_len, color="grey", linestyle="--", linewidth=1)
        axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(picture, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--old_len", type=int, required=True, help="context before the extension")
    parser.add_argument("--picture", type=Path, required=True)
    flags = parser.parse_args()
    for task, precision in (("positions", 3), ("needle", 2)):
        print(table(flags.runs, task, precision=precision), end="\n\n")
    for run in flags.runs:
        print(depth_table(run), end="\n\n")
    draw(flags.runs, flags.picture, old_len=flags.old_len)


if __name__ == "__main__":
    main()
