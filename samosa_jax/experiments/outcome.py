"""What a finished run says of itself: the loss that is compared, what it cost, and what it was trained on."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from samosa_jax.config import Config
from samosa_jax.errors import UserError
from samosa_jax.experiments.planned_run import PlannedRun
from samosa_jax.training.metrics import read_json_lines

PARTS = {  # of what the assistant writes in held-out conversations
    "val/loss_assistant": "answers",
    "val/loss_think": "thoughts",
    "val/loss_tool_call": "tool calls",
}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Of one run.

    Attributes:
        value: what `measure_of` names; lower is better.
        parts: the same of parts of it, by name; none of text.
        tokens: in the rows of all steps.
        sources: fingerprints of the data, in the order of data.sources.
        machine: where it was trained last, in words.
    """

    run: PlannedRun
    value: float
    parts: Mapping[str, float]
    steps: int
    tokens: int
    tokens_per_sec: float | None
    seconds: float
    skipped_steps: int
    sources: tuple[str, ...]
    machine: str


def measure_of(config: Config) -> str:
    """What runs of this stage are compared by."""
    if config.content == "text":
        return "validation bits per byte"
    if config.content == "conversations":
        return "held-out loss, nats per token of the assistant"
    return "held-out loss, mean over pairs"


def read_outcome(run: PlannedRun) -> Outcome:
    """Raises UserError for a run that is not finished, or was not evaluated."""
    if not run.is_finished:
        raise UserError(f"{run.folder.path} is not finished; run the same command without --only_finished")
    summary = json.loads(run.folder.summary.read_text(encoding="utf-8"))
    value = summary["val_bpb" if run.config.content == "text" else "val_loss"]
    if value is None:
        raise UserError(
            f"{run.folder.path} was not evaluated: its data hold nothing out; prepare them with "
            "--val-documents"
        )
    last: dict[str, float] = {}
    for record in read_json_lines(run.folder.metrics):
        last |= {name: record[name] for name in PARTS if name in record}
    environment = json.loads(run.folder.environment.read_text(encoding="utf-8"))[-1]
    host, device, versions = (environment[name] for name in ("host", "device", "versions"))
    flags = f", XLA_FLAGS {environment['xla_flags']}" if environment["xla_flags"] else ""
    return Outcome(
        run=run,
        value=value,
        parts={PARTS[name]: last[name] for name in PARTS if name in last},
        steps=summary["steps"],
        tokens=summary["tokens"],
        tokens_per_sec=summary["tokens_per_sec"],
        seconds=summary["seconds"],
        skipped_steps=summary["skipped_steps"],
        sources=tuple(environment["sources"].values()),
        machine=f"{device['count']} x {device['kind']}, {host['cores']} cores, {host['system']}, "
        f"Python {versions['python']}, jax {versions['jax']}{flags}",
    )


def check_comparable(outcomes: Sequence[Outcome], *, same_tokens: bool) -> None:
    """Raises UserError if runs were trained on other data, or on another number of tokens."""
    first = outcomes[0]
    for other in outcomes[1:]:
        if other.sources != first.sources:
            raise UserError(
                f"{other.run.folder.path} was trained on other data than {first.run.folder.path}, which was "
                "prepared anew in between; remove the runs on the old data and train them again"
            )
        if same_tokens and other.tokens != first.tokens:
            raise UserError(
                f"{other.run.folder.path} has seen {other.tokens:,} tokens, {first.run.folder.path} "
                f"{first.tokens:,}; rows are compared at the same number"
            )
