"""What may change between a checkpoint and the command that goes on from it, and what may not.

**May not** (another model, or another order of data): `seed`, `stage`, `init_optimizer`, `model.*` except how
it is computed, `lora.*`, `data.document_masking`, `chat.too_long`, `train.batch_tokens`,
`optimizer.GROUP.kind`, what rollouts are made of and cut into (`rl.tasks`, `rl.curriculum`, `rl.prompts`,
`rl.samples`, `rl.minibatches`, `rl.epochs`), the tokenizer, the model that the run began with, and the text
and weights of `data.sources` (paths may).

**May**: everything else. What changes the numbers from here on, such as `train.num_steps`, learning rates,
the mesh or `train.compute_dtype`, is said aloud; how a run is shown, saved and evaluated is not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samosa_jax.config import Config, OptimizerConfig, to_dict
from samosa_jax.errors import UserError
from samosa_jax.keys import keys_of
from samosa_jax.parallel.process_group import ProcessGroup
from samosa_jax.training.checkpoint import (
    SEAL,
    CheckpointRecord,
    find_fault,
    find_newest_good,
    list_steps,
    read_record,
    seal_digest,
    step_folder,
)
from samosa_jax.training.run_folder import RunFolder

FIXED = (
    *(
        "seed",
        "stage",
        "init_optimizer",
        "model.",
        "data.document_masking",
        "train.batch_tokens",
        "chat.too_long",
        "lora.",
    ),
    *("rl.tasks", "rl.prompts", "rl.samples", "rl.minibatches", "rl.epochs", "rl.curriculum."),
)
FREE = (
    "name",
    "out_dir",
    "init_from",  # a path; its fingerprint is compared
    "tokenizer",  # likewise
    "model.architecture",  # what it allows is compared
    "model.depth",  # what follows from it is compared
    "model.remat",
    "model.unroll_layers",
    "model.attention",
    "data.sources",  # compared by content, by the pipeline
    "data.wait_for_shards",
    "data.num_threads",
    "data.prefetch_batches",
    "train.horizon",  # what follows from it is train.num_steps
    "train.horizon_value",
    "train.max_bad_steps",
    "train.push_",
    "rl.data_dir",  # compared by content, by the source of prompts
    "rl.show_every_steps",
    "rl.preflight_prompts",
    "rl.ignore_preflight",
    "rl.held_out.",
    "eval.",
    "sample.",
    "checkpoint.",
    "log.",
    "distributed.",
)


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where training begins: nowhere, or in a checkpoint."""

    folder: Path | None  # the checkpoint
    record: CheckpointRecord | None
    notices: Sequence[str]  # what was passed over

    @property
    def step(self) -> int:
        return self.record.step if self.record else 0


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The checkpoint whose parameters a run begins with."""

    folder: Path
    fingerprint: str  # of all its files


def find_origin(path: str) -> Path:
    """The checkpoint that init_from means: that folder, or the newest whole one of a run.

    Raises UserError if there is none.
    """
    folder = Path(path)
    if (folder / SEAL).exists():
        return folder
    checkpoints = folder / "checkpoints" if (folder / "checkpoints").is_dir() else folder
    steps = [step for step in list_steps(checkpoints) if (step_folder(checkpoints, step) / SEAL).exists()]
    if not steps:
        raise UserError(
            f"init_from: {path} is neither a run with a finished checkpoint nor a checkpoint; name a folder "
            "such as runs/base or runs/base/checkpoints/00001000"
        )
    return step_folder(checkpoints, steps[-1])


def open_origin(path: str, *, tokenizer: str) -> Origin:
    """The checkpoint that init_from means, every byte of it verified.

    Raises UserError if it is damaged, or its model was trained with another tokenizer than this one.
    """
    folder = find_origin(path)
    fault = find_fault(folder)
    if fault is not None:
        raise UserError(f"init_from: checkpoint {folder} cannot be used: {fault}; name another one")
    trained_with = read_record(folder).tokenizer
    if trained_with != tokenizer:
        raise UserError(
            f"init_from: {folder} was trained with tokenizer {trained_with[:12]}, the data was prepared with "
            f"{tokenizer[:12]}; prepare the data with the tokenizer of that run"
        )
    return Origin(folder=folder, fingerprint=seal_digest(folder))


def inherited_values(given: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a run takes over from the one that init_from names: the model, its optimizer and its loss.

    Where rotary angles are scaled for the first time, the factor follows from the two context lengths.
    """
    path = given.get("init_from")
    if not path:
        return {}
    keys = keys_of(Config).keys() - {"model.depth", "optimizer.lr_scale"}
    values = flatten(read_record(find_origin(path)).config)
    inherited = {
        key: value
        for key, value in values.items()
        if key in keys and key.startswith(("model.", "optimizer.", "loss."))
    }
    before = inherited.get("model.rope_scaling_type", "none")
    now = given.get("model.rope_scaling_type", before)
    if now == "none":
        inherited |= {"model.rope_scaling_factor": 1.0, "model.original_context_len": None}
    elif before == "none":
        original = inherited["model.context_len"]
        inherited["model.original_context_len"] = original
        inherited["model.rope_scaling_factor"] = given.get("model.context_len", original) / original
    return inherited


