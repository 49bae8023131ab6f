"""The training loop of every stage. What differs between stages comes in as values; there is no `if stage`.

Step n is dispatched, then the numbers of step n-1 are read: the devices always have the next step queued, and
the loop never waits for the one it has just handed over. Where a step is due for both, it is saved first and
evaluated second, so that a kill during an evaluation loses nothing.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from signal import Signals
from typing import Any

import jax

from samosa_jax.errors import UserError
from samosa_jax.model.params import Params
from samosa_jax.parallel.data_parallel import gathered_bytes
from samosa_jax.parallel.process_group import ProcessGroup
from samosa_jax.training.checkpoint import Checkpointer, CheckpointRecord
from samosa_jax.training.display import Display
from samosa_jax.training.environment import bytes_per_device, device_memory_bytes
from samosa_jax.training.interrupts import StopRequest
from samosa_jax.training.metrics import METRICS, Records, Writer
from samosa_jax.training.profile import StepProfile
from samosa_jax.training.state import TrainState
from samosa_jax.training.step import TrainStep
from samosa_jax.training.step_report import DispatchedStep, StepInput, StepReporter


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Something to measure every so many steps (0: at the end only)."""

    every_steps: int
    evaluate: Callable[[Params], Mapping[str, Any]]  # a record for evals.jsonl; keys in METRICS are metrics


