"""Pushes checkpoints of a run to the hub while it trains, without slowing it down or ever failing it.

A process of its own uploads, at low priority: it can be ended at any moment, however it hangs, and takes
nothing from the process that trains. A thread looks now and then whether a new checkpoint is sealed and
whether the upload has ended.
"""

import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from samosa_jax.training.checkpoint import SEAL, list_steps, step_folder
from samosa_jax.training.hub_transfer import remove_leftovers

LOG = "push.log"  # beside the checkpoints: what the last upload has said
LOOK_SECONDS = 1.0
FIRST_PAUSE_SECONDS = 15.0  # after a failure; doubles
LONGEST_PAUSE_SECONDS = 900.0
PUSH_SECONDS = 3_600.0  # after which an upload is taken for stuck
HURRIED_SECONDS = 20.0  # for the last push of a run that was stopped
LAST_TRIES = 2  # of the last push
LAST_PAUSE_SECONDS = 5.0  # between them
GRACE_SECONDS = 2.0  # between asking the process to end and ending it
NICENESS = 10


@dataclass
class _Upload:
    process: subprocess.Popen[bytes]
    step: int
    begun: float


class BackgroundPush:
    """One upload at a time, of the newest sealed checkpoint; failures are tried again, later and later.

    Attributes:
        pushed_step: the newest checkpoint that is on the hub, pushed by this object; 0: none.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        name: str,
        checkpoints: Path,
        every_steps: int,
        first_step: int,
        say: Callable[[str], None],
    ) -> None:
        """
        Args:
            command: uploads the newest checkpoint of the run and exits with 0; else the last line that it
                says tells why not.
            name: of the repository, for messages.
            every_steps: a checkpoint is pushed when it is so many steps after the last that was.
            first_step: where the run begins or goes on; checkpoints up to there are not pushed again.
            say: shows a line; called from another thread.
        """
        self.pushed_step = 0
        self._command = list(command)
        self._name = name
        self._checkpoints = checkpoints
        self._log = checkpoints.parent / LOG
        self._every_steps = every_steps
        self._first_step = first_step
        self._say = say
        self._upload: _Upload | None = None
        self._pause = FIRST_PAUSE_SECONDS
        self._not_before = 0.0
        self._problems: set[str] = set()
        self._is_failing = False
        self._is_finished = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="background push", daemon=True)

    def __enter__(self) -> "BackgroundPush":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """A run that is stopped or fails has little time."""
        self.finish(seconds=0.0 if kind is KeyboardInterrupt else HURRIED_SECONDS)

    def finish(self, *, seconds: float) -> None:
        """Pushes the newest checkpoint if it is not there yet, and ends all that goes on after `seconds`."""
        if self._is_finished:
            return
        self._is_finished = True
        deadline = time.monotonic() + seconds
        self._stop.set()
        try:
            self._thread.join()
            newest = self._newest_step()
            if newest <= max(self.pushed_step, self._first_step):
                return
            self._say(f"pushing step {newest} to {self._name}, for at most {seconds:.0f} s")
            tries_left = LAST_TRIES
            while self.pushed_step < newest and time.monotonic() < deadline:
                if self._upload is not None:
                    self._wait(deadline)
                elif tries_left:
                    if tries_left < LAST_TRIES:
                        time.sleep(max(0.0, min(LAST_PAUSE_SECONDS, deadline - time.monotonic())))
                    tries_left -= 1
                    self._begin(newest)
                else:
                    break
            if self.pushed_step < newest:
                self._say(
                    f"WARNING: step {newest} is not on {self._name}; "
                    f"`samosa push {self._checkpoints.parent} {self._name}` pushes it"
                )
        finally:
            self._end_upload()

    def _watch(self) -> None:
        while not self._stop.wait(LOOK_SECONDS):
            if self._upload is not None:
                self._look_at(self._upload)
            elif time.monotonic() >= self._not_before:
                newest = self._newest_step()
                if newest >= max(self.pushed_step, self._first_step) + self._every_steps:
                    self._begin(newest)

    def _newest_step(self) -> int:
        steps = reversed(list_steps(self._checkpoints))
        return next((step for step in steps if (step_folder(self._checkpoints, step) / SEAL).exists()), 0)

    def _begin(self, step: int) -> None:
        try:
            with self._log.open("wb") as log:
                process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,  # Ctrl-C is for the run, which decides what follows
                    env={**os.environ, "JAX_PLATFORMS": "cpu"},  # the accelerator is the run's
                )
            os.setpriority(os.PRIO_PROCESS, process.pid, NICENESS)
        except OSError as error:
            self._note_failure(step, f"{self._command[0]} cannot be run ({error.strerror})")
            return
        self._upload = _Upload(process, step, time.monotonic())

    def _look_at(self, upload: _Upload) -> None:
        """Takes note if the upload has ended, or ends it if it takes too long."""
        if upload.process.poll() is None:
            if time.monotonic() - upload.begun > PUSH_SECONDS:
                self._end_upload()
                self._note_failure(upload.step, f"it took more than {PUSH_SECONDS:.0f} s")
            return
        self._upload = None
        try:
            said = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        except OSError:  # somebody has removed it, which must not end this thread
            said = []
        if upload.process.returncode != 0:
            self._note_failure(upload.step, said[-1] if said else f"exit code {upload.process.returncode}")
            return
        self.pushed_step = upload.step
        self._pause, self._not_before = FIRST_PAUSE_SECONDS, 0.0
        if self._is_failing:
            self._say(f"step {upload.step} is on {self._name}: pushing works again")
        self._is_failing = False

    def _wait(self, deadline: float) -> None:
        upload = self._upload
        if upload is None:
            return
        try:
            upload.process.wait(timeout=max(0.01, min(LOOK_SECONDS, deadline - time.monotonic())))
        except subprocess.TimeoutExpired:
            return
        self._look_at(upload)

    def _note_failure(self, step: int, reason: str) -> None:
        self._is_failing = True
        self._not_before = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)
        reason = reason.removeprefix("error: ")
        kind = re.sub(r"\d+|0x[0-9a-f]+|[0-9a-f]{8,}", "#", reason)  # numbers do not make it another problem
        if kind not in self._problems:
            self._problems.add(kind)
            self._say(
                f"WARNING: step {step} could not be pushed to {self._name} ({reason}); the run goes on, the "
                "newest checkpoint is tried again later"
            )

    def _end_upload(self) -> None:
        upload, self._upload = self._upload, None
        if upload is None or upload.process.poll() is not None:
            return
        upload.process.terminate()
        try:
            upload.process.wait(timeout=GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            upload.process.kill()
            upload.process.wait()
        remove_leftovers(self._checkpoints.parent)
