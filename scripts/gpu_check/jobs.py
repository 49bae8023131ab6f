"""Runs parts of the check in processes of their own, each with a time limit, and says what became of them."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from scripts.gpu_check.records import read_lines

LOG_TAIL = 20  # lines of a process that failed, kept in the report
LEAST_SECONDS = 5  # with less time than this a process is not started


@dataclass(frozen=True, kw_only=True)
class Job:
    """One process, `python -m MODULE --out FILE ARGUMENTS`, which leaves its results in FILE."""

    part: str
    name: str
    module: str
    arguments: tuple[str, ...] = ()
    limit: float  # seconds
    read: Callable[[Path], list[dict[str, Any]]] = read_lines  # the results, from FILE
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a job."""

    part: str
    name: str
    status: str  # ok; failed, timed out, not run: the check as a whole fails; absent: nothing to run
    seconds: float
    message: str = ""
    log_tail: tuple[str, ...] = ()
    results: tuple[dict[str, Any], ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class _Running:
    job: Job
    process: subprocess.Popen[bytes]
    begun: float
    limit: float
    log: Path
    out: Path


class Runner:
    """Runs jobs until `deadline` (of time.monotonic); keeps their output in `folder`, one file each."""

    def __init__(self, folder: Path, *, deadline: float, tell: Callable[[Outcome], None]) -> None:
        self.outcomes: list[Outcome] = []
        self._folder = folder
        self._deadline = deadline
        self._tell = tell
        self._started = 0

    def run(self, jobs: Sequence[Job], *, at_once: int = 1, reserve: float = 0.0) -> list[Outcome]:
        """Their outcomes, in the order in which they ended; `reserve` seconds of the budget are left."""
        waiting, running = list(jobs), list[_Running]()
        before = len(self.outcomes)
        try:
            while waiting or running:
                while waiting and len(running) < at_once:
                    started = self._start(waiting.pop(0), left=self._deadline - reserve - time.monotonic())
                    running += [started] if started else []
                for one in list(running):
                    if one.process.poll() is not None or time.monotonic() > one.begun + one.limit:
                        running.remove(one)
                        self._finish(one)
                time.sleep(0.02)
        finally:
            for one in running:
                _kill(one.process)
        return self.outcomes[before:]

    def add(self, outcome: Outcome) -> None:
        """An outcome known without running anything."""
        self.outcomes.append(outcome)
        self._tell(outcome)

    def _start(self, job: Job, *, left: float) -> _Running | None:
        if left < LEAST_SECONDS:
            message = "no time left of the budget; --budget and --parts change what runs"
            self.add(Outcome(part=job.part, name=job.name, status="not run", seconds=0.0, message=message))
            return None
        self._started += 1
        stem = self._folder / f"{self._started:02d}"
        out, log = stem.with_suffix(".results"), stem.with_suffix(".log")
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", job.module, "--out", str(out), *job.arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | job.environment,
                start_new_session=True,  # so that what it starts ends with it
            )
        return _Running(job, process, time.monotonic(), min(job.limit, left), log, out)

    def _finish(self, one: _Running) -> None:
        seconds = time.monotonic() - one.begun
        code = one.process.poll()
        if code is None:
            _kill(one.process)
        lines = one.log.read_text(encoding="utf-8", errors="replace").splitlines()
        if code == 0:
            status, message = "ok", ""
        elif code is None:
            status, message = "timed out", f"stopped after its limit of {one.limit:.0f} s"
        else:
            status, message = "failed", _last_words(lines, code)
        self.add(
            Outcome(
                part=one.job.part,
                name=one.job.name,
                status=status,
                seconds=seconds,
                message=message,
                log_tail=() if code == 0 else tuple(lines[-LOG_TAIL:]),
                results=tuple(one.job.read(one.out)),
            )
        )

    def logs(self) -> str:
        """The output of every process so far, in the order of their starts."""
        return "".join(
            f"===== {path.stem}\n{path.read_text(encoding='utf-8', errors='replace')}\n"
            for path in sorted(self._folder.glob("*.log"))
        )


def _kill(process: subprocess.Popen[bytes]) -> None:
    """With everything it started."""
    with contextlib.suppress(ProcessLookupError):  # it may just have ended
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _last_words(lines: Sequence[str], code: int) -> str:
    """The last line that names an error, or the last line; the signal if one ended the process."""
    ended = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    said = [line.strip() for line in lines if line.strip()]
    named = [line for line in said if "Error" in line.split(":")[0] or "RESOURCE_EXHAUSTED" in line]
    return f"{ended}: {(named or said or ['it said nothing'])[-1][:600]}"
