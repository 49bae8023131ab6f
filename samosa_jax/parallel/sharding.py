"""Which dimension goes over which mesh axis: two small tables of dimension letters, and what follows.

A dimension of size one is replicated (one key head that serves all query heads, a batch of one row). Every
other dimension must divide by the axis it goes over, or a ConfigError says so. No mesh axis serves twice
in one array: the letters that come out of a product choose before the ones it contracts, and each takes
the first of its choices that is still free.

What the optimizer keeps of a parameter is spread over `data` as well, along one dimension that the table
leaves whole: `DATA_LETTERS` says which it prefers, and one that does not divide is passed over.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from samosa_jax.errors import ConfigError

Choices = tuple[tuple[str, ...], ...]

# Mesh axes a letter may go over, best first. Letters not named are replicated.
PARAM_AXES: Mapping[str, Choices] = {
    "D": (("fsdp",),),
    "N": (("tensor",),),
    "K": (("tensor",),),
    "F": (("tensor",),),
    "V": (("tensor",), ("fsdp",)),
}
# What `data` splits of the optimizer's copy, best first: rows of tables, whole matrices of a stack, and then
# dimensions that are a side of a matrix by themselves.
DATA_LETTERS = "VLDFNKH"
DECODING_AXES: Mapping[str, Choices] = dict.fromkeys("NKFV", (("tensor",),))
ACTIVATION_AXES: Mapping[str, Choices] = {
    "B": (("data", "fsdp"),),
    "N": (("tensor",),),
    "K": (("tensor",),),
    "F": (("tensor",),),
    "V": (("tensor",),),
}


class Parameter(Protocol):
    """What placing a parameter takes of it; `model.params.ParamInfo` has it."""

    @property
    def path(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def letters(self) -> tuple[str, ...]: ...  # one per dimension

    @property
    def output_axis(self) -> tuple[int, ...]: ...  # the dimensions that come out of the product


def partition_spec(
    name: str,
    *,
    letters: Sequence[str],
    shape: Sequence[int],
    mesh: Mesh | AbstractMesh,
    table: Mapping[str, Choices],
    first: Sequence[int] = (),
) -> PartitionSpec:
    """The mesh axes of every dimension of an array; the dimensions in `first` choose before the others.

    Axes that a surrounding `jax.shard_map` has taken are left out: what is seen there is one part already.

    Raises:
        ConfigError: a dimension does not divide by the devices it goes over; `name` names the array.
    """
    chosen: list[tuple[str, ...] | None] = [None] * len(shape)
    taken: set[str] = set()
    free = free_axes(mesh)
    for dim in [*first, *(dim for dim in range(len(shape)) if dim not in first)]:
        if shape[dim] == 1:
            continue
        for choice in table.get(letters[dim], ()):
            axes = tuple(axis for axis in choice if axis in free)
            num_devices = math.prod(mesh.shape[axis] for axis in axes)
            if num_devices == 1 or taken & set(axes):
                continue
            if shape[dim] % num_devices:
                raise ConfigError(
                    f"{name}: dimension {letters[dim]} of size {shape[dim]} does not divide over the "
                    f"{num_devices} devices of mesh axis {' x '.join(axes)}; change the size or the mesh"
                )
            chosen[dim] = axes
            taken |= set(axes)
            break
    return PartitionSpec(*(axes[0] if axes and len(axes) == 1 else axes for axes in chosen))


def param_spec(parameter: Parameter, mesh: Mesh | AbstractMesh) -> PartitionSpec:
    """Where one parameter lives. Elementwise ones (scales, scalars) are replicated: they are tiny."""
    return _spec_of(parameter, mesh, PARAM_AXES)


def master_spec(parameter: Parameter, mesh: Mesh | AbstractMesh) -> PartitionSpec:
    """Where the optimizer's float32 copy of a parameter lives, and its moments: spread over `data` too.

    Elementwise parameters are replicated, and so is over `data` what has no dimension left that divides.
    """
    spec, size = param_spec(parameter, mesh), mesh.shape["data"]
    dims = [
        dim
        for letter in DATA_LETTERS
        for dim in range(len(parameter.shape))
        if parameter.letters[dim] == letter and spec[dim] is None and parameter.shape[dim] % size == 0
    ]
    if size == 1 or not dims or not parameter.output_axis:
        return spec
    return PartitionSpec(*("data" if dim == dims[0] else axes for dim, axes in enumerate(spec)))


def pin(x: jax.Array, parameter: Parameter) -> jax.Array:
    """`x`, shaped like the parameter, in the place of the optimizer's copy of it; see `constrain`."""
    mesh = ambient_mesh()
    return x if mesh is None else jax.lax.with_sharding_constraint(x, master_spec(parameter, mesh))


