"""One start of a run, from its state to its summary: everything is handed to the loop."""

import signal
import sys
import time
from contextlib import ExitStack, closing
from functools import partial

from samosa_jax.batch_fitting import foresee
from samosa_jax.beginning import begun_with_fingerprint, find_reference, make_state
from samosa_jax.config import Config, to_dict
from samosa_jax.data.chat.preference_pipeline import PreferencePipeline
from samosa_jax.data.tokenizer import Tokenizer
from samosa_jax.errors import UserError
from samosa_jax.evals.plot import plot_loss
from samosa_jax.feeding import Feed, PreparedFeed
from samosa_jax.model.params import Params
from samosa_jax.parallel.process_group import ProcessGroup
from samosa_jax.reinforcement import open_rollouts
from samosa_jax.rl.policy_stage import Policy
from samosa_jax.rl.prompts import PromptSource
from samosa_jax.stage_evaluation import make_evaluations, make_samplers
from samosa_jax.stages import Machinery, Pipeline, make_speed, make_writers
from samosa_jax.training import loop
from samosa_jax.training.checkpoint import Checkpointer, CheckpointRecord, step_folder
from samosa_jax.training.display import Display
from samosa_jax.training.environment import versions
from samosa_jax.training.foresight import Reckoning
from samosa_jax.training.metrics import JsonLines, NoRecords, Records, Writer
from samosa_jax.training.profile import make_profile
from samosa_jax.training.resume import Origin, Start
from samosa_jax.training.run_folder import RunFolder, write_json
from samosa_jax.training.step_report import StepReporter
from samosa_jax.training.summary import summarize


def run_stage(
    config: Config,
    *,
    start: Start,
    origin: Origin | None,
    begun_with: Params | None,
    machinery: Machinery,
    data: Pipeline | PromptSource,
    policy: Policy | None,
    tokenizer: Tokenizer,
    run_folder: RunFolder,
    display: Display,
    group: ProcessGroup,
) -> signal.Signals | None:
    """Hands everything to the loop, then sums up. `policy` answers prompts, where these are the data."""
    begun = time.perf_counter()
    num_steps = config.train.num_steps
    seconds_before = start.record.seconds_trained if start.record else 0.0
    state = make_state(
        machinery,
        seed=config.seed,
        folder=start.folder,
        origin=origin,
        keep_optimizer=config.init_optimizer == "kept",
    )
    frozen = begun_with if machinery.needs_frozen else None
    if isinstance(data, PreferencePipeline) and config.dpo.reference == "precomputed":
        assert begun_with is not None  # Config asks for init_from
        assert origin is not None
        data.reference = find_reference(
            config,
            group=group,
            run_folder=run_folder,
            origin=origin,
            machinery=machinery,
            pipeline=data,
            params=begun_with,
            display=display,
        )
    checkpointer = Checkpointer(
        run_folder.checkpoints,
        keep_last=config.checkpoint.keep_last,
        milestone_steps=config.checkpoint.milestone_steps,
        newest_good=start.step,
        say=display.say if group.is_first else partial(print, f"{group.name}:", file=sys.stderr),
    )
    writers: list[Writer] = []
    evals: Records = NoRecords()
    samples: Records = NoRecords()
    if group.is_first:
        writers = make_writers(config, run_folder, first_step=start.step + 1, display=display)
        evals = JsonLines(run_folder.evals, say=display.say)
        samples = JsonLines(run_folder.samples, say=display.say)
    reporter = StepReporter(
        num_steps=num_steps,
        speed=make_speed(config, machinery.mesh),
        writers=writers,
        display=display,
        dump_folder=run_folder.bad_steps / (f"process_{group.index}" if group.index else ""),
        reckoning=Reckoning(foresee(config, machinery), path=run_folder.prediction, say=display.say)
        if group.is_first
        else None,
    )

    feed: Feed
    if isinstance(data, Pipeline):
        feed = PreparedFeed(data, first_step=start.step)
    else:
        assert policy is not None
        feed = open_rollouts(
            config,
            machinery,
            policy,
            data,
            run_folder,
            first_step=start.step,
            state=start.record.data if start.record else None,
            samples=samples,
            display=display,
        )

    def make_record(step: int) -> CheckpointRecord:
        return CheckpointRecord(
            step=step,
            config=to_dict(config),
            tokenizer=tokenizer.fingerprint,
            data={**feed.data_state(step), "begun_with": begun_with_fingerprint(start, origin)},
            mesh=dict(machinery.mesh.shape),
            versions=versions(),
            seconds_trained=seconds_before + time.perf_counter() - begun,
        )

    with ExitStack() as open_files:
        for writer in (*writers, evals, samples):
            open_files.callback(writer.close)
        open_files.enter_context(closing(feed))
        result = loop.run(
            state,
            stage=loop.Stage(
                next_batch=feed.next_batch,
                put_batch=machinery.put,
                train_step=machinery.train_step,
                frozen=frozen,
                on_policy=policy is not None,
                look_first=origin is not None,
                evaluations=make_evaluations(
                    config,
                    tokenizer=tokenizer,
                    machinery=machinery,
                    frozen=frozen,
                    begun_with=begun_with,
                    policy=policy,
                    display=display,
                ),
                samplers=make_samplers(config, tokenizer=tokenizer, machinery=machinery, frozen=frozen),
            ),
            first_step=start.step,
            num_steps=num_steps,
            saving=loop.Saving(
                checkpointer=checkpointer, every_steps=config.checkpoint.every_steps, make_record=make_record
            ),
            reporter=reporter,
            journal=loop.Journal(writers=writers, evals=evals, samples=samples),
            display=display,
            max_bad_steps=config.train.max_bad_steps,
            group=group,
            profile=make_profile(config.log, folder=run_folder.profile, say=display.say),
        )
    if not group.is_first:
        return result.stopped_by
    saved = checkpointer.last_good_step
    newest = step_folder(run_folder.checkpoints, saved) if saved else None
    summary = summarize(
        run_folder.metrics,
        num_steps=num_steps,
        seconds=seconds_before + time.perf_counter() - begun,
        cost_per_hour=config.log.cost_per_hour,
        checkpoint=newest,
    )
    display.close()
    for line in summary.lines():
        print(line)
    if saved != result.step:
        raise UserError(
            f"the state after step {result.step} could not be saved, the newest checkpoint is "
            f"{newest or 'none'}; make room and run the same command again"
        )
    if result.stopped_by is not None:
        print(
            f"stopped by {result.stopped_by.name} after step {result.step}; "
            "the same command goes on from there"
        )
        return result.stopped_by
    try:
        write_json(run_folder.summary, summary.as_dict())
        plot_loss(run_folder.metrics, run_folder.plot, title=config.name)
    except OSError as error:
        raise UserError(
            f"{run_folder.path}: summary and plot cannot be written ({error.strerror}), the model is saved; "
            "make room and run the same command again"
        ) from error
    print(f"loss curve: {run_folder.plot}")
    return None
