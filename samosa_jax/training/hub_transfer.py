"""Checkpoints, runs and exports to the hub and back, through huggingface_hub.

A model repository holds what the folder holds, under the same names: a run its configuration, tokenizer,
records, evaluated items, verdict and sealed checkpoints with the rollouts that these go on with, so that what
is pulled can be trained on, compared, chatted with and exported. A push is one commit: there is never half a
checkpoint. Tokens are huggingface_hub's own affair (HF_TOKEN, or its login); no function here is given one.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import huggingface_hub

from samosa_jax.data.hub import open_api, retry
from samosa_jax.data.manifest import TOKENIZER_FOLDER, hash_file
from samosa_jax.errors import UserError
from samosa_jax.training.checkpoint import SEAL, find_fault, list_steps, read_record, step_folder
from samosa_jax.training.run_folder import EXPORT_RECORD, RunFolder

KIND = "model repository"
LARGE_BYTES = 50_000_000  # files that are worth a line while they are pulled
_REPO = re.compile(r"[\w.-]+/[\w.-]+")
_STAGING = ".pushing-"  # and the process
_CHECKPOINTS, _ROLLOUTS = "checkpoints", "rollouts"
_WEIGHTS = ("*.safetensors", "*.gguf", "*.pt")
# Of two models in one repository, transformers and others would load whichever they look for first.
_LOADED_FIRST = re.compile(r"model(-\d+-of-\d+)?\.safetensors(\.index\.json)?")


@dataclass(frozen=True, kw_only=True)
class Parcel:
    """What of a folder goes to the hub."""

    kind: str  # run, checkpoint or export
    title: str  # the first line of the commit
    files: dict[str, Path]  # path in the repository -> file

    @property
    def num_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.files.values())


def check_repo(repo: str) -> None:
    """Raises UserError for a name that no repository can have."""
    if not _REPO.fullmatch(repo):
        raise UserError(f"{repo!r} is not the name of a repository; write OWNER/NAME, as in anna/stories")


@contextmanager
def packed(folder: Path, *, newest_only: bool = False) -> Iterator[Parcel]:
    """The files of a run, a checkpoint or an export, every checkpoint verified.

    Those of a run stay as they are until the block ends, whatever training does meanwhile: checkpoints are
    linked, records copied.

    Args:
        newest_only: of a run's checkpoints, the newest alone.

    Raises:
        UserError: the folder is none of these, or a checkpoint is damaged.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist; name the folder of a run, a checkpoint or an export")
    folder = folder.absolute()
    steps = [
        step_folder(folder / _CHECKPOINTS, step)
        for step in list_steps(folder / _CHECKPOINTS)
        if (step_folder(folder / _CHECKPOINTS, step) / SEAL).exists()
    ]
    if steps:
        chosen = steps[-1:] if newest_only else steps
        title = f"{folder.name}, step {int(chosen[-1].name)}"
        with _snapshot(RunFolder(folder), chosen) as files:
            yield Parcel(kind="run", title=title, files=files)
    elif (folder / SEAL).exists() and folder.parent.name == _CHECKPOINTS:
        # With what its run says of it: alone, it would have no tokenizer.
        title = f"{folder.parents[1].name}, step {int(folder.name)}"
        with _snapshot(RunFolder(folder.parents[1]), [folder]) as files:
            yield Parcel(kind="checkpoint", title=title, files=files)
    elif (folder / SEAL).exists():
        _check_seal(folder)
        yield Parcel(kind="checkpoint", title=folder.name, files=_files_below(folder))
    elif _is_export(folder):
        yield Parcel(kind="export", title=folder.name, files=_files_below(folder))
    else:
        raise UserError(
            f"{folder} is neither a run with a finished checkpoint (checkpoints/STEP/{SEAL}), nor a "
            f"checkpoint ({SEAL}), nor an export ({EXPORT_RECORD}, or config.json and "
            f"{' or '.join(_WEIGHTS)}); name one of these"
        )


