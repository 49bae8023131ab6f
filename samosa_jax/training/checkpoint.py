"""Checkpoints that can be trusted: written by Orbax in the background, sealed, verified before use.

    checkpoints/00000420/  params/  optimizer/  arrays/metadata  run/metadata  seal.json

Orbax writes into a temporary folder and renames it when all is there, so a kill leaves either no folder of
that name or a whole one. The seal is written after that: the size and SHA-256 of every file. What has no
seal was never finished; what differs from its seal is damaged. Both are passed over, aloud, for the
checkpoint before. Parameters and optimizer state are stored without the mesh they came from and can be
restored onto any other.
"""

import dataclasses
import hashlib
import json
import logging
import os
import shutil
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax

from samosa_jax.errors import UserError
from samosa_jax.model.params import Params
from samosa_jax.training.state import TrainState

if TYPE_CHECKING:
    import orbax.checkpoint as ocp

SEAL = "seal.json"
SEAL_FORMAT = 1
HASHING_THREADS = 4
IMPORTED = "imported"  # entry of a record's data: where parameters come from that were not trained here


@dataclass(frozen=True)
class CheckpointRecord:
    """What a checkpoint says of its run, beside the arrays."""

    step: int
    config: Mapping[str, object]  # resolved, as nested dicts
    tokenizer: str  # fingerprint
    data: Mapping[str, object]  # position and sources; see `data.pipeline`
    mesh: Mapping[str, int]
    versions: Mapping[str, str]
    seconds_trained: float  # over all processes so far

    @property
    def imported_from(self) -> str:
        """The file or folder that the parameters were taken from; empty: they were trained here."""
        origin = self.data.get(IMPORTED)
        return str(origin.get("path", "elsewhere")) if isinstance(origin, Mapping) else ""


def step_folder(checkpoints: Path, step: int) -> Path:
    return checkpoints / f"{step:08d}"


def list_steps(checkpoints: Path) -> list[int]:
    """Steps with a folder, whole or not, in ascending order."""
    if not checkpoints.is_dir():
        return []
    return sorted(int(path.name) for path in checkpoints.iterdir() if path.is_dir() and path.name.isdigit())


def write_seal(folder: Path) -> None:
    """Records the size and SHA-256 of every file of a finished checkpoint."""
    files = [path for path in _files(folder) if path.name != SEAL]
    with ThreadPoolExecutor(HASHING_THREADS) as pool:
        digests = list(pool.map(_sha256, files))
    entries = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": digest}
        for path, digest in zip(files, digests, strict=True)
    }
    temporary = folder / f"{SEAL}.tmp"
    with temporary.open("w", encoding="utf-8") as file:
        json.dump({"format": SEAL_FORMAT, "files": entries}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, folder / SEAL)


def seal_digest(folder: Path) -> str:
    """The SHA-256 of a checkpoint's seal, which names every byte of it. The checkpoint must be finished."""
    return hashlib.sha256((folder / SEAL).read_bytes()).hexdigest()


def find_fault(folder: Path, *, parts: Collection[str] = ()) -> str | None:
    """Why a checkpoint cannot be used, in a few words; None if every file is what the seal says.

    `parts` are the folders in it whose contents matter; all if there are none.
    """
    try:
        seal = json.loads((folder / SEAL).read_text(encoding="utf-8"))
        entries = {
            folder / name: (int(entry["bytes"]), str(entry["sha256"]))
            for name, entry in seal["files"].items()
            if not parts or name.split("/")[0] in parts
        }
        seal_format = seal["format"]
    except FileNotFoundError:
        return "it was never finished"
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return f"its {SEAL} is unreadable ({type(error).__name__})"
    if seal_format != SEAL_FORMAT:
        return f"its {SEAL} has format {seal_format}, this program reads {SEAL_FORMAT}"
    for path, (size, _) in entries.items():
        if not path.is_file():
            return f"{path.relative_to(folder)} is missing"
        if path.stat().st_size != size:
            return f"{path.relative_to(folder)} has {path.stat().st_size} bytes instead of {size}"
    with ThreadPoolExecutor(HASHING_THREADS) as pool:
        for path, digest in zip(entries, pool.map(_sha256, entries), strict=True):
            if digest != entries[path][1]:
                return f"{path.relative_to(folder)} has changed since it was written"
    return None


