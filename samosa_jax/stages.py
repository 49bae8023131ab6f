"""What a run of each stage is made of, each part built from its configuration.

Stages differ in their data (text, conversations, preference pairs, prompts), in the loss and in what is
evaluated; in what is trained (all parameters, or adapters) and in what it begins with. The loop knows none of
this.
"""

import dataclasses
import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from samosa_kernels import Device

from samosa_jax.config import Config, require, to_dict, with_steps
from samosa_jax.data.chat.epoch_pipeline import open_items
from samosa_jax.data.chat.opening import open_epoch_pipeline
from samosa_jax.data.chat.pipeline import ChatBatch, ChatPipeline
from samosa_jax.data.chat.preference_batch import PreferenceBatch
from samosa_jax.data.chat.preference_pipeline import PreferencePipeline, pairs_per_row
from samosa_jax.data.chat.template import Role
from samosa_jax.data.packing import make_batch
from samosa_jax.data.pipeline import TrainPipeline
from samosa_jax.data.tokenizer import Tokenizer
from samosa_jax.errors import ConfigError, UserError
from samosa_jax.gpu_settings import step_options
from samosa_jax.mesh_sizes import check_mesh
from samosa_jax.model.gpt import Network
from samosa_jax.model.lora import Adapters, make_lora_loss, merge_lora
from samosa_jax.model.params import Params, in_compute_dtype
from samosa_jax.parallel.mesh import make_mesh
from samosa_jax.parallel.rows import RowShare, row_share
from samosa_jax.parallel.sharding import param_shardings
from samosa_jax.rl.policy_loss import PolicyBatch, make_policy_loss, skip_empty
from samosa_jax.sizes import flops_per_token
from samosa_jax.trained import tokenizer_of
from samosa_jax.training.background_push import BackgroundPush
from samosa_jax.training.chat_loss import make_chat_loss
from samosa_jax.training.display import Display
from samosa_jax.training.environment import check_matmul_dtype, peak_half_flops
from samosa_jax.training.losses import LossFn, make_pretrain_loss
from samosa_jax.training.metrics import JsonLines, TensorBoardWriter, WandbWriter, Writer
from samosa_jax.training.optim import make_optimizer
from samosa_jax.training.preference import make_dpo_loss
from samosa_jax.training.resume import find_origin
from samosa_jax.training.run_folder import RunFolder
from samosa_jax.training.schedules import make_schedule
from samosa_jax.training.state import Trainable, state_shardings
from samosa_jax.training.step import make_train_step, put_batch
from samosa_jax.training.step_report import Speed

Pipeline = TrainPipeline | ChatPipeline | PreferencePipeline


