"""What a run begins with: nothing, another run's parameters, or a checkpoint of its own."""

import time
from pathlib import Path

import numpy as np

from samosa_jax.config import Config, to_dict
from samosa_jax.data.chat.preference_pipeline import PreferencePipeline
from samosa_jax.data.tokenizer import Tokenizer
from samosa_jax.errors import UserError
from samosa_jax.evals.promotion import check_promoted
from samosa_jax.model.params import Params
from samosa_jax.parallel.process_group import ProcessGroup
from samosa_jax.stage_evaluation import reference_log_probs
from samosa_jax.stages import Machinery
from samosa_jax.training.checkpoint import (
    check_params,
    check_state,
    read_record,
    restore_params,
    restore_state,
)
from samosa_jax.training.display import Display, format_seconds
from samosa_jax.training.resume import Origin, Start, check_moments, flatten, open_origin
from samosa_jax.training.run_folder import RunFolder, write_arrays
from samosa_jax.training.state import (
    TrainState,
    abstract_params,
    abstract_state,
    begin_again,
    create_state,
    state_from,
)


def begin_from(config: Config, *, start: Start, machinery: Machinery, tokenizer: Tokenizer) -> Origin | None:
    """The checkpoint of init_from, where it is still needed.

    Raises UserError if it is another one by now, or its gate has not let it pass.
    """
    if not config.init_from:
        return None
    if start.record is not None and not machinery.needs_origin:
        return None  # a run that goes on has no more use for it
    origin = open_origin(config.init_from, tokenizer=tokenizer.fingerprint)
    if start.record is None and not config.init_from_refused:
        check_promoted(origin.folder)
    if start.record is not None and start.record.data.get("begun_with") != origin.fingerprint:
        raise UserError(
            f"init_from: {origin.folder} is not the checkpoint that this run began with; name that one, or "
            "give the new run another name"
        )
    check_params(origin.folder, abstract_params(machinery.network.info, mesh=machinery.mesh))
    if start.record is None and config.init_optimizer == "kept":
        check_moments(origin.folder, optimizer=config.optimizer)
        check_state(origin.folder, _like(machinery))
    return origin


def describe_origin(config: Config, origin: Origin) -> str:
    """What a run begins with, and what of the model is not as it was."""
    before = flatten(read_record(origin.folder).config)
    now = flatten(to_dict(config))
    kinds = ("model.context_len", "model.window", "model.rope_", "model.hirope_")
    keys = [key for key in now if key.startswith(kinds) and key != "model.window_pattern"]
    changed = [f"{key} {before[key]} -> {now[key]}" for key in keys if before.get(key, now[key]) != now[key]]
    moments = "kept" if config.init_optimizer == "kept" else "fresh"
    return "; ".join([f"begins with {origin.folder}, optimizer state {moments}", *changed])


def read_origin(origin: Origin, machinery: Machinery) -> Params:
    """The parameters that a run begins with, those of the whole network, as it keeps them beside its own."""
    like = abstract_params(machinery.network.info, mesh=machinery.mesh)
    return machinery.reference(restore_params(origin.folder, like))


def begun_with_fingerprint(start: Start, origin: Origin | None) -> object:
    """Of the checkpoint whose parameters the run began with; None: random ones."""
    if origin is not None:
        return origin.fingerprint
    return start.record.data.get("begun_with") if start.record is not None else None


def find_reference(
    config: Config,
    *,
    group: ProcessGroup,
    run_folder: RunFolder,
    origin: Origin,
    machinery: Machinery,
    pipeline: PreferencePipeline,
    params: Params,
    display: Display,
) -> list[np.ndarray]:
    """The reference log-probabilities of every source, computed once in the life of a run."""
    key = "\n".join([origin.fingerprint, *(source.shards.fingerprint for source in pipeline.sources)])
    if group.share(run_folder.reference.exists())[0]:
        with np.load(run_folder.reference) as stored:
            if str(stored["key"]) == key:
                return [stored[f"source_{index}"] for index in range(len(pipeline.sources))]
    begun = time.perf_counter()
    tables = reference_log_probs(config, machinery, pipeline, params)
    arrays = {f"source_{index}": table for index, table in enumerate(tables)}
    if group.is_first:
        write_arrays(run_folder.reference, key=np.array(key), **arrays)
    seconds = format_seconds(time.perf_counter() - begun)
    display.say(f"reference log-probabilities of {sum(map(len, tables)):,} pairs computed in {seconds}")
    return tables


def make_state(
    machinery: Machinery,
    *,
    seed: int,
    folder: Path | None,
    origin: Origin | None,
    keep_optimizer: bool = False,
) -> TrainState:
    """Fresh, from the parameters of another run, or read from a checkpoint; made where it will live.

    `keep_optimizer`: with the moments of that run, too; its steps do not count.
    """
    trained, optimizer, mesh = machinery.trained, machinery.optimizer, machinery.mesh
    if folder is not None:
        return restore_state(folder, _like(machinery))
    if origin is None or trained is not machinery.network:
        return create_state(trained, optimizer, mesh=mesh, seed=seed)
    if keep_optimizer:
        return begin_again(restore_state(origin.folder, _like(machinery)))
    # To where the optimizer keeps them: whole on every device, their memory could not become the state's.
    params = restore_params(origin.folder, _like(machinery).params)
    return state_from(params, machinery.network.info, optimizer, mesh=mesh)


def _like(machinery: Machinery) -> TrainState:
    return abstract_state(machinery.trained, machinery.optimizer, mesh=machinery.mesh)
