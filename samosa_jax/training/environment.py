"""The machine a run is on: what devices it has, how fast and full they are, and which software runs there."""

import importlib.metadata
import os
import platform
import resource
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
from samosa_kernels.device import Device, computes_float8, peak_flops

from samosa_jax.errors import ConfigError


def peak_half_flops(device: Device) -> float | None:
    """FLOPs a second of one device in bfloat16, in float16 where it has no other half precision.

    None where no table has it (a CPU, a new chip).
    """
    return peak_flops(device, "bfloat16") or peak_flops(device, "float16")


def check_matmul_dtype(matmul_dtype: str, device: Device) -> None:
    """Raises ConfigError if train.matmul_dtype is float8 and the device is not known to gain by it."""
    if matmul_dtype == "float8" and not computes_float8(device):
        raise ConfigError(
            f"train.matmul_dtype is float8, but {device.kind} is not known to have units for it (Hopper, Ada "
            "and Blackwell GPUs have them); set train.matmul_dtype=compute"
        )


def peak_bytes() -> int:
    """Most memory in use so far: of the fullest local device, or of this process on CPU."""
    stats = [device.memory_stats() for device in jax.local_devices()]
    known = [int(entry["peak_bytes_in_use"]) for entry in stats if entry and "peak_bytes_in_use" in entry]
    if known:
        return max(known)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def device_memory_bytes() -> int | None:
    """Memory that JAX may use on one device; None on CPU."""
    stats = jax.local_devices()[0].memory_stats()
    return int(stats["bytes_limit"]) if stats and "bytes_limit" in stats else None


def available_memory_bytes() -> int:
    """Free memory of this machine, or of the container that holds this process, if that has less."""
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        fields = dict(line.split(":", 1) for line in meminfo.read_text(encoding="ascii").splitlines())
        free = int(fields["MemAvailable"].split()[0]) * 1024
    else:
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and used.exists() and (text := limit.read_text(encoding="ascii").strip()) != "max":
        free = min(free, int(text) - int(used.read_text(encoding="ascii")))
    return max(free, 0)


def bytes_per_device(tree: object) -> int:
    """Bytes that the arrays of a tree take on the fullest device; shapes with a sharding will do."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        shape = leaf.sharding.shard_shape(leaf.shape) if getattr(leaf, "sharding", None) else leaf.shape
        total += int(np.prod(shape, dtype=np.int64)) * leaf.dtype.itemsize
    return total


def describe_devices(mesh: jax.sharding.Mesh) -> str:
    """Like "8 x NVIDIA H100 80GB HBM3, mesh data=8 fsdp=1 tensor=1"."""
    devices = mesh.devices.flat
    axes = " ".join(f"{name}={size}" for name, size in mesh.shape.items())
    return f"{mesh.size} x {devices[0].device_kind}, mesh {axes}"


def git_commit(folder: Path) -> str | None:
    """The commit of the sources in `folder`, with "+changes" if files differ; None where git tracks none."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=True
            )
        except (OSError, subprocess.SubprocessError):
            return None  # no git, no repository, or one that another user owns
        return done.stdout.strip()

    commit = git("rev-parse", "HEAD")
    if not commit or not git("ls-files", "--", "."):  # a package installed inside another project
        return None
    return f"{commit}+changes" if git("status", "--porcelain", "--untracked-files=no") else commit


def versions() -> dict[str, str]:
    """Versions of what decides a run's numbers."""
    packages = (
        "samosa-jax",
        "jax",
        "jaxlib",
        "flax",
        "optax",
        "orbax-checkpoint",
        "grain",
        "numpy",
        "sentencepiece",
    )
    return {"python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in packages
    }


def environment_record(
    mesh: jax.sharding.Mesh,
    *,
    argv: list[str],
    tokenizer_fingerprint: str,
    sources: Mapping[str, str],
) -> dict[str, object]:
    """What environment.json holds. `sources` maps each data folder to the fingerprint of its manifest."""
    device = mesh.devices.flat[0]
    return {
        "command": shlex.join([sys.executable, *argv]),
        "versions": versions(),
        "git_commit": git_commit(Path(__file__).parent),
        "host": {"system": platform.platform(), "cores": os.cpu_count(), "processes": jax.process_count()},
        "device": {"kind": device.device_kind, "platform": device.platform, "count": mesh.size},
        "mesh": dict(mesh.shape),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "tokenizer": tokenizer_fingerprint,
        "sources": dict(sources),
    }
