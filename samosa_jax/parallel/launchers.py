"""Which process this is, of how many, and where they meet: as given, or as the launcher's environment says.

Read from the environment alone, so that nothing is asked of a cluster's API: SLURM's job steps, Open MPI,
and indexed Jobs of Kubernetes, a JobSet's among them. What the configuration or JAX's own variables
(JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID, JAX_LOCAL_DEVICE_IDS) say comes before that.
"""

import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from samosa_jax.config import DistributedConfig
from samosa_jax.errors import ConfigError

FIRST_PORT, NUM_PORTS = 61_440, 4_096  # of the ephemeral range; a job's id chooses one
KUBERNETES_PORT = 55_527


@dataclass(frozen=True, kw_only=True)
class Place:
    """One process among those of a run."""

    coordinator: tuple[str, int]  # host and port where process 0 listens
    num_processes: int  # at least 2
    process_id: int
    local_device_ids: tuple[int, ...] | None  # of the host's accelerators; None: all that are visible


@dataclass(frozen=True, kw_only=True)
class Launched:
    """What a launcher says of this process; None where it does not say it."""

    launcher: str
    num_processes: int | None = None
    process_id: int | None = None
    coordinator: str | None = None
    local_rank: int = 0
    local_size: int = 1  # processes on this host
    devices_bound: bool = False  # the launcher shows each process only its own accelerators


def find_place(config: DistributedConfig, environ: Mapping[str, str], *, full_name: str) -> Place | None:
    """None: a process on its own.

    `full_name` is the host's name with its domain, which indexed Jobs of Kubernetes are found by.

    Raises:
        ConfigError: several processes, and something about them is neither given nor to be seen.
    """
    launched = (
        _of_slurm(environ)
        or _of_open_mpi(environ)
        or _of_kubernetes(environ, full_name)
        or Launched(launcher="the environment")
    )
    num_processes = (
        config.num_processes or _number(environ, "JAX_NUM_PROCESSES") or launched.num_processes or 0
    )
    coordinator = (
        config.coordinator or environ.get("JAX_COORDINATOR_ADDRESS", "") or launched.coordinator or ""
    )
    if num_processes == 1:
        return None
    if num_processes == 0:
        if config.coordinator or config.process_id >= 0:
            raise ConfigError(
                "distributed.num_processes is not given, but distributed.coordinator or "
                "distributed.process_id is; say how many processes there are, as in "
                "--distributed.num_processes=2"
            )
        return None
    process_id = config.process_id
    if process_id < 0:
        process_id = _first_known(_number(environ, "JAX_PROCESS_ID"), launched.process_id)
    if process_id < 0:
        raise ConfigError(
            f"distributed.process_id is not given, and {launched.launcher} does not say which of the "
            f"{num_processes} processes this is; number them from 0, as in --distributed.process_id=0"
        )
    if process_id >= num_processes:
        raise ConfigError(
            f"distributed.process_id is {process_id}, but there are {num_processes} processes, numbered from "
            "0; start one with every number below that"
        )
    if not coordinator:
        raise ConfigError(
            f"distributed.coordinator is not given, and {launched.launcher} does not say where process 0 "
            f"runs; name its host and a free port, as in --distributed.coordinator=node001:{FIRST_PORT}"
        )
    return Place(
        coordinator=parse_address(coordinator),
        num_processes=num_processes,
        process_id=process_id,
        local_device_ids=_local_devices(environ, launched),
    )


def parse_address(text: str) -> tuple[str, int]:
    """HOST:PORT, where an IPv6 host is in brackets. Raises ConfigError."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdigit() or not 0 < int(port) < 65_536:
        raise ConfigError(f"distributed.coordinator is {text!r}; expected HOST:PORT, as in node001:61440")
    return host.removeprefix("[").removesuffix("]"), int(port)


def first_host(nodes: str) -> str:
    """The first of SLURM's list of nodes: node007 of `node[007,009-012],big[1-2]`."""
    first = re.match(r"(?:\[[^\]]*\]|[^,\[])*", nodes)
    return re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", first.group(0) if first else "")


def _of_slurm(environ: Mapping[str, str]) -> Launched | None:
    """A task of a job step, which `srun` has started; the batch script itself is none."""
    needed = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_LOCALID")
    if any(name not in environ for name in needed):
        return None
    port = FIRST_PORT + int(environ["SLURM_JOB_ID"]) % NUM_PORTS
    return Launched(
        launcher="SLURM",
        num_processes=int(environ["SLURM_STEP_NUM_TASKS"]),
        process_id=int(environ["SLURM_PROCID"]),
        coordinator=f"{first_host(environ['SLURM_STEP_NODELIST'])}:{port}",
        local_rank=int(environ["SLURM_LOCALID"]),
        local_size=_tasks_on_node(
            environ.get("SLURM_STEP_TASKS_PER_NODE", "1"), node=int(environ.get("SLURM_NODEID", "0"))
        ),
        devices_bound="SLURM_GPUS_PER_TASK" in environ,
    )


