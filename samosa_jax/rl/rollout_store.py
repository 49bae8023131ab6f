"""Rollouts on disk: what a run that was killed between the minibatches of one goes on with.

    runs/NAME/rollouts/00000040.npz      the rollout that began when 40 steps were done

Written before the first of its minibatches is trained on, kept as long as a checkpoint may need it.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from samosa_jax.errors import UserError
from samosa_jax.rl.policy_batches import PolicyTokens
from samosa_jax.training.run_folder import write_arrays


@dataclass(frozen=True, kw_only=True, eq=False)
class Rollout:
    """What training needs of one: P groups of R answers, group after group."""

    tokens: PolicyTokens
    advantages: np.ndarray  # float64 (P, R)
    counts: np.ndarray  # bool (P, R), answers that count
    old: np.ndarray | None  # float32 (N,), what ratios are to; None: the policy as it is
    reference: np.ndarray | None  # float32 (N,)


@dataclass(frozen=True)
class StoredRollout:
    """Names a rollout on disk, in the record of a checkpoint."""

    step: int  # done when it began
    sha256: str


class RolloutStore:
    """The rollouts of one run."""

    def __init__(self, folder: Path, *, steps_needed: Callable[[], Iterable[int]]) -> None:
        """steps_needed: the first steps of the rollouts that checkpoints go on with."""
        self._folder = folder
        self._steps_needed = steps_needed

    def path(self, step: int) -> Path:
        return self._folder / f"{step:08d}.npz"

    def write(self, step: int, rollout: Rollout) -> StoredRollout:
        """Returns when it is on disk, whole. Raises UserError where it cannot be written."""
        arrays = {
            "advantages": rollout.advantages,
            "counts": rollout.counts,
            **rollout.tokens._asdict(),
            **{
                name: values
                for name, values in (("old", rollout.old), ("reference", rollout.reference))
                if values is not None
            },
        }
        path = self.path(step)
        try:
            self._folder.mkdir(exist_ok=True)
            write_arrays(path, **arrays)
            return StoredRollout(step, _sha256(path))
        except OSError as error:
            raise UserError(
                f"{path} cannot be written ({error.strerror}), and without it the run could not be resumed "
                "exactly; make room and run the same command again"
            ) from error

    def read(self, stored: StoredRollout) -> Rollout:
        """Raises UserError for a file that is missing, or not what was written."""
        path = self.path(stored.step)
        if not path.is_file() or _sha256(path) != stored.sha256:
            state = "has changed since it was written" if path.is_file() else "is missing"
            raise UserError(
                f"{path} {state}, and the newest checkpoint goes on with it; bring it back from a copy, or "
                "remove that checkpoint to go on from the one before"
            )
        with np.load(path) as arrays:
            tokens = PolicyTokens(**{name: arrays[name] for name in PolicyTokens._fields})
            return Rollout(
                tokens=tokens,
                advantages=arrays["advantages"],
                counts=arrays["counts"],
                old=arrays.get("old"),
                reference=arrays.get("reference"),
            )

    def remove_others(self, *steps: int) -> None:
        """Removes what neither these steps nor a checkpoint needs."""
        kept = {*steps, *self._steps_needed()}
        for path in self._folder.glob("*.npz"):
            if not path.stem.isdigit() or int(path.stem) not in kept:
                path.unlink(missing_ok=True)


def stored_as_json(stored: StoredRollout | None) -> dict[str, Any] | None:
    return None if stored is None else dataclasses.asdict(stored)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
