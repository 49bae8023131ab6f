"""Lowering for a GPU where there is none: checks shapes, dtypes and operations, not results."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AbstractDevice, AbstractMesh, AxisType


def use_paper_gpu(kind: str = "NVIDIA H100 80GB HBM3") -> Any:
    """A context in which functions are traced and lowered for this GPU."""
    device = AbstractDevice(device_kind=kind, num_cores=132, platform="gpu")
    mesh = AbstractMesh((1,), ("paper",), axis_types=(AxisType.Auto,), abstract_device=device)
    return jax.sharding.use_abstract_mesh(mesh)


def lower_for_gpu(function: Callable[..., Any], *abstract: jax.ShapeDtypeStruct) -> str:
    """The text of the module that a function of such arguments becomes on an H100."""
    with use_paper_gpu():
        lowered = jax.jit(function).trace(*abstract).lower(lowering_platforms=("cuda",))
    return lowered.as_text()
