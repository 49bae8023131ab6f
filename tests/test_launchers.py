"""Which process this is, read from the environments that launchers make."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samosa_jax.config import DistributedConfig
from samosa_jax.errors import ConfigError
from samosa_jax.parallel.launchers import Place, find_place, first_host, parse_address

# As `srun` of SLURM 22.05 has set them, and `mpirun` of Open MPI 5.0.11, but for the names of hosts.
SLURM = {
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_NODELIST": "gpu[007-008,011]",
    "SLURM_STEP_NUM_TASKS": "3",
    "SLURM_STEP_TASKS_PER_NODE": "1(x3)",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "2",
}
OPEN_MPI = {
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_RANK": "0",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "1",
    "PMIX_NAMESPACE": "prterun-node-003-10927@1",
}
KUBERNETES = {
    "KUBERNETES_SERVICE_HOST": "10.0.0.1",
    "JOB_COMPLETION_INDEX": "1",
    "JAX_NUM_PROCESSES": "4",
}
POD = "samosa-train-0-1.samosa.default.svc.cluster.local"


def place(
    environ: Mapping[str, str], *, full_name: str = "laptop", config: DistributedConfig | None = None
) -> Place | None:
    return find_place(config or DistributedConfig(), environ, full_name=full_name)


def found(
    environ: Mapping[str, str], *, full_name: str = "laptop", config: DistributedConfig | None = None
) -> Place:
    result = place(environ, full_name=full_name, config=config)
    assert result is not None
    return result


def test_alone_where_nothing_says_otherwise():
    assert place({}) is None
    assert place({"PATH": "/bin"}, config=DistributedConfig(num_processes=1)) is None
    assert place(SLURM, config=DistributedConfig(num_processes=1)) is None
    assert place({**SLURM, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}) is None
    # A batch script is no task of a step, an indexed Job may be so many runs of their own.
    assert place({"SLURM_JOB_ID": "4711", "SLURM_NTASKS": "8", "SLURM_PROCID": "0"}) is None
    assert place({**KUBERNETES, "JAX_NUM_PROCESSES": ""}, full_name=POD) is None


def test_slurm():
    expected = Place(
        coordinator=("gpu007", 61_440 + 4711 % 4096), num_processes=3, process_id=2, local_device_ids=None
    )
    assert found(SLURM) == expected


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node001", "node001"),
        ("node001,node004", "node001"),
        ("node[001-015],big2", "node001"),
        ("node[007,009-012]", "node007"),
        ("rack[2-3]n[05-06]-ib,x", "rack2n05-ib"),
        ("10-0-0-[12,13].example", "10-0-0-12.example"),
    ],
)
def test_the_first_of_slurms_nodes(nodes: str, first: str):
    assert first_host(nodes) == first


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, (3,)),  # as JAX does: one process per GPU
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}, (6, 7)),
        ({"CUDA_VISIBLE_DEVICES": "5"}, None),  # srun has bound it already
        ({"SLURM_GPUS_PER_TASK": "2", "CUDA_VISIBLE_DEVICES": "0,1"}, None),
        ({"JAX_LOCAL_DEVICE_IDS": "1,7"}, (1, 7)),
    ],
)
def test_several_tasks_on_a_node_share_its_devices(more: Mapping[str, str], expected: tuple[int, ...] | None):
    tasks = {"SLURM_STEP_TASKS_PER_NODE": "4(x2),1", "SLURM_NODEID": "1", "SLURM_LOCALID": "3"}
    assert found({**SLURM, **tasks, **more}).local_device_ids == expected


def test_devices_that_cannot_be_shared_evenly():
    tasks = {"SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_NODEID": "0", "CUDA_VISIBLE_DEVICES": "0,1,2"}
    with pytest.raises(ConfigError, match="names 3 devices, which 2 processes on this host cannot share"):
        place({**SLURM, **tasks})


def test_open_mpi():
    result = found(OPEN_MPI)
    assert (result.num_processes, result.process_id, result.local_device_ids) == (2, 1, None)
    host, port = result.coordinator
    assert host == "node-003"
    assert 61_440 <= port < 65_536
    other = found({**OPEN_MPI, "PMIX_NAMESPACE": "prterun-node-003-10928@1"})
    assert other.coordinator[1] != port  # another job beside it
    one_host = found({**OPEN_MPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "2"})
    assert one_host.coordinator[0] == "127.0.0.1"
    release_4 = {**OPEN_MPI, "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911"}
    assert found(release_4).coordinator[0] == "10.96.0.1"
    release_4["OMPI_MCA_orte_hnp_uri"] = "1314521088.0;tcp6://[fe80::b9b:ac5d,2620:10d::2]:43370"
    assert found(release_4).coordinator[0] == "fe80::b9b:ac5d"


def test_a_job_of_kubernetes():
    result = found(KUBERNETES, full_name=POD)
    assert result.coordinator == ("samosa-train-0-0.samosa.default.svc.cluster.local", 55_527)
    assert (result.num_processes, result.process_id) == (4, 1)
    named = found({**KUBERNETES, "JAX_COORDINATOR_ADDRESS": "samosa-train-0-0.samosa:61440"}, full_name=POD)
    assert named.coordinator == ("samosa-train-0-0.samosa", 61_440)


def test_what_is_given_comes_before_what_is_seen():
    config = DistributedConfig(coordinator="head:1234", num_processes=5, process_id=4)
    result = found(SLURM, config=config)
    assert (result.coordinator, result.num_processes, result.process_id) == (("head", 1234), 5, 4)
    variables = {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "9", "JAX_PROCESS_ID": "0"}
    result = found({**SLURM, **variables})
    assert (result.coordinator, result.num_processes, result.process_id) == (("a", 1), 9, 0)


@pytest.mark.parametrize(
    ("config", "environ", "line"),
    [
        (DistributedConfig(coordinator="a:1"), {}, "distributed.num_processes is not given, but"),
        (DistributedConfig(process_id=0), {}, "distributed.num_processes is not given, but"),
        (
            DistributedConfig(coordinator="a:1", num_processes=2),
            {},
            "distributed.process_id is not given, and the environment does not say which of the 2 processes",
        ),
        (
            DistributedConfig(num_processes=2, process_id=1),
            {},
            "distributed.coordinator is not given, and the environment does not say where process 0 runs",
        ),
        (
            DistributedConfig(coordinator="a:1", num_processes=2, process_id=2),
            {},
            "distributed.process_id is 2, but there are 2 processes, numbered from 0",
        ),
        (
            DistributedConfig(),
            {**OPEN_MPI, "PMIX_NAMESPACE": "unheard-of"},
            "distributed.coordinator is not given, and Open MPI does not say where process 0 runs",
        ),
        (DistributedConfig(), {"JAX_NUM_PROCESSES": "two"}, "JAX_NUM_PROCESSES is 'two' in the environment"),
        (
            DistributedConfig(),
            {**SLURM, "JAX_LOCAL_DEVICE_IDS": "0,one"},
            "JAX_LOCAL_DEVICE_IDS is '0,one' in the environment; expected numbers",
        ),
    ],
)
def test_what_is_missing_is_named(config: DistributedConfig, environ: Mapping[str, str], line: str):
    with pytest.raises(ConfigError, match=line):
        place(environ, config=config)


def test_addresses():
    assert parse_address("node001:61440") == ("node001", 61_440)
    assert parse_address("[fe80::1]:80") == ("fe80::1", 80)
    for wrong in ("node001", "node001:", ":80", "node001:0", "node001:65536", "node001:http"):
        with pytest.raises(ConfigError, match="expected HOST:PORT, as in node001:61440"):
            parse_address(wrong)


@given(st.lists(st.sampled_from(["a", "b1", "gpu-07", "n[3-4]", "x[01,05]y"]), min_size=1, max_size=4))
def test_any_list_of_nodes_begins_with_its_first_entry(entries: list[str]):
    assert first_host(",".join(entries)) == first_host(entries[0])
