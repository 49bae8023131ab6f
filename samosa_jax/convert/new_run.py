"""The folder of a run that begins with a model from elsewhere, as training would have left it.

    runs/NAME/  config.yaml  tokenizer/  checkpoints/STEP/

Everything that reads runs reads it: `--init_from`, `samosa chat`, `samosa serve`, `samosa export`. There is
no optimizer state in it and no place in any data, so training cannot go on in it, only from it.
"""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import optax

from samosa_jax.config import Config, ModelConfig, OptimizerConfig, TrainConfig, to_dict
from samosa_jax.data.tokenizer import Tokenizer
from samosa_jax.errors import UserError
from samosa_jax.model.params import Params
from samosa_jax.training.checkpoint import IMPORTED, Checkpointer, CheckpointRecord, quiet_orbax
from samosa_jax.training.environment import versions
from samosa_jax.training.run_folder import RunFolder, write_yaml
from samosa_jax.training.state import TrainState


@contextmanager
def unfinished_folder(folder: Path) -> Iterator[Path]:
    """A folder beside `folder`, which gets that name when the block ends well and is removed otherwise.

    Raises UserError if there is something of that name already, or the folder cannot be made.
    """
    check_free(folder)
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    try:
        if unfinished.exists():  # of a process that was killed
            shutil.rmtree(unfinished)
        unfinished.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"{unfinished} cannot be made ({error.strerror}); choose another --out") from error
    try:
        yield unfinished
        check_free(folder)
        unfinished.rename(folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def check_free(folder: Path) -> None:
    """Raises UserError if there is something of that name."""
    if folder.exists():
        raise UserError(f"{folder} exists already; remove it, or choose another name with --out=runs/NAME")


def write_run(
    folder: Path,
    *,
    name: str,
    out_dir: Path,
    model: ModelConfig,
    optimizer: OptimizerConfig,
    params: Params,
    tokenizer: Tokenizer,
    step: int,
    origin: Mapping[str, object],
) -> None:
    """Writes a run into an existing empty folder.

    Args:
        name, out_dir: what the run will be called and where it will stand, for its configuration.
        optimizer: what runs take over that begin with this one.
        params: float32 numpy arrays.
        step: of the training that made the model; 0 where that is not known.
        origin: what the checkpoint keeps of where the model comes from.

    Raises:
        UserError: the checkpoint cannot be written.
    """
    run = RunFolder(folder)
    rows = TrainConfig().device_rows
    train = TrainConfig(batch_tokens=rows * model.context_len)  # any number of whole rows
    config = Config(name=name, out_dir=str(out_dir), model=model, optimizer=optimizer, train=train)
    write_yaml(run.config, to_dict(config))
    run.keep_tokenizer(tokenizer)
    record = CheckpointRecord(
        step=step,
        config=to_dict(config),
        tokenizer=tokenizer.fingerprint,
        data={IMPORTED: dict(origin)},
        mesh={},
        versions=versions(),
        seconds_trained=0.0,
    )
    counter = np.asarray(step, np.int32)
    state = TrainState(
        step=counter, params=params, opt_state=optax.EmptyState(), bad_steps=np.zeros_like(counter)
    )
    run.checkpoints.mkdir()
    problems: list[str] = []
    with quiet_orbax():
        saver = Checkpointer(
            run.checkpoints, keep_last=1, milestone_steps=0, newest_good=step, say=problems.append
        )
        saver.save(state, record)
        saver.wait()
    if problems:
        raise UserError(
            " ".join(problems[0].removeprefix("WARNING: ").partition("; the run goes on")[0].split())
        )
