"""Work on whole matrices, each done once: stacks of them are dealt out over all devices of the mesh."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, PartitionSpec

from samosa_jax.parallel.sharding import ambient_mesh


def spread_over_devices(function: Callable[[jax.Array], jax.Array], stacks: Any, *, split_last: Any) -> Any:
    """`function` of every stack of matrices (L, M, N) in a tree, each on one device of the ambient mesh.

    `function` treats matrices one by one, and a transposed one alike. Left to itself XLA would split inside
    the matrices, and communicate in each of its products.

    A stack that divides by the devices is dealt out as it is, without communication if it lies so already.
    The others are joined with those of the same matrix shape, and what then is missing to a multiple of the
    devices is zeros: whole matrices, never rows. `split_last` says of every stack whether N is what the mesh
    splits of it: these are joined transposed, so that all are split alike and move at once.
    """
    mesh = ambient_mesh()
    if mesh is None:
        return jax.tree.map(function, stacks)
    leaves, structure = jax.tree.flatten(stacks)
    is_turned = jax.tree.leaves(split_last)
    turned = [leaf.mT if turn else leaf for leaf, turn in zip(leaves, is_turned, strict=True)]
    results: list[jax.Array] = list(leaves)
    for together in _groups(turned, num_devices=mesh.size):
        joined = _on_devices(function, jnp.concatenate([turned[index] for index in together]), mesh)
        first = 0
        for index in together:
            own = joined[first : first + len(turned[index])]
            results[index] = own.mT if is_turned[index] else own
            first += len(own)
    return jax.tree.unflatten(structure, results)


def _groups(stacks: list[jax.Array], *, num_devices: int) -> list[list[int]]:
    """Which stacks are joined, by index."""
    groups: dict[Any, list[int]] = {}
    for index, stack in enumerate(stacks):
        L, *sides = stack.shape
        groups.setdefault(index if L % num_devices == 0 else tuple(sides), []).append(index)
    return list(groups.values())


def _on_devices(
    function: Callable[[jax.Array], jax.Array], stack: jax.Array, mesh: AbstractMesh
) -> jax.Array:
    length = math.ceil(len(stack) / mesh.size) * mesh.size
    padded = jnp.pad(stack, ((0, length - len(stack)), (0, 0), (0, 0)))
    dealt = PartitionSpec(mesh.axis_names)
    on_shards = jax.shard_map(function, mesh=mesh, in_specs=dealt, out_specs=dealt, check_vma=False)
    return on_shards(padded)[: len(stack)]
