"""ZeRO-1 over the mesh axis `data`: every replica computes with whole parameters, and updates a part of them.

Rajbhandari et al. 2019, arXiv:1910.02054. Parameters are gathered once before the first microbatch, gradients
are summed and scattered once after the last; in between nothing is sent along `data`. Along `fsdp` and
`tensor` XLA goes on to partition by the tables of `parallel.sharding`.
"""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

Sums = TypeVar("Sums")
Tree = Any

# Of parameters, batch (A, rows, T) and frozen parameters: sums over the rows, and their gradient.
LossAndGradient = Callable[[Tree, Tree, Tree], tuple[Sums, Tree]]


def over_replicas(function: LossAndGradient[Sums], *, shardings: Tree) -> LossAndGradient[Sums]:
    """`function` run by every replica on its own rows, its sums and gradients added up over all of them.

    Args:
        function: of whole parameters; gradients of any float dtype.
        shardings: the NamedSharding of every parameter as it is handed in, with at most one dimension on
            `data` alone (`parallel.sharding.master_spec`). Gradients come back in float32, sharded alike.

    On a mesh of one replica this is `function`, its gradients in float32.
    """
    mesh: Mesh = jax.tree.leaves(shardings)[0].mesh

    def whole(parameter: jax.Array, sharding: NamedSharding) -> jax.Array:
        dim = data_dim(sharding.spec)
        return parameter if dim is None else lax.all_gather(parameter, "data", axis=dim, tiled=True)

    def summed(gradient: jax.Array, sharding: NamedSharding) -> jax.Array:
        dim, gradient = data_dim(sharding.spec), gradient.astype(jnp.float32)
        if dim is None:
            return lax.psum(gradient, "data")
        return lax.psum_scatter(gradient, "data", scatter_dimension=dim, tiled=True)

    def of_replica(parameters: Tree, batch: Tree, frozen: Tree) -> tuple[Sums, Tree]:
        sums, gradients = function(jax.tree.map(whole, parameters, shardings), batch, frozen)
        return lax.psum(sums, "data"), jax.tree.map(summed, gradients, shardings)

    def alone(parameters: Tree, batch: Tree, frozen: Tree) -> tuple[Sums, Tree]:
        sums, gradients = function(parameters, batch, frozen)
        return sums, jax.tree.map(lambda gradient: gradient.astype(jnp.float32), gradients)

    if mesh.shape["data"] == 1:
        return alone
    along_data = jax.tree.map(lambda sharding: _only_data(sharding.spec), shardings)
    return jax.shard_map(
        of_replica,
        mesh=mesh.abstract_mesh,
        in_specs=(along_data, PartitionSpec(None, "data"), PartitionSpec()),
        out_specs=(PartitionSpec(), along_data),
        # Axes of one device are taken too: with none left to XLA, kernels need no shard_map of their own.
        axis_names={axis for axis, size in mesh.shape.items() if axis == "data" or size == 1},
        check_vma=False,  # the sums over replicas above are all there is to check
    )


def gathered_bytes(parameters: Tree) -> int:
    """Bytes on one device of arrays of the same dtype that every replica holds whole, as its gradients."""
    total = 0
    for leaf in jax.tree.leaves(parameters):
        replicas = 1 if data_dim(leaf.sharding.spec) is None else leaf.sharding.mesh.shape["data"]
        total += math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize * replicas
    return total


def data_dim(spec: PartitionSpec) -> int | None:
    """The dimension that goes over `data`."""
    return next((dim for dim, axes in enumerate(spec) if axes == "data"), None)


def _only_data(spec: PartitionSpec) -> PartitionSpec:
    return PartitionSpec(*("data" if axes == "data" else None for axes in spec))