def decoding_spec(parameter: Parameter, mesh: Mesh | AbstractMesh) -> PartitionSpec:
    """Where it lives while tokens are written: whole on every device, save what `tensor` splits."""
    return _spec_of(parameter, mesh, DECODING_AXES)


def _spec_of(parameter: Parameter, mesh: Mesh | AbstractMesh, table: Mapping[str, Choices]) -> PartitionSpec:
    if not parameter.output_axis:
        return PartitionSpec(*(None for _ in parameter.shape))
    return partition_spec(
        f"parameter {parameter.path}",
        letters=parameter.letters,
        shape=parameter.shape,
        mesh=mesh,
        table=table,
        first=parameter.output_axis,
    )


def param_shardings(info: Any, mesh: Mesh) -> Any:
    """The NamedSharding of every parameter, in a tree shaped like `info` (see `model.params.ParamInfo`)."""
    return jax.tree.map(lambda parameter: NamedSharding(mesh, param_spec(parameter, mesh)), info)


def master_shardings(info: Any, mesh: Mesh) -> Any:
    """As `param_shardings`, of what the optimizer keeps."""
    return jax.tree.map(lambda parameter: NamedSharding(mesh, master_spec(parameter, mesh)), info)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Of arrays (B, ...): rows over data and fsdp."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def free_axes(mesh: Mesh | AbstractMesh) -> set[str]:
    """The axes that no surrounding `jax.shard_map` has taken."""
    return {
        axis for axis, kind in zip(mesh.axis_names, mesh.axis_types, strict=True) if kind != AxisType.Manual
    }


def ambient_mesh() -> AbstractMesh | None:
    """The mesh set by `jax.set_mesh`, if its free axes have more than one device."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or math.prod(mesh.shape[axis] for axis in free_axes(mesh)) == 1:
        return None
    return mesh


def activation_spec(dims: str, shape: Sequence[int], mesh: Mesh | AbstractMesh) -> PartitionSpec:
    """Where an activation of these dimensions lives, dims as in "B T D"."""
    return partition_spec(
        f"activation ({dims})", letters=dims.split(), shape=shape, mesh=mesh, table=ACTIVATION_AXES
    )


def constrain(x: jax.Array, dims: str) -> jax.Array:
    """Pins an activation to its place on the ambient mesh; without one, returns it as it is."""
    mesh = ambient_mesh()
    if mesh is None:
        return x
    return jax.lax.with_sharding_constraint(x, activation_spec(dims, x.shape, mesh))


def map_shards(
    function: Callable[..., jax.Array], *, inputs: Sequence[str], output: str
) -> Callable[..., jax.Array]:
    """`function` run by every device on its own shard; for work in which no shard needs another.

    XLA gathers the operands of what it cannot see into; `jax.shard_map` over the ambient mesh hands each
    device its part instead. `inputs` and `output` give the dimensions of every argument and of the result.
    Without an ambient mesh this is `function` itself.
    """
    mesh = ambient_mesh()
    if mesh is None:
        return function

    def mapped(*arrays: jax.Array) -> jax.Array:
        sizes = {
            letter: size
            for dims, array in zip(inputs, arrays, strict=True)
            for letter, size in zip(dims.split(), array.shape, strict=True)
        }

        def spec(dims: str) -> PartitionSpec:
            return activation_spec(dims, [sizes[letter] for letter in dims.split()], mesh)

        on_shards = jax.shard_map(
            function,
            mesh=mesh,
            in_specs=tuple(spec(dims) for dims in inputs),
            out_specs=spec(output),
            axis_names=free_axes(mesh),
            check_vma=False,
        )
        return on_shards(*arrays)

    return mapped
