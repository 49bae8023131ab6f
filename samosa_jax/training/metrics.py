"""The metrics of a run: every name declared once, and the writers that carry them to disk or to a service.

`metrics.jsonl` has one object per line, `{"step": 12, "train/loss": 5.25, ...}`, one line for every optimizer
step and one for every evaluation. A resumed run cuts it back to the step it goes on from, so that the
finished file reads like that of a run which never stopped.
"""

import importlib
import json
import math
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from samosa_jax.config.rl import PASS_KS
from samosa_jax.errors import UserError

TAGS = ("system", "human", "assistant", "think", "tool_call", "tool_result")
PREFERENCE_METRICS = {  # as TRL names and defines them
    "rewards/chosen": "mean over pairs of beta * (log-probability of the chosen answer - the reference's)",
    "rewards/rejected": "the same of the rejected answer",
    "rewards/margins": "their mean difference",
    "rewards/accuracies": "share of pairs whose chosen answer has the higher reward",
    "logps/chosen": "mean log-probability of the chosen answers",
    "logps/rejected": "mean log-probability of the rejected answers",
}
HELD_OUT_METRICS = {  # of held-out prompts, answered while training
    **{f"eval/pass@{k}": f"chance that one of {k} answers is right, mean over prompts" for k in PASS_KS},
    **{f"eval/pass@{k}_low": "lower end of its 95 % interval" for k in PASS_KS},
    **{f"eval/pass@{k}_high": "upper end of its 95 % interval" for k in PASS_KS},
    "eval/reward": "mean reward of the answers",
    "eval/mean_length": "tokens of an answer that the model chose",
    "eval/clipped_frac": "share of answers cut at rl.max_tokens or at the end of the context",
}
REWARD_PARTS = (
    *("task", "exact_answer", "code", "format", "tool_choice", "answer_contains", "citation", "length"),
)
POLICY_METRICS = {  # of GRPO; those of a rollout stand with the first step that trains on it
    "rl/entropy": "-log-probability of what was sampled, nats per token: an estimate of the entropy",
    "rl/ratio": "mean ratio of the policy to the one that sampled, 1 in the first minibatch of a rollout",
    "rl/clip_low": "share of tokens that the lower bound of the ratio leaves without a gradient",
    "rl/clip_high": "share of tokens that the upper bound leaves without one",
    "rl/approx_kl": "estimated divergence of the policy from the one that sampled, nats per token",
    "rl/logprob_gap": "mean |log-probability - the sampler's|: rounding alone in a rollout's first minibatch",
    "rl/kl": "estimated divergence from the model that the run began with, where rl.kl_coef is above 0",
    "rl/zero_variance_frac": "share of prompts whose answers all earned the same, which teach nothing",
    "reward/mean": "of all answers, the parts by their weights",
    "reward/std": "standard deviation of the rewards of a prompt's answers, mean over prompts",
    **{f"reward/{name}": f"mean of the part {name}, before its weight" for name in REWARD_PARTS},
    "completions/mean_length": "tokens of an answer that the model chose",
    "completions/clipped_frac": "share of answers cut at rl.max_tokens or at the end of the context",
    "completions/ended_frac": "share of answers that end with <|assistant_end|>",
    "perf/rollout_ms": "of the step, time of writing answers",
    "perf/reward_ms": "of the step, time of judging them",
    "perf/train_ms": "of the step, all the rest",
    "perf/rollout_tokens_per_sec": "tokens that the model chose over the time of writing answers",
}
METRICS: dict[str, str] = {
    "train/loss": "mean negative log-likelihood of the supervised tokens, nats per token; of GRPO: its loss",
    "train/z_loss": "mean of the z-loss term, where loss.z_loss is above 0",
    "train/lr": "factor of the learning-rate schedule times the rate of the hidden matrices",
    "train/grad_norm": "global gradient norm before clipping",
    "train/tokens": "tokens in the rows of all steps so far; of GRPO: without padding",
    "train/supervised_tokens": "weight of the predictions of this step; of DPO: its pairs; of GRPO: sampled",
    "train/skipped": "1 where a non-finite loss or gradient made the step leave the parameters alone",
    "perf/tokens_per_sec": "tokens of the step over its time; compilation, evaluation and saving excluded",
    "perf/mfu": "training FLOPs per second over the peak of the devices, 0..1; absent where that is unknown",
    "perf/step_ms": "time from the end of the step before to the end of this one",
    "perf/data_wait_ms": "share of it in which the loop waited for the next batch",
    "perf/peak_bytes": "most memory in use so far: of one device, or of the process on CPU",
    "val/bpb": "validation bits per byte",
    "val/loss": "nats per token of the assistant in held-out conversations; of DPO: mean over held-out pairs",
    **{f"train/loss_part_{tag}": f"what the tokens tagged {tag} add to train/loss" for tag in TAGS},
    **{f"val/loss_{tag}": f"nats per token tagged {tag} in held-out conversations" for tag in TAGS},
    **PREFERENCE_METRICS,
    **POLICY_METRICS,
    **HELD_OUT_METRICS,
    "rl/level": "mean level of the prompts of a rollout that a curriculum has chosen",
    **{f"val/{name}": f"on held-out pairs: {what}" for name, what in PREFERENCE_METRICS.items()},
}


