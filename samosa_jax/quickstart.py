"""From nothing to a small trained model on this machine, offline: tokenizer, data, training.

    python -m samosa_jax.quickstart [--text FILE]... [flags of samosa_jax.train]

Each stage is an ordinary command, printed before it runs. Interrupt it at any moment and run it again:
finished stages are passed over, and training goes on where it stood.
"""

import argparse
import shlex
import time
from collections.abc import Callable
from pathlib import Path

from samosa_jax import prepare, train, train_tokenizer
from samosa_jax.command_line import run
from samosa_jax.training.display import format_seconds

CONFIG = Path(__file__).parents[1] / "configs" / "quickstart.yaml"
VOCAB_SIZE = 2_048
FOLDER = Path("data")
EMBEDDED = "embedded"


def main(argv: list[str]) -> None:
    """Runs the three stages. Raises UserError."""
    parser = argparse.ArgumentParser(
        prog="quickstart",
        description="Train a small model on the embedded corpus, or on your own text, in minutes.",
        epilog="Every other flag goes to training, e.g. --train.num_steps=300.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--text", action="append", metavar="FILE", help="train on this file or folder instead; may repeat"
    )
    flags, training_flags = parser.parse_known_args(argv)
    started = time.monotonic()
    inputs = flags.text or [EMBEDDED]
    data = FOLDER / ("quickstart" if flags.text is None else f"quickstart_{Path(inputs[0]).stem}")
    tokenizer = data.with_name(f"{data.name}_tokenizer")
    reading = [f"--input={path}" for path in inputs]
    if tokenizer.exists():
        print(f"\n== 1/3 tokenizer: {tokenizer} is there already")
    else:
        stage_flags = [*reading, f"--vocab-size={VOCAB_SIZE}", f"--out={tokenizer}"]
        run_stage("1/3 tokenizer", "train_tokenizer", train_tokenizer.main, stage_flags)
    stage_flags = [*reading, f"--tokenizer={tokenizer}", f"--out={data}"]
    run_stage("2/3 data", "prepare", prepare.main, stage_flags)
    stage_flags = [f"--config={CONFIG}", f"--data={data}", f"--name={data.name}", *training_flags]
    run_stage("3/3 training", "train", train.main, stage_flags)
    print(f"\nDone in {format_seconds(time.monotonic() - started)}.")


def run_stage(title: str, module: str, command: Callable[[list[str]], None], flags: list[str]) -> None:
    print(f"\n== {title}\n$ python -m samosa_jax.{module} {shlex.join(flags)}", flush=True)
    command(flags)


if __name__ == "__main__":
    run(main)
