"""Runs tasks of EleutherAI's lm-evaluation-harness on a trained model.

    samosa lm-eval runs/base --tasks=hellaswag,arc_easy --num_fewshot=5
    samosa lm-eval runs/sft --tasks=gsm8k --apply_chat_template --limit=100
    samosa lm-eval runs/base --tasks=mine --include_path=my_tasks

Flags that are not this command's go to the harness. It writes its files into runs/NAME/lm_eval; every number
also becomes a line of the run's evals.jsonl. docs/lm_eval.md says more.
"""

import argparse
import contextlib
import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NoReturn

from samosa_jax.command_line import parse_dataclass, run, split_options
from samosa_jax.convert.extras import require_packages
from samosa_jax.errors import UserError
from samosa_jax.keys import near_miss

if TYPE_CHECKING:
    from samosa_jax.lm_eval_model import SamosaLM
    from samosa_jax.trained import Trained

DESCRIPTION = "Run tasks of the lm-evaluation-harness on a trained model."
OUTPUT_FOLDER = "lm_eval"  # in the folder of the run
TASKS_NOT_FOUND = "Tasks not found: "  # how the harness says so
# Flags of the harness that would have no effect, and what does what they are meant for.
NOT_HERE = {
    "model": "the model is the run: name its folder with --run",
    "model_args": "the model is the run: name its folder with --run",
    "device": "JAX's devices are used, which JAX_PLATFORMS chooses",
    "batch_size": "texts are packed by their length; answers written at once are --max_batch",
    "max_batch_size": "texts are packed by their length; answers written at once are --max_batch",
    "output_path": f"results are written into the run's folder {OUTPUT_FOLDER}",
}


@dataclass(frozen=True, kw_only=True)
class LmEvalFlags:
    """The flags of `lm-eval` that are not the harness's."""

    run: str = ""  # the folder of a run or of a checkpoint; the newest run if empty
    runs: str = "runs"  # where the newest run is looked for
    step: int | None = None  # of the checkpoint; the newest if not given
    tokenizer: str = ""  # its folder, if it is not where the run says
    tensor: int = 1  # devices that the model is split over
    max_batch: int = 16  # answers in the making at once
    sample_seed: int = 0  # of answers at a temperature above 0


def main(argv: list[str]) -> None:
    """Runs the tasks, prints the harness's table. Raises UserError."""
    own, theirs = split_flags(argv)
    if "--help" in theirs or "-h" in theirs:
        with contextlib.suppress(SystemExit):
            parse_dataclass(["--help"], LmEvalFlags, description=DESCRIPTION)
        print("\nand those of the harness:\n")
    flags = parse_dataclass(own, LmEvalFlags, description=DESCRIPTION)
    require_packages(("lm_eval",), extra="lm-eval", purpose="samosa lm-eval")
    arguments = parse_harness_flags(theirs)
    from samosa_jax.training.parents import run_of

    model, trained = _open(flags)
    run_folder = run_of(trained.folder)
    now = datetime.now(UTC)
    output = run_folder / OUTPUT_FOLDER / f"{trained.step:08d}" / f"{now:%Y-%m-%dT%H-%M-%S}"
    arguments.model = model
    arguments.model_args = {"model": trained.name, "step": trained.step}
    arguments.output_path = str(output)
    arguments.log_samples = True
    started = time.perf_counter()
    run_harness(arguments, model)
    from samosa_jax.lm_eval_results import summarise

    results = summarise(
        output,
        run_folder,
        trained,
        truncated=model.truncated,
        seconds=time.perf_counter() - started,
        time=now,
        sample_seed=flags.sample_seed,
    )
    print(f"{len(results)} results: {run_folder / 'evals.jsonl'}; the harness's own files: {output}")


def split_flags(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The flags of `LmEvalFlags`, and all others; a first word that is no flag is the run."""
    run = [f"--run={argv[0]}"] if argv and not argv[0].startswith("-") else []
    own, theirs = split_options(argv[len(run) :], LmEvalFlags)
    return [*run, *own], theirs


def parse_harness_flags(argv: Sequence[str]) -> argparse.Namespace:
    """The flags of the harness's `lm-eval run`, by its own parser. Raises UserError."""
    from lm_eval._cli.run import Run

    parser = _Parser(prog="samosa", add_help=False)
    Run.create(parser.add_subparsers(metavar="lm-eval"))
    arguments = parser.parse_args(["run", *argv])
    for name, why in NOT_HERE.items():
        if getattr(arguments, name, None) is not None:
            raise UserError(f"--{name} has no effect here: {why}")
    if not arguments.tasks and not arguments.config:
        raise UserError(
            "--tasks is missing; name some, as in --tasks=hellaswag,arc_easy (`lm-eval ls tasks` lists them)"
        )
    return arguments


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; `samosa lm-eval --help` lists all flags")


def run_harness(arguments: argparse.Namespace, model: "SamosaLM") -> None:
    """Does what `lm-eval run` does. Raises UserError for tasks that are not there or cannot be read."""
    from lm_eval.utils import setup_logging

    setup_logging(logging.WARNING)
    try:
        arguments.func(arguments)
    except (OSError, ValueError) as error:
        # Before it asks the model anything, the harness only reads flags, tasks and their data.
        if model.num_requests or isinstance(error, UserError):
            raise
        raise UserError(_reason(error, arguments)) from error


def _reason(error: Exception, arguments: argparse.Namespace) -> str:
    text = str(error).strip() or type(error).__name__
    if isinstance(error, OSError):
        return (
            f"the data of the tasks cannot be read: {text.splitlines()[0]}; where the hub is out of reach, "
            "--include_path=FOLDER takes tasks whose data is here"
        )
    if not text.startswith(TASKS_NOT_FOUND):
        return f"the harness cannot begin: {text.splitlines()[0]}"
    from lm_eval.tasks import TaskManager

    known = TaskManager(include_path=arguments.include_path).all_tasks
    missing = text.removeprefix(TASKS_NOT_FOUND).split(", ")[0]
    hint = near_miss(missing, known) or "; `lm-eval ls tasks` lists them, --include_path=FOLDER adds yours"
    return f"{missing} is no task of the harness{hint}"


def _open(flags: LmEvalFlags) -> "tuple[SamosaLM, Trained]":
    if flags.tensor < 1 or flags.max_batch < 1:
        raise UserError("--tensor and --max_batch must be at least 1")
    from samosa_jax.compilation_cache import use_compilation_cache
    from samosa_jax.lm_eval_model import SamosaLM
    from samosa_jax.trained import open_named

    use_compilation_cache()
    trained = open_named(flags)
    for notice in trained.notices:
        print(notice, file=sys.stderr)
    model = SamosaLM(trained, tensor=flags.tensor, max_batch=flags.max_batch, seed=flags.sample_seed)
    return model, trained


if __name__ == "__main__":
    run(main)