def find_newest_good(checkpoints: Path, *, say: Callable[[str], None]) -> Path | None:
    """The newest checkpoint whose every byte is as it was written; `say` names the ones passed over.

    Raises UserError if there are finished checkpoints and all of them are damaged: beginning again from
    nothing would then be a loss that nobody asked for.
    """
    damaged = []
    for step in reversed(list_steps(checkpoints)):
        folder = step_folder(checkpoints, step)
        fault = find_fault(folder)
        if fault is None:
            return folder
        say(f"checkpoint {folder} is passed over: {fault}")
        if (folder / SEAL).exists():
            damaged.append(folder.name)
    if damaged:
        raise UserError(
            f"{checkpoints} has no whole checkpoint: {', '.join(damaged)} are damaged; "
            "restore them from a copy, or start again under another name"
        )
    return None


def read_record(folder: Path) -> CheckpointRecord:
    """The record of one (verified) checkpoint. Raises UserError if this version cannot read it."""
    path = folder / "run" / "metadata"
    try:
        return CheckpointRecord(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{path} is not a record this version can read ({error}); use the version that wrote it"
        ) from error


def restore_state(folder: Path, like: TrainState) -> TrainState:
    """Reads a checkpoint into the shapes and shardings of `like`, bit for bit, whatever mesh wrote it.

    `like` holds arrays or `jax.ShapeDtypeStruct`s with shardings. Raises UserError if the arrays stored
    have another structure.
    """
    restored = _restore(folder, _items(like))
    return TrainState(params=restored["params"], **restored["optimizer"])


def restore_params(folder: Path, like: Params) -> Params:
    """The parameters alone, without reading the optimizer state; see `restore_state`."""
    return _restore(folder, {"params": like})["params"]


def check_params(folder: Path, like: Params) -> None:
    """Raises UserError if `restore_params` would: the parameters stored have another structure."""
    _check_arrays(folder, {"params": like})


def check_state(folder: Path, like: TrainState) -> None:
    """Raises UserError if `restore_state` would: the arrays stored have another structure."""
    _check_arrays(folder, _items(like))


def _check_arrays(folder: Path, like: Mapping[str, Any]) -> None:
    stored = json.loads((folder / "arrays" / "metadata").read_text(encoding="utf-8"))
    expected = _describe_arrays(like)
    found = {
        path: shape
        for path, shape in stored.items()
        if path.startswith(tuple(f"['{item}']" for item in like))
    }
    for path in sorted(expected.keys() | found.keys(), reverse=True):  # parameters are named first
        if expected.get(path) != found.get(path):
            raise UserError(
                f"{folder} has {found.get(path, 'nothing')} for {path} where this configuration needs "
                f"{expected.get(path, 'nothing')}; use the configuration it was written with"
            )


def _restore(folder: Path, like: Mapping[str, Any]) -> dict[str, Any]:
    import orbax.checkpoint as ocp

    _check_arrays(folder, like)

    def item(tree: Any) -> ocp.args.PyTreeRestore:
        restore_args = ocp.checkpoint_utils.construct_restore_args(tree)
        return ocp.args.PyTreeRestore(item=tree, restore_args=restore_args)

    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as reader:
        items = {name: item(tree) for name, tree in like.items()}
        return dict(reader.restore(folder.absolute(), args=ocp.args.Composite(**items)).items())


@contextmanager
def quiet_orbax() -> Iterator[None]:
    """For the span of a command: what `Checkpointer` says in one line, Orbax says in no other way.

    A save that fails is logged there with tracebacks, and the writes it abandons each complain later that
    their event loop is closed, an exception that nobody can catch.
    """
    logger, hook = logging.getLogger("absl"), sys.unraisablehook
    level = logger.level

    def without_closed_loops(unraisable: "sys.UnraisableHookArgs") -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            hook(unraisable)

    logger.setLevel(logging.CRITICAL)
    sys.unraisablehook = without_closed_loops
    try:
        yield
    finally:
        logger.setLevel(level)
        sys.unraisablehook = hook