def _tasks_on_node(text: str, *, node: int) -> int:
    """Of SLURM's `8(x3),4`: eight tasks on each of three nodes and four on the last."""
    counts: list[int] = []
    for part in text.split(","):
        count, _, times = part.removesuffix(")").partition("(x")
        counts += [int(count)] * int(times or 1)
    return counts[node] if node < len(counts) else 1


def _of_open_mpi(environ: Mapping[str, str]) -> Launched | None:
    """A process of `mpirun`, which process 0 is taken to run beside, as it does unless told otherwise."""
    if "OMPI_COMM_WORLD_SIZE" not in environ or "OMPI_COMM_WORLD_RANK" not in environ:
        return None
    size = int(environ["OMPI_COMM_WORLD_SIZE"])
    local_size = int(environ.get("OMPI_COMM_WORLD_LOCAL_SIZE", "1"))
    uri = environ.get("OMPI_MCA_orte_hnp_uri", "")
    job = uri.partition(";")[0] or environ.get("PMIX_NAMESPACE", "")
    port = FIRST_PORT + zlib.crc32(job.encode()) % NUM_PORTS
    # Release 4 gives mpirun's addresses, release 5 its host's name, as in prterun-node001-12409@1.
    starter = re.search(r"tcp://([^,:]+)|tcp6://\[([^,\]]+)|^prterun-(.+)-\d+@", uri or job)
    coordinator = None
    if local_size == size:
        coordinator = f"127.0.0.1:{port}"
    elif starter is not None:
        address, address6, name = starter.groups()
        coordinator = f"{address or name or f'[{address6}]'}:{port}"
    return Launched(
        launcher="Open MPI",
        num_processes=size,
        process_id=int(environ["OMPI_COMM_WORLD_RANK"]),
        coordinator=coordinator,
        local_rank=int(environ.get("OMPI_COMM_WORLD_LOCAL_RANK", "0")),
        local_size=local_size,
    )


def _of_kubernetes(environ: Mapping[str, str], full_name: str) -> Launched | None:
    """A pod of an indexed Job: JOB-INDEX.SUBDOMAIN..., where pod 0 is the coordinator.

    How many pods there are stands in no variable that Kubernetes sets; the manifest sets JAX_NUM_PROCESSES.
    """
    if "KUBERNETES_SERVICE_HOST" not in environ or "JOB_COMPLETION_INDEX" not in environ:
        return None
    index = int(environ["JOB_COMPLETION_INDEX"])
    pod, dot, domain = full_name.partition(".")
    found = dot and pod.endswith(f"-{index}")
    job = pod.removesuffix(f"-{index}")
    return Launched(
        launcher="Kubernetes",
        process_id=index,
        coordinator=f"{job}-0.{domain}:{KUBERNETES_PORT}" if found else None,
    )


def _local_devices(environ: Mapping[str, str], launched: Launched) -> tuple[int, ...] | None:
    """The host's accelerators that are this process's, where several processes share them."""
    named = environ.get("JAX_LOCAL_DEVICE_IDS", "")
    if named:
        parts = [part.strip() for part in named.split(",")]
        if not all(part.isdecimal() for part in parts):
            raise ConfigError(
                f"JAX_LOCAL_DEVICE_IDS is {named!r} in the environment; expected numbers, as in 0,1"
            )
        return tuple(map(int, parts))
    visible = environ.get("CUDA_VISIBLE_DEVICES", "")
    if launched.local_size == 1 or launched.devices_bound:
        return None
    if not visible:
        return (launched.local_rank,)
    count = len(visible.split(","))
    if count < launched.local_size:
        return None  # bound already: each process sees its own
    if count % launched.local_size:
        raise ConfigError(
            f"CUDA_VISIBLE_DEVICES names {count} devices, which {launched.local_size} processes on this host "
            "cannot share evenly; start one process per host, or one per device"
        )
    share = count // launched.local_size
    return tuple(range(launched.local_rank * share, (launched.local_rank + 1) * share))


def _number(environ: Mapping[str, str], name: str) -> int | None:
    text = environ.get(name, "")
    if not text:
        return None
    if not text.isdigit():
        raise ConfigError(f"{name} is {text!r} in the environment; expected a number")
    return int(text)


def _first_known(*numbers: int | None) -> int:
    """The first that is not None; -1 if all are."""
    return next((number for number in numbers if number is not None), -1)
