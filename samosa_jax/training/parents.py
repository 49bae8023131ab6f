"""Where what a run names is by now, and which checkpoint it began with, told by that checkpoint's seal.

A run may have been moved, its parent trained on, and another run may have taken the name of its parent: a
path alone is no proof. The record of every checkpoint keeps the SHA-256 of the seal that its run began with.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

from samosa_jax.training.checkpoint import SEAL, seal_digest

CHECKPOINTS = "checkpoints"  # in the folder of a run


def run_of(folder: Path) -> Path:
    """The run that a checkpoint belongs to; a run, or a checkpoint that stands alone, is its own."""
    return folder.parents[1] if folder.parent.name == CHECKPOINTS else folder


def trained_in(run: Path, *, out_dir: str, name: str) -> Path | None:
    """The folder that a run's relative paths start from; None if its own place does not tell."""
    own, whole = Path(out_dir) / name, run.absolute()
    if own.is_absolute() or whole.parts[-len(own.parts) :] != own.parts:
        return None
    return Path(*whole.parts[: -len(own.parts)])


def places_of(path: str, *, run: Path, out_dir: str, name: str) -> Iterator[Path]:
    """Where a path of a run's configuration may be: as it is, and from where the run was trained."""
    yield Path(path)
    start = trained_in(run, out_dir=out_dir, name=name)
    if start is not None and not Path(path).is_absolute():
        yield start / path


def parent_places(init_from: str, *, run: Path, out_dir: str, name: str) -> Iterator[Path]:
    """Where the run or checkpoint of init_from may be: as `places_of`, and as a run beside this one."""
    yield from places_of(init_from, run=run, out_dir=out_dir, name=name)
    yield run.absolute().parent / run_of(Path(init_from)).name


def find_by_seal(places: Iterable[Path], digest: object) -> Path | None:
    """The checkpoint whose seal has this SHA-256, among places that are runs or checkpoints themselves."""
    if not digest:
        return None
    return next(
        (folder for place in places for folder in _checkpoints(place) if seal_digest(folder) == digest), None
    )


def _checkpoints(place: Path) -> Iterator[Path]:
    """A run is looked through whole, also where one of its checkpoints was named: that may be gone."""
    if (place / SEAL).exists():
        yield place
    yield from (seal.parent for seal in sorted(run_of(place).glob(f"{CHECKPOINTS}/*/{SEAL}")))
