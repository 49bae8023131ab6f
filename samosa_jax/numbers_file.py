"""The JSON file that a command writes its numbers to, where it is asked for one."""

from pathlib import Path

from samosa_jax.errors import UserError
from samosa_jax.training.run_folder import write_json


def check_numbers_file(name: str) -> Path | None:
    """The file of that name, None for an empty one. Raises UserError for a folder."""
    if not name:
        return None
    path = Path(name)
    if path.is_dir():
        raise UserError(f"--json is {path}, a folder; name a file in it")
    return path


def write_numbers(path: Path, values: object) -> None:
    """The file appears whole or not at all. Raises UserError where it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, values)
    except OSError as error:
        raise UserError(f"--json: {path} cannot be written ({error.strerror}); name another file") from error