@dataclass(frozen=True, kw_only=True)
class Machinery:
    """What the configuration builds, before any data or parameters."""

    mesh: jax.sharding.Mesh
    network: Network
    trained: Trainable  # the network, or adapters of it
    lora_scale: float | None  # None: the network itself is trained
    needs_frozen: bool  # whether the step takes the parameters that the run began with
    needs_origin: bool  # whether anything does
    optimizer: optax.GradientTransformation
    loss_fn: LossFn  # as the step takes it
    train_step: jax.stages.Wrapped  # a TrainStep
    rows_at_once: int  # of a microbatch, over all devices
    row_share: RowShare  # what this process holds of every batch

    @property
    def row_devices(self) -> int:
        """Devices that rows are spread over."""
        return self.mesh.shape["data"] * self.mesh.shape["fsdp"]

    def put(self, batch: Any) -> Any:
        rows = jax.tree.leaves(batch)[0].shape[0] * self.row_share.count
        # The guard of the loop takes this for an implicit transfer where there are several processes.
        with jax.transfer_guard_host_to_device("allow"):
            return put_batch(batch, num_microbatches=rows // self.rows_at_once, mesh=self.mesh)

    def whole(self, params: Params, frozen: Params | None) -> Params:
        """The network's parameters as networks read them, of what is trained and what it began with.

        Where the state is spread over replicas every device gets a copy, in the compute dtype.
        """
        if self.lora_scale is not None:
            return self._merged(frozen, params)
        return params if self.mesh.shape["data"] == 1 else self._computed(params)

    def reference(self, params: Params) -> Params:
        """What the run begins with, to be kept beside the state; takes `params` over.

        Adapters are merged into float32. Everything else only computes with it.
        """
        return params if self.lora_scale is not None else self._computed(params)

    @functools.cached_property
    def _computed(self) -> Callable[[Params], Params]:
        info, dtype = self.network.info, self.network.compute_dtype
        cast = functools.partial(in_compute_dtype, info=info, dtype=dtype)
        return jax.jit(cast, out_shardings=param_shardings(info, self.mesh))

    @functools.cached_property
    def _merged(self) -> Callable[[Params | None, Params], Params]:
        scale = self.lora_scale
        assert scale is not None
        merge = functools.partial(merge_lora, scale=scale)
        return jax.jit(merge, out_shardings=param_shardings(self.network.info, self.mesh))


def build(config: Config, *, devices: Sequence[Any] | None = None) -> Machinery:
    """The parts of a run on `devices`: JAX devices, by default all that are here; they may be compile-only.

    Raises:
        ConfigError: model or batch do not divide over the devices.
    """
    mesh = make_mesh(config.mesh, devices=devices)
    check_mesh(config, mesh.size)
    device = mesh.devices.flat[0]
    dtype = config.train.dtype_on(device.platform)
    network = Network.build(config.model, compute_dtype=dtype)
    matmul_dtype = config.train.matmul_dtype
    check_matmul_dtype(matmul_dtype, Device(platform=device.platform, kind=device.device_kind))
    # The loss alone: evaluations, samples and whoever reads the checkpoint compute in the compute dtype.
    loss_fn = make_loss(config, dataclasses.replace(network, matmul_dtype=matmul_dtype))
    trained: Trainable = network
    lora_scale = None
    if config.lora.rank:
        trained = Adapters(network.info, rank=config.lora.rank, targets=config.lora.targets)
        lora_scale = config.lora.alpha / config.lora.rank
        loss_fn = make_lora_loss(loss_fn, scale=lora_scale)
    optimizer = make_optimizer(
        config.optimizer, config.schedule, num_steps=config.train.num_steps, info=trained.info
    )
    factor = make_schedule(config.schedule, num_steps=config.train.num_steps)
    rate = config.optimizer.lr_scale * config.optimizer.matrix.lr
    train_step = make_train_step(
        loss_fn,
        optimizer,
        learning_rate=lambda step: rate * factor(step),
        shardings=state_shardings(trained.info, optimizer, mesh=mesh),
        cast=lambda params: params if lora_scale else in_compute_dtype(params, network.info, dtype),
        compiler_options=step_options(matmul_dtype, platform=device.platform),
    )
    references = {
        "dpo": config.dpo.reference,
        "grpo": config.rl.reference if config.rl.kl_coef else None,
    }
    reference = references.get(config.stage)
    return Machinery(
        mesh=mesh,
        network=network,
        trained=trained,
        lora_scale=lora_scale,
        needs_frozen=lora_scale is not None or reference == "frozen",
        needs_origin=lora_scale is not None or reference is not None,
        optimizer=optimizer,
        loss_fn=loss_fn,
        train_step=train_step,
        rows_at_once=config.train.device_rows * mesh.shape["data"] * mesh.shape["fsdp"],
        row_share=row_share(mesh),
    )


def make_loss(config: Config, network: Network) -> LossFn:
    """Of the stage, in the parameters of the whole network."""
    if config.content == "preferences":
        return make_dpo_loss(
            network,
            beta=config.dpo.beta,
            label_smoothing=config.dpo.label_smoothing,
            loss_type=config.dpo.loss_type,
            length_normalized=config.dpo.length_normalized,
            chunk_tokens=config.loss.chunk_tokens,
            reference=config.dpo.reference,
        )
    if config.content == "prompts":
        policy_loss = make_policy_loss(
            network,
            clip_low=config.rl.clip_low,
            clip_high=config.rl.clip_high,
            kl_coef=config.rl.kl_coef,
            reference=config.rl.reference,
            chunk_tokens=config.loss.chunk_tokens,
        )
        return skip_empty(policy_loss)
    make = make_pretrain_loss if config.content == "text" else make_chat_loss
    return make(network, z_loss=config.loss.z_loss, chunk_tokens=config.loss.chunk_tokens)


def open_tokenizer(config: Config) -> Tokenizer:
    """The one named, or the copy beside the data. Raises UserError if it is not the data's or the model's.

    Of a stage that has no data: the one that the model it begins with was trained with.
    """
    if config.content == "prompts":
        named = Path(config.tokenizer) if config.tokenizer else None
        return tokenizer_of(find_origin(config.init_from), named=named)
    shards = open_items(config.data.sources[0].path, config.content)
    folder = Path(config.tokenizer) if config.tokenizer else shards.tokenizer_dir
    tokenizer = Tokenizer.load(folder)
    if tokenizer.fingerprint != shards.tokenizer_fingerprint:
        raise UserError(
            f"tokenizer {folder} ({tokenizer.fingerprint[:12]}) is not the one that {shards.folder} was "
            f"prepared with ({shards.tokenizer_fingerprint[:12]}); leave "
            "`tokenizer` empty to use the data's own"
        )
    if tokenizer.vocab_size != config.model.vocab_size:
        raise UserError(
            f"model.vocab_size is {config.model.vocab_size}, but tokenizer {folder} has "
            f"{tokenizer.vocab_size} tokens; set model.vocab_size={tokenizer.vocab_size}"
        )
    return tokenizer


def open_pipeline(config: Config, *, state: Mapping[str, Any] | None) -> Pipeline:
    """`state` is the data state of the checkpoint to go on from; None: a new run."""
    share = row_share(make_mesh(config.mesh))
    reading: dict[str, Any] = {
        "batch_rows": config.batch_rows,
        "context_len": config.model.context_len,
        "seed": config.seed,
        "num_threads": config.data.num_threads,
        "prefetch_batches": config.data.prefetch_batches,
        "process_index": share.index,
        "process_count": share.count,
        "state": state,
    }
    if config.content == "text":
        for source in config.data.sources:
            open_items(source.path, "text")
        return TrainPipeline(
            config.data.sources,
            document_masking=config.data.document_masking,
            wait_for_shards=config.data.wait_for_shards,
            **reading,
        )
    if config.content == "prompts":
        raise ValueError("prompts are not prepared; `reinforcement.open_prompts` opens them")
    return open_epoch_pipeline(
        config.data.sources,
        content=config.content,
        curriculum=config.chat.curriculum_for(config.stage),
        num_steps=config.train.num_steps,
        too_long=config.chat.too_long,
        **reading,
    )


def resolve_epochs(config: Config) -> Config:
    """With train.horizon=epochs: the configuration with the steps that so many epochs of its data take.

    Raises:
        ConfigError: train.num_steps is given and says otherwise, or what depends on it does not fit.
        UserError: data.sources names no data, or none that can be read.
    """
    train = config.train
    if train.horizon != "epochs":
        return config
    if not config.data.sources:
        raise UserError("train.horizon is epochs, which the data measures; name it, as in --data=data/chat")
    pipeline = open_pipeline(config, state=None)
    assert not isinstance(pipeline, TrainPipeline)  # Config has checked it
    num_steps = pipeline.steps_in(train.horizon_value)
    require(
        train.num_steps in (0, num_steps),
        f"train.num_steps is {train.num_steps}, but {train.horizon_value:g} epochs of the data "
        f"(train.horizon=epochs) are {num_steps}; drop train.num_steps, or set train.horizon=steps",
    )
    try:
        return with_steps(config, num_steps)
    except ConfigError as error:
        raise ConfigError(
            f"{train.horizon_value:g} epochs are {num_steps} steps of {train.batch_tokens} tokens: {error}"
        ) from error


def describe_data(config: Config, pipeline: Pipeline) -> list[str]:
    """A line for each source: what of it is read."""
    if isinstance(pipeline, TrainPipeline):
        weights = sum(source.weight for source in config.data.sources)
        return [
            f"data: {source.path}, {source.weight / weights:.1%} of the rows, "
            f"{opened.stream.shards.num_tokens:,} tokens in {opened.stream.shards.num_documents:,} documents"
            for source, opened in zip(config.data.sources, pipeline.sources, strict=True)
        ]
    rows = pipeline.rows.rows_in(1)
    return [
        *(f"data: {source.path}, {source.summary()}" for source in pipeline.sources),
        f"an epoch: {pipeline.rows.num_items:,} items in {rows:,} rows, {pipeline.rows.filled():.1%} of "
        f"their positions filled, {pipeline.steps_in(1):,} steps",
    ]


def fingerprints(pipeline: Pipeline) -> dict[str, Any]:
    """Of the text, conversations or pairs of every source, by path."""
    if isinstance(pipeline, TrainPipeline):
        return {source.path: source.state()["fingerprint"] for source in pipeline.sources}
    return {source.path: source.shards.fingerprint for source in pipeline.sources}


def synthetic_batch(config: Config) -> Any:
    """A full batch of the stage's kind, of random tokens."""
    random = np.random.default_rng(config.seed)
    rows, length = config.batch_rows, config.model.context_len
    tokens = random.integers(config.model.vocab_size, size=(rows, length + 1), dtype=np.int32)
    batch = make_batch(tokens[:, :-1], tokens[:, 1:], np.zeros((rows, length), bool), document_masking=True)
    if config.content == "text":
        return batch
    if config.content == "prompts":
        some = np.zeros((rows, length), np.float32)
        return PolicyBatch(batch=batch, advantages=some, sampler=some, old=some, reference=some)
    if config.content == "conversations":
        return ChatBatch(batch, np.full((rows, length), Role.ASSISTANT, np.uint8))
    half = np.arange(length) >= length // 2
    pairs = np.zeros((rows, pairs_per_row(length)), np.float32)
    pairs[:, 0] = 1
    sequence = np.broadcast_to(half.astype(np.int32), (rows, length))
    reference = np.zeros((*pairs.shape, 2), np.float32)
    return PreferenceBatch(batch=batch, sequence=sequence, pairs=pairs, reference=reference)


def make_writers(config: Config, run_folder: RunFolder, *, first_step: int, display: Display) -> list[Writer]:
    """metrics.jsonl, and what the configuration asks for beside it."""
    writers: list[Writer] = [JsonLines(run_folder.metrics, say=display.say)]
    if config.log.tensorboard:
        writers.append(TensorBoardWriter(run_folder.tensorboard, first_step=first_step))
    if config.log.wandb_project:
        writers.append(
            WandbWriter(
                run_folder.path, project=config.log.wandb_project, name=config.name, config=to_dict(config)
            )
        )
    return writers


def make_push(
    config: Config, run_folder: RunFolder, *, first_step: int, say: Callable[[str], None]
) -> BackgroundPush | None:
    """What pushes the run's checkpoints to the hub while it trains, if that is asked for; once per run."""
    repo = config.train.push_to
    if not repo or jax.process_index() != 0:
        return None
    command = [
        sys.executable,
        "-m",
        "samosa_jax.push",
        str(run_folder.path),
        repo,
        "--private",
        "--newest_only",
    ]
    return BackgroundPush(
        command,
        name=repo,
        checkpoints=run_folder.checkpoints,
        every_steps=config.train.push_every,
        first_step=first_step,
        say=say,
    )


def make_speed(config: Config, mesh: jax.sharding.Mesh) -> Speed:
    """What the pace of the run is measured by: its tokens and FLOPs, and the peak of its devices."""
    device = mesh.devices.flat[0]
    peak = peak_half_flops(Device(platform=device.platform, kind=device.device_kind))
    return Speed(
        tokens_per_step=config.train.batch_tokens,
        flops_per_token=flops_per_token(config.model),
        peak_flops=None if peak is None else peak * mesh.size,
    )
