"""The answers of an evaluation that is under way, so that one that was stopped goes on where it was."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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
        for line, answer in _answers(self._path, begin_with=first):
            self.answers[answer["item"], answer["sample"]] = answer
            kept.append(line)
        with self._told_in_one_line():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # A kill on the way must not cost the answers that are there.
            temporary = self._path.with_name(f"{self._path.name}.tmp")
            temporary.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
            os.replace(temporary, self._path)
            self._file = self._path.open("a", encoding="utf-8")

    def add(self, answer: Mapping[str, Any]) -> None:
        """Keeps one answer, which has an `item` and a `sample`. Raises UserError where that fails."""
        self.answers[answer["item"], answer["sample"]] = answer
        with self._told_in_one_line():
            self._file.write(f"{json.dumps(dict(answer), ensure_ascii=False)}\n")
            self._file.flush()

    def close(self, *, is_finished: bool) -> None:
        """The file goes once all answers stand elsewhere."""
        self._file.close()
        if is_finished:
            self._path.unlink(missing_ok=True)

    @contextmanager
    def _told_in_one_line(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{self._path}: answers cannot be written ({error.strerror}); make room, or make it writable"
            ) from error


def _answers(path: Path, *, begin_with: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(line, answer) of each, if the file is of these settings; what a kill has spoiled is left out."""
    if not path.is_file():
        return
    *lines, _ = path.read_text(encoding="utf-8", errors="replace").split("\n")
    for line in lines[1:] if lines[:1] == [begin_with] else []:
        try:
            answer = json.loads(line)
        except ValueError:
            continue
        if isinstance(answer, dict) and {"item", "sample", "score", "reason", "tokens"} <= answer.keys():
            yield line, answer
