"""The gate at the end of a run: what it asks for is evaluated, judged, and written down as PROMOTION."""

from collections.abc import Callable, Sequence
from pathlib import Path

import jax

from samosa_jax.config import EvalConfig
from samosa_jax.errors import UserError
from samosa_jax.evals import gates
from samosa_jax.evals.catalog import Selection, open_catalog, select
from samosa_jax.evals.gates import Gate, Verdict
from samosa_jax.evals.generation import GenerationSettings
from samosa_jax.evals.generation_tasks import GENERATION_TASKS, check_sandbox
from samosa_jax.evals.probe_suite import HELD_OUT, PROBES, failed_probes, result_names
from samosa_jax.evals.probes import OWN_PROBES, load_suite
from samosa_jax.evals.promotion import write_promotion
from samosa_jax.evals.prompts import SHOTS_SEED
from samosa_jax.evals.results import TaskResult, read_results
from samosa_jax.evaluation import Evaluation, EvaluationSettings, in_order
from samosa_jax.keys import near_miss
from samosa_jax.tasks.identity import OWN_PERSONA, load_persona
from samosa_jax.trained import open_trained

MAX_BATCH = 16  # answers that are written at once


def check_gate(config: EvalConfig) -> None:
    """Before a run begins: that its gate can be judged when it ends. Raises UserError."""
    if jax.process_count() > 1:
        raise UserError(
            f"eval.gate is {config.gate}, but the run has {jax.process_count()} processes and a gate is "
            "judged by one; leave it out, and run `samosa evaluate --gate` when the run has ended"
        )
    gate = gates.load(Path(config.gate))
    selection = select(open_catalog(), gate.tasks)
    if PROBES in selection.tasks:
        load_persona(Path(config.persona or OWN_PERSONA))
        known = result_names(load_suite(Path(config.probes or OWN_PROBES)))
        for task in gate.tasks:
            if task.partition("/")[0] in (PROBES, HELD_OUT) and task not in known:
                hint = near_miss(task, known) or f"; there are {', '.join(known)}"
                raise UserError(f"{config.gate}: {config.probes or OWN_PROBES} has no {task}{hint}")
    if any(name in GENERATION_TASKS and GENERATION_TASKS[name].runs_code for name in selection.tasks):
        check_sandbox(insist=False)


def hold_against_gate(
    run: Path, config: EvalConfig, *, say: Callable[[str], None] = lambda line: None
) -> Verdict:
    """Evaluates the newest checkpoint of a run, judges it, and writes PROMOTION. Raises UserError.

    Results that the checkpoint has already are not made again. `say` hears of each, and of every probe that
    fails if the gate is not passed.
    """
    gate = gates.load(Path(config.gate))
    catalog = open_catalog()
    selection = select(catalog, gate.tasks)
    evaluation = Evaluation(open_trained(run), catalog, _settings(config))
    results = _evaluate(evaluation, selection, say)
    for name, baselines in selection.aggregates.items():
        combined = evaluation.combine(name, baselines, results)
        results += [combined] if combined is not None else []
    verdict, failed = judge_results(gate, evaluation, results)
    for line in failed:
        say(line)
    return verdict


def judge_results(
    gate: Gate, evaluation: Evaluation, results: Sequence[TaskResult]
) -> tuple[Verdict, list[str]]:
    """The verdict, which is written down as PROMOTION, and a line for every probe that fails a failing gate.

    `results` are what was asked for just now, new or not. They count before any other of the same task, such
    as those of a few questions only.
    """
    known = [*read_results(evaluation.run), *results]
    verdict = gates.judge(gate, known, checkpoint=evaluation.checkpoint)
    write_promotion(evaluation.run, verdict, step=evaluation.step, checkpoint=evaluation.checkpoint)
    if verdict.passed:
        return verdict, []
    return verdict, failed_probes(evaluation.run, results, checkpoint=evaluation.checkpoint)


def _evaluate(evaluation: Evaluation, selection: Selection, say: Callable[[str], None]) -> list[TaskResult]:
    results: list[TaskResult] = []
    for name in in_order(selection.tasks, evaluation.kind_of):
        try:
            found, _ = evaluation.evaluate(name, on_progress=lambda done, total: None)
        except UserError as error:
            if name in selection.named:
                raise
            # The mean of its group says that it is missing, and no gate takes such a mean.
            say(f"{name} is left out: {error}")
            continue
        results += found
        for one in found:
            say(f"{one.task} {one.metric} {one.value:.4g} ({one.low:.4g} to {one.high:.4g})")
    return results


def _settings(config: EvalConfig) -> EvaluationSettings:
    return EvaluationSettings(
        data_dir=Path(config.data_dir) if config.data_dir else None,
        limit=config.gate_limit or None,
        seed=SHOTS_SEED,
        again=False,
        tensor=1,
        max_batch=MAX_BATCH,
        generation=GenerationSettings(),
        run_unsafe_code=False,
        probes=Path(config.probes or OWN_PROBES),
        persona=Path(config.persona or OWN_PERSONA),
        bpb_data=None,
    )
