"""Trains a model, or goes on with a run that was stopped.

    python -m samosa_jax.train --config=configs/quickstart.yaml --data=data/quickstart [--KEY=VALUE ...]

`--dry-run` builds everything, runs two steps on synthetic tokens and writes nothing; `--explain` shows where
each derived value comes from; `--print_config` prints the resolved configuration.

With eval.gate=FILE the finished run is held against a gate; one that is refused exits with 3, and no other
run begins with it (docs/probes_and_gates.md).

Running the same command again goes on from the newest whole checkpoint. SIGTERM and Ctrl-C finish the step
under way, save and exit with 143 and 130; a second Ctrl-C stops at once. Compiled programs are kept in
`$JAX_COMPILATION_CACHE_DIR`, by default `~/.cache/samosa_jax/xla`.
"""

import dataclasses
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing, nullcontext
from functools import partial
from pathlib import Path

import jax

from samosa_jax import command_line
from samosa_jax.announcing import announce, describe
from samosa_jax.batch_fitting import foresee, refuse_too_large, resolve_device_batch
from samosa_jax.beginning import (
    begin_from,
    begun_with_fingerprint,
    describe_origin,
    find_reference,
    make_state,
    read_origin,
)
from samosa_jax.compilation_cache import use_compilation_cache
from samosa_jax.config import Config, DistributedConfig, to_dict, with_rows
from samosa_jax.data.chat.preference_pipeline import PreferencePipeline
from samosa_jax.data.tokenizer import Tokenizer
from samosa_jax.errors import UserError
from samosa_jax.evals.plot import plot_loss
from samosa_jax.evaluate import REFUSED_EXIT
from samosa_jax.explain import explanation
from samosa_jax.feeding import Feed, PreparedFeed
from samosa_jax.gpu_settings import use_gpu_settings
from samosa_jax.model.params import Params
from samosa_jax.parallel.distributed import joined
from samosa_jax.parallel.process_group import ProcessGroup
from samosa_jax.parallel.sharding import param_shardings
from samosa_jax.reinforcement import (
    look_first,
    make_policy,
    open_prompts,
    open_rollouts,
    preflight_record,
)
from samosa_jax.rl.policy_stage import Policy
from samosa_jax.rl.prompts import PromptSource
from samosa_jax.same_start import check_alike, describe_program
from samosa_jax.sizes import flops_per_token
from samosa_jax.stage_evaluation import make_evaluations, make_samplers
from samosa_jax.stage_gate import check_gate, hold_against_gate
from samosa_jax.stages import (
    Machinery,
    Pipeline,
    build,
    fingerprints,
    make_push,
    make_speed,
    make_writers,
    open_pipeline,
    open_tokenizer,
    resolve_epochs,
    synthetic_batch,
)
from samosa_jax.training import loop
from samosa_jax.training.checkpoint import (
    Checkpointer,
    CheckpointRecord,
    quiet_orbax,
    step_folder,
)
from samosa_jax.training.display import Display, NoDisplay, format_seconds, make_display
from samosa_jax.training.environment import (
    bytes_per_device,
    device_memory_bytes,
    environment_record,
    peak_bytes,
    versions,
)
from samosa_jax.training.foresight import Reckoning
from samosa_jax.training.interrupts import exit_code
from samosa_jax.training.metrics import JsonLines, NoRecords, Records, Writer
from samosa_jax.training.profile import make_profile
from samosa_jax.training.resume import Origin, Start, check_resumable, find_start_together, inherited_values
from samosa_jax.training.run_folder import RunFolder, write_json, write_yaml
from samosa_jax.training.step_report import StepReporter
from samosa_jax.training.summary import summarize

LAST_PUSH_SECONDS = 600.0  # for what is not on the hub yet when the last step is done


def main(argv: list[str]) -> None:
    """Runs the command. Raises UserError; SystemExit with 143 or 130 when told to stop."""
    parsed = command_line.parse_config(argv, inherit=inherited_values)
    if parsed.explain:
        print(explanation(parsed.config))
        return
    use_gpu_settings()
    use_compilation_cache()
    with quiet_orbax():
        with joined(parsed.config.distributed) as group:
            # Where processes meet belongs to this start, not to the run.
            config = dataclasses.replace(parsed.config, distributed=DistributedConfig())
            if parsed.dry_run:
                dry_run(config, group=group)
                return
            stopped_by = train(config, argv=argv, group=group)
        if stopped_by is not None:
            sys.exit(exit_code(stopped_by))
        if config.eval.gate and not pass_gate(config):
            sys.exit(REFUSED_EXIT)


def pass_gate(config: Config) -> bool:
    """Holds the finished run against its gate, and says what came of it."""
    verdict = hold_against_gate(Path(config.out_dir) / config.name, config.eval, say=print)
    print("\n".join([*verdict.table(), verdict.stop_line]))
    return verdict.passed


