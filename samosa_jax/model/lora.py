"""Low-rank adaptation (LoRA, Hu et al. 2021, arXiv:2106.09685): trained changes A B of frozen weights.

Adapters are a tree of their own, shaped like the parameters, with A and B in the place of an adapted weight:
`{"blocks": {"attention": {"query": {"A": (L, D, R), "B": (L, R, N, H)}}}}`. A contracts what the weight does,
B puts out what it does; their ParamInfo says so, and by it optimizer, sharding and checkpoints treat them as
any parameters.

The network knows nothing of it: it runs on the merged weights W + scale * A B. That costs a copy of the
adapted weights and one of their gradient, and products of rank R; what LoRA saves is the optimizer's state,
and what must be kept of a finetuned model.
"""

import math
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any, TypeVar

import jax
from flax import traverse_util
from jax import lax

from samosa_jax.errors import ConfigError
from samosa_jax.model.params import Constant, Normal, ParamInfo, Params, sample

Output = TypeVar("Output")


def lora_info(info: Any, *, rank: int, targets: Sequence[str]) -> Any:
    """The ParamInfo of every adapter, for the weights of a network (`Network.info`) that `targets` name.

    A target is one or more neighbouring parts of a weight's path, with shell wildcards: "attention" names
    query, key, value and output of all layers, "mlp/up" and "up" one matrix, "*" all. Only hidden matrices
    can be adapted, those of the group "matrix"; so are their adapters.

    Raises:
        ConfigError: rank is not positive, or a target names nothing.
    """
    if rank < 1:
        raise ConfigError(f"lora.rank is {rank}; it must be at least 1: 8 or 16 is usual")
    matrices = {weight.path: weight for weight in jax.tree.leaves(info) if weight.group == "matrix"}
    for target in targets:
        if not any(is_named(path, target) for path in matrices):
            raise ConfigError(
                f"lora.targets has {target!r}, which names no matrix that can be adapted; "
                f"expected parts of one of {', '.join(sorted(matrices))}"
            )
    adapted = {
        tuple(path.split("/")): adapter_info(weight, rank=rank)
        for path, weight in matrices.items()
        if any(is_named(path, target) for target in targets)
    }
    return traverse_util.unflatten_dict(adapted)


def is_named(path: str, target: str) -> bool:
    """Whether neighbouring parts of the path are, one by one, those of the target."""
    parts, wanted = path.split("/"), target.split("/")
    starts = range(len(parts) - len(wanted) + 1)
    return any(all(map(fnmatchcase, parts[start:], wanted)) for start in starts)


def adapter_info(weight: ParamInfo, *, rank: int) -> dict[str, ParamInfo]:
    """A and B of one weight, "L D -> N H" say: "L D -> R" and "L R -> N H"."""

    def factor(
        name: str, contracted: Sequence[str], out: Sequence[str], init: Normal | Constant
    ) -> ParamInfo:
        dims = [*stacked, *contracted, "->", *out]
        return ParamInfo(
            path=f"{weight.path}/{name}",
            dims=" ".join(dims),
            shape=tuple(sizes[letter] for letter in dims if letter != "->"),
            group=weight.group,
            init=init,
        )

    stacked, contracted, out = (
        [weight.letters[dim] for dim in side]
        for side in (weight.batch_axis, weight.reduction_axis, weight.output_axis)
    )
    sizes = {**dict(zip(weight.letters, weight.shape, strict=True)), "R": rank}
    return {
        # What A puts out is as large as what it reads; B starts at nothing, and the model as it was.
        "A": factor("A", contracted, ["R"], Normal(1 / math.sqrt(weight.fan_in))),
        "B": factor("B", ["R"], out, Constant(0.0)),
    }


class Adapters:
    """Adapters as what is trained, in a network's place: `info` and `init` are theirs."""

    def __init__(self, info: Any, *, rank: int, targets: Sequence[str]) -> None:
        """Raises ConfigError, as `lora_info`."""
        self.info = lora_info(info, rank=rank, targets=targets)

    def init(self, key: jax.Array) -> Params:
        """First values, float32: A normal, B zero, so that the merged model is the base."""
        return jax.tree.map(lambda adapter: sample(adapter, key), self.info)


def merge_lora(base_params: Params, lora_params: Params, *, scale: float) -> Params:
    """The parameters with scale * A B added where there are adapters; in Hu et al. scale is alpha / rank."""

    def merge(base: Any, lora: Any) -> Any:
        if lora.keys() == {"A", "B"}:
            return base + scale * low_rank_product(lora["A"], lora["B"], num_dims=base.ndim)
        return {**base, **{name: merge(base[name], part) for name, part in lora.items()}}

    return merge(base_params, lora_params)


def low_rank_product(a: jax.Array, b: jax.Array, *, num_dims: int) -> jax.Array:
    """A (*stacked, *contracted, R) times B (*stacked, R, *out), like a weight of num_dims dimensions."""
    num_stacked = a.ndim + b.ndim - 2 - num_dims
    stacked = tuple(range(num_stacked))
    dims = (((a.ndim - 1,), (num_stacked,)), (stacked, stacked))
    # The change is small beside the weight, but not so small that GPUs may round its factors to ten bits.
    return lax.dot_general(a, b, dims, precision=lax.Precision.HIGHEST)


def make_lora_loss(
    loss_fn: Callable[[Params, Any, Any], Output], *, scale: float
) -> Callable[[Params, Any, Any], Output]:
    """`loss_fn` as a function of (adapters, batch, base parameters): gradients reach the adapters alone.

    The base is what loss_fn is given as frozen parameters, too: the reference of DPO is the model without its
    adapters.
    """

    def lora_loss(lora_params: Params, batch: Any, base_params: Any) -> Output:
        return loss_fn(merge_lora(base_params, lora_params, scale=scale), batch, base_params)

    return lora_loss
