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
    num_rows = mesh.shape["data"] * mesh.shape["fsdp"]
    of_device = np.array([device.process_index for device in mesh.devices.flat])
    return share_of(of_device.reshape(num_rows, -1), jax.process_index())


def share_of(processes: np.ndarray, process: int) -> RowShare:
    """Of one process, where `processes` (rows, devices) are those of the devices that hold each row.

    Raises:
        ConfigError: the rows of some process's devices do not lie together.
    """
    places = {int(one): np.flatnonzero((processes == one).any(axis=1)) for one in np.unique(processes)}
    size = len(places[min(places)])
    for one, rows in places.items():
        if len(rows) != size or rows[0] % size or rows[-1] - rows[0] != size - 1:
            raise ConfigError(
                f"mesh.data, mesh.fsdp: the mesh spreads the rows of process {one} over places that do not "
                "lie together; make mesh.tensor divide the devices of one process"
            )
    return RowShare(index=int(places[process][0]) // size, count=len(processes) // size)


def put_whole(batch: Any, mesh: Mesh) -> Any:
    """Arrays (rows, ...) that every process holds whole -> rows over `data` and `fsdp`."""
    sharding = batch_sharding(mesh)

    def put(array: np.ndarray) -> jax.Array:
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    return jax.tree.map(put, batch)
