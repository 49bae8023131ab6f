"""Whether a batch and a model divide over a device mesh, asked before anything is allocated."""

import math

from samosa_jax.config import Config, MeshConfig, require


def resolve_mesh(mesh: MeshConfig, num_devices: int) -> MeshConfig:
    """The mesh with -1 replaced, or ConfigError if its sizes cannot fill num_devices exactly."""
    sizes = {"data": mesh.data, "fsdp": mesh.fsdp, "tensor": mesh.tensor}
    fixed = math.prod(size for size in sizes.values() if size != -1)
    asked = f"mesh is data={mesh.data} fsdp={mesh.fsdp} tensor={mesh.tensor}"
    if -1 not in sizes.values():
        require(
            fixed == num_devices,
            f"{asked}, which is {fixed} devices, but there are {num_devices}; "
            "change one size, or set it to -1 to take what the others leave",
        )
        return mesh
    require(
        num_devices % fixed == 0,
        f"{asked}, and {fixed} does not divide the {num_devices} devices; choose sizes whose product does",
    )
    free = num_devices // fixed
    return MeshConfig(**{axis: free if size == -1 else size for axis, size in sizes.items()})


def dividing_rows(config: Config, num_devices: int) -> list[int]:
    """What train.device_batch_size may be on num_devices: the divisors of a replica's rows, largest first.

    Raises:
        ConfigError: the mesh does not fill the devices, or the rows do not divide over its replicas.
    """
    mesh = resolve_mesh(config.mesh, num_devices)
    replicas = mesh.data * mesh.fsdp
    require(
        config.batch_rows % replicas == 0,
        f"train.batch_tokens gives {config.batch_rows} rows of {config.model.context_len} tokens per step, "
        f"which do not divide over {replicas} devices (mesh data x fsdp); make the rows a multiple of "
        f"{replicas}",
    )
    rows = config.batch_rows // replicas
    return [count for count in range(rows, 0, -1) if rows % count == 0]


def check_mesh(config: Config, num_devices: int) -> None:
    """Raises ConfigError if the batch or the model does not divide over num_devices.

    The rules are those of `parallel.sharding`, where a dimension of size one stays whole on every device.
    """
    mesh = resolve_mesh(config.mesh, num_devices)
    rows, replicas = config.batch_rows, mesh.data * mesh.fsdp
    per_device = config.train.device_rows
    fitting = math.gcd(rows // replicas, per_device) if rows % replicas == 0 else 0
    require(
        rows % (per_device * replicas) == 0,
        f"train.batch_tokens gives {rows} rows of {config.model.context_len} tokens per step, not a multiple "
        f"of train.device_batch_size ({per_device}) x {replicas} devices (mesh data x fsdp); "
        + (
            f"train.device_batch_size={fitting} fits"
            if fitting
            else f"make the rows a multiple of {replicas}"
        ),
    )
    model = config.model
    require(
        config.train.matmul_dtype != "float8" or mesh.fsdp == mesh.tensor == 1,
        f"mesh is data={mesh.data} fsdp={mesh.fsdp} tensor={mesh.tensor}, but with train.matmul_dtype=float8 "
        "the scale of a tensor in parts would be sent around in every layer; set fsdp and tensor to 1",
    )
    V = model.padded_vocab_size
    vocabulary = f"model.vocab_size, padded to a multiple of 64 ({V})"
    # Rows of an untied head and of value tables go over fsdp, unless `tensor` takes them.
    splits_head = not model.tie_embeddings and mesh.tensor == 1
    splits_values = bool(model.value_embedding_layers) and (mesh.tensor == 1 or model.num_kv_heads > 1)
    for axis, key, size in (
        ("tensor", f"model.num_heads ({model.num_heads})", model.num_heads),
        ("tensor", f"model.num_kv_heads ({model.num_kv_heads})", model.num_kv_heads),
        ("tensor", f"model.mlp_dim ({model.mlp_dim})", model.mlp_dim),
        ("tensor", vocabulary, V),
        ("fsdp", f"model.model_dim ({model.model_dim})", model.model_dim),
        ("fsdp", vocabulary, V if splits_head or splits_values else 1),
    ):
        count = getattr(mesh, axis)
        require(
            size == 1 or size % count == 0,
            f"mesh.{axis} is {count} and does not divide {key}; choose a divisor of it",
        )
