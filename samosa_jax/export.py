"""Writes a trained model for other programs, reads it back there, and compares.

    samosa export runs/sft                       # a Hugging Face folder, exports/sft
    samosa export runs/sft --format=torch        # weights and a chat.py that needs PyTorch only
    samosa export runs/sft --format=gguf         # one file for llama.cpp
    samosa export runs/d24 --format=nanochat     # back to nanochat, for models that came from there

Nothing stands under the final name before tensors, logits, token ids, chats and greedy text have been found
equal in a process that knows the exported files alone. docs/exporting.md says more.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from samosa_jax.command_line import parse_dataclass, run
from samosa_jax.errors import UserError

if TYPE_CHECKING:
    from samosa_jax.convert.exported import ExportedModel
    from samosa_jax.convert.exporting import Exported


@dataclass(frozen=True, kw_only=True)
class ExportFlags:
    """The flags of `export`."""

    run: str = ""  # the folder of a run or of a checkpoint; the newest run if empty
    runs: str = "runs"  # where the newest run is looked for
    step: int | None = None  # of the checkpoint; the newest if not given
    tokenizer: str = ""  # its folder, if it is not where the run says
    format: Literal["hf", "torch", "gguf", "nanochat"] = "hf"  # Hugging Face, plain PyTorch, llama.cpp, ...
    out: str = ""  # the folder to write; exports/NAME if empty, with -FORMAT for all but hf
    dtype: Literal["float32", "bfloat16"] = (
        "float32"  # of the weights; bfloat16 is rounded, and half as large
    )
    shard_bytes: int = 5_000_000_000  # of a weights file of the format hf, at most
    no_verify: bool = False  # do not read it back: what is written may then be anything
    overwrite: bool = False  # replace an older export


def main(argv: list[str]) -> None:
    """Exports, and prints what was written. Raises UserError."""
    flags = parse_dataclass(
        argv, ExportFlags, description="Write a trained model for other programs.", positional=("run",)
    )
    if flags.shard_bytes < 1:
        raise UserError(f"--shard_bytes is {flags.shard_bytes}; it must be at least 1")
    from samosa_jax.convert.cpu import cpu
    from samosa_jax.convert.exported import as_written
    from samosa_jax.convert.exporting import check_destination, export
    from samosa_jax.convert.lineage import read_lineage
    from samosa_jax.trained import open_named

    trained = open_named(flags, devices=cpu(why="exports are made on the CPU"))
    suffix = "" if flags.format == "hf" else f"-{flags.format}"
    folder = Path(flags.out or f"exports/{trained.name}{suffix}")
    check_destination(folder, overwrite=flags.overwrite)
    for notice in trained.notices:
        print(notice, file=sys.stderr)
    model = as_written(
        trained.network, trained.params, trained.tokenizer, name=trained.name, dtype=flags.dtype
    )
    if flags.no_verify:
        print(f"WARNING: --no_verify: nobody checks that {folder} holds {trained.name}", file=sys.stderr)
    exported = export(
        model,
        folder,
        format=flags.format,
        lineage=read_lineage(trained.folder),
        verify=not flags.no_verify,
        overwrite=flags.overwrite,
        shard_bytes=flags.shard_bytes,
    )
    print("\n".join(summary(exported, model, format=flags.format)))


def summary(exported: "Exported", model: "ExportedModel", *, format: str) -> Iterator[str]:
    """Lines: what was written, what was found equal, and how to load it."""
    yield (
        f"{exported.folder}: {exported.architecture}, {model.num_params:,} parameters, {model.dtype}, "
        f"{exported.num_bytes / 1e6:,.1f} MB"
    )
    if exported.verification is None:
        yield "not verified"
    else:
        yield from (f"  {line}" for line in exported.verification.lines())
    yield f"load it: {_use(exported, format)}"


def _use(exported: "Exported", format: str) -> str:
    folder = exported.folder
    if format == "torch":
        return f"python {folder / 'chat.py'}"
    if format == "gguf":
        return f"llama-cli -m {folder / 'model.gguf'} --jinja"
    if format == "nanochat":
        return (
            f"copy {folder / 'model_*'} and meta_* to nanochat's base_checkpoints/TAG, the rest to tokenizer"
        )
    trust = ", trust_remote_code=True" if exported.architecture == "samosa" else ""
    return f'AutoModelForCausalLM.from_pretrained("{folder}"{trust})'


if __name__ == "__main__":
    run(main)
