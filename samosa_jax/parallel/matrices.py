"""Work on whole matrices, each done once: stacks of them are dealt out over all devices of the mesh."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, PartitionSpec

from samosa_jax.parallel.sharding import ambient_mesh


def spread_over_devices(function: Callable[[jax.Array], jax.Array], stacks: Any) -> Any:
    """`function` of every stack of matrices (L, M, N) in a tree, every matrix on one device of the ambient mesh.

    `function` treats matrices one by one, and a transposed one alike. Left to itself XLA would split inside
    the matrices, and communicate in each of its products.

    A stack that divides by the devices is dealt out as it is, without communication if it lies so already.
    The others are joined with those of the same matrix shape, up to transposition, and what then is missing
    to a multiple of the devices is zeros: whole matrices, never rows.
    """
    mesh = ambient_mesh()
    if mesh is None:
        return jax.tree.map(function, stacks)
    leaves, structure = jax.tree.flatten(stacks)
    results: list[jax.Array] = list(leaves)
    for together in _groups(leaves, num_devices=mesh.size):
        wide = [leaves[index].mT if _is_tall(leaves[index]) else leaves[index] for index in together]
        joined = _on_devices(function, jnp.concatenate(wide) if len(wide) > 1 else wide[0], mesh)
        first = 0
        for index, stack in zip(together, wide, strict=True):
            own = joined[first : first + len(stack)]
            results[index] = own.mT if _is_tall(leaves[index]) else own
            first += len(stack)
    return jax.tree.unflatten(structure, results)


def _groups(stacks: list[jax.Array], *, num_devices: int) -> list[list[int]]:
    """Which stacks are joined, by index."""
    groups: dict[Any, list[int]] = {}
    for index, stack in enumerate(stacks):
        L, *sides = stack.shape
        groups.setdefault(index if L % num_devices == 0 else tuple(sorted(sides)), []).append(index)
    return list(groups.values())


def _is_tall(stack: jax.Array) -> bool:
    return stack.shape[1] > stack.shape[2]


def _on_devices(
    function: Callable[[jax.Array], jax.Array], stack: jax.Array, mesh: AbstractMesh
) -> jax.Array:
    length = math.ceil(len(stack) / mesh.size) * mesh.size
    padded = jnp.pad(stack, ((0, length - len(stack)), (0, 0), (0, 0)))
    dealt = PartitionSpec(mesh.axis_names)
    on_shards = jax.shard_map(function, mesh=mesh, in_specs=dealt, out_specs=dealt, check_vma=False)
    return on_shards(padded)[: len(stack)]
