"""Hugging Face data sets as files: `hf://owner/name[@revision][/folder-or-pattern]`.

Files are listed at one commit, so that a run that goes on tomorrow reads the same bytes. They are fetched one
at a time through huggingface_hub, which reads HF_ENDPOINT, HF_TOKEN and its other variables, and checked
against the listing; a fetch that fails is tried again a few times.
"""

import fnmatch
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote

# Its parts are imported when first asked for, which most commands never do: they take a quarter of a second.
import huggingface_hub

from samosa_jax.data.manifest import hash_file
from samosa_jax.errors import UserError

SCHEME = "hf://"
_ADDRESS = re.compile(r"hf://(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[^/]+))?(?:/(?P<pattern>.+?))?/?")
ATTEMPTS = 4
PAUSE_S = 1.0  # before the second attempt; doubles

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class HubFile:
    """One file of a data set at one commit."""

    repo: str  # owner/name
    commit: str
    path: str  # inside the repository
    num_bytes: int
    sha256: str | None  # known for large files

    @property
    def address(self) -> str:
        return f"{SCHEME}{self.repo}@{self.commit}/{self.path}"


def list_files(
    address: str, *, is_readable: Callable[[Path], bool], commit: str | None = None
) -> list[HubFile]:
    """The readable files an address names, sorted by path.

    Args:
      commit: list this commit instead of the address's revision (a run that goes on).

    Raises:
      UserError: malformed address, no such data set, no access, no network, or no file that fits.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise UserError(f"{address}: not a data set address; write hf://owner/name or hf://owner/name/folder")
    repo, pattern = match["repo"], match["pattern"]
    # A branch such as refs/convert/parquet is written refs%2Fconvert%2Fparquet.
    revision = unquote(match["revision"]) if match["revision"] else None
    api = open_api()
    if commit is None:
        info = retry(address, lambda: api.dataset_info(repo, revision=revision))
        commit = info.sha
    if not commit:
        raise UserError(f"{address}: the server names no commit for it; check HF_ENDPOINT")
    pinned = commit
    entries = retry(
        address, lambda: list(api.list_repo_tree(repo, recursive=True, revision=pinned, repo_type="dataset"))
    )
    files = [
        HubFile(
            repo=repo,
            commit=pinned,
            path=entry.path,
            num_bytes=entry.size,
            sha256=entry.lfs.sha256 if entry.lfs is not None else None,
        )
        for entry in entries
        if isinstance(entry, huggingface_hub.RepoFile)
        and is_readable(Path(entry.path))
        and _fits(entry.path, pattern)
    ]
    if not files:
        folders = sorted(
            {str(Path(entry.path).parent) for entry in entries if isinstance(entry, huggingface_hub.RepoFile)}
        )
        raise UserError(
            f"{address}: no text files fit; its folders are: {', '.join(folders[:12]) or 'none'}. "
            "Name a folder or a pattern such as hf://owner/name/data/*.parquet"
        )
    return sorted(files, key=lambda file: file.path)


def download(file: HubFile, folder: Path) -> Path:
    """Fetches a file to `folder`, or finds it there, and checks its size and SHA-256.

    Raises:
      UserError: no access, no network after several tries, or contents that differ from the listing.
    """
    path = _fetch(file, folder)
    if not _is_whole(path, file):
        # What an earlier run left may have suffered since; once anew tells whether the server is at fault.
        path.unlink()
        path = _fetch(file, folder)
    if not _is_whole(path, file):
        found = path.stat().st_size
        path.unlink()
        raise UserError(
            f"{file.address}: what was downloaded ({found} bytes) is not what the listing promised "
            f"({file.num_bytes} bytes); check HF_ENDPOINT, then run the same command again"
        )
    return path


def _fetch(file: HubFile, folder: Path) -> Path:
    # Two repositories, or two commits of one, may hold files of the same path.
    own = folder / file.repo.replace("/", "--") / file.commit
    local = retry(
        file.address,
        lambda: open_api().hf_hub_download(
            file.repo, file.path, repo_type="dataset", revision=file.commit, local_dir=own
        ),
    )
    return Path(local)


def _is_whole(path: Path, file: HubFile) -> bool:
    if path.stat().st_size != file.num_bytes:
        return False
    return file.sha256 is None or hash_file(path) == file.sha256


def _fits(path: str, pattern: str | None) -> bool:
    return (
        pattern is None
        or path == pattern
        or path.startswith(f"{pattern}/")
        or fnmatch.fnmatchcase(path, pattern)
    )


def open_api() -> "huggingface_hub.HfApi":
    """The hub that HF_ENDPOINT names, with the token of HF_TOKEN or of its own login, if there is one."""
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    # The endpoint is read now, not when huggingface_hub was first imported.
    return huggingface_hub.HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None)


def retry(
    address: str, call: Callable[[], Result], *, kind: str = "data set", done: str = "fetched"
) -> Result:
    """Calls, again after a growing pause when the fault may pass; UserError when it does not.

    Args:
      kind: what the address names, for errors.
      done: what the call does with it.
    """
    from huggingface_hub import errors

    for attempt in range(ATTEMPTS):
        try:
            return call()
        except errors.GatedRepoError:
            raise UserError(
                f"{address}: access must be requested; accept its terms on its page, then set HF_TOKEN"
            ) from None
        except errors.RepositoryNotFoundError:
            raise UserError(
                f"{address}: no such {kind}, or it is private; check the name, or set HF_TOKEN"
            ) from None
        except (
            errors.RevisionNotFoundError,
            errors.RemoteEntryNotFoundError,
            errors.DisabledRepoError,
        ) as error:
            raise UserError(f"{address}: {_first_line(error)}; check the revision and the path") from None
        except Exception as error:  # the HTTP client's own errors are not part of huggingface_hub's interface
            status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else None
            passing = status is None or status >= 500 or status in (408, 429)
            if isinstance(error, (TypeError, AttributeError)):
                raise
            if status in (401, 403):
                raise UserError(
                    f"{address}: the hub does not allow it ({status}); set HF_TOKEN to a token that may"
                ) from None
            if not passing or attempt == ATTEMPTS - 1:
                raise UserError(
                    f"{address}: could not be {done} ({type(error).__name__}: {_first_line(error)}); "
                    "check the network and HF_ENDPOINT, then run the same command again to go on"
                ) from error
            time.sleep(PAUSE_S * 2**attempt)
    raise AssertionError("unreachable: the last attempt returns or raises")


def _first_line(error: Exception) -> str:
    line = str(error).strip().split("\n")[0]
    token = huggingface_hub.get_token()
    return line.replace(token, "***") if token else line