def check_declared(values: Mapping[str, float]) -> None:
    """Raises KeyError for a name that METRICS does not declare: one spelling everywhere."""
    unknown = sorted(set(values) - set(METRICS))
    if unknown:
        raise KeyError(f"metrics {unknown} are not declared in samosa_jax.training.metrics.METRICS")


class Writer(Protocol):
    """Where metrics go. `step` counts optimizer steps from 1."""

    def write(self, step: int, values: Mapping[str, float]) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


class JsonLines:
    """Appends one JSON object per line and hands each to the operating system at once: a kill loses none.

    NaN and infinities, which JSON lacks, become null. While the disk is full, records wait in memory, and
    `say` mentions it once.
    """

    def __init__(self, path: Path, *, say: Callable[[str], None]) -> None:
        self._path = path
        self._say = say
        self._waiting = b""
        self._told = False
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        check_declared(values)
        self.append({"step": step, **values})

    def append(self, record: Mapping[str, object]) -> None:
        """Writes any record; floats at the top level may be non-finite."""
        finite = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in record.items()
        }
        self._waiting += f"{json.dumps(finite, ensure_ascii=False)}\n".encode()
        self._hand_over()

    def flush(self) -> None:
        self._hand_over(sync=True)

    def close(self) -> None:
        self._hand_over()
        if self._waiting:
            self._say(
                f"WARNING: the last {len(self._waiting)} bytes of {self._path} found no room and are lost"
            )
        os.close(self._file)

    def _hand_over(self, *, sync: bool = False) -> None:
        try:
            while self._waiting:
                self._waiting = self._waiting[os.write(self._file, self._waiting) :]
            if sync:
                os.fsync(self._file)
            self._told = False
        except OSError as error:
            if not self._told:
                self._say(f"WARNING: {self._path} cannot be written now ({error.strerror}); its records wait")
            self._told = True


class Records(Protocol):
    """A file that takes records, or nothing that does."""

    def append(self, record: Mapping[str, object]) -> None: ...

    def close(self) -> None: ...


class NoRecords:
    """Of a process that writes nothing, because another does."""

    def append(self, record: Mapping[str, object]) -> None: ...

    def close(self) -> None: ...


def read_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a .jsonl file; a last line torn by a kill is left out. Nothing if there is no file."""
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            if not line.endswith("\n"):
                return
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(
                    f"{path} has a line that is not JSON ({line[:40]!r}: {error.msg}); "
                    "repair or remove that line"
                ) from error


def keep_json_lines(path: Path, keep: Callable[[Mapping[str, Any]], bool]) -> int:
    """Rewrites a .jsonl file with the records that `keep` accepts, atomically; returns how many are left."""
    if not path.exists():
        return 0
    temporary = path.with_name(f"{path.name}.tmp")
    count = 0
    with temporary.open("w", encoding="utf-8") as file:
        for record in read_json_lines(path):
            if keep(record):
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
                count += 1
    os.replace(temporary, path)
    return count


def is_train_record(record: Mapping[str, Any]) -> bool:
    """Whether a line of metrics.jsonl is that of a training step, not of an evaluation."""
    return "train/loss" in record


class TensorBoardWriter:
    """Event files for TensorBoard, written by tensorboardX (no TensorFlow needed)."""

    def __init__(self, folder: Path, *, first_step: int) -> None:
        """Readers drop what an earlier process wrote from first_step on."""
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(logdir=str(folder), purge_step=first_step)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        check_declared(values)
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WandbWriter:
    """Weights & Biases. The id in `wandb_id` lets a resumed run go on in the same W&B run."""

    def __init__(self, folder: Path, *, project: str, name: str, config: Mapping[str, object]) -> None:
        """Raises UserError where wandb is missing."""
        try:
            wandb = importlib.import_module("wandb")
        except ImportError as error:
            raise UserError(
                f"log.wandb_project is {project!r}, but wandb is not installed; "
                "run `pip install wandb`, or set log.wandb_project=null"
            ) from error
        id_file = folder / "wandb_id"
        if not id_file.exists():
            id_file.write_text(secrets.token_hex(8), encoding="utf-8")
        self._run = wandb.init(
            project=project,
            name=name,
            id=id_file.read_text(encoding="utf-8").strip(),
            resume="allow",
            dir=str(folder),
            config=dict(config),
        )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        check_declared(values)
        self._run.log(dict(values), step=step)

    def flush(self) -> None:
        """W&B sends from a process of its own."""

    def close(self) -> None:
        self._run.finish()
