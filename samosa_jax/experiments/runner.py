"""Trains what an experiment plans, each run in a process of its own; finished runs are passed over."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from samosa_jax.errors import UserError
from samosa_jax.experiments.planned_run import PlannedRun
from samosa_jax.training.interrupts import StopRequest

LOOK_SECONDS = 0.1
LAST_LINES = 4_000  # bytes of a log that are searched for the reason of a failure


def train_all(runs: Sequence[PlannedRun], *, jobs: int, say: Callable[[str], None]) -> signal.Signals | None:
    """Trains every run that is not finished, in the order given, at most `jobs` at the same time.

    A run that was interrupted goes on from its newest checkpoint, as by the train command itself. SIGTERM or
    Ctrl-C lets the runs under way save themselves; the signal is returned then.

    Raises:
        UserError: a folder holds another run; or a run failed, with the last line that it said.
    """
    for run in runs:
        run.check_startable()
    waiting = [run for run in runs if not run.is_finished]
    if len(waiting) < len(runs):
        say(f"{len(runs) - len(waiting)} of {len(runs)} runs are finished already")
    num_started = 0
    active: dict[subprocess.Popen[bytes], tuple[PlannedRun, float]] = {}
    with StopRequest() as stop:
        try:
            while active or (waiting and stop.signal is None):
                while waiting and len(active) < jobs and stop.signal is None:
                    run = waiting.pop(0)
                    if run.is_finished:  # meanwhile, by the same command elsewhere
                        continue
                    num_started += 1
                    say(f"training {num_started} of {num_started + len(waiting)}: {run.label}")
                    active[_start(run)] = (run, time.monotonic())
                time.sleep(LOOK_SECONDS)
                if stop.signal is not None and active:
                    say("stopping: the runs under way save themselves first")
                    _end(active)
                for process in [process for process in active if process.poll() is not None]:
                    run, begun = active.pop(process)
                    if stop.signal is None:
                        _check_ended(run, process.returncode)
                        say(f"  {run.label}: done in {time.monotonic() - begun:.0f} s")
        except KeyboardInterrupt:  # the second Ctrl-C
            for process in active:
                process.kill()
            raise
        finally:
            _end(active)
        return stop.signal


def _start(run: PlannedRun) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "samosa_jax.train", *run.argv]
    run.log.parent.mkdir(parents=True, exist_ok=True)
    with run.log.open("ab") as log:
        log.write(f"$ {shlex.join(command)}\n".encode())
        log.flush()
        # In a group of its own, lest a Ctrl-C reach it twice: the second one would stop it at once.
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, process_group=0
        )


def _end(active: dict[subprocess.Popen[bytes], tuple[PlannedRun, float]]) -> None:
    for process in active:
        process.terminate()
    for process in active:
        process.wait()


def _check_ended(run: PlannedRun, exit_status: int) -> None:
    if exit_status == 0 and run.is_finished:
        return
    with run.log.open("rb") as log:
        log.seek(max(0, os.fstat(log.fileno()).st_size - LAST_LINES))
        lines = log.read().decode(errors="replace").strip().splitlines()
    said = lines[-1].removeprefix("error: ") if lines else "nothing"
    raise UserError(
        f"{run.label}: training ended with {exit_status}, saying: {said} (all of it: {run.log}); "
        "the same command goes on with what is left"
    )
