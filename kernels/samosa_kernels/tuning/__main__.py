"""Finds tiles for the kernels: `python -m samosa_kernels.tuning`.

Without a GPU every candidate is compiled for the device named, and those that spill registers, serialise
their wgmma products or do not fit are out. On a Hopper GPU the rest are timed. With --write the choice goes
into the device's table: the fastest with its milliseconds, or, not timed, the best guess
(`search.best_guess`).
"""

import argparse
import sys
from pathlib import Path

import jax

from samosa_kernels import aot
from samosa_kernels.device import current_device
from samosa_kernels.tuning.config import ITEM_BYTES, KERNELS
from samosa_kernels.tuning.search import Trial, best_guess, candidates, compile_trial, milliseconds
from samosa_kernels.tuning.table import (
    HEAD_DIMS,
    LENGTHS,
    Entry,
    format_table,
    read_table,
    tables_of,
)

TABLE_FOLDER = Path(__file__).parent / "tables"
COMPILED_LENGTH = 4096  # what compiles does not depend on it: a guess holds from the least length on


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        self.exit(2, f"{self.prog}: {message}\n")


def _subset(known: tuple, convert: type):
    """An argument type: names of `known`, separated by commas."""

    def parse(text: str) -> tuple:
        chosen = []
        for word in text.split(","):
            if word not in map(str, known):
                raise argparse.ArgumentTypeError(f"{word!r} is none of {', '.join(map(str, known))}")
            chosen.append(convert(word))
        return tuple(chosen)

    return parse


def _arguments(words: list[str] | None) -> argparse.Namespace:
    parser = _Parser(prog="python -m samosa_kernels.tuning", description=__doc__, allow_abbrev=False)
    parser.add_argument("--kernels", type=_subset(tuple(KERNELS), str), default=tuple(KERNELS))
    parser.add_argument("--head-dims", type=_subset(HEAD_DIMS, int), default=(64, 128))
    parser.add_argument(
        "--lengths", type=_subset(LENGTHS, int), default=None, help="to time; all, on a GPU, by default"
    )
    parser.add_argument("--dtype", choices=tuple(ITEM_BYTES), default="bfloat16")
    parser.add_argument("--device", choices=("h100", "h200"), default=None, help="to compile for: h100")
    parser.add_argument("--write", action="store_true", help="put the choice into the device's table")
    parser.add_argument("--tables", type=Path, default=TABLE_FOLDER, help="folder of the tables to write")
    chosen = parser.parse_args(words)
    if chosen.dtype != "bfloat16":
        chosen.kernels = tuple(kernel for kernel in chosen.kernels if not kernel.startswith("hopper"))
        if not chosen.kernels:
            parser.error(f"argument --dtype: Hopper kernels take bfloat16, not {chosen.dtype}")
    if chosen.write and not chosen.tables.is_dir():
        parser.error(f"argument --tables: {chosen.tables} is no folder")
    on_gpu = jax.default_backend() == "gpu"
    if on_gpu and not current_device().is_hopper:
        parser.error(
            f"{current_device().kind} has no table of its own, and what suits it need not fit the GPUs that "
            "share default.json; run this on a Hopper GPU"
        )
    if on_gpu and chosen.device is not None:
        parser.error("argument --device: on a GPU the device is the one here")
    if not on_gpu and chosen.lengths is not None:
        parser.error("argument --lengths: without a GPU nothing is timed, and what compiles has no length")
    reason = aot.why_not()
    if reason is not None:
        parser.error(reason)
    return chosen


def _print_trial(kernel: str, head_dim: int, trial: Trial) -> None:
    tuning, report = trial.tuning, trial.report
    numbers = (
        f"{report.registers:9} {report.spill_store_bytes:7} {report.shared_bytes:7}"
        if report
        else f"{'-':>9} {'-':>7} {'-':>7}"
    )
    print(
        f"{kernel:15} {head_dim:4} {tuning.queries:7} {tuning.keys:4} {tuning.stages:6} {tuning.warps:5} "
        f"{numbers}  {trial.fault or 'clean'}",
        flush=True,
    )


def _choose(chosen: argparse.Namespace) -> tuple[str, list[Entry]]:
    """The table that the choices belong to, and the choices."""
    on_gpu = jax.default_backend() == "gpu"
    table = tables_of(current_device().kind)[0] if on_gpu else chosen.device or "h100"
    mesh = aot.topology("h200" if table == "h200" else "h100")
    entries = []
    print(f"{'kernel':15} {'head':>4} queries keys stages warps registers  spills  shared  verdict")
    for kernel in chosen.kernels:
        for head_dim in chosen.head_dims:
            shape = {"head_dim": head_dim, "dtype": chosen.dtype}
            trials = []
            for tuning in candidates(kernel, **shape):
                trials.append(compile_trial(kernel, tuning, length=COMPILED_LENGTH, mesh=mesh, **shape))
                _print_trial(kernel, head_dim, trials[-1])
            survivors = [trial.tuning for trial in trials if trial.fault is None]
            guess = best_guess(kernel, trials)
            if guess is None:
                print(f"{kernel} at head width {head_dim}: no candidate is without fault", file=sys.stderr)
                continue
            if not on_gpu:
                print(f"{kernel} at head width {head_dim}: best guess {guess.tuning}")
                found = (kernel, chosen.dtype, head_dim, min(LENGTHS), guess.tuning)
                entries.append(Entry(*found, origin="compiled", milliseconds=None))
                continue
            for length in chosen.lengths or LENGTHS:
                times = {t: milliseconds(kernel, t, length=length, **shape) for t in survivors}
                for tuning, time in sorted(times.items(), key=lambda item: item[1]):
                    print(f"{kernel} at head width {head_dim}, length {length}: {time:.4f} ms {tuning}")
                best = min(times, key=times.__getitem__)
                found = (kernel, chosen.dtype, head_dim, length, best)
                entries.append(Entry(*found, origin="measured", milliseconds=round(times[best], 4)))
    return table, entries


def main(words: list[str] | None = None) -> int:
    """Runs the command; returns its exit code. Bad flags leave by SystemExit with code 2."""
    chosen = _arguments(words)
    table, entries = _choose(chosen)
    if chosen.write and entries:
        file = chosen.tables / f"{table}.json"
        # New entries take the place of those of the same kernel, dtype, head width and length; measured ones
        # also that of every guess.
        replaced = {entry[:4] for entry in entries}
        measured = {entry[:3] for entry in entries if entry.origin == "measured"}
        kept = [
            entry
            for entry in (read_table(file) if file.exists() else ())
            if entry[:4] not in replaced and not (entry[:3] in measured and entry.origin != "measured")
        ]
        file.write_text(format_table([*kept, *entries]), encoding="utf-8")
        print(f"wrote {len(entries)} entries to {file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
