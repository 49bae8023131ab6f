"""What a training run carries from step to step, and where each array of it lives."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from samosa_jax.model.params import Params
from samosa_jax.parallel.sharding import master_shardings, param_shardings


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class TrainState:
    """A pytree. Its leaves may also be shapes or shardings; see `abstract_state`, `state_shardings`."""

    step: Any  # int32 scalar: steps made so far, the skipped ones among them
    params: Params
    opt_state: optax.OptState
    bad_steps: Any  # int32 scalar: non-finite steps in a row, up to now


class Trainable(Protocol):
    """What parameters are made of: a Network, or adapters of one."""

    @property
    def info(self) -> Any: ...  # ParamInfo, in a tree like the parameters

    def init(self, key: jax.Array) -> Params: ...


def create_state(
    trained: Trainable, optimizer: optax.GradientTransformation, *, mesh: Mesh, seed: int
) -> TrainState:
    """The state before the first step, every array created where it will live; equal on every mesh."""

    def create(key: jax.Array) -> TrainState:
        return _new_state(trained.init(key), optimizer)

    shardings = state_shardings(trained.info, optimizer, mesh=mesh)
    return jax.jit(create, out_shardings=shardings)(jax.random.key(seed))


def state_from(
    params: Params, info: Any, optimizer: optax.GradientTransformation, *, mesh: Mesh
) -> TrainState:
    """The state before the first step of a run that begins with these parameters.

    Takes them over: they lie where the state keeps its own (`state_shardings`).
    """
    shardings = state_shardings(info, optimizer, mesh=mesh)
    begin = jax.jit(lambda params: _new_state(params, optimizer), out_shardings=shardings, donate_argnums=0)
    return begin(params)


def begin_again(state: TrainState) -> TrainState:
    """The same parameters and moments before the first step of another run."""

    def zero(count: jax.Array) -> jax.Array:
        return jax.device_put(jnp.zeros(count.shape, count.dtype), count.sharding)

    return dataclasses.replace(state, step=zero(state.step), bad_steps=zero(state.bad_steps))


def abstract_params(info: Any, *, mesh: Mesh) -> Params:
    """Shape, dtype and sharding of every parameter as networks read it: what to restore into."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, jnp.float32, sharding=sharding),
        info,
        param_shardings(info, mesh),
    )


def abstract_state(
    trained: Trainable, optimizer: optax.GradientTransformation, *, mesh: Mesh | AbstractMesh
) -> TrainState:
    """Shape, dtype and sharding of every array, as `jax.ShapeDtypeStruct`: what to restore into."""
    shapes = _state_shapes(trained.info, optimizer)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        state_shardings(trained.info, optimizer, mesh=mesh),
    )


def state_shardings(
    info: Any, optimizer: optax.GradientTransformation, *, mesh: Mesh | AbstractMesh
) -> TrainState:
    """The NamedSharding of every array. Moments live where their parameter does; counters are everywhere.

    Parameters are the optimizer's, each part of them on one device (ZeRO-1, Rajbhandari et al. 2019,
    arXiv:1910.02054); the step gathers them. `info` is `Network.info`.
    """
    shapes = _state_shapes(info, optimizer)
    replicated = NamedSharding(mesh, PartitionSpec())
    params = master_shardings(info, mesh)

    def of_moment(moment: Any, sharding: NamedSharding) -> Any:
        return moment if isinstance(moment, optax.MaskedNode) else sharding

    opt_state = optax.tree_utils.tree_map_params(
        optimizer,
        of_moment,
        shapes.opt_state,
        params,
        transform_non_params=lambda _: replicated,
        is_leaf=lambda leaf: isinstance(leaf, optax.MaskedNode),
    )
    return TrainState(step=replicated, params=params, opt_state=opt_state, bad_steps=replicated)


def _new_state(params: Params, optimizer: optax.GradientTransformation) -> TrainState:
    zero = jnp.zeros((), jnp.int32)
    return TrainState(step=zero, params=params, opt_state=optimizer.init(params), bad_steps=zero)


def _state_shapes(info: Any, optimizer: optax.GradientTransformation) -> TrainState:
    params = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float32), info)
    return jax.eval_shape(lambda params: _new_state(params, optimizer), params)
