"""Where a run lives on disk, and whether a command may begin, go on, or must refuse there.

runs/NAME/  config.yaml  environment.json  metrics.jsonl  evals.jsonl  evals/STEP/  samples.jsonl  PROMOTION
            checkpoints/STEP/  bad_steps/STEP.npz  rollouts/STEP.npz  preflight.json  tensorboard/  loss.png
            summary.json  prediction.json  profile/
"""

import fcntl
import json
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np
import yaml

from samosa_jax.data.manifest import TOKENIZER_FOLDER
from samosa_jax.data.tokenizer import Tokenizer
from samosa_jax.errors import UserError
from samosa_jax.parallel.process_group import ProcessGroup
from samosa_jax.training.metrics import is_train_record, keep_json_lines

MARK_SECONDS = 60.0  # for what one host writes to be seen by another
EXPORT_RECORD = "samosa.json"  # of what was exported; `samosa export` leaves it in every folder


@dataclass(frozen=True)
class RunFolder:
    """The paths of one run."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def environment(self) -> Path:
        return self.path / "environment.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def evals(self) -> Path:
        return self.path / "evals.jsonl"

    @property
    def evaluated_items(self) -> Path:
        """A folder for each step, with a file for every result: a line per item."""
        return self.path / "evals"

    @property
    def promotion(self) -> Path:
        """What a gate has said of a checkpoint; see `evals.promotion`."""
        return self.path / "PROMOTION"

    @property
    def samples(self) -> Path:
        return self.path / "samples.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def bad_steps(self) -> Path:
        return self.path / "bad_steps"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def tokenizer(self) -> Path:
        return self.path / TOKENIZER_FOLDER

    @property
    def reference(self) -> Path:
        """Log-probabilities of preference pairs under the model that the run began with."""
        return self.path / "reference.npz"

    @property
    def rollouts(self) -> Path:
        """Those that checkpoints between their minibatches go on with."""
        return self.path / "rollouts"

    @property
    def preflight(self) -> Path:
        return self.path / "preflight.json"

    @property
    def profile(self) -> Path:
        """A trace of some steps; see `training.profile`."""
        return self.path / "profile"

    @property
    def prediction(self) -> Path:
        """What was predicted, beside what the first steps took; see `training.foresight`."""
        return self.path / "prediction.json"

    @property
    def plot(self) -> Path:
        return self.path / "loss.png"

    @property
    def summary(self) -> Path:
        return self.path / "summary.json"

    @property
    def is_used(self) -> bool:
        """Whether a run has left anything here that a fresh start would lose."""
        return self.metrics.exists() or (self.checkpoints.is_dir() and any(self.checkpoints.iterdir()))

    @contextmanager
    def claimed(self, group: ProcessGroup) -> Iterator[None]:
        """`locked` by the first process for all of them, which see the same folder.

        Raises UserError where they do not, and as `locked` does.
        """
        mark = secrets.token_hex(8)
        with self.locked(mark) if group.is_first else nullcontext():
            mark = group.share(mark)[0]
            seen = group.share(self._shows(mark))
            if not all(seen):
                blind = ", ".join(str(index) for index, sees in enumerate(seen) if not sees)
                raise UserError(
                    f"process {blind} does not see in {self.path} what process 0 writes there; set out_dir "
                    "to a folder that all hosts share"
                )
            yield

    def _shows(self, mark: str) -> bool:
        """Whether the lock holds that mark; network file systems may take a while to show a new file."""
        deadline = time.monotonic() + MARK_SECONDS
        while True:
            lock = self.path / "lock"
            if lock.exists() and lock.read_text(encoding="utf-8") == mark:
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(0.2)

    @contextmanager
    def locked(self, mark: str = "") -> Iterator[None]:
        """Makes the folder and keeps it for this process; the lock ends with the process, however it ends.

        `mark` is what the lock holds. Raises UserError where the folder cannot be made or locked, or another
        process trains in it.
        """
        with self._open_lock() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                lock.truncate(0)
                lock.write(mark)
                lock.flush()
                os.fsync(lock.fileno())
            except BlockingIOError as error:
                raise UserError(
                    f"{self.path} is in use by another process; wait for it, stop it, or choose another name"
                ) from error
            except OSError as error:  # Lustre without the mount option flock, a full disk
                raise UserError(
                    f"{self.path / 'lock'} cannot be locked ({error.strerror}); choose an out_dir on a file "
                    "system that has locks and room"
                ) from error
            yield

    def _open_lock(self) -> TextIO:
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"{self.path} cannot be created ({error.strerror}); choose another out_dir or name"
            ) from error
        try:
            return (self.path / "lock").open("a", encoding="utf-8")
        except OSError as error:
            raise UserError(
                f"{self.path} cannot be written to ({error.strerror}); choose another out_dir or name"
            ) from error

    def keep_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Copies it into the run, so that the folder is all it takes to use the model."""
        if self.tokenizer.exists():
            return
        unfinished = self.path / f"{TOKENIZER_FOLDER}.unfinished"
        unfinished.mkdir(exist_ok=True)
        tokenizer.save(unfinished)
        unfinished.rename(self.tokenizer)

    def note_start(self, environment: Mapping[str, object], *, step: int) -> None:
        """Adds one start of the command to environment.json: a run may have many, on different machines.

        Raises UserError where that file cannot be read.
        """
        earlier = []
        if self.environment.exists():
            try:
                earlier = json.loads(self.environment.read_text(encoding="utf-8"))
            except ValueError as error:
                raise UserError(
                    f"{self.environment} is not JSON ({error}); mend it, or move it away"
                ) from error
        write_json(self.environment, [*earlier, {"from_step": step, **environment}])

    def cut_back(self, step: int) -> None:
        """Drops every record after `step`, so that the run's files read as if it had been killed right there.

        What was evaluated and sampled at `step` itself goes too: it comes after the checkpoint of that
        step and is done again.
        """

        def step_of(record: Mapping[str, object]) -> int:
            value = record.get("step")
            if not isinstance(value, int):
                raise UserError(
                    f"{self.path} has a record without a step: {str(record)[:60]}; remove that line"
                )
            return value

        keep_json_lines(
            self.metrics, lambda record: step_of(record) <= step - (0 if is_train_record(record) else 1)
        )
        # The result of a task is of the checkpoint itself, and is not measured again.
        keep_json_lines(self.evals, lambda record: step_of(record) < step + ("task" in record))
        keep_json_lines(self.samples, lambda record: step_of(record) < step)
        for rollout in self.rollouts.glob("*.npz"):
            if not rollout.stem.isdigit() or int(rollout.stem) >= step:
                rollout.unlink()


def write_yaml(path: Path, values: Mapping[str, object]) -> None:
    """Writes plain nested values as YAML, atomically, in the order given."""
    _replace(path, yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True, width=110))


def write_json(path: Path, values: object) -> None:
    """Writes plain nested values as indented JSON, atomically."""
    _replace(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def write_arrays(path: Path, **arrays: np.ndarray) -> None:
    """Writes arrays as .npz, atomically."""
    temporary = path.with_name(f"{path.name}.tmp.npz")
    np.savez(temporary, allow_pickle=False, **arrays)
    os.replace(temporary, path)


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
