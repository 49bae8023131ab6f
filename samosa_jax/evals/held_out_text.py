"""The held-out documents that a checkpoint is measured on."""

from collections.abc import Sequence
from pathlib import Path

from samosa_jax.data.shards import ShardSet
from samosa_jax.errors import UserError


def open_held_out(folders: Sequence[str], *, task: str) -> dict[str, ShardSet]:
    """By folder, those of prepared folders that hold something out.

    Raises UserError where a folder is gone, or none holds anything out.
    """
    gone = next((folder for folder in folders if not Path(folder).is_dir()), None)
    if gone is not None:
        raise UserError(
            f"{gone}, the text for {task}, is not there; name prepared text with --bpb_data=FOLDER"
        )
    shards = {folder: ShardSet.open(folder, split="val") for folder in folders}
    shards = {folder: one for folder, one in shards.items() if one.num_tokens >= 2}
    if not shards:
        raise UserError(
            f"{', '.join(folders)} hold nothing out for validation; name other text with --bpb_data"
        )
    return shards
