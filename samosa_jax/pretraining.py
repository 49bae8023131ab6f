"""What a pretraining run is made of, each part built from its configuration."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import optax

from samosa_jax.config import Config, to_dict
from samosa_jax.data.batch import Batch
from samosa_jax.data.pipeline import TrainPipeline, validation_batches
from samosa_jax.data.shards import ShardSet
from samosa_jax.data.tokenizer import Tokenizer
from samosa_jax.errors import UserError
from samosa_jax.evals.bits_per_byte import make_bits_per_byte
from samosa_jax.mesh_sizes import check_mesh
from samosa_jax.model.gpt import Network
from samosa_jax.model.params import Params
from samosa_jax.parallel.mesh import make_mesh
from samosa_jax.rollout.sample import make_sampler
from samosa_jax.sizes import flops_per_token
from samosa_jax.training import loop
from samosa_jax.training.display import Display
from samosa_jax.training.environment import peak_flops
from samosa_jax.training.losses import make_pretrain_loss
from samosa_jax.training.metrics import JsonLines, TensorBoardWriter, WandbWriter, Writer
from samosa_jax.training.optim import make_optimizer
from samosa_jax.training.run_folder import RunFolder
from samosa_jax.training.schedules import make_schedule
from samosa_jax.training.state import state_shardings
from samosa_jax.training.step import TrainStep, make_train_step, put_batch
from samosa_jax.training.step_report import Speed


@dataclass(frozen=True, kw_only=True)
class Machinery:
    """What the configuration builds, before any data or parameters."""

    mesh: jax.sharding.Mesh
    network: Network
    optimizer: optax.GradientTransformation
    train_step: TrainStep
    num_microbatches: int

    def put(self, batch: Batch) -> Any:
        return put_batch(batch, num_microbatches=self.num_microbatches, mesh=self.mesh)


def build(config: Config) -> Machinery:
    """Raises ConfigError if model or batch do not divide over the devices."""
    mesh = make_mesh(config.mesh)
    check_mesh(config, mesh.size)
    dtype = config.train.compute_dtype
    if dtype == "auto":
        dtype = "float32" if mesh.devices.flat[0].platform == "cpu" else "bfloat16"
    network = Network.build(config.model, compute_dtype=dtype)
    optimizer = make_optimizer(
        config.optimizer, config.schedule, num_steps=config.train.num_steps, info=network.info
    )
    factor = make_schedule(config.schedule, num_steps=config.train.num_steps)
    train_step = make_train_step(
        make_pretrain_loss(network, z_loss=config.loss.z_loss, chunk_tokens=config.loss.chunk_tokens),
        optimizer,
        learning_rate=lambda step: config.optimizer.matrix.lr * factor(step),
        shardings=state_shardings(network.info, optimizer, mesh=mesh),
    )
    rows_at_once = config.train.device_batch_size * mesh.shape["data"] * mesh.shape["fsdp"]
    return Machinery(
        mesh=mesh,
        network=network,
        optimizer=optimizer,
        train_step=train_step,
        num_microbatches=config.batch_rows // rows_at_once,
    )


def open_tokenizer(config: Config) -> Tokenizer:
    """The one named, or the copy beside the data. Raises UserError if it is not the data's or the model's."""
    shards = ShardSet.open(config.data.sources[0].path)
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


def open_pipeline(config: Config, *, state: Mapping[str, Any] | None) -> TrainPipeline:
    """`state` is the data state of the checkpoint to go on from; None: a new run."""
    return TrainPipeline(
        config.data.sources,
        batch_rows=config.batch_rows,
        context_len=config.model.context_len,
        seed=config.seed,
        document_masking=config.data.document_masking,
        wait_for_shards=config.data.wait_for_shards,
        num_threads=config.data.num_threads,
        prefetch_batches=config.data.prefetch_batches,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        state=state,
    )


def make_evaluations(
    config: Config, *, tokenizer: Tokenizer, machinery: Machinery, display: Display
) -> list[loop.Evaluation]:
    """Validation bits per byte over every source that has documents held out."""
    held_out = {source.path: ShardSet.open(source.path, split="val") for source in config.data.sources}
    for path in [path for path, shards in held_out.items() if shards.num_tokens < 2]:
        display.say(f"{path} has no validation documents: it is not evaluated on")
        del held_out[path]
    if not held_out:
        return []
    rows = config.train.device_batch_size * machinery.mesh.shape["data"] * machinery.mesh.shape["fsdp"]
    measure = make_bits_per_byte(
        machinery.network, chunk_tokens=config.loss.chunk_tokens, mesh=machinery.mesh
    )

    def evaluate(params: Params) -> Mapping[str, Any]:
        by_source = {
            path: measure(
                params,
                validation_batches(
                    shards,
                    batch_rows=rows,
                    context_len=config.model.context_len,
                    token_bytes=tokenizer.token_bytes,
                    max_tokens=config.eval.max_tokens // len(held_out),
                    document_masking=config.data.document_masking,
                    process_index=jax.process_index(),
                    process_count=jax.process_count(),
                ),
            )
            for path, shards in held_out.items()
        }
        first, *others = by_source.values()
        total = sum(others, start=first)
        return {
            "val/bpb": total.value,
            **dataclasses.asdict(total),
            "by_source": {path: result.value for path, result in by_source.items()},
        }

    return [loop.Evaluation(every_steps=config.eval.every_steps, evaluate=evaluate)]


def make_samplers(config: Config, *, tokenizer: Tokenizer, machinery: Machinery) -> list[loop.Sampler]:
    """Continuations of sample.prompts; none if there are no prompts or no tokens to write."""
    if not config.sample.prompts or not config.sample.max_tokens:
        return []
    write = make_sampler(
        machinery.network,
        prompts=[[tokenizer.bos_id, *tokenizer.encode(prompt)] for prompt in config.sample.prompts],
        bos_id=tokenizer.bos_id,
        max_tokens=config.sample.max_tokens,
        temperature=config.sample.temperature,
        top_k=config.sample.top_k,
        seed=config.seed,
        mesh=machinery.mesh,
    )

    def sample(params: Params, step: int) -> list[loop.Sample]:
        texts = [tokenizer.decode(ids) for ids in write(params, step)]
        return [
            loop.Sample(prompt=prompt, text=text)
            for prompt, text in zip(config.sample.prompts, texts, strict=True)
        ]

    return [loop.Sampler(every_steps=config.sample.every_steps, sample=sample)]


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


def make_speed(config: Config, mesh: jax.sharding.Mesh) -> Speed:
    device = mesh.devices.flat[0]
    peak = peak_flops(device.device_kind, platform_name=device.platform)
    return Speed(
        tokens_per_step=config.train.batch_tokens,
        flops_per_token=flops_per_token(config.model),
        peak_flops=None if peak is None else peak * mesh.size,
    )