@dataclass(frozen=True, kw_only=True)
class Sample:
    prompt: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """Text to write every so many steps (0: at the end only)."""

    every_steps: int
    sample: Callable[[Params, int], Sequence[Sample]]  # of parameters and step


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A kind of training, as data."""

    next_batch: Callable[[TrainState], StepInput]  # most stages ignore the state
    put_batch: Callable[[Any], Any]  # onto the devices, as train_step takes it
    train_step: TrainStep  # donates the state
    frozen: Any = None  # further parameters, an argument of the step
    evaluations: Sequence[Evaluation] = ()
    samplers: Sequence[Sampler] = ()
    on_policy: bool = False  # next_batch reads the state: it waits for the step before anyway
    look_first: bool = False  # evaluate and sample before the first step too: what the run begins with


@dataclass(frozen=True, kw_only=True)
class Saving:
    checkpointer: Checkpointer
    every_steps: int  # 0: at the end only
    make_record: Callable[[int], CheckpointRecord]  # of the step


@dataclass(frozen=True, kw_only=True)
class Journal:
    """Where the loop writes, beside checkpoints."""

    writers: Sequence[Writer]
    evals: Records
    samples: Records


@dataclass(frozen=True, kw_only=True)
class LoopResult:
    state: TrainState
    step: int
    stopped_by: Signals | None  # None: all steps are done


def run(
    state: TrainState,
    *,
    stage: Stage,
    first_step: int,
    num_steps: int,
    saving: Saving,
    reporter: StepReporter,
    journal: Journal,
    display: Display,
    max_bad_steps: int,
    group: ProcessGroup,
    profile: StepProfile | None = None,
) -> LoopResult:
    """Trains from `first_step` (the steps already done) to `num_steps`, or until told to stop.

    On SIGTERM or Ctrl-C the step under way is finished and saved. Of several processes it is enough to signal
    one: all stop after the same step. A state that is resumed at `first_step` first gets the evaluations and
    samples due there, since they come after the checkpoint that it was read from.

    Raises:
        UserError: `max_bad_steps` non-finite steps in a row (after saving), or the devices' memory is full.
    """
    memory = _memory_by_kind(state)
    step, saved_step = first_step, first_step
    pending: DispatchedStep | None = None

    def settle() -> None:
        """Reads the step that is still under way, if any."""
        nonlocal pending
        if pending is not None:
            reporter.read(pending)
            pending = None

    def save() -> None:
        nonlocal saved_step
        settle()
        for writer in journal.writers:
            writer.flush()
        with reporter.away():
            saving.checkpointer.save(state, saving.make_record(step))
        saved_step = step

    def look() -> None:
        """The evaluations and samples due now."""
        for evaluation in stage.evaluations:
            if _is_due(evaluation.every_steps, step=step, num_steps=num_steps):
                settle()
                with reporter.away():
                    _evaluate(evaluation, state, step=step, journal=journal, display=display)
        for sampler in stage.samplers:
            if _is_due(sampler.every_steps, step=step, num_steps=num_steps):
                settle()
                with reporter.away():
                    _sample(sampler, state, step=step, journal=journal, display=display)

    try:
        with StopRequest() as stop:
            if step or stage.look_first:
                look()
            while (
                group.may_begin(step, wish=stop.signal)
                and step < num_steps
                and reporter.bad_in_a_row < max_bad_steps
            ):
                if profile is not None and profile.begins_with(step + 1):
                    settle()
                    profile.start(step + 1)
                if stage.on_policy:
                    settle()
                started = time.perf_counter()
                given = stage.next_batch(state)
                fetched = time.perf_counter()
                if given.making_seconds is None:
                    reporter.note_data_wait(fetched - started)
                with (
                    jax.transfer_guard("disallow"),
                    jax.profiler.StepTraceAnnotation("train", step_num=step + 1),
                ):
                    state, metrics = stage.train_step(state, stage.put_batch(given.batch), stage.frozen)
                    dispatched = time.perf_counter()
                    step += 1
                    previous, pending = (
                        pending,
                        DispatchedStep(
                            step=step,
                            input=given,
                            metrics=metrics,
                            compiled=dispatched - fetched if step == first_step + 1 else None,
                            was_saving=saving.checkpointer.is_writing,
                        ),
                    )
                    if previous is not None:
                        reporter.read(previous)
                if profile is not None and profile.ends_with(step):
                    settle()
                    with reporter.away():
                        profile.stop(step)
                saving.checkpointer.poll()
                if _is_due(saving.every_steps, step=step, num_steps=num_steps):
                    save()
                look()
            settle()
            if profile is not None:
                profile.stop(step)
            if saved_step != step:
                save()
            saving.checkpointer.wait()
            group.may_begin(step, wish=stop.signal)  # told to stop while it was saved: not forgotten
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UserError(_memory_advice(error, memory)) from error
    if reporter.bad_in_a_row >= max_bad_steps:
        raise UserError(
            f"{reporter.bad_in_a_row} non-finite steps in a row, the last at step {step} "
            f"(train.max_bad_steps is {max_bad_steps}); the parameters before them are "
            "saved: look at the kept batches or lower optimizer.*.lr, then run the same command again"
        )
    stopped_by = None if group.stop_signal is None else Signals(group.stop_signal)
    return LoopResult(state=state, step=step, stopped_by=stopped_by)


def _is_due(every_steps: int, *, step: int, num_steps: int) -> bool:
    return step in (0, num_steps) or (every_steps > 0 and step % every_steps == 0)


def _evaluate(
    evaluation: Evaluation, state: TrainState, *, step: int, journal: Journal, display: Display
) -> None:
    started = time.perf_counter()
    record = evaluation.evaluate(state.params)
    values = {name: float(value) for name, value in record.items() if name in METRICS}
    for writer in journal.writers:
        writer.write(step, values)
    journal.evals.append({"step": step, **record, "seconds": round(time.perf_counter() - started, 3)})
    for name, value in values.items():
        display.validation(step, name, value)


def _sample(sampler: Sampler, state: TrainState, *, step: int, journal: Journal, display: Display) -> None:
    for sample in sampler.sample(state.params, step):
        journal.samples.append({"step": step, "prompt": sample.prompt, "text": sample.text})
        display.sample(step, sample.prompt, sample.text)


def _memory_by_kind(state: TrainState) -> Mapping[str, int]:
    """Bytes per device of what the configuration decides; activations are the rest."""
    return {
        "parameters": bytes_per_device(state.params),
        "gradients": gathered_bytes(state.params),
        "optimizer": bytes_per_device(state.opt_state),
    }


def _memory_advice(error: Exception, memory: Mapping[str, int]) -> str:
    limit = device_memory_bytes()
    known = ", ".join(f"{kind} {size / 2**30:.2f} GiB" for kind, size in memory.items())
    capacity = "" if limit is None else f" of {limit / 2**30:.2f} GiB"
    asked = " ".join(str(error).split()).removeprefix("RESOURCE_EXHAUSTED: ")[:120]
    return (
        f"out of memory on a device{capacity} ({known}, the rest activations; {asked}): halve "
        "train.device_batch_size, set model.remat=full, lower loss.chunk_tokens, or raise mesh.fsdp"
    )
