"""Imports a model of Hugging Face, nanochat or NovaMind as a run, and checks that it computes the same.

    samosa import Qwen/Qwen3-0.6B-folder --out=runs/qwen --context-len=4096
    samosa import nanochat/base_checkpoints/d24 --out=runs/d24
    samosa import checkpoints/novamind_sft_final.pt --tokenizer=novamind/tokenizer --out=runs/novamind
    samosa train --init_from=runs/qwen --stage=sft --data=data/chat --name=qwen_sft

docs/importing.md says what can be imported.
"""

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from samosa_jax.command_line import parse_dataclass, run
from samosa_jax.config import ModelConfig
from samosa_jax.convert.cpu import cpu
from samosa_jax.convert.foreign import ForeignModel, Logits, check_vocabulary
from samosa_jax.convert.hf_source import CONFIG_FILE, open_hf
from samosa_jax.convert.import_check import compare_logits, draw_tokens
from samosa_jax.convert.nanochat import find_checkpoint, open_nanochat
from samosa_jax.convert.new_run import check_free, unfinished_folder, write_run
from samosa_jax.convert.novamind import open_novamind
from samosa_jax.convert.own_export import open_export
from samosa_jax.convert.tokenizer_import import import_tokenizer
from samosa_jax.data.tokenizer import META_FILE, Tokenizer
from samosa_jax.errors import UserError
from samosa_jax.sizes import parameter_counts
from samosa_jax.trained import open_trained
from samosa_jax.training.display import format_seconds
from samosa_jax.training.run_folder import EXPORT_RECORD

DESCRIPTION = "Import a model of Hugging Face, nanochat or NovaMind as a run."


@dataclass(frozen=True, kw_only=True)
class ImportFlags:
    """The flags of `import`."""

    source: str  # a folder of Hugging Face or nanochat, or a .pt file
    out: str  # the folder of the new run, such as runs/qwen
    tokenizer: str = ""  # folder of the model's tokenizer; empty: where the model has it
    context_len: int | None = None  # tokens of the longest dialogue, where fewer than the model's are wanted
    step: int | None = None  # of several nanochat checkpoints in a folder; None: the last
    rope_base: float | None = None  # nanochat: base of the angles, where the code was changed in that
    rope_pairs: Literal["halves", "neighbours"] | None = None  # NovaMind: channels that turn together; halves
    no_verify: bool = False  # do not compare logits with the original


def main(argv: list[str]) -> None:
    """Runs the command. Raises UserError; nothing is left under the name of the run then."""
    flags = parse_dataclass(argv, ImportFlags, description=DESCRIPTION, positional=("source",))
    started = time.perf_counter()
    out = Path(flags.out)
    check_free(out)
    model = open_source(flags)
    tokenizer = open_tokenizer(flags, model)
    print(f"{model.kind}: {describe(model, tokenizer)}", flush=True)
    with unfinished_folder(out) as folder:
        write_run(
            folder,
            name=out.name,
            out_dir=out.parent,
            model=trained_config(model, tokenizer),
            optimizer=model.optimizer,
            params=model.read_params(vocab_size=tokenizer.vocab_size),
            tokenizer=tokenizer,
            step=model.step,
            origin={**model.origin, "path": str(model.path), "tokenizer": tokenizer.meta.get("origin", {})},
        )
        check(flags, model, folder)
    print(f"wrote {out} in {format_seconds(time.perf_counter() - started)}")
    print(f"samosa chat {out}   # or train on: samosa train --init_from={out} --name=NEW --data=FOLDER")


