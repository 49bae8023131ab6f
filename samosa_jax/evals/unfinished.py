"""The answers of an evaluation that is under way, so that one that was stopped goes on where it was."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from samosa_jax.errors import UserError
from samosa_jax.training.run_folder import RunFolder

SUFFIX = ".unfinished"


class Unfinished:
    """A file of lines: first the settings, then an answer each. Answers under other settings are dropped.

    Attributes:
        answers: by (item, sample), what an earlier start and this one have so far.
    """

    def __init__(self, run: Path, *, step: int, task: str, settings: Mapping[str, Any]) -> None:
        """Raises UserError where the file cannot be written."""
        name = task.replace("/", "_")
        self.answers: dict[tuple[str, int], Mapping[str, Any]] = {}
        self._path = RunFolder(run).evaluated_items / f"{step:08d}" / f"{name}{SUFFIX}"
        first = json.dumps(dict(settings), ensure_ascii=False, sort_keys=True)
        kept = [first]
        for line in _whole_lines(self._path, begin_with=first):
            answer = json.loads(line)
            self.answers[answer["item"], answer["sample"]] = answer
            kept.append(line)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
            self._file = self._path.open("a", encoding="utf-8")
        except OSError as error:
            raise UserError(
                f"{self._path}: answers cannot be written ({error.strerror}); make room, or make it writable"
            ) from error

    def add(self, answer: Mapping[str, Any]) -> None:
        """Keeps one answer, which has an `item` and a `sample`."""
        self.answers[answer["item"], answer["sample"]] = answer
        self._file.write(f"{json.dumps(dict(answer), ensure_ascii=False)}\n")
        self._file.flush()

    def close(self, *, is_finished: bool) -> None:
        """The file goes once all answers stand elsewhere."""
        self._file.close()
        if is_finished:
            self._path.unlink(missing_ok=True)


def _whole_lines(path: Path, *, begin_with: str) -> list[str]:
    """The answers' lines if the file is of these settings; a last line that a kill has cut is left out."""
    if not path.is_file():
        return []
    *lines, _ = path.read_text(encoding="utf-8", errors="replace").split("\n")
    return lines[1:] if lines[:1] == [begin_with] else []
