"""What a report draws of a training: one chart for each quantity, with a plot per stage."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from samosa_jax.config.rl import PASS_KS
from samosa_jax.reporting.run_history import RunHistory


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """What one chart shows of every run."""

    title: str
    unit: str
    metrics: Sequence[tuple[str, str]]  # (metric, name of its curve)
    absent: str = ""  # why no run may have it; empty: then there is no chart and no word of it
    held_out: bool = False
    from_zero: bool = False
    shared: bool = True
    may_be_log: bool = False
    is_noisy: bool = True  # from step to step, so that a moving mean says more
    fits: Callable[[RunHistory], bool] = lambda run: True


QUANTITIES = (
    Quantity(
        title="Training loss",
        unit="nats per supervised token",
        metrics=[("train/loss", "training loss")],
        absent="no step with a training loss was recorded",
        fits=lambda run: run.stage not in ("dpo", "grpo"),
    ),
    Quantity(
        title="Validation",
        unit="bits per byte",
        metrics=[("val/bpb", "validation")],
        held_out=True,
        absent="bits per byte were not measured while training",
        fits=lambda run: not run.is_chat,
    ),
    Quantity(
        title="Held-out conversations",
        unit="nats per token that the assistant writes",
        metrics=[("val/loss", "held-out loss")],
        held_out=True,
        fits=lambda run: run.is_chat and run.stage != "dpo",
    ),
    Quantity(
        title="Preference loss",
        unit="nats per pair",
        metrics=[("train/loss", "training loss")],
        fits=lambda run: run.stage == "dpo",
    ),
    Quantity(
        title="Held-out pairs told right",
        unit="share of pairs",
        metrics=[("val/rewards/accuracies", "told right")],
        held_out=True,
        from_zero=True,
    ),
    Quantity(
        title="Rewards of held-out pairs",
        unit="beta times the log-ratio to the reference",
        metrics=[("val/rewards/chosen", "chosen"), ("val/rewards/rejected", "rejected")],
        held_out=True,
    ),
    Quantity(
        title="Reward of the model's answers",
        unit="mean over the answers of a rollout",
        metrics=[("reward/mean", "reward"), ("reward/task", "the task's own score")],
        from_zero=True,
    ),
    Quantity(
        title="Held-out prompts answered right",
        unit="share of prompts",
        metrics=[(f"eval/pass@{k}", f"pass@{k}") for k in PASS_KS],
        held_out=True,
        from_zero=True,
    ),
    Quantity(
        title="Prompts that teach nothing",
        unit="share of prompts whose answers all earned the same",
        metrics=[("rl/zero_variance_frac", "zero variance")],
        from_zero=True,
    ),
    Quantity(
        title="Level of the prompts",
        unit="mean over the prompts of a rollout",
        metrics=[("rl/level", "level")],
    ),
    Quantity(
        title="Length of the model's answers",
        unit="tokens that it chose, mean",
        metrics=[("completions/mean_length", "length")],
        from_zero=True,
    ),
    Quantity(
        title="Answers that do not end",
        unit="share of answers",
        metrics=[("completions/clipped_frac", "cut")],
        from_zero=True,
    ),
    Quantity(
        title="Distance that the policy has gone",
        unit="estimated divergence, nats per token",
        metrics=[("rl/kl", "from the model it began with"), ("rl/approx_kl", "from the one that sampled")],
        from_zero=True,
        may_be_log=True,
    ),
    Quantity(
        title="Entropy of the answers",
        unit="nats per token",
        metrics=[("rl/entropy", "entropy")],
        from_zero=True,
    ),
    Quantity(
        title="Sampler against trainer",
        unit="mean difference of their log-probabilities",
        metrics=[("rl/logprob_gap", "gap")],
        from_zero=True,
        may_be_log=True,
    ),
    Quantity(
        title="Time of a step",
        unit="ms",
        metrics=[
            ("perf/rollout_ms", "writing answers"),
            ("perf/reward_ms", "judging them"),
            ("perf/train_ms", "training"),
        ],
        from_zero=True,
        may_be_log=True,
    ),
    Quantity(
        title="Learning rate",
        unit="of the hidden matrices",
        metrics=[("train/lr", "learning rate")],
        from_zero=True,
        shared=False,
        is_noisy=False,
        absent="no learning rate was recorded",
    ),
    Quantity(
        title="Gradient norm",
        unit="before clipping",
        metrics=[("train/grad_norm", "gradient norm")],
        may_be_log=True,
        from_zero=True,
        absent="no gradient norm was recorded",
    ),
    Quantity(
        title="Throughput",
        unit="tokens per second, without compiling, evaluating and saving",
        metrics=[("perf/tokens_per_sec", "tokens per second")],
        from_zero=True,
        absent="no throughput was recorded",
    ),
    Quantity(
        title="Model FLOPs utilisation (MFU)",
        unit="share of the devices' peak",
        metrics=[("perf/mfu", "MFU")],
        from_zero=True,
        absent="MFU: the peak of these devices is in no table (that of CPUs never is)",
    ),
    Quantity(
        title="Waiting for data",
        unit="ms of a step",
        metrics=[("perf/data_wait_ms", "waited")],
        from_zero=True,
        may_be_log=True,
    ),
)
