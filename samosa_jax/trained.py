"""Opens what training has left: a model with its parameters and tokenizer, and engines that run it.

    trained = open_trained(Path("runs/sft"))           # or a checkpoint; None: the newest of all runs
    engines = make_engines(trained, max_batch=16)

Parameters are read from disk straight onto the devices that use them, split as their mesh splits them. On
accelerators the large ones are kept in bfloat16, half the memory and half of what decoding has to read per
token; nothing is lost by it, because the network casts them to its compute dtype before every use. Gains and
gates, which it uses in float32, stay float32. CPUs compute, and keep everything, in float32.
"""

import dataclasses
import functools
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import jax

from samosa_jax.config import Config, MeshConfig
from samosa_jax.data.manifest import TOKENIZER_FOLDER
from samosa_jax.data.tokenizer import META_FILE, Tokenizer
from samosa_jax.errors import ConfigError, UserError
from samosa_jax.model.gpt import Network
from samosa_jax.model.lora import Adapters, merge_lora
from samosa_jax.model.params import Params
from samosa_jax.parallel.mesh import make_mesh
from samosa_jax.parallel.sharding import param_shardings
from samosa_jax.training.checkpoint import (
    SEAL,
    CheckpointRecord,
    check_params,
    find_fault,
    list_steps,
    quiet_orbax,
    read_record,
    restore_params,
    step_folder,
)
from samosa_jax.training.parents import find_by_seal, parent_places, places_of, run_of
from samosa_jax.training.resume import open_origin
from samosa_jax.training.state import abstract_params

if TYPE_CHECKING:
    from samosa_jax.rollout.engine import Engine

USED_PARTS = ("params", "run")  # of a checkpoint
ELEMENTWISE_GROUPS = ("residual", "scalar")  # what the network uses in float32, whatever it computes in


@dataclass(frozen=True, kw_only=True, eq=False)
class Trained:
    """A trained model, whose parameters are read when they are first asked for."""

    network: Network
    tokenizer: Tokenizer
    config: Config  # of the run
    folder: Path  # the checkpoint
    step: int
    name: str  # of the run
    devices: tuple[Any, ...]  # JAX devices that the engines may use
    base: Path | None  # the checkpoint that LoRA adapters are merged into
    notices: tuple[str, ...]  # what was passed over on the way

    @property
    def num_params(self) -> int:
        return sum(leaf.num_params for leaf in jax.tree.leaves(self.network.info))

    @functools.cached_property
    def params(self) -> Params:
        """The network's parameters, on the first device."""
        return self.params_on(make_mesh(MeshConfig(data=1), devices=self.devices[:1]))

    def params_on(self, mesh: jax.sharding.Mesh) -> Params:
        """The network's parameters, read from disk onto a mesh."""
        info, dtype = self.network.info, self.network.compute_dtype
        shardings = param_shardings(info, mesh)
        with quiet_orbax():
            params = restore_params(self.base or self.folder, abstract_params(info, mesh=mesh))
            if self.base is not None:
                adapters = restore_params(self.folder, abstract_params(_adapters(self).info, mesh=mesh))
                scale = self.config.lora.alpha / self.config.lora.rank
                merge = jax.jit(merge_lora, out_shardings=shardings, static_argnames="scale")
                params = merge(params, adapters, scale=scale)
        return jax.tree.map(
            lambda leaf, param: param if leaf.group in ELEMENTWISE_GROUPS else param.astype(dtype),
            info,
            params,
        )


def open_trained(
    path: Path | None,
    *,
    runs: Path = Path("runs"),
    step: int | None = None,
    tokenizer: Path | None = None,
    devices: Sequence[Any] | None = None,
) -> Trained:
    """The model of a run (its newest whole checkpoint) or of one checkpoint, every byte of it verified.

    Args:
        path: the folder of a run or of a checkpoint; None: the checkpoint under `runs` that was written last.
        step: the checkpoint of that step instead of the newest.
        tokenizer: its folder; None: the one that the run or its data name.
        devices: JAX devices that the engines may use; None: all.

    Raises:
        UserError: there is no such checkpoint, it is damaged, or its tokenizer or LoRA base is missing.
    """
    folder, notices = _find_checkpoint(path, runs=runs, step=step)
    record = read_record(folder)
    config = _config_of(record, folder)
    here = tuple(jax.devices() if devices is None else devices)
    is_cpu = here[0].platform == "cpu"
    trains_in_float32 = config.train.compute_dtype == "float32"
    network = Network.build(
        config.model, compute_dtype="float32" if is_cpu or trains_in_float32 else "bfloat16"
    )
    trained = Trained(
        network=network,
        tokenizer=_open_tokenizer(record, config, folder, named=tokenizer),
        config=config,
        folder=folder,
        step=record.step,
        name=config.name,
        devices=here,
        base=_find_base(record, config, folder) if config.lora.rank else None,
        notices=tuple(notices),
    )
    mesh = make_mesh(MeshConfig(data=1), devices=here[:1])
    if trained.base is not None:
        check_params(trained.base, abstract_params(network.info, mesh=mesh))
    own = network.info if trained.base is None else _adapters(trained).info
    check_params(folder, abstract_params(own, mesh=mesh))
    return trained


