"""The files that hold a task's questions: in a folder of the user's, or from the hub, kept and checked."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samosa_jax.data.hub import download, list_files
from samosa_jax.data.readers import UnreadableRow, file_format, read_objects
from samosa_jax.errors import UserError

CACHE = Path("~/.cache/samosa_jax/evals")
ENDINGS = (".jsonl", ".jsonl.gz", ".json", ".parquet")


@dataclass(frozen=True, kw_only=True)
class QuestionFile:
    """Where the questions of a task are.

    Attributes:
        hub: address of the one file of it, as `data.hub` reads them.
        local: names below the user's folder without their ending, tried in this order.
    """

    hub: str
    local: tuple[str, ...]


def find_file(
    file: QuestionFile, *, data_dir: Path | None, cache: Path = CACHE, flag: str = "--data_dir"
) -> Path:
    """The file under `data_dir`; without a folder, the hub's, which is fetched once and checked every time.

    `flag` names the folder's setting in errors. Raises UserError if there is none.
    """
    if data_dir is None:
        found = list_files(file.hub, is_readable=lambda path: file_format(path) is not None)
        return download(found[0], cache.expanduser())
    if not data_dir.is_dir():
        raise UserError(f"{flag}: {data_dir} is no folder; name the one that holds the tasks' files")
    for name in file.local:
        for ending in ENDINGS:
            path = data_dir / f"{name}{ending}"
            if path.is_file():
                return path
    raise UserError(
        f"{flag}: {data_dir} has no {' or '.join(f'{name}{ENDINGS[0]}' for name in file.local)} (.gz, "
        f".json and .parquet are read too); put it there, or leave {flag} out to fetch it from {file.hub}"
    )


def read_file(path: Path) -> Iterator[tuple[str, Any]]:
    """(file and row, JSON value) of every row. Raises UserError for a row that is none, or no row at all."""
    number = 0
    for number, row in read_objects(path, name=str(path)):
        where = f"{path}: row {number}"
        if isinstance(row, UnreadableRow):
            raise UserError(f"{where} cannot be read: {row.problem}; mend the row")
        yield where, row
    if not number:
        raise UserError(f"{path}: no rows; a task needs at least one question")
