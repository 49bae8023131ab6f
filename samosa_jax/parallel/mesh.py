"""The device mesh: three axes, `data`, `fsdp` and `tensor`, over all devices."""

from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh

from samosa_jax.config import MeshConfig
from samosa_jax.mesh_sizes import resolve_mesh

MESH_AXES = ("data", "fsdp", "tensor")


def make_mesh(config: MeshConfig, *, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh over all of `devices`: JAX devices, by default every one there is.

    An axis of -1 takes what the others leave. Axes are Auto: where `parallel.sharding` says nothing, XLA
    decides.

    Raises:
        ConfigError: the sizes cannot fill the devices exactly.
    """
    devices = tuple(jax.devices() if devices is None else devices)
    mesh = resolve_mesh(config, len(devices))
    sizes = (mesh.data, mesh.fsdp, mesh.tensor)
    return jax.make_mesh(sizes, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES), devices=devices)