def check_moments(origin: Path, *, optimizer: OptimizerConfig) -> None:
    """Raises UserError unless a checkpoint holds the moments that this optimizer goes on with."""
    mend = "set init_optimizer=fresh, which begins with none"
    record = read_record(origin)
    if record.imported_from:
        raise UserError(f"init_optimizer is kept, but {origin} is an imported model, which has none; {mend}")
    before = flatten(record.config)
    for name, group in optimizer.groups.items():
        key = f"optimizer.{name}.kind"
        if before.get(key) != group.kind:
            raise UserError(
                f"init_optimizer is kept, but {key} is {group.kind}, and {origin} has the moments of "
                f"{before.get(key)}; {mend}"
            )
    clipped = optimizer.clip_norm is not None
    if (before.get("optimizer.clip_norm") is not None) != clipped:
        raise UserError(
            f"init_optimizer is kept, but optimizer.clip_norm is {optimizer.clip_norm}, and {origin} was "
            f"trained with {before.get('optimizer.clip_norm')}; {mend}"
        )


def find_start(run_folder: RunFolder, *, resume: str) -> Start:
    """Raises UserError where checkpoint.resume forbids what is found."""
    notices: list[str] = []
    if resume == "never":
        if run_folder.is_used:
            raise UserError(
                f"{run_folder.path} holds a run already and checkpoint.resume is never; give this one "
                "another name, or set checkpoint.resume=auto to go on with that run"
            )
        return Start(folder=None, record=None, notices=notices)
    folder = find_newest_good(run_folder.checkpoints, say=notices.append)
    if folder is None and resume == "must":
        raise UserError(
            f"checkpoint.resume is must, but {run_folder.checkpoints} has no whole checkpoint; check name "
            "and out_dir, or set checkpoint.resume=auto"
        )
    if folder is None and run_folder.is_used:
        notices.append(f"{run_folder.path} has no finished checkpoint: the run begins again")
    record = None if folder is None else read_record(folder)
    if record is not None and record.imported_from:
        raise UserError(
            f"{run_folder.path} holds an imported model, with no optimizer state and no place in any data; "
            f"begin a run of another name with --init_from={run_folder.path}"
        )
    return Start(folder=folder, record=record, notices=notices)


def find_start_together(group: ProcessGroup, run_folder: RunFolder, *, resume: str) -> Start:
    """`find_start`, by process 0 for all: no other one may find something else, or verify it again."""
    found = find_start(run_folder, resume=resume) if group.is_first else None
    told = None if found is None else {"folder": str(found.folder or ""), "notices": list(found.notices)}
    first = group.share(told)[0]
    if found is not None:
        return found
    folder = Path(first["folder"]) if first["folder"] else None
    record = None if folder is None else read_record(folder)
    return Start(folder=folder, record=record, notices=first["notices"])


def check_resumable(
    record: CheckpointRecord, *, config: Mapping[str, Any], tokenizer: str, where: str
) -> list[str]:
    """What changed since the checkpoint and matters, as "key old -> new".

    `config` is the present one as nested dicts, `tokenizer` the present fingerprint, `where` names the
    checkpoint in errors.

    Raises:
        UserError: something that may not change did; names the first such key and both values.
    """
    mend = "set it back to go on with this run, or give the new run another name"
    if record.tokenizer != tokenizer:
        raise UserError(
            f"{where} was trained with tokenizer {record.tokenizer[:12]}, the one in use is "
            f"{tokenizer[:12]}; use the tokenizer it was trained with, or give the new run another name"
        )
    # A version before may have known fewer keys, and did then what their defaults say.
    defaults = flatten(to_dict(Config()))
    before, now = flatten(record.config), flatten(config)
    notices = []
    for key in sorted(before.keys() | now.keys(), key=lambda key: (not key.startswith("model."), key)):
        old, new = before.get(key, defaults.get(key)), now.get(key)
        if old == new or key.startswith(FREE):
            continue
        if key.startswith(FIXED) or (key.startswith("optimizer.") and key.endswith(".kind")):
            raise UserError(f"{key} is {new}, but {where} was trained with {old}; {mend}")
        notices.append(f"{key} {old} -> {new}")
    steps = now["train.num_steps"]
    if record.step > steps:
        raise UserError(
            f"train.num_steps is {steps}, but {where} is at step {record.step} already; raise it, "
            "or give the new run another name"
        )
    return notices


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts by dotted key."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