def push(parcel: Parcel, repo: str, *, private: bool, revision: str | None, message: str = "") -> str:
    """Uploads in one commit, into a repository that is made if need be, and gives the commit's address.

    Of older checkpoints in the repository, or of an older export's weights, only the history is left.

    Args:
        private: a repository made now is for its owner alone.
        revision: a branch, made if need be; None: main.

    Raises:
        UserError: no network after several tries, or no leave to write there.
    """
    check_repo(repo)
    api = open_api()

    def commit() -> str:
        # Who may write to a repository need not be allowed to make one.
        if not api.repo_exists(repo):
            api.create_repo(repo, private=private or None, exist_ok=True)
        if revision is not None:
            api.create_branch(repo, branch=revision, exist_ok=True)
        stale = _stale(api, repo, revision, parcel)
        additions = [
            huggingface_hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=path)
            for name, path in parcel.files.items()
        ]
        deletions = [huggingface_hub.CommitOperationDelete(path_in_repo=name) for name in stale]
        done = api.create_commit(
            repo,
            [*additions, *deletions],
            commit_message=message or f"Push {parcel.title}",
            revision=revision,
        )
        return str(done.commit_url)

    return retry(repo, commit, kind=KIND, done="pushed")


def pull(repo: str, *, revision: str | None, to: Path | None, say: Callable[[str], None]) -> Path:
    """Downloads a repository at one commit and verifies every file of it.

    It comes under its name only when all is there; a pull that was broken off goes on where it was.

    Args:
        revision: a branch, tag or commit; None: main.
        to: a folder that does not exist; None: the repository's name in runs, or exports for an export.

    Raises:
        UserError: no such repository, no network after several tries, contents that differ from what the
            hub promises, a checkpoint that is not what its seal says, or a folder that is in the way.
    """
    check_repo(repo)
    api = open_api()
    info = retry(repo, lambda: api.model_info(repo, revision=revision), kind=KIND)
    commit = info.sha
    if not commit:
        raise UserError(f"{repo}: the server names no commit for it; check HF_ENDPOINT")
    listing = retry(repo, lambda: list(api.list_repo_tree(repo, recursive=True, revision=commit)), kind=KIND)
    files = [entry for entry in listing if isinstance(entry, huggingface_hub.RepoFile)]
    for file in files:
        place = PurePosixPath(file.path)
        if place.is_absolute() or ".." in place.parts:
            raise UserError(f"{repo} has a file {file.path!r}, which lies outside of it; it is not pulled")
    names = {file.path for file in files}
    has_checkpoint = any(PurePosixPath(name).name == SEAL for name in names)
    to = to or Path("runs" if has_checkpoint else "exports") / repo.split("/")[1]
    if to.exists():
        raise UserError(f"{to} exists; name another folder with --to, or move that one away")
    partial = to.with_name(f".{to.name}.pulling")
    try:
        partial.mkdir(parents=True, exist_ok=True)
        say(f"{len(files)} files, {sum(file.size for file in files) / 1e6:,.1f} MB, of commit {commit[:12]}")
        for file in files:
            if file.size >= LARGE_BYTES:
                say(f"{file.path}: {file.size / 1e6:,.1f} MB")
            _download(api, repo, commit, file, partial)
        shutil.rmtree(partial / ".cache", ignore_errors=True)
        _drop_others(partial, names)
        for seal in sorted(partial.rglob(SEAL)):
            _check_seal(seal.parent)
        partial.rename(to)
    except OSError as error:
        raise UserError(
            f"{to} cannot be written ({error.strerror or error}); make room or name another folder with --to"
        ) from error
    return to


def _is_export(folder: Path) -> bool:
    if (folder / EXPORT_RECORD).exists():
        return True
    return (folder / "config.json").exists() and any(any(folder.glob(pattern)) for pattern in _WEIGHTS)


@contextmanager
def _snapshot(run: RunFolder, checkpoints: list[Path]) -> Iterator[dict[str, Path]]:
    """The files of a run, held against changes in a folder of links and copies beside them."""
    remove_leftovers(run.path)
    staging = run.path / f"{_STAGING}{os.getpid()}"
    try:
        try:
            _fill(staging, run, checkpoints)
        except OSError as error:
            raise UserError(
                f"{run.path} cannot be copied to {staging.name} in it ({error.strerror or error}); "
                "make room, or run the command again"
            ) from error
        yield _files_below(staging)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _fill(staging: Path, run: RunFolder, checkpoints: list[Path]) -> None:
    for checkpoint in checkpoints:
        target = staging / _CHECKPOINTS / checkpoint.name
        shutil.copytree(checkpoint, target, copy_function=_link)
        _check_seal(target, name=checkpoint)
    for rollout in {_rollout_of(checkpoint, run) for checkpoint in checkpoints}:
        if rollout is not None and rollout.exists():
            (staging / _ROLLOUTS).mkdir(exist_ok=True)
            _link(str(rollout), str(staging / _ROLLOUTS / rollout.name))
    records = (run.config, run.environment, run.metrics, run.evals, run.samples, run.plot, run.summary)
    for path in (*records, run.promotion):
        if path.exists():
            shutil.copy2(path, staging / path.name)
    if run.tokenizer.exists():
        shutil.copytree(run.tokenizer, staging / TOKENIZER_FOLDER)
    if run.evaluated_items.exists():
        whole = shutil.ignore_patterns("*.unfinished", "*.tmp")
        shutil.copytree(run.evaluated_items, staging / run.evaluated_items.name, ignore=whole)