def train(
    config: Config, *, argv: Sequence[str] = (), group: ProcessGroup | None = None
) -> signal.Signals | None:
    """One run from its start, or from its newest whole checkpoint, to its end or until told to stop.

    Returns the signal that stopped it, if any. `argv` is recorded in environment.json. `group` are the
    processes that train together; None: this one alone.
    """
    group = group or ProcessGroup()
    check_alike(group, describe_program(config), mend="start all with the same command and the same code")
    if not config.data.sources and config.content != "prompts":
        raise UserError(
            "data.sources is empty; name a folder written by `prepare`, as in --data=data/wikinews"
        )
    if config.eval.gate:
        check_gate(config.eval)
    run_folder = RunFolder(Path(config.out_dir) / config.name)
    start = find_start_together(group, run_folder, resume=config.checkpoint.resume)
    tokenizer = open_tokenizer(config)
    notices = list(start.notices)
    config = resolve_device_batch(
        resolve_epochs(config),
        recorded=start.record.config if start.record else None,
        say=notices.append,
    )
    config = with_rows(config, min(group.share(config.train.device_rows)))  # hosts may differ in free memory
    changes = []
    if start.record is not None:
        changes = check_resumable(
            start.record,
            config=to_dict(config),
            tokenizer=tokenizer.fingerprint,
            where=f"checkpoint {start.folder}",
        )
    data: Pipeline | PromptSource
    if config.content == "prompts":
        data = open_prompts(config)
    else:
        data = open_pipeline(config, state=start.record.data if start.record else None)
        check_alike(
            group,
            {f"data of {path}": str(value)[:12] for path, value in fingerprints(data).items()},
            mend="give all hosts the same prepared folders",
        )
    machinery = build(config)
    refuse_too_large(config, machinery, limit_bytes=device_memory_bytes(), say=notices.append)
    origin = begin_from(config, start=start, machinery=machinery, tokenizer=tokenizer)
    begun_with = read_origin(origin, machinery) if origin is not None and machinery.needs_origin else None
    policy = preflight = None
    if not isinstance(data, Pipeline):
        policy = make_policy(
            config,
            machinery,
            tokenizer,
            frozen=begun_with if machinery.needs_frozen else None,
            begun_with=begun_with,
        )
        if origin is not None and start.record is None and config.rl.preflight_prompts:
            # No name for what is read here: it would stay in memory.
            preflight = look_first(config, policy, data, begun_with or read_origin(origin, machinery))
    # From here on the folder of the run is written to.
    with run_folder.claimed(group):
        display: Display = NoDisplay()
        if group.is_first:
            run_folder.cut_back(start.step)
            write_yaml(run_folder.config, to_dict(config))
            run_folder.keep_tokenizer(tokenizer)
            environment = environment_record(
                machinery.mesh,
                argv=["-m", "samosa_jax.train", *argv],
                tokenizer_fingerprint=tokenizer.fingerprint,
                sources=fingerprints(data) if isinstance(data, Pipeline) else data.state(),
            )
            run_folder.note_start(environment, step=start.step)
            display = make_display(config.log.display, every_steps=config.log.every_steps, title=config.name)
        try:
            announce(config, machinery=machinery, data=data, run_folder=run_folder, display=display)
            if origin is not None and start.record is None:
                display.say(describe_origin(config, origin))
            if preflight is not None:
                write_json(run_folder.preflight, preflight_record(preflight, config))
                display.say(preflight.summary())
            for notice in notices:
                display.say(notice)
            if start.record is not None:
                display.say(f"going on from {start.folder}, step {start.step} of {config.train.num_steps}")
            if changes:
                display.say(f"changed since that checkpoint: {', '.join(changes)}")
            with (
                make_push(config, run_folder, first_step=start.step, say=display.say) or nullcontext() as push
            ):
                stopped_by = run_stage(
                    config,
                    start=start,
                    origin=origin,
                    begun_with=begun_with,
                    machinery=machinery,
                    data=data,
                    policy=policy,
                    tokenizer=tokenizer,
                    run_folder=run_folder,
                    display=display,
                    group=group,
                )
                if push is not None and stopped_by is None:
                    push.finish(seconds=LAST_PUSH_SECONDS)
            return stopped_by
        except KeyboardInterrupt:
            # The second Ctrl-C: threads that still write a checkpoint would hold up an ordinary exit.
            display.close()
            print("stopped at once; the same command goes on from the newest whole checkpoint", flush=True)
            os._exit(exit_code(signal.SIGINT))
        finally:
            display.close()


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


def dry_run(config: Config, *, group: ProcessGroup) -> None:
    """Two steps on random tokens, and what they cost. Writes nothing."""
    check_alike(group, describe_program(config), mend="start all with the same command and the same code")
    say = partial(print, flush=True) if group.is_first else lambda line: None
    config = resolve_device_batch(config, recorded=None, say=say)
    machinery = build(config)
    refuse_too_large(config, machinery, limit_bytes=device_memory_bytes(), say=say)
    for line in describe(config, machinery):
        say(line)
    batch = machinery.row_share.of(synthetic_batch(config))
    seconds, losses = [], []
    state = jax.block_until_ready(make_state(machinery, seed=config.seed, folder=None, origin=None))
    frozen = None
    if machinery.needs_frozen:
        shardings = param_shardings(machinery.network.info, machinery.mesh)
        frozen = jax.jit(machinery.network.init, out_shardings=shardings)(jax.random.key(config.seed))
    sizes = {"parameters": bytes_per_device(state.params), "optimizer": bytes_per_device(state.opt_state)}
    for _ in range(2):
        begun = time.perf_counter()
        state, metrics = machinery.train_step(state, machinery.put(batch), frozen)
        losses.append(float(jax.device_get(metrics.loss)))
        seconds.append(time.perf_counter() - begun)
    say(f"FLOPs per token: {flops_per_token(config.model):,}")
    say("bytes per device: " + ", ".join(f"{kind} {size:,}" for kind, size in sizes.items()))
    say(f"peak memory: {peak_bytes():,} bytes")
    say(f"losses: {losses[0]:.4f}, {losses[1]:.4f}")
    say(
        f"first step {seconds[0]:.2f} s (compilation with it), second step {seconds[1]:.3f} s, "
        f"{config.train.batch_tokens / seconds[1]:,.0f} tokens/s"
    )
    whole = format_seconds(seconds[1] * config.train.num_steps)
    say(f"the run would take {whole} at this pace; nothing was written")


if __name__ == "__main__":
    command_line.run(main)
