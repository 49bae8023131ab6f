"""Whether a checkpoint may be built upon: the file PROMOTION in the folder of its run.

    refused: probes is 0.7091 (0.5781 to 0.8127), below 0.95
    gate: configs/gates/sft.yaml
    step: 1200
    checkpoint: 3f0c...
    time: 2026-01-31T12:00:00+00:00

or `passed` in the first line. It speaks of one checkpoint, named by the SHA-256 of its seal, and of no other.
"""

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from samosa_jax.errors import UserError
from samosa_jax.evals.gates import Verdict
from samosa_jax.training.checkpoint import read_record, seal_digest
from samosa_jax.training.parents import run_of
from samosa_jax.training.run_folder import RunFolder

PASSED, REFUSED = "passed", "refused"
OVERRULE = "--init_from_refused=true"


@dataclass(frozen=True, kw_only=True)
class Promotion:
    passed: bool
    reason: str  # what fell; empty if it passed
    gate: str
    step: int
    checkpoint: str


def write_promotion(run: Path, verdict: Verdict, *, step: int, checkpoint: str) -> None:
    """Writes the verdict down, in place of an earlier one. Raises UserError where it cannot be written."""
    reason = verdict.stop_line.partition(": ")[2]
    lines = [
        PASSED if verdict.passed else f"{REFUSED}: {reason}",
        f"gate: {verdict.gate}",
        f"step: {step}",
        f"checkpoint: {checkpoint}",
        f"time: {datetime.now(UTC).isoformat(timespec='seconds')}",
    ]
    path = RunFolder(run).promotion
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(
            f"{path}: the verdict cannot be written ({error.strerror}); make room, or make it writable"
        ) from error


def read_promotion(run: Path) -> Promotion | None:
    """The last verdict; None if none was given. Raises UserError for a file that is none."""
    path = RunFolder(run).promotion
    if not path.exists():
        return None
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    verdict, _, reason = (lines[0] if lines else "").partition(": ")
    values = {key: value for key, _, value in (line.partition(": ") for line in lines[1:])}
    is_whole = {"gate", "step", "checkpoint"} <= values.keys() and values.get("step", "").isdecimal()
    if verdict not in (PASSED, REFUSED) or not is_whole:
        raise UserError(
            f"{path}: no verdict can be read from it; judge the run again with its train command, or "
            "remove the file"
        )
    return Promotion(
        passed=verdict == PASSED,
        reason=reason,
        gate=values["gate"],
        step=int(values["step"]),
        checkpoint=values["checkpoint"],
    )


def check_promoted(checkpoint: Path) -> None:
    """Raises UserError for a checkpoint that its gate refused, or that still waits for a gate's verdict."""
    promotion = read_promotion(run_of(checkpoint))
    own = promotion if promotion and promotion.checkpoint == seal_digest(checkpoint) else None
    if own is not None and own.passed:
        return
    if own is not None:
        raise UserError(
            f"init_from: {checkpoint} was refused by {own.gate}: {own.reason}; train it better, or "
            f"begin with it all the same with {OVERRULE}"
        )
    evaluation = read_record(checkpoint).config.get("eval")
    gate = evaluation.get("gate") if isinstance(evaluation, dict) else None
    if gate:
        raise UserError(
            f"init_from: {checkpoint} has not been judged by {gate}, the gate of its run; run its train "
            f"command to the end, or begin with it all the same with {OVERRULE}"
        )