class NamesModel(Protocol):
    """Flags that say which model is meant; an empty text says nothing."""

    @property
    def run(self) -> str: ...  # a run or a checkpoint

    @property
    def runs(self) -> str: ...  # where the newest run is looked for

    @property
    def step(self) -> int | None: ...

    @property
    def tokenizer(self) -> str: ...


def open_named(flags: NamesModel, *, devices: Sequence[Any] | None = None) -> Trained:
    """The model that the flags of a command name, as `open_trained` opens it. Raises UserError."""
    return open_trained(
        Path(flags.run) if flags.run else None,
        runs=Path(flags.runs),
        step=flags.step,
        tokenizer=Path(flags.tokenizer) if flags.tokenizer else None,
        devices=devices,
    )


def tokenizer_of(folder: Path, *, named: Path | None) -> Tokenizer:
    """The one that a checkpoint was trained with: the one named, or the copy that its run or its data have.

    Raises UserError where it is none of these.
    """
    record = read_record(folder)
    return _open_tokenizer(record, _config_of(record, folder), folder, named=named)


def make_engines(
    trained: Trained, *, max_batch: int, context_len: int | None = None, replicas: int = 1, tensor: int = 1
) -> "list[Engine]":
    """Engines over the model's devices: `replicas` groups, each split over tensor parallelism and rows.

    Parameters are read from disk once, and copied from the first group to the others.

    Args:
        max_batch: answers in the making at once, of every engine.
        context_len: tokens of the longest dialogue; None: as many as the model was trained with.
        tensor: devices that heads and feed-forward width of a model are split over.

    Raises:
        UserError: devices or model do not divide like that, or the context is longer than that of training.
    """
    longest = trained.config.model.context_len
    if context_len is not None and not 1 < context_len <= longest:
        raise UserError(
            f"context_len is {context_len}; {trained.name} was trained with {longest} tokens: name from 2 to "
            "that many, or none for all of them"
        )
    num_devices = len(trained.devices)
    if replicas < 1 or tensor < 1 or num_devices % (replicas * tensor):
        raise UserError(
            f"{replicas} replicas of {tensor} devices (tensor) do not fill the {num_devices} devices here; "
            "choose two numbers whose product divides that"
        )
    if max_batch < 1:
        raise UserError(f"max_batch is {max_batch}; it must be at least 1")
    from samosa_jax.rollout.engine import Engine

    size = num_devices // replicas
    engines: list[Engine] = []
    read: Params | None = None
    for start in range(0, num_devices, size):
        mesh = make_mesh(MeshConfig(tensor=tensor), devices=trained.devices[start : start + size])
        if read is None:
            read = params = trained.params_on(mesh)
        else:
            params = jax.device_put(read, param_shardings(trained.network.info, mesh))
        engine = Engine(trained.network, params, mesh=mesh, max_batch=max_batch, context_len=context_len)
        engines.append(engine)
    return engines


def _find_checkpoint(path: Path | None, *, runs: Path, step: int | None) -> tuple[Path, list[str]]:
    """The newest whole checkpoint of those meant, and a line for each that was passed over."""
    notices: list[str] = []
    candidates = _candidates(path, runs=runs, step=step)
    for folder in candidates:
        fault = find_fault(folder, parts=USED_PARTS)
        if fault is None:
            return folder, notices
        notices.append(f"checkpoint {folder} is passed over: {fault}")
    fault = find_fault(candidates[0], parts=USED_PARTS)
    raise UserError(f"{candidates[0]} cannot be used: {fault}; name another run or checkpoint")


