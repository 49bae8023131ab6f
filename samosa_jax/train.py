"""Trains a model, or goes on with a run that was stopped.

    python -m samosa_jax.train --config=configs/quickstart.yaml --data=data/quickstart/text [--KEY=VALUE ...]

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
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from samosa_jax import command_line
from samosa_jax.announcing import announce
from samosa_jax.batch_fitting import refuse_too_large, resolve_device_batch
from samosa_jax.beginning import begin_from, describe_origin, read_origin
from samosa_jax.compilation_cache import use_compilation_cache
from samosa_jax.config import Config, DistributedConfig, to_dict, with_rows
from samosa_jax.dry_run import dry_run
from samosa_jax.errors import UserError
from samosa_jax.evaluate import REFUSED_EXIT
from samosa_jax.explain import explanation
from samosa_jax.gpu_settings import use_gpu_settings
from samosa_jax.parallel.distributed import joined
from samosa_jax.parallel.process_group import ProcessGroup
from samosa_jax.reinforcement import look_first, make_policy, open_prompts, preflight_record
from samosa_jax.rl.prompts import PromptSource
from samosa_jax.same_start import check_alike, describe_program
from samosa_jax.stage_gate import check_gate, hold_against_gate
from samosa_jax.stage_run import run_stage
from samosa_jax.stages import (
    Pipeline,
    build,
    fingerprints,
    make_push,
    open_pipeline,
    open_tokenizer,
    resolve_epochs,
)
from samosa_jax.training.checkpoint import quiet_orbax
from samosa_jax.training.display import Display, NoDisplay, make_display
from samosa_jax.training.environment import device_memory_bytes, environment_record
from samosa_jax.training.interrupts import exit_code
from samosa_jax.training.resume import check_resumable, find_start_together, inherited_values
from samosa_jax.training.run_folder import RunFolder, write_json, write_yaml

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


if __name__ == "__main__":
    command_line.run(main)
