"""One optimizer step, jitted: gradients of sums over microbatches, one division, a guard, one update."""

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from samosa_jax.model.params import Params
from samosa_jax.parallel.data_parallel import over_replicas
from samosa_jax.training.losses import LossFn, LossOutput
from samosa_jax.training.state import TrainState

Tree = TypeVar("Tree")


class StepMetrics(NamedTuple):
    """Scalars on the device, over all devices and microbatches; read them a step later."""

    loss: jax.Array  # per unit of weight, `nll` where the loss function gives it; 0 without supervised tokens
    grad_norm: jax.Array  # global, before clipping
    lr: jax.Array
    tokens: jax.Array  # the weight: supervised tokens, where each counts 1
    skipped: jax.Array  # int32, 1: loss or gradient was not finite, parameters and optimizer are as before
    bad_steps: jax.Array  # int32, such steps in a row up to now
    extra: dict[str, jax.Array]  # the loss function's other metrics, per unit of weight


TrainStep = Callable[[TrainState, Any, Any], tuple[TrainState, StepMetrics]]


def make_train_step(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    *,
    learning_rate: Callable[[jax.Array], jax.Array],
    shardings: TrainState,
    cast: Callable[[Params], Params] = lambda params: params,
    compiler_options: Mapping[str, bool] = MappingProxyType({}),
) -> jax.stages.Wrapped:
    """A jitted step(state, batch, frozen) -> (state, StepMetrics), which donates `state`.

    `batch` is what `put_batch` makes: a tree of arrays (A, rows, T). Gradients of the A microbatches are
    summed in float32 and divided once, by the weight of the whole batch. A step whose loss or gradient is not
    finite changes nothing but the counters; nor does one without any supervised token, which is no bad step.
    `learning_rate` of the steps made so far is for the report. `shardings` (see `state.state_shardings`)
    fixes where the state lives; its mesh is the ambient one inside. `cast` makes of the state's parameters
    those that `loss_fn` computes with (`model.params.in_compute_dtype`), once per step.
    `compiler_options` are XLA's, for this program alone.
    """
    mesh = shardings.step.mesh
    loss_and_gradient = over_replicas(functools.partial(accumulate, loss_fn), shardings=shardings.params)
    optimizer = optax.with_extra_args_support(optimizer)

    def train_step(state: TrainState, batch: Any, frozen: Any = None) -> tuple[TrainState, StepMetrics]:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return take_step(state, batch, frozen)

    def take_step(state: TrainState, batch: Any, frozen: Any) -> tuple[TrainState, StepMetrics]:
        output, grad_sums = loss_and_gradient(cast(state.params), batch, frozen)
        share = 1 / jnp.where(output.weight > 0, output.weight, 1.0)
        # Of the sums, not of the gradients: XLA would write those out to read them back squared.
        grad_norm = share * optax.tree.norm(grad_sums)
        grads = jax.tree.map(lambda grad: grad * share, grad_sums)
        finite = jnp.isfinite(output.sum) & jnp.isfinite(grad_norm)
        changes = finite & (output.weight > 0)
        updates, opt_state = optimizer.update(
            grads, state.opt_state, state.params, step=state.step, grad_norm=grad_norm
        )
        params: Any = optax.apply_updates(state.params, updates)
        metrics = dict(output.metrics)
        bad_steps = jnp.where(finite, 0, state.bad_steps + 1)
        report = StepMetrics(
            loss=metrics.pop("nll", output.sum) * share,
            grad_norm=grad_norm,
            lr=learning_rate(state.step),
            tokens=output.weight,
            skipped=jnp.where(finite, 0, 1),
            bad_steps=bad_steps,
            extra={name: value * share for name, value in metrics.items()},
        )
        new_state = TrainState(
            step=state.step + 1,
            params=choose(changes, params, state.params),
            opt_state=choose(changes, opt_state, state.opt_state),
            bad_steps=bad_steps,
        )
        return new_state, report

    return jax.jit(
        train_step,
        donate_argnums=0,
        out_shardings=(shardings, None),
        compiler_options=dict(compiler_options),
    )


def accumulate(loss_fn: LossFn, params: Params, batch: Any, frozen: Any) -> tuple[LossOutput, Params]:
    """Sums of loss, weight and metrics over the microbatches of a batch (A, rows, T), and their gradient.

    The gradient of one microbatch has the dtype of the parameters, the sum of several is float32.
    """

    def loss_sum(params: Params, microbatch: Any) -> tuple[jax.Array, LossOutput]:
        output = loss_fn(params, microbatch, frozen)
        return output.sum, output

    gradient = jax.grad(loss_sum, has_aux=True)

    def one(microbatch: Any) -> tuple[LossOutput, Params]:
        grads, output = gradient(params, microbatch)
        return output, grads

    num_microbatches = jax.tree.leaves(batch)[0].shape[0]
    first = jax.tree.map(lambda array: array[0], batch)
    if num_microbatches == 1:
        return one(first)

    def add(sums: Any, microbatch: Any) -> tuple[Any, None]:
        return jax.tree.map(lambda sum, term: sum + term.astype(sum.dtype), sums, one(microbatch)), None

    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), jax.eval_shape(one, first))
    return jax.lax.scan(add, zeros, batch)[0]


def choose(condition: jax.Array, new: Tree, old: Tree) -> Tree:
    """`new` where the scalar condition holds, else `old`; no NaN comes through from the other side."""
    return jax.tree.map(lambda new, old: jnp.where(condition, new, old), new, old)


def put_batch(batch: Any, *, num_microbatches: int, mesh: Mesh) -> Any:
    """Arrays (rows, T) of this process -> arrays (A, rows / A, T) over its devices, A = num_microbatches.

    Rows of a microbatch are split over `data` and `fsdp` in order. With several processes each hands in its
    own rows, which stay on its own devices.

    Raises:
        ValueError: the rows do not divide by num_microbatches.
    """
    sharding = NamedSharding(mesh, PartitionSpec(None, ("data", "fsdp")))

    def put(array: np.ndarray) -> jax.Array:
        rows, *rest = array.shape
        if rows % num_microbatches:
            raise ValueError(f"{rows} rows do not divide into {num_microbatches} microbatches")
        split = np.reshape(array, (num_microbatches, rows // num_microbatches, *rest))
        return jax.make_array_from_process_local_data(sharding, split)

    return jax.tree.map(put, batch)
