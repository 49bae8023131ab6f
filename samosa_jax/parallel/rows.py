"""Which rows of a batch are this process's, and how rows get onto the devices of all."""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from samosa_jax.errors import ConfigError
from samosa_jax.parallel.sharding import batch_sharding


@dataclass(frozen=True, kw_only=True)
class RowShare:
    """The rows of a batch fall into `count` equal blocks, one after the other; this process holds one."""

    index: int
    count: int

    def of(self, batch: Any) -> Any:
        """This process's rows of arrays (rows, ...)."""

        def mine(array: np.ndarray) -> np.ndarray:
            size = len(array) // self.count
            return array[self.index * size : (self.index + 1) * size]

        return jax.tree.map(mine, batch)


def row_share(mesh: Mesh) -> RowShare:
    """The block of this process's devices. Processes that share rows, by `tensor`, have the same one.

    Raises:
        ConfigError: the rows of some process's devices do not lie together.
    """
    blocks: dict[int, set[int]] = {}
    devices = mesh.devices.reshape(mesh.shape["data"] * mesh.shape["fsdp"], -1)
    for row, holders in enumerate(devices):
        for device in holders:
            blocks.setdefault(device.process_index, set()).add(row)
    size = len(next(iter(blocks.values())))
    for process, rows in blocks.items():
        first = min(rows)
        if len(rows) != size or first % size or rows != set(range(first, first + size)):
            axes = " ".join(f"{name}={number}" for name, number in mesh.shape.items())
            raise ConfigError(
                f"mesh {axes} spreads the rows of process {process} over places that do not lie together; "
                "make mesh.tensor, or mesh.tensor x mesh.fsdp, divide the devices of one process"
            )
    mine = blocks.get(jax.process_index(), {0})
    return RowShare(index=min(mine) // size, count=len(devices) // size)


def put_whole(batch: Any, mesh: Mesh) -> Any:
    """Arrays (rows, ...) that every process holds whole -> rows over `data` and `fsdp`."""
    sharding = batch_sharding(mesh)

    def put(array: np.ndarray) -> jax.Array:
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    return jax.tree.map(put, batch)
