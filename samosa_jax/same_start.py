"""Whether all processes of a run were started alike: configuration, code, versions, devices, data.

Every process runs the same program on its own rows; where they differ, a collective waits for ever or sums
what does not belong together. What differs is named before the first step.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import samosa_kernels

from samosa_jax.config import Config, to_dict
from samosa_jax.errors import UserError
from samosa_jax.parallel.process_group import ProcessGroup
from samosa_jax.training.environment import versions
from samosa_jax.training.resume import flatten

MOST_NAMED = 5
CODE_SUFFIXES = {".py", ".json", ".jinja", ".txtpb"}


def describe_program(config: Config) -> dict[str, str]:
    """What must be alike before anything is opened: by name, each in a few characters."""
    packages = [Path(__file__).parent, Path(samosa_kernels.__file__).parent]
    return {
        **{key: repr(value) for key, value in flatten(to_dict(config)).items()},
        **{f"version of {name}": version for name, version in versions().items()},
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
        **{f"code {name}": digest for folder in packages for name, digest in _digests(folder)},
    }


def check_alike(group: ProcessGroup, described: Mapping[str, str], *, mend: str) -> None:
    """Raises UserError, in all processes alike, if another has described something else than process 0."""
    everywhere = group.share({"name": group.name, "described": described})
    first = everywhere[0]
    for other in everywhere[1:]:
        mine, theirs = first["described"], other["described"]
        keys = [key for key in {**mine, **theirs} if mine.get(key) != theirs.get(key)]
        if not keys:
            continue
        named = [
            f"{key} is {theirs.get(key, 'not there')} in {other['name']} and {mine.get(key, 'not there')} in "
            f"{first['name']}"
            for key in keys[:MOST_NAMED]
        ]
        more = f", and {len(keys) - MOST_NAMED} more differ" if len(keys) > MOST_NAMED else ""
        raise UserError(f"{'; '.join(named)}{more}; {mend}")


def _digests(folder: Path) -> Iterable[tuple[str, str]]:
    """(name, start of its SHA-256) of every file of a package that decides what it computes."""
    for path in sorted(folder.rglob("*")):
        if path.suffix in CODE_SUFFIXES and path.is_file():
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            yield path.relative_to(folder.parent).as_posix(), digest[:12]