def open_source(flags: ImportFlags) -> ForeignModel:
    """What the source is, by the files that are there. Raises UserError if it is none of those known."""
    path = Path(flags.source)
    if not path.exists():
        raise UserError(f"{path} does not exist; name a folder of Hugging Face or nanochat, or a .pt file")
    checkpoint = find_checkpoint(path, step=flags.step)
    is_novamind = path.is_file() and checkpoint is None
    if flags.rope_pairs is not None and not is_novamind:
        raise UserError(f"--rope-pairs is for NovaMind's .pt files; {path} is none")
    if checkpoint is not None:
        return open_nanochat(checkpoint, rope_base=flags.rope_base, context_len=flags.context_len)
    for name, value in (("step", flags.step), ("rope-base", flags.rope_base)):
        if value is not None:
            raise UserError(f"--{name} is for nanochat's checkpoints; {path} is none (model_XXXXXX.pt)")
    if is_novamind:
        return open_novamind(path, pairs=flags.rope_pairs or "halves", context_len=flags.context_len)
    if (path / EXPORT_RECORD).exists():
        if flags.context_len is not None:
            raise UserError(f"--context-len is for models of others; {path} was exported from here")
        return open_export(path)
    if (path / CONFIG_FILE).exists():
        return open_hf(path, context_len=flags.context_len)
    raise UserError(
        f"{path} holds neither {CONFIG_FILE} (Hugging Face) nor model_XXXXXX.pt (nanochat); name the folder "
        "that does"
    )


def open_tokenizer(flags: ImportFlags, model: ForeignModel) -> Tokenizer:
    """That of the model, with the special tokens of ours. Raises UserError if it is another model's."""
    folder = Path(flags.tokenizer) if flags.tokenizer else model.tokenizer
    if folder is None:
        raise UserError(
            f"{model.path} has no tokenizer with it; name the folder of its own with --tokenizer=FOLDER"
        )
    if (folder / META_FILE).exists():
        own = Tokenizer.load(folder)
        check_vocabulary(model, folder, num_tokens=own.vocab_size)
        return own
    imported = import_tokenizer(folder, vocab_rows=model.config.vocab_size)
    if model.fills_vocabulary:
        origin = imported.meta["origin"]
        check_vocabulary(model, folder, num_tokens=origin["num_tokens"] if isinstance(origin, dict) else None)
    return imported


def trained_config(model: ForeignModel, tokenizer: Tokenizer) -> ModelConfig:
    """Of the run: that of the model, with as many tokens as the tokenizer has."""
    return replace(model.config, vocab_size=tokenizer.vocab_size)


def describe(model: ForeignModel, tokenizer: Tokenizer) -> str:
    """A line about what is imported."""
    counts = parameter_counts(model.config)
    num_new = tokenizer.vocab_size - model.config.vocab_size
    more = f", {num_new} of them new" if num_new else ""
    return (
        f"{sum(asdict(counts).values()):,} parameters, {model.config.num_layers} layers of width "
        f"{model.config.model_dim}, {tokenizer.vocab_size:,} tokens{more}, "
        f"context {model.config.context_len:,}"
    )


def check(flags: ImportFlags, model: ForeignModel, folder: Path) -> None:
    """Compares what was written with the original, or says aloud that nobody did. Raises UserError."""
    peer, reason = open_peer(flags, model)
    if peer is None:
        print(f"NOT VERIFIED: {reason}", flush=True)
        return
    # Accelerators would not keep all of it in float32.
    trained = open_trained(folder, devices=cpu(why="models are compared on the CPU"))
    special = trained.tokenizer.special_ids.values()
    tokens = draw_tokens(trained.network, num_known=model.config.vocab_size, special=special)
    agreement = compare_logits(trained.network, trained.params, peer, tokens, source=str(model.path))
    print(f"verified against the original in PyTorch: {agreement}", flush=True)


def open_peer(flags: ImportFlags, model: ForeignModel) -> tuple[Logits | None, str]:
    """The original in PyTorch, or why there is none."""
    if flags.no_verify:
        return None, "nobody compared this model with the original (--no-verify)"
    if model.open_peer is None:
        return (
            None,
            f"there is no second implementation of {model.kind} to compare with; see docs/importing.md",
        )
    try:
        return model.open_peer(), ""
    except ModuleNotFoundError as error:
        return (
            None,
            f"{error.name} is not installed, to compare with; `pip install 'samosa-jax[torch]'` brings it",
        )


if __name__ == "__main__":
    run(main)
