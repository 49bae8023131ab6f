"""Uploads a run, a checkpoint or an export to the Hugging Face hub, in one commit.

    samosa push runs/sft anna/stories --private
    samosa push runs/sft/checkpoints/00001000 anna/stories --revision=step-1000
    samosa push exports/stories anna/stories-hf --message="First version"

The token is HF_TOKEN's, or that of `hf auth login`; HF_ENDPOINT names another hub.
"""

from dataclasses import dataclass
from pathlib import Path

from samosa_jax.command_line import parse_dataclass, run
from samosa_jax.training.hub_transfer import check_repo, packed, push


@dataclass(frozen=True, kw_only=True)
class PushFlags:
    """The flags of push."""

    folder: str  # of a run, a checkpoint or an export
    repo: str  # OWNER/NAME; made if it does not exist
    private: bool = False  # a repository made now is for its owner alone
    revision: str = ""  # a branch, made if it does not exist; empty: main
    message: str = ""  # of the commit; empty: name and step
    newest_only: bool = False  # of a run's checkpoints, the newest alone


def main(argv: list[str]) -> None:
    """Uploads and prints the commit's address. Raises UserError."""
    flags = parse_dataclass(argv, PushFlags, description=__doc__ or "", positional=("folder", "repo"))
    check_repo(flags.repo)
    with packed(Path(flags.folder), newest_only=flags.newest_only) as parcel:
        size = f"{len(parcel.files)} files, {parcel.num_bytes / 1e6:,.1f} MB"
        print(f"pushing the {parcel.kind} {parcel.title} to {flags.repo}: {size}", flush=True)
        address = push(
            parcel,
            flags.repo,
            private=flags.private,
            revision=flags.revision or None,
            message=flags.message,
        )
    print(f"pushed: {address}")


if __name__ == "__main__":
    run(main)
