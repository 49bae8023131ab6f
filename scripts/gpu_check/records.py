"""Results on disk as soon as they are known, so that what follows a crash or a time limit loses none."""

import json
from pathlib import Path
from typing import Any


class Records:
    """A file of JSON objects, one a line, each flushed when it is added."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, **values: Any) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Every whole line of what `Records` wrote: a process that was killed may have left half of one."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def read_bench(folder: Path) -> list[dict[str, Any]]:
    """What `python -m samosa_kernels.bench --out FOLDER --name bench` measured, if it came to its end."""
    path = folder / "bench.json"
    return json.loads(path.read_text(encoding="utf-8"))["records"] if path.exists() else []
