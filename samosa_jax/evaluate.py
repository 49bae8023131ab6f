"""Evaluates a trained model: CORE, benchmarks, answers, probes, bits per byte; and holds it against a gate.

    samosa evaluate runs/base --tasks=core,bpb --data_dir=data/evals
    samosa evaluate runs/sft --gate=configs/gates/sft.yaml       # exits 3 if the model does not pass
    samosa evaluate --list                                       # what there is

Results are added to the run's evals.jsonl, each as soon as it is there; the same command goes on where it was
stopped. docs/evaluating.md says what every task measures.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from samosa_jax.command_line import parse_dataclass, run
from samosa_jax.errors import UserError

if TYPE_CHECKING:
    from samosa_jax.evals.catalog import Catalog, Selection
    from samosa_jax.evals.gates import Gate
    from samosa_jax.evals.results import TaskResult
    from samosa_jax.evaluation import Evaluation, EvaluationSettings

REFUSED_EXIT = 3
WIDTH = 120
MAX_TEMPERATURE = 100  # that the engine draws at
SHOTS_SEED = 1234  # `evals.prompts` has the same; --help need not wait for JAX to read it there


@dataclass(frozen=True, kw_only=True)
class EvaluateFlags:
    """The flags of `evaluate`, and the keys of its YAML files."""

    run: str = ""  # the folder of a run or of a checkpoint; the newest run if empty
    tasks: tuple[str, ...] = ()  # names and groups, also with commas between; empty: the gate's, or all
    list: bool = False  # print the tasks, and stop
    data_dir: str = ""  # a folder with the tasks' files; empty: the hub
    limit: int | None = None  # questions of each task; all if not given
    step: int | None = None  # of the checkpoint; the newest if not given
    gate: str = ""  # a YAML file of conditions that the results must meet
    again: bool = False  # evaluate also what has a result already
    seed: int = SHOTS_SEED  # of the examples shown before questions
    tables: tuple[str, ...] = ()  # YAML files with tasks of your own
    bpb_data: str = ""  # prepared text for bpb and positions; empty: what the run was trained on
    context_len: int | None = None  # tokens that needle and positions read; the model's if not given
    probes: str = ""  # a folder of probes; empty: configs/probes of this project
    persona: str = ""  # YAML of whom the probes expect to meet; empty: samosaChaat
    samples: int = 1  # answers to every question that is answered in words
    temperature: float = 0.0  # of these; 0 takes the likeliest token
    max_tokens: int = 0  # likewise; 0: as many as the task says
    sample_seed: int = 0  # likewise
    thinks: bool = False  # answers begin with a thought
    run_unsafe_code: bool = False  # also where the sandbox does not hold
    max_batch: int = 16  # answers in the making at once
    tensor: int = 1  # devices that the model is split over
    runs: str = "runs"  # where the newest run is looked for
    tokenizer: str = ""  # its folder, if it is not where the run says


def main(argv: list[str]) -> None:
    """Evaluates, prints a table, exits 3 if a gate is not passed. Raises UserError."""
    flags = parse_dataclass(argv, EvaluateFlags, description="Evaluate a trained model.", positional=("run",))
    if flags.limit is not None and flags.limit < 1:
        raise UserError(f"--limit={flags.limit}; expected 1 or more questions, or none for all of them")
    if flags.context_len is not None and flags.context_len < 1:
        raise UserError(f"--context_len={flags.context_len}; expected 1 or more tokens")
    if flags.samples < 1 or flags.max_batch < 1 or flags.tensor < 1:
        raise UserError("--samples, --max_batch and --tensor must be at least 1")
    if not 0 <= flags.temperature <= MAX_TEMPERATURE or flags.max_tokens < 0:
        raise UserError(
            f"--temperature={flags.temperature} --max_tokens={flags.max_tokens}; expected a temperature from "
            f"0 to {MAX_TEMPERATURE}, and 0 or more tokens"
        )
    from samosa_jax.evals import gates
    from samosa_jax.evals.catalog import ALL, open_catalog, select

    catalog = open_catalog([Path(table) for table in flags.tables])
    # A table has this width also where nobody looks, as in a file.
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    if flags.list:
        _print_catalog(catalog, console)
        return
    gate = gates.load(Path(flags.gate)) if flags.gate else None
    asked = flags.tasks or (gate.tasks if gate else (ALL,))
    selection = select(catalog, asked)
    evaluation = _open(flags, catalog, console)
    results, missing = _evaluate(evaluation, selection, console)
    for name, baselines in selection.aggregates.items():
        combined = evaluation.combine(name, baselines, results)
        if combined is not None:
            results.append(combined)
    console.print(_table(results))
    say_what_is_missing(results, missing, console)
    console.print(f"results: {evaluation.run / 'evals.jsonl'}", markup=False, soft_wrap=True)
    if gate is not None:
        _hold_against(gate, evaluation, results, console)


def settings_of(flags: EvaluateFlags) -> "EvaluationSettings":
    """What the flags say of how tasks are run. Raises UserError for numbers that do not go together."""
    from samosa_jax.evals.generation import GenerationSettings
    from samosa_jax.evals.probes import OWN_PROBES
    from samosa_jax.evaluation import EvaluationSettings
    from samosa_jax.tasks.identity import OWN_PERSONA

    return EvaluationSettings(
        data_dir=Path(flags.data_dir) if flags.data_dir else None,
        limit=flags.limit,
        seed=flags.seed,
        again=flags.again,
        tensor=flags.tensor,
        max_batch=flags.max_batch,
        generation=GenerationSettings(
            samples=flags.samples,
            ks=(1,) if flags.samples == 1 else (1, flags.samples),
            temperature=flags.temperature,
            max_tokens=flags.max_tokens,
            seed=flags.sample_seed,
            thinks=flags.thinks,
        ),
        run_unsafe_code=flags.run_unsafe_code,
        probes=Path(flags.probes or OWN_PROBES),
        persona=Path(flags.persona or OWN_PERSONA),
        bpb_data=Path(flags.bpb_data) if flags.bpb_data else None,
        context_len=flags.context_len,
    )


def _open(flags: EvaluateFlags, catalog: "Catalog", console: Console) -> "Evaluation":
    from samosa_jax.compilation_cache import use_compilation_cache
    from samosa_jax.evaluation import Evaluation
    from samosa_jax.trained import open_named

    settings = settings_of(flags)
    use_compilation_cache()
    trained = open_named(flags)
    for notice in trained.notices:
        print(notice, file=sys.stderr)
    console.print(
        f"{trained.name}, step {trained.step}: {trained.num_params / 1e6:.1f} M parameters", markup=False
    )
    return Evaluation(trained, catalog, settings)


def _evaluate(
    evaluation: "Evaluation", selection: "Selection", console: Console
) -> "tuple[list[TaskResult], dict[str, str]]":
    """Results in the order made, and why tasks of groups have none."""
    from samosa_jax.evaluation import in_order

    results: list[TaskResult] = []
    missing: dict[str, str] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        for name in in_order(selection.tasks, evaluation.kind_of):
            bar = progress.add_task(name, total=None)
            try:
                found, was_there = evaluation.evaluate(
                    name,
                    on_progress=lambda done, total, bar=bar: progress.update(
                        bar, completed=done, total=total
                    ),
                )
            except UserError as error:
                if name in selection.named:
                    raise
                missing[name] = str(error)
                progress.console.print(f"{name}: left out", highlight=False)
            else:
                results += found
                for result in found:
                    progress.console.print(
                        _line(result, was_there=was_there), highlight=False, soft_wrap=True
                    )
            progress.remove_task(bar)
    if missing and not results:
        name, reason = next(iter(missing.items()))
        raise UserError(f"none of the {len(missing)} tasks could be evaluated; the first, {name}: {reason}")
    return results, missing


def _line(result: "TaskResult", *, was_there: bool) -> str:
    line = f"{result.task} {result.metric} {result.value:.4f} ({result.low:.4f} to {result.high:.4f})"
    if was_there:
        return f"{line}, of {result.time}"
    speed = f"{result.num_items / max(result.seconds, 1e-3):.1f} items/s"
    tokens, programs = result.counts.get("tokens"), result.counts.get("programs")
    if tokens is not None:
        speed += f", {tokens / max(result.seconds, 1e-3):.0f} tokens/s"
    return f"{line}, {speed}" + (f", {programs} programs compiled" if programs is not None else "")


def _table(results: "Sequence[TaskResult]") -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("task", no_wrap=True)
    table.add_column("metric", no_wrap=True)
    for name in ("value", "95 % interval", "centred", "chance", "items", "cut"):
        table.add_column(name, justify="right", no_wrap=True)
    for result in results:
        baseline, chance = result.settings.get("baseline"), result.settings.get("chance")
        centred = (
            f"{(result.value - baseline / 100) / (1 - baseline / 100):+.4f}"
            if baseline is not None and result.metric == "accuracy"
            else ""
        )
        truncated = result.counts.get("truncated_prompts", 0)
        table.add_row(
            result.task,
            result.metric,
            f"{result.value:.4f}",
            f"{result.low:.4f} to {result.high:.4f}",
            centred,
            f"{chance:.3f}" if chance is not None else "",
            str(result.num_items),
            str(truncated or ""),
        )
    return table


def say_what_is_missing(
    results: "Sequence[TaskResult]", missing: Mapping[str, str], console: Console
) -> None:
    """Which tasks have no result, and why; which means are without some of theirs."""
    for name, reason in missing.items():
        console.print(f"[yellow]left out[/] {name}: {escape(reason)}", highlight=False, soft_wrap=True)
    for result in results:
        names = result.settings.get("missing")
        if names:
            console.print(
                f"[yellow]{result.task} is partial[/]: without {', '.join(names)}; it is no {result.task} to "
                "compare with",
                highlight=False,
                soft_wrap=True,
            )


def _hold_against(
    gate: "Gate", evaluation: "Evaluation", results: "Sequence[TaskResult]", console: Console
) -> None:
    from samosa_jax.stage_gate import judge_results

    verdict, failed = judge_results(gate, evaluation, results)
    for line in (*failed, *verdict.table(), verdict.stop_line):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if not verdict.passed:
        sys.stdout.flush()
        raise SystemExit(REFUSED_EXIT)


def _print_catalog(catalog: "Catalog", console: Console) -> None:
    for group, names in catalog.groups.items():
        console.print(f"{group}: {', '.join(names)}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    run(main)
