"""Commands started as several processes on this host, as a launcher starts them on several."""

import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import training_runs

TIMEOUT = 300.0


@dataclass(frozen=True)
class Ended:
    code: int
    said: str  # on stdout and stderr


class Processes:
    """Processes of one command, each with its own flags; what they say goes to files."""

    def __init__(
        self,
        commands: Sequence[Sequence[str]],
        *,
        logs: Path,
        num_devices: int = 4,
        python_paths: Sequence[str] | None = None,
    ) -> None:
        """`python_paths`: PYTHONPATH of each, to run other code than the rest."""
        logs.mkdir(parents=True, exist_ok=True)
        self._logs = [logs / f"process_{index}.log" for index in range(len(commands))]
        self.processes: list[subprocess.Popen[bytes]] = []
        common = {**training_runs.environment(num_devices=num_devices), "PYTHONUNBUFFERED": "1"}
        for index, (command, log) in enumerate(zip(commands, self._logs, strict=True)):
            path = {} if python_paths is None else {"PYTHONPATH": python_paths[index]}
            with log.open("wb") as file:
                started = subprocess.Popen(
                    [sys.executable, *command],
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    env={**common, **path},
                )
            self.processes.append(started)

    @property
    def are_running(self) -> bool:
        return all(process.poll() is None for process in self.processes)

    def said(self, index: int) -> str:
        return self._logs[index].read_text(encoding="utf-8", errors="replace")

    def wait(self, *, timeout: float = TIMEOUT) -> list[Ended]:
        """Of every process, once all have ended; none is left where one hangs."""
        try:
            for process in self.processes:
                process.wait(timeout)
        finally:
            for process in self.processes:
                process.kill()
        return [Ended(process.returncode, self.said(index)) for index, process in enumerate(self.processes)]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def meeting(index: int, size: int, port: int) -> Mapping[str, object]:
    """The configuration of one of several processes."""
    return {
        "distributed.coordinator": f"127.0.0.1:{port}",
        "distributed.num_processes": size,
        "distributed.process_id": index,
    }


def train(flags: Sequence[str], *, logs: Path, size: int = 2) -> Processes:
    """`samosa train` in several processes of four devices."""
    port = free_port()
    commands = [
        [
            *("-m", "samosa_jax.train", *flags),
            *(f"--{key}={value}" for key, value in meeting(index, size, port).items()),
        ]
        for index in range(size)
    ]
    return Processes(commands, logs=logs)


def last_line(ended: Ended) -> str:
    lines = [line for line in ended.said.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def host_name() -> str:
    return socket.gethostname()
