"""The optimizer: gradient clipping, then Muon for hidden matrices and AdamW for the rest, by parameter group.

Every group has its own rate, momentum and weight decay (`OptimizerConfig`). The schedule's factor follows
from the `step` that `update` is given, not from a counter inside, so that a skipped step leaves no trace in
the optimizer's state and still counts for the schedule.
"""

import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from samosa_kernels.newton_schulz import orthogonalize

from samosa_jax.config import GroupConfig, OptimizerConfig, ScheduleConfig
from samosa_jax.model.params import ParamInfo
from samosa_jax.parallel.matrices import spread_over_devices
from samosa_jax.parallel.sharding import pin
from samosa_jax.training.schedules import Schedule, make_schedule

Decay = Literal["decoupled", "cautious"]

# Newton-Schulz coefficients of Polar Express (Amsel et al. 2025, arXiv:2505.16932): at each step the best
# quintic for the singular values that the steps before have left, beginning with 0.001..1.
POLAR_EXPRESS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
    (1.875, -1.25, 0.375),
)
# The paper's: a singular value that rounding left a little above 1 must not explode at the next step.
POLAR_SAFETY = 1.01


def make_optimizer(
    config: OptimizerConfig, schedule: ScheduleConfig, *, num_steps: int, info: Any
) -> optax.GradientTransformationExtraArgs:
    """The whole chain. `info` is `Network.info`; `num_steps` the length of the run, for the schedule.

    Its `update(grads, opt_state, params, step=..., grad_norm=...)` takes the number of steps made so far, an
    int32 scalar, and the global norm of the gradients.
    """
    factor = make_schedule(schedule, num_steps=num_steps)
    groups = jax.tree.map(lambda leaf: leaf.group, info)
    transforms = {}
    for name in sorted(set(jax.tree.leaves(groups))):
        group = config.groups[name]
        if group.kind == "muon":
            direction = scale_by_muon(
                only_group(info, name), beta=group.beta1, newton_schulz_steps=config.newton_schulz_steps
            )
        else:
            direction = optax.scale_by_adam(b1=group.beta1, b2=group.beta2, eps=group.eps)
        step = take_step(group, decay=config.decay, factor=factor, scale=config.lr_scale)
        transforms[name] = optax.chain(direction, step)
    by_group = optax.partition(transforms, groups)
    if config.clip_norm is None:
        return optax.with_extra_args_support(by_group)
    return optax.chain(clip_by_global_norm(config.clip_norm), by_group)


def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
    """As optax's, but given the norm, and by one factor for all gradients, which fuses into what reads them.

    optax divides each gradient by the norm under a select, for which XLA keeps a second copy of all of them.
    """

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        factor = max_norm / jnp.maximum(extra["grad_norm"], max_norm)
        return jax.tree.map(lambda update: factor * update, updates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def only_group(info: Any, name: str) -> Any:
    """The tree with MaskedNode for what belongs to other groups, as optax.partition hands it to its parts."""
    return jax.tree.map(lambda leaf: leaf if leaf.group == name else optax.MaskedNode(), info)


def take_step(
    group: GroupConfig, *, decay: Decay, factor: Schedule, scale: float
) -> optax.GradientTransformationExtraArgs:
    """Turns directions u into updates -rate * (u + weight_decay * p), with rate = scale * lr * factor(step).

    `cautious` decays only where that agrees with the direction, u * p >= 0 (arXiv:2510.12402), so that decay
    never pulls against the gradient.
    """

    def init(params: optax.Params) -> optax.EmptyState:
        return optax.EmptyState()

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, optax.EmptyState]:
        rate = scale * group.lr * factor(extra["step"])

        def with_decay(u: jax.Array, p: jax.Array) -> jax.Array:
            pull = group.weight_decay * p
            if decay == "cautious":
                pull = jnp.where(u * p >= 0, pull, 0.0)
            return -rate * (u + pull)

        if not group.weight_decay:
            return jax.tree.map(lambda u: -rate * u, updates), state
        return jax.tree.map(with_decay, updates, params), state

    return optax.GradientTransformationExtraArgs(init, update)


def polar_express(num_steps: int) -> list[tuple[float, float, float]]:
    """(a, b, c) of X -> a X + b X X^T X + c (X X^T)^2 X for every step; the table's last entry goes on."""
    cautious = [
        (a / POLAR_SAFETY, b / POLAR_SAFETY**3, c / POLAR_SAFETY**5) for a, b, c in POLAR_EXPRESS[:-1]
    ]
    return [*cautious, *[POLAR_EXPRESS[-1]] * num_steps][:num_steps]


class MuonState(NamedTuple):
    momentum: optax.Updates


def scale_by_muon(info: Any, *, beta: float, newton_schulz_steps: int) -> optax.GradientTransformation:
    """Muon (Jordan et al. 2024): the direction is the orthogonal polar factor of the Nesterov momentum.

    `info` holds the ParamInfo of every weight (MaskedNode where another group's would be): its dims say which
    dimensions make up the rows (contracted) and the columns (coming out) of the matrix, and which count
    layers. A matrix is scaled by sqrt(max(1, columns / rows)), so that a step changes what it puts out
    equally much whatever its shape.

    `optax.contrib.scale_by_muon` takes 1.6 times as long on CPU (docs/experiments.md) and differs by
    correcting the momentum's bias, of which the polar factor sees next to nothing.
    """
    polynomials = polar_express(newton_schulz_steps)

    def init(params: optax.Params) -> MuonState:
        return MuonState(momentum=jax.tree.map(jnp.zeros_like, params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, MuonState]:
        def blend(momentum: jax.Array, grad: jax.Array) -> jax.Array:
            return beta * momentum + (1 - beta) * grad

        def orthogonalized(stack: jax.Array) -> jax.Array:
            return orthogonalize(stack, steps=newton_schulz_steps, coefficients=polynomials)

        def direction(polar: jax.Array, weight: ParamInfo) -> jax.Array:
            rows, columns = polar.shape[1:]
            return pin(from_matrices(math.sqrt(max(1.0, columns / rows)) * polar, weight), weight)

        momentum = jax.tree.map(blend, state.momentum, updates)
        nesterov = jax.tree.map(blend, momentum, updates)
        stacks = jax.tree.map(to_matrices, nesterov, info)
        # Where layers do not divide over the devices, it is D that is split (`parallel.sharding`).
        puts_out_D = jax.tree.map(lambda weight: weight.letters[weight.output_axis[-1]] == "D", info)
        polars = spread_over_devices(orthogonalized, stacks, split_last=puts_out_D)
        return jax.tree.map(direction, polars, info), MuonState(momentum=momentum)

    return optax.GradientTransformation(init, update)


def to_matrices(weight: jax.Array, info: ParamInfo) -> jax.Array:
    """A stacked weight as (layers, contracted, coming out)."""
    sides = (info.batch_axis, info.reduction_axis, info.output_axis)
    sizes = [math.prod(info.shape[dim] for dim in side) for side in sides]
    return weight.transpose(sum(sides, ())).reshape(sizes)


def from_matrices(matrices: jax.Array, info: ParamInfo) -> jax.Array:
    """Undoes `to_matrices`."""
    order = info.batch_axis + info.reduction_axis + info.output_axis
    inverse = [order.index(dim) for dim in range(len(order))]
    return matrices.reshape([info.shape[dim] for dim in order]).transpose(inverse)