class Checkpointer:
    """Saves in the background, one checkpoint at a time, and keeps the newest and the milestones.

    A save that fails (a full disk) is reported by the next `poll`, `save` or `wait` through `say`; the run
    goes on, what was half-written is removed and the checkpoints before it stay.
    """

    def __init__(
        self,
        checkpoints: Path,
        *,
        keep_last: int,
        milestone_steps: int,
        newest_good: int,
        say: Callable[[str], None],
    ) -> None:
        """`milestone_steps` 0 keeps none for ever. Checkpoints after `newest_good` were found unusable and
        do not count among those to keep.
        """
        self._checkpoints = checkpoints.absolute()
        self._keep_last = keep_last
        self._milestone_steps = milestone_steps
        self._say = say
        self._sealing: threading.Thread | None = None
        self._failure: str | None = None
        self._sealed = [
            step
            for step in list_steps(checkpoints)
            if step <= newest_good and (step_folder(checkpoints, step) / SEAL).exists()
        ]
        self._remove_leftovers()

    @property
    def is_writing(self) -> bool:
        return self._sealing is not None and self._sealing.is_alive()

    @property
    def last_good_step(self) -> int | None:
        """The newest step saved and sealed so far."""
        return self._sealed[-1] if self._sealed else None

    def save(self, state: TrainState, record: CheckpointRecord) -> bool:
        """Returns as soon as the state is copied out of the devices (and the save before it is done).

        False if it could not even be begun.
        """
        import orbax.checkpoint as ocp

        self.wait()
        folder = step_folder(self._checkpoints, record.step)
        items = _items(state)
        try:
            # One for each save: after a failure it would fail for ever.
            writer = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())
            writer.save(
                folder,
                force=True,
                args=ocp.args.Composite(
                    params=ocp.args.PyTreeSave(items["params"]),
                    optimizer=ocp.args.PyTreeSave(items["optimizer"]),
                    run=ocp.args.JsonSave(dataclasses.asdict(record)),
                    arrays=ocp.args.JsonSave(_describe_arrays(items)),
                ),
            )
        except Exception as error:  # whatever it is, losing a save must not lose the run
            self._give_up(folder, error)
            self.poll()
            return False
        self._sealing = threading.Thread(
            target=self._finish, args=(writer, folder, record.step), name=f"seal {folder.name}"
        )
        self._sealing.start()
        return True

    def poll(self) -> None:
        """Speaks of a save that has failed since the last call."""
        if self._failure is not None:
            self._say(self._failure)
            self._failure = None

    def wait(self) -> None:
        """Returns when no save is under way any more."""
        if self._sealing is not None:
            self._sealing.join()
            self._sealing = None
            self._remove_leftovers()
        self.poll()

    def _finish(self, writer: "ocp.AsyncCheckpointer", folder: Path, step: int) -> None:
        """In a thread of its own: waits for Orbax's commit, seals, then removes what need not be kept."""
        try:
            writer.wait_until_finished()
            writer.close()
            if jax.process_index() == 0:
                write_seal(folder)
        except Exception as error:  # see save
            self._give_up(folder, error)
            return
        self._sealed.append(step)
        if jax.process_index() == 0:
            self._prune()

    def _prune(self) -> None:
        kept = set(self._sealed[-self._keep_last :])
        if self._milestone_steps:
            kept |= {step for step in self._sealed if step % self._milestone_steps == 0}
        self._sealed = sorted(kept)
        for step in list_steps(self._checkpoints):
            if step not in kept and step < self._sealed[-1]:
                self._remove(step_folder(self._checkpoints, step))

    def _give_up(self, folder: Path, error: Exception) -> None:
        if jax.process_index() == 0:
            self._remove(folder)
            self._remove_leftovers()
        kept = f"checkpoint {self.last_good_step} stays" if self._sealed else "there is no checkpoint yet"
        self._failure = (
            f"WARNING: checkpoint {folder} could not be written ({_reason(error)}); the run goes on, {kept}"
        )

    def _remove_leftovers(self) -> None:
        """What killed or failed saves have left. Call it while none is under way."""
        if jax.process_index() == 0:
            for leftover in self._checkpoints.glob("*.orbax-checkpoint-tmp*"):
                shutil.rmtree(leftover, ignore_errors=True)

    def _remove(self, folder: Path) -> None:
        """Unsealed first: a kill in between leaves something that says it is not whole."""
        (folder / SEAL).unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)


def _items(state: TrainState) -> dict[str, Any]:
    """How the state is laid out on disk: the parameters, and everything else by field name."""
    rest = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    return {"params": rest.pop("params"), "optimizer": rest}


def _describe_arrays(items: Mapping[str, Any]) -> dict[str, str]:
    """Path -> dtype and shape of every array."""
    leaves = jax.tree_util.tree_leaves_with_path(dict(items))
    return {jax.tree_util.keystr(path): f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in leaves}


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _reason(error: Exception) -> str:
    """The line of an error that says why: TensorStore's are long and carry the cause in the middle."""
    text = " ".join(str(error).split())
    for cause in (
        "No space left on device",
        "Disk quota exceeded",
        "Read-only file system",
        "Permission denied",
    ):
        if cause in text:
            return cause
    return f"{type(error).__name__}: {text[:160]}"