def _candidates(path: Path | None, *, runs: Path, step: int | None) -> list[Path]:
    """Checkpoints to try, best first; at least one."""
    if path is None:
        finished = sorted(runs.glob(f"*/checkpoints/*/{SEAL}"), key=lambda seal: seal.stat().st_mtime)
        if not finished:
            raise UserError(
                f"there is no run with a finished checkpoint under {runs}; train one with `samosa train` or "
                "`samosa quickstart`, or name its folder"
            )
        if step is None:
            return [seal.parent for seal in reversed(finished)]
        path = finished[-1].parents[2]
    if not path.is_dir():
        raise UserError(
            f"{path} does not exist; name the folder of a run or of a checkpoint, as in runs/base"
        )
    if (path / SEAL).exists() or (path / "run" / "metadata").exists():
        if step is not None and read_record(path).step != step:
            raise UserError(
                f"{path} is the checkpoint of another step than {step}; name the folder of its run"
            )
        return [path]
    checkpoints = path / "checkpoints"
    steps = [
        number for number in list_steps(checkpoints) if (step_folder(checkpoints, number) / SEAL).exists()
    ]
    if not steps:
        raise UserError(
            f"{path} is neither a run with a finished checkpoint nor a checkpoint; name a folder such as "
            "runs/base or runs/base/checkpoints/00001000"
        )
    if step is None:
        return [step_folder(checkpoints, number) for number in reversed(steps)]
    if step not in steps:
        known = ", ".join(map(str, steps))
        raise UserError(f"{path} has no finished checkpoint of step {step}; it has those of {known}")
    return [step_folder(checkpoints, step)]


def _config_of(record: CheckpointRecord, folder: Path) -> Config:
    try:
        return _built(Config, record.config)
    except (TypeError, AttributeError, ConfigError) as error:
        raise UserError(
            f"{folder} has a configuration that this version cannot read ({error}); use the version that "
            "wrote it"
        ) from error


def _built(kind: Any, value: Any) -> Any:
    """The inverse of `config.to_dict` for a field of this type."""
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        hints = typing.get_type_hints(kind)
        return kind(**{name: _built(hints.get(name), item) for name, item in value.items()})
    if typing.get_origin(kind) is tuple:
        return tuple(_built(typing.get_args(kind)[0], item) for item in value)
    return value


def _open_tokenizer(
    record: CheckpointRecord, config: Config, folder: Path, *, named: Path | None
) -> Tokenizer:
    """The one that the model was trained with, by its fingerprint."""
    places = [named] if named is not None else list(_tokenizer_places(config, folder))
    for place in places:
        if named is None and not (place / META_FILE).exists():
            continue
        tokenizer = Tokenizer.load(place)
        if tokenizer.fingerprint == record.tokenizer:
            return tokenizer
        if named is not None:
            raise UserError(
                f"tokenizer {named} ({tokenizer.fingerprint[:12]}) is not the one that {folder} was trained "
                f"with ({record.tokenizer[:12]}); name that one"
            )
    looked = ", ".join(dict.fromkeys(map(str, places)))
    raise UserError(
        f"{folder} was trained with tokenizer {record.tokenizer[:12]}, which is in none of {looked}; name "
        "its folder with --tokenizer=FOLDER, or copy it to the first of these"
    )


def _tokenizer_places(config: Config, folder: Path) -> Iterator[Path]:
    run = run_of(folder)
    yield run / TOKENIZER_FOLDER
    named = [config.tokenizer] if config.tokenizer else []
    for path in (*named, *(f"{source.path}/{TOKENIZER_FOLDER}" for source in config.data.sources)):
        yield from places_of(path, run=run, out_dir=config.out_dir, name=config.name)


def _find_base(record: CheckpointRecord, config: Config, folder: Path) -> Path:
    """The checkpoint whose parameters the adapters change, and not another one of the same name."""
    possible = parent_places(config.init_from, run=run_of(folder), out_dir=config.out_dir, name=config.name)
    places = [place for place in possible if place.is_dir()]
    if not places:
        raise UserError(
            f"{folder} holds LoRA adapters of {config.init_from}, which is not there; put it back, or run "
            "the command in the folder that the run was trained in"
        )
    # The newest checkpoint of that run may be a later one by now, so the others are looked at too.
    base = find_by_seal(places, record.data.get("begun_with"))
    if base is None:
        raise UserError(
            f"{folder} holds LoRA adapters of a checkpoint that {places[0]} does not hold any more; put it "
            "back"
        )
    return open_origin(str(base), tokenizer=record.tokenizer).folder


def _adapters(trained: Trained) -> Adapters:
    lora = trained.config.lora
    return Adapters(trained.network.info, rank=lora.rank, targets=lora.targets)
