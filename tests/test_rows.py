"""Which rows of a batch are a process's, on meshes over several."""

import jax
import numpy as np
import pytest
from tiny_training import mesh_of

from samosa_jax.errors import ConfigError
from samosa_jax.parallel.rows import RowShare, put_whole, row_share, share_of


def hosts(*, processes: int, each: int) -> np.ndarray:
    """The process of every device, in the order of `jax.devices()`."""
    return np.repeat(np.arange(processes), each)


@pytest.mark.parametrize(
    ("mesh", "expected"),
    [
        ((16, 1), [(0, 2), (1, 2)]),  # rows over all devices
        ((4, 4), [(0, 2), (1, 2)]),  # tensor within a host
        ((2, 8), [(0, 2), (1, 2)]),
        ((1, 16), [(0, 1), (0, 1)]),  # tensor over both hosts: all rows in both
    ],
)
def test_a_process_holds_the_rows_of_its_devices(mesh: tuple[int, int], expected: list[tuple[int, int]]):
    processes = hosts(processes=2, each=8).reshape(mesh)
    found = [share_of(processes, process) for process in range(2)]
    assert found == [RowShare(index=index, count=count) for index, count in expected]


def test_pairs_of_processes_that_share_rows():
    processes = hosts(processes=4, each=2).reshape(2, 4)
    assert [share_of(processes, process).index for process in range(4)] == [0, 0, 1, 1]


def test_shares_are_disjoint_and_together_the_batch():
    rows = np.arange(24).reshape(24, 1)
    parts = [RowShare(index=index, count=3).of({"tokens": rows})["tokens"] for index in range(3)]
    np.testing.assert_array_equal(np.concatenate(parts), rows)


@pytest.mark.parametrize("processes", [[[0], [1], [0], [1]], [[0], [0], [0], [1]], [[0, 1], [0, 2]]])
def test_rows_that_do_not_lie_together(processes: list[list[int]]):
    with pytest.raises(ConfigError, match=r"spreads the rows of process \d over places that do not lie"):
        share_of(np.array(processes), 0)


def test_one_process_has_all():
    assert row_share(mesh_of(data=4, tensor=2)) == RowShare(index=0, count=1)


def test_a_whole_batch_is_spread_over_the_devices():
    mesh = mesh_of(data=2, fsdp=2, tensor=2)
    rows = np.arange(8 * 3).reshape(8, 3)
    put = put_whole((rows,), mesh)[0]
    np.testing.assert_array_equal(jax.device_get(put), rows)
    assert {shard.data.shape for shard in put.addressable_shards} == {(2, 3)}
