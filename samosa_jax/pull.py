"""Downloads a run, a checkpoint or an export from the Hugging Face hub, and verifies every file.

    samosa pull anna/stories                      # to runs/stories; then: samosa chat runs/stories
    samosa pull anna/stories --revision=step-1000 --to=runs/early

A pull that was broken off goes on where it was. The token, if one is needed, is HF_TOKEN's, or that of
`hf auth login`; HF_ENDPOINT names another hub.
"""

from dataclasses import dataclass
from pathlib import Path

from samosa_jax.command_line import parse_dataclass, run
from samosa_jax.training.hub_transfer import pull


@dataclass(frozen=True, kw_only=True)
class PullFlags:
    """The flags of pull."""

    repo: str  # OWNER/NAME
    revision: str = ""  # a branch, tag or commit; empty: main
    to: str = ""  # a folder that does not exist; empty: runs/NAME, or exports/NAME for an export


def main(argv: list[str]) -> None:
    """Downloads and prints the folder. Raises UserError."""
    flags = parse_dataclass(argv, PullFlags, description=__doc__ or "", positional=("repo",))
    folder = pull(
        flags.repo,
        revision=flags.revision or None,
        to=Path(flags.to) if flags.to else None,
        say=lambda line: print(line, flush=True),
    )
    print(f"pulled: {folder}")


if __name__ == "__main__":
    run(main)
