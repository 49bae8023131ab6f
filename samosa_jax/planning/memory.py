"""The memory of a training step on one device, by kind, from a closed model.

Arguments of the step (parameters, moments, batch) are added up from the shapes and shardings that training
itself uses, so they are exact whatever the layout. The rest is what the program keeps while it runs: values
per token and layer that the backward reads, in the terms of `model.layers`, and a few buffers of the loss.
tests/test_plan.py holds the sum against the compiler's peak for a GPU; docs/planning.md has the error.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType

from samosa_jax.config import Config, MeshConfig, ModelConfig
from samosa_jax.mesh_sizes import resolve_mesh
from samosa_jax.model.gpt import Network
from samosa_jax.model.lora import Adapters
from samosa_jax.model.params import WIDE
from samosa_jax.parallel.mesh import MESH_AXES
from samosa_jax.parallel.sharding import param_spec
from samosa_jax.training.environment import bytes_per_device
from samosa_jax.training.optim import make_optimizer
from samosa_jax.training.state import abstract_state

Remat = Literal["none", "attention", "mlp", "full"]
BATCH_ARRAYS = 7  # int32 or float32, of `data.batch.Batch`


@dataclass(frozen=True, kw_only=True)
class StepMemory:
    """Bytes on one device at its fullest moment; their sum is the peak.

    Attributes:
        parameters: float32, as the optimizer keeps them.
        compute_copy: what forward and backward read, in the compute dtype: stacks, and layers out of them.
        optimizer: moments.
        gradients: sums over microbatches in float32, and what one microbatch has of them.
        activations: what the backward reads of the forward, and its own working set.
        logits: of a chunk of tokens, and the gradient of the head while it is added up.
        frozen: parameters that are read and not trained (adapters, a reference model).
        batch: tokens, targets, masks and positions.
    """

    parameters: int
    compute_copy: int
    optimizer: int
    gradients: int
    activations: int
    logits: int
    frozen: int
    batch: int

    @property
    def peak(self) -> int:
        return sum(dataclasses.astuple(self))


class MemoryModel:
    """The memory of a configuration's step, as a function of the rows at once and of what is recomputed."""

    def __init__(self, config: Config, *, num_devices: int, compute_dtype: str) -> None:
        """Reads shapes and shardings; allocates nothing.

        Raises:
            ConfigError: the mesh does not fill the devices, or a parameter does not divide over it.
        """
        self._config = config
        self._sizes = resolve_mesh(config.mesh, num_devices)
        self._itemsize = np.dtype(compute_dtype).itemsize
        # Of what products read.
        self._operand_itemsize = 1 if config.train.matmul_dtype == "float8" else self._itemsize
        mesh = _mesh_on_paper(self._sizes)
        network = Network.build(config.model, compute_dtype=compute_dtype)
        has_adapters = config.lora.rank > 0
        trained = (
            Adapters(network.info, rank=config.lora.rank, targets=config.lora.targets)
            if has_adapters
            else network
        )
        optimizer = make_optimizer(
            config.optimizer, config.schedule, num_steps=config.train.num_steps, info=trained.info
        )
        state = abstract_state(trained, optimizer, mesh=mesh)
        self._parameters = bytes_per_device(state.params)
        self._optimizer = bytes_per_device(state.opt_state)
        values = _values_per_device(network.info, mesh)
        self._matrices = values.get("matrix", 0)
        self._wide = sum(values.get(group, 0) for group in WIDE)
        self._narrow = sum(values.values()) - self._wide
        self._trained_values = sum(_values_per_device(trained.info, mesh).values())
        self._needs_frozen = has_adapters or _has_frozen_reference(config)

    def at(self, *, device_rows: int, remat: Remat) -> StepMemory:
        """With `device_rows` rows per device in one forward pass, the other rows of a step accumulated."""
        config, model, item = self._config, self._config.model, self._itemsize
        operand = self._operand_itemsize
        tensor = self._sizes.tensor
        tokens = device_rows * model.context_len
        num_microbatches = max(1, config.batch_rows // (device_rows * self._sizes.data * self._sizes.fsdp))
        # A value that is computed with in the dtype it is kept in needs no copy, unless replicas gather it.
        is_copied = item != 4 or self._sizes.data > 1
        in_layers = self._matrices if model.unroll_layers else 0  # cut out of their stack, beside it
        compute_copy = item * (self._wide + in_layers) + 4 * self._narrow if is_copied else 0
        one_gradient = 4 * self._trained_values  # float32, as products of matrices give it
        sums = 4 * self._trained_values if num_microbatches > 1 else 0
        of_layer = _kept_by_layer(model, remat, tensor, item, operand)
        outside = tokens * item * OUTSIDE_LAYERS * model.model_dim
        kept = int(tokens * model.num_layers * of_layer) + outside
        recomputed = int(tokens * (_kept_by_layer(model, "none", tensor, item, operand) - of_layer))
        working = int(tokens * item * _working_set(model, tensor))
        head = 4 * model.padded_vocab_size * model.model_dim
        chunk = -(-tokens // max(1, -(-tokens // config.loss.chunk_tokens)))
        logits = chunk * model.padded_vocab_size * (4 + item)
        # Gradients, activations, logits: at the loss, in the backward of the last layer and of the first.
        moments = [
            (sums, kept, logits + head),
            (sums, kept + recomputed + working, head),
            (sums + one_gradient, recomputed + working + outside, 0),
        ]
        gradients, activations, loss = max(moments, key=sum)
        return StepMemory(
            parameters=self._parameters,
            compute_copy=compute_copy,
            optimizer=self._optimizer,
            gradients=gradients,
            activations=activations,
            logits=loss,
            frozen=item * self._wide + 4 * self._narrow if self._needs_frozen else 0,
            batch=BATCH_ARRAYS * 4 * tokens * num_microbatches,
        )


# Values of size D per token that exist once: the embeddings, which every layer may read again, what the last
# norm read and wrote, and the gradient that the loss hands back.
OUTSIDE_LAYERS = 4


def _kept_by_layer(
    model: ModelConfig, remat: Remat, tensor: int, itemsize: int, operand_itemsize: int
) -> float:
    """Bytes per token that the backward reads of one layer's forward.

    What products alone read is kept as they read it; what attention returned is read by its own backward too.
    """
    D = model.model_dim
    N, K, F = model.num_heads / tensor, model.num_kv_heads / tensor, model.mlp_dim / tensor
    queries, keys = N * model.head_dim, K * model.head_dim
    residuals = 2 * D  # before attention, and between it and the feed-forward part
    attended = queries  # and the log-sum-exp of every head
    # The normed input; queries and keys for their norms, if they have any, and after the rotation; values,
    # alone or with a value embedding.
    projected = D + (2 if model.qk_norm else 1) * (queries + keys) + keys
    feed_forward = D + (3 if model.mlp == "swiglu" else 2) * F
    statistics = 4 * N  # float32: log-sum-exp
    if model.qk_norm:
        statistics += 2 * 4 * (N + K)
    match remat:
        case "none":
            kept = residuals + projected + attended + feed_forward
        case "attention":
            kept = residuals + attended + feed_forward
        case "mlp":
            kept = residuals + projected + attended
        case "full":
            kept = D + attended
    if operand_itemsize == itemsize:
        return itemsize * kept + statistics
    narrowed = {"none": 2 * D + F, "attention": D + F, "mlp": D, "full": 0}[remat]
    twice = attended if remat in ("none", "mlp") else 0
    return itemsize * (kept - narrowed) + operand_itemsize * (narrowed + twice) + statistics


def _working_set(model: ModelConfig, tensor: int) -> float:
    """Values per token that the backward of a layer holds beside what it reads."""
    F = model.mlp_dim / tensor
    return (2 if model.mlp == "swiglu" else 1) * F + 2 * model.model_dim


def _values_per_device(info: Any, mesh: AbstractMesh) -> dict[str, int]:
    """Numbers that one device computes with, by group."""
    counts: dict[str, int] = {}
    for parameter in jax.tree.leaves(info):
        parts = [
            math.prod(mesh.shape[axis] for axis in ((axes,) if isinstance(axes, str) else axes or ()))
            for axes in param_spec(parameter, mesh)
        ]
        count = math.prod(parameter.shape) // math.prod(parts)
        counts[parameter.group] = counts.get(parameter.group, 0) + count
    return counts


def _has_frozen_reference(config: Config) -> bool:
    if config.stage == "dpo":
        return config.dpo.reference == "frozen"
    return config.stage == "grpo" and bool(config.rl.kl_coef) and config.rl.reference == "frozen"


def _mesh_on_paper(sizes: MeshConfig) -> AbstractMesh:
    return AbstractMesh(
        (sizes.data, sizes.fsdp, sizes.tensor), MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES)
    )
