"""The end of a run in a few figures, read from its metrics: summary.json, and the same as lines."""

import dataclasses
import statistics
from dataclasses import dataclass
from pathlib import Path

from samosa_jax.training.display import format_seconds
from samosa_jax.training.metrics import is_train_record, read_json_lines

LOSS_WINDOW = 20  # steps whose mean is the final loss


@dataclass(frozen=True, kw_only=True)
class Summary:
    steps: int
    num_steps: int  # planned
    tokens: int
    final_loss: float | None  # mean of the last finite steps
    val_bpb: float | None  # the last
    val_loss: float | None  # the last, of stages after pretraining
    val_accuracy: float | None  # the last, of held-out preference pairs
    pass_at_1: float | None  # the last, of held-out prompts
    reward: float | None  # mean of the last rollouts
    seconds: float  # of training, evaluating and saving, over all processes of the run
    tokens_per_sec: float | None  # without compilation, evaluation and saving
    cost: float | None  # seconds times log.cost_per_hour; None: not given
    skipped_steps: int  # non-finite
    checkpoint: str | None  # the newest whole one

    def lines(self) -> list[str]:
        figures = [f"steps {self.steps:,} of {self.num_steps:,}", f"tokens {self.tokens:,}"]
        if self.final_loss is not None:
            figures.append(f"loss {self.final_loss:.4f}")
        if self.val_bpb is not None:
            figures.append(f"validation {self.val_bpb:.4f} bits per byte")
        if self.val_loss is not None:
            figures.append(f"validation loss {self.val_loss:.4f}")
        if self.val_accuracy is not None:
            figures.append(f"held-out pairs told right {self.val_accuracy:.1%}")
        if self.pass_at_1 is not None:
            figures.append(f"held-out prompts answered right {self.pass_at_1:.1%}")
        if self.reward is not None:
            figures.append(f"reward {self.reward:.3f}")
        effort = [f"time {format_seconds(self.seconds)}"]
        if self.tokens_per_sec is not None:
            effort.append(f"{self.tokens_per_sec:,.0f} tokens/s")
        if self.cost is not None:
            effort.append(f"cost {self.cost:.2f}")
        if self.skipped_steps:
            effort.append(f"{self.skipped_steps} non-finite steps skipped")
        return [", ".join(figures), ", ".join(effort), f"checkpoint: {self.checkpoint or 'none'}"]

    def as_dict(self) -> dict[str, object]:
        return dataclasses.asdict(self)


def summarize(
    metrics: Path, *, num_steps: int, seconds: float, cost_per_hour: float, checkpoint: Path | None
) -> Summary:
    """What a run's metrics.jsonl says of it. `seconds` and the newest checkpoint are not in there."""
    steps = tokens = skipped = timed_tokens = 0
    timed_seconds = 0.0
    last: dict[str, float] = {}
    losses: list[float] = []
    rewards: list[float] = []
    for record in read_json_lines(metrics):
        if not is_train_record(record):
            last |= record
            continue
        steps, skipped = record["step"], skipped + record["train/skipped"]
        if not record["train/skipped"]:
            losses = [*losses[1 - LOSS_WINDOW :], record["train/loss"]]
        if "reward/mean" in record:
            rewards = [*rewards[1 - LOSS_WINDOW :], record["reward/mean"]]
        if "perf/tokens_per_sec" in record:
            timed_tokens += record["train/tokens"] - tokens
            timed_seconds += record["perf/step_ms"] / 1e3
        tokens = record["train/tokens"]
    return Summary(
        steps=steps,
        num_steps=num_steps,
        tokens=tokens,
        final_loss=statistics.fmean(losses) if losses else None,
        val_bpb=last.get("val/bpb"),
        val_loss=last.get("val/loss"),
        val_accuracy=last.get("val/rewards/accuracies"),
        pass_at_1=last.get("eval/pass@1"),
        reward=statistics.fmean(rewards) if rewards else None,
        seconds=seconds,
        tokens_per_sec=timed_tokens / timed_seconds if timed_seconds else None,
        cost=seconds / 3_600 * cost_per_hour if cost_per_hour else None,
        skipped_steps=skipped,
        checkpoint=None if checkpoint is None else str(checkpoint),
    )
