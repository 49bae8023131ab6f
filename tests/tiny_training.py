"""A network that compiles in seconds, its optimizer and batches: what the tests of the step share."""

import jax
import numpy as np

from samosa_jax.config import GroupConfig, MeshConfig, ModelConfig, OptimizerConfig, ScheduleConfig
from samosa_jax.data.batch import Batch
from samosa_jax.model.gpt import Network
from samosa_jax.parallel.mesh import make_mesh
from samosa_jax.training.losses import LossFn, make_pretrain_loss
from samosa_jax.training.optim import make_optimizer
from samosa_jax.training.schedules import make_schedule
from samosa_jax.training.state import TrainState, create_state, state_shardings
from samosa_jax.training.step import make_train_step

NUM_STEPS = 60
ROWS, LENGTH = 8, 16
MODEL = ModelConfig(
    vocab_size=61,
    context_len=LENGTH,
    num_layers=2,
    model_dim=32,
    num_heads=4,
    num_kv_heads=4,
    head_dim=8,
    mlp_dim=64,
    soft_cap=15.0,
)
# A larger eps than in training: rounding must not decide the sign of a step where a gradient is all but zero.
ADAMW = GroupConfig(lr=0.02, eps=1e-6)
OPTIMIZER = OptimizerConfig(
    matrix=GroupConfig(kind="muon", lr=0.02, beta1=0.95, weight_decay=0.1),
    embedding=ADAMW,
    head=ADAMW,
)
SCHEDULE = ScheduleConfig(kind="linear", warmup_steps=2, final_frac=0.1)
NETWORK = Network.build(MODEL)
TRANSFORM = make_optimizer(OPTIMIZER, SCHEDULE, num_steps=NUM_STEPS, info=NETWORK.info)
LOSS = make_pretrain_loss(NETWORK, z_loss=1e-3, chunk_tokens=24)


def learning_rate(step: jax.Array) -> jax.Array:
    return OPTIMIZER.matrix.lr * make_schedule(SCHEDULE, num_steps=NUM_STEPS)(step)


def mesh_of(*, data: int = 1, fsdp: int = 1, tensor: int = 1) -> jax.sharding.Mesh:
    devices = jax.devices()[: data * fsdp * tensor]
    return make_mesh(MeshConfig(data=data, fsdp=fsdp, tensor=tensor), devices=devices)


def new_state(mesh: jax.sharding.Mesh) -> TrainState:
    return create_state(NETWORK, TRANSFORM, mesh=mesh, seed=0)


def new_step(mesh: jax.sharding.Mesh, *, loss_fn: LossFn = LOSS) -> jax.stages.Wrapped:
    return make_train_step(
        loss_fn,
        TRANSFORM,
        learning_rate=learning_rate,
        shardings=state_shardings(NETWORK.info, TRANSFORM, mesh=mesh),
    )


def ragged_batch(seed: int = 0) -> Batch:
    """Two packed documents a row; supervised shares from none of a row to all of it."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, MODEL.vocab_size, (ROWS, LENGTH + 1)).astype(np.int32)
    place = np.arange(LENGTH, dtype=np.int32)
    start = np.where(place >= rng.integers(1, LENGTH, (ROWS, 1)), 1, 0)
    first = np.maximum.accumulate(np.where(np.diff(start, axis=1, prepend=0) == 1, place, 0), axis=1)
    weights = np.where(
        place < np.linspace(0, LENGTH, ROWS)[:, None], rng.choice([0.5, 1.0], (ROWS, LENGTH)), 0.0
    )
    return Batch(
        tokens=tokens[:, :-1],
        targets=tokens[:, 1:],
        weights=weights.astype(np.float32),
        k_lo=first.astype(np.int32),
        k_hi=np.broadcast_to(place + 1, (ROWS, LENGTH)),
        position=(place - first).astype(np.int32),
        turn_position=(place - first).astype(np.int32),
    )
