"""`prepare verify`: does a prepared folder hold what its manifest says, byte for byte?"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from samosa_jax.data.manifest import DOWNLOAD_FOLDER, MANIFEST_NAME, Manifest, check_file, load_manifest
from samosa_jax.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What was found; a sound folder has no problems."""

    manifest: Manifest
    num_bytes: int  # read and hashed
    problems: tuple[str, ...]  # one line each


def verify_folder(
    folder: str | Path, *, report: Callable[[int, int], None] = lambda done, total: None
) -> Verification:
    """Hashes every file the manifest names and looks for files it does not name.

    Args:
      report: called with (bytes done, bytes in all) after each file.

    Raises:
      UserError: there is no readable manifest. What is wrong with the files is returned.
    """
    folder = Path(folder)
    manifest = load_manifest(folder)
    total = sum(entry.num_bytes for entry in manifest.files)
    problems: list[str] = []
    done = 0
    for entry in manifest.files:
        try:
            check_file(folder, entry, verify=True)
        except UserError as error:
            problems.append(str(error))
        done += entry.num_bytes
        report(done, total)
    named = {entry.name for entry in manifest.files} | {MANIFEST_NAME}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in named and not name.startswith(f"{DOWNLOAD_FOLDER}/"):
            problems.append(f"{path}: unknown file, the manifest does not name it; remove it")
    return Verification(manifest=manifest, num_bytes=total, problems=tuple(problems))