def _rollout_of(checkpoint: Path, run: RunFolder) -> Path | None:
    """What a checkpoint between the minibatches of a rollout goes on with; None: it stands between two."""
    stored = read_record(checkpoint).data.get("rollout")
    return run.rollouts / f"{stored['step']:08d}.npz" if isinstance(stored, dict) else None


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # not every file system can
        shutil.copy2(source, target)


def remove_leftovers(run: Path) -> None:
    """Removes what killed pushes have left in the folder of a run."""
    for leftover in run.glob(f"{_STAGING}*"):
        process = leftover.name.removeprefix(_STAGING)
        if process.isdigit() and not _is_alive(int(process)):
            shutil.rmtree(leftover, ignore_errors=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)  # asks only
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _files_below(folder: Path) -> dict[str, Path]:
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    inside = ((path.relative_to(folder), path) for path in found)
    return {place.as_posix(): path for place, path in inside if not place.parts[0].startswith(".")}


def _check_seal(folder: Path, *, name: Path | None = None) -> None:
    fault = find_fault(folder)
    if fault is not None:
        raise UserError(f"checkpoint {name or folder} cannot be used: {fault}; name another one")


def _stale(api: "huggingface_hub.HfApi", repo: str, revision: str | None, parcel: Parcel) -> list[str]:
    """What the repository has and is not pushed again: checkpoints and rollouts, or an export's weights."""
    if parcel.kind == "export" and not any(map(_LOADED_FIRST.fullmatch, parcel.files)):
        return []  # a .gguf may well stand beside the weights that it was made from
    entries = api.list_repo_tree(repo, recursive=True, revision=revision)
    names = [
        entry.path
        for entry in entries
        if isinstance(entry, huggingface_hub.RepoFile) and entry.path not in parcel.files
    ]
    if parcel.kind == "export":
        return [name for name in names if _LOADED_FIRST.fullmatch(name)]
    return [name for name in names if name.startswith((f"{_CHECKPOINTS}/", f"{_ROLLOUTS}/"))]


def _download(
    api: "huggingface_hub.HfApi", repo: str, commit: str, file: "huggingface_hub.RepoFile", folder: Path
) -> None:
    """Fetches a file, or the rest of it, and compares it with the hub's listing."""

    def fetch() -> Path:
        return Path(api.hf_hub_download(repo, file.path, revision=commit, local_dir=folder))

    address = f"{repo}@{commit[:12]}/{file.path}"
    path = retry(address, fetch, kind=KIND)
    if not _is_whole(path, file):
        # What an earlier pull left may have suffered since; once anew tells whether the server is at fault.
        path.unlink()
        path = retry(address, fetch, kind=KIND)
    if not _is_whole(path, file):
        path.unlink()
        raise UserError(
            f"{address}: what was downloaded is not what the hub's listing promised (SHA-256); check "
            "HF_ENDPOINT, then run the same command again"
        )


def _is_whole(path: Path, file: "huggingface_hub.RepoFile") -> bool:
    """By SHA-256 for large files; small ones have git's SHA-1 alone."""
    if path.stat().st_size != file.size:
        return False
    if file.lfs is not None:
        return hash_file(path) == file.lfs.sha256
    return hashlib.sha1(b"blob %d\0" % file.size + path.read_bytes()).hexdigest() == file.blob_id


def _drop_others(folder: Path, names: set[str]) -> None:
    """Removes what an earlier, unfinished pull of another commit has left."""
    for name, path in _files_below(folder).items():
        if name not in names:
            path.unlink()
