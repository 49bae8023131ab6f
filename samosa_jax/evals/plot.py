"""The picture of a run: training loss or reward, and what the stage validates by, from its metrics.jsonl."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from samosa_jax.training.metrics import is_train_record, read_json_lines

SMOOTHING_SHARE = 0.02  # of the run: the window of the smoothed curve
VALIDATION = {  # the first that a run has is shown, with what it is
    "val/bpb": "bits per byte",
    "eval/pass@1": "held-out prompts answered right",
    "val/rewards/accuracies": "pairs told right, held out",
    "val/loss": "held-out loss\n(nats per token of the assistant)",
}


def plot_loss(metrics: Path, picture: Path, *, title: str) -> None:
    """Writes a PNG. A run without a single finite loss gives an empty picture, not an error.

    Of a run that was trained by rewards it shows these: the loss of a policy says nothing of its progress.
    """
    # Matplotlib takes most of a second to import; nobody should wait for it before the first step.
    from matplotlib.figure import Figure

    records = list(read_json_lines(metrics))
    shown = next((name for name in VALIDATION if any(name in record for record in records)), None)
    by_rewards = any("reward/mean" in record for record in records)
    trained_by = "reward/mean" if by_rewards else "train/loss"
    steps, losses, val_steps, values = [], [], [], []
    for record in records:
        if is_train_record(record):
            if isinstance(record.get(trained_by), float):
                steps.append(record["step"])
                losses.append(record[trained_by])
        elif shown is not None and isinstance(record.get(shown), float):
            val_steps.append(record["step"])
            values.append(record[shown])
    figure = Figure(figsize=(8, 6.5 if values else 4.5), dpi=150, layout="constrained")
    heights = [2, 1] if values else [1]
    panels = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    smoothed = smooth(losses)
    panels[0].plot(steps, losses, color="tab:blue", alpha=0.25, linewidth=0.8, label="each step")
    last = f"smoothed, {smoothed[-1]:.3f} at the end" if losses else "no finite value yet"
    panels[0].plot(steps, smoothed, color="tab:blue", linewidth=1.6, label=last)
    per = "pair" if shown == "val/rewards/accuracies" else "token"
    label = "reward (mean over answers)" if by_rewards else f"training loss (nats per {per})"
    panels[0].set(title=title, ylabel=label)
    if shown is not None and values:
        label = f"validation, {values[-1]:.4f} at the end"
        panels[1].plot(val_steps, values, color="tab:orange", marker="o", markersize=4, label=label)
        panels[1].set(ylabel=VALIDATION[shown])
    for panel in panels:
        panel.grid(alpha=0.25)
        panel.legend(loc="upper right", frameon=False)
    panels[-1].set(xlabel="step")
    figure.savefig(picture)


def smooth(values: Sequence[float]) -> np.ndarray:
    """Mean over a centred window, shorter at both ends, so that the curve has as many points as values."""
    if not values:
        return np.zeros(0)
    half = max(1, round(len(values) * SMOOTHING_SHARE / 2))
    total = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    low, high = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    return (total[high] - total[low]) / (high - low)
