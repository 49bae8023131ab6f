"""Processes that meet, agree, miss each other, and end together."""

import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import several_processes
from several_processes import Ended, Processes, host_name, last_line

from samosa_jax.parallel.hub import Hub
from samosa_jax.parallel.process_group import ConnectedGroup, ProcessGroup

MEMBER = str(Path(__file__).parent / "group_member.py")
GO_ON = "so this one stops too; the same command goes on from the newest whole checkpoint"


def members(
    what: str, *, logs: Path, numbers: Sequence[tuple[int, int]] = ((0, 2), (1, 2)), seconds: int = 60
) -> Processes:
    """`numbers` are what each process believes to be its index, and how many there are."""
    port = several_processes.free_port()
    commands = [[MEMBER, str(index), str(size), str(port), str(seconds), what] for index, size in numbers]
    return Processes(commands, logs=logs)


def wait_until_joined(processes: Processes) -> None:
    deadline = time.monotonic() + 100
    while not all("joined" in processes.said(index) for index in range(len(processes.processes))):
        assert processes.are_running, [processes.said(index) for index in range(len(processes.processes))]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def in_threads(size: int, work: Callable[[ConnectedGroup], object]) -> list[object]:
    """What every member of a group returns, each in a thread of this process."""
    server = socket.create_server(("127.0.0.1", 0))
    hub = Hub(server, size=size, service_port=1, heartbeat_timeout=30)
    results: list[object] = [None] * size

    def member(index: int) -> None:
        connection = socket.create_connection(server.getsockname())
        own_hub = hub if index == 0 else None
        group = ConnectedGroup(connection, index=index, size=size, heartbeat_timeout=30, hub=own_hub)
        assert group.wait_until_complete(timeout=30)
        results[index] = work(group)
        group.leave()
        group.close()

    threads = [threading.Thread(target=member, args=(index,)) for index in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    return results


def test_a_process_alone_agrees_with_itself():
    group = ProcessGroup()
    assert group.is_first
    assert group.share({"a": 1}) == [{"a": 1}]
    assert group.may_begin(3, wish=None)
    assert not group.may_begin(4, wish=signal.SIGTERM)
    assert group.stop_signal == signal.SIGTERM


def test_all_get_what_each_has_given_in_order():
    def work(group: ConnectedGroup) -> list[object]:
        random.seed(group.index)
        rounds = []
        for number in range(20):
            time.sleep(random.random() * 0.003)
            rounds.append(group.share([number, group.index, "x" * 200_000 if number == 7 else ""]))
        return [[entry[:2] for entry in each] for each in rounds]

    expected = [[[number, index] for index in range(3)] for number in range(20)]
    assert in_threads(3, work) == [expected] * 3


@pytest.mark.parametrize("seed", range(6))
def test_all_stop_after_the_same_step(seed: int):
    """As in training, no process is more than a step ahead of another; here they need not even wait."""
    rng = random.Random(seed)
    who, when = rng.randrange(3), rng.randrange(5, 60)
    also = (who + 1) % 3 if seed % 2 else None  # told a moment later, with another signal

    def work(group: ConnectedGroup) -> tuple[int, int | None]:
        step, wish, pace = 10, None, random.Random(seed * 10 + group.index)
        while group.may_begin(step, wish=wish) and step < 10_000:
            step += 1
            time.sleep(pace.random() * 0.002)
            if group.index == who and step >= when:
                wish = signal.SIGTERM
            elif group.index == also and step >= when + 1:
                wish = signal.SIGINT
        return step, group.stop_signal

    results = in_threads(3, work)
    assert len(set(results)) == 1, results
    step, stopped_by = results[0] if isinstance(results[0], tuple) else (0, None)
    assert when <= step < 10_000
    assert stopped_by in (signal.SIGTERM, signal.SIGINT) if also is not None else stopped_by == signal.SIGTERM


def test_who_finishes_meanwhile_is_waited_for():
    """One process has done its last step when another is told to stop."""

    def work(group: ConnectedGroup) -> int:
        step = 0
        while group.may_begin(step, wish=signal.SIGTERM if group.index == 1 and step == 3 else None):
            if step == 5:
                break
            step += 1
            time.sleep(0 if group.index == 0 else 0.02)
        return step

    found = in_threads(2, work)
    assert found[0] == 5
    assert found[1] in (4, 5)


def codes(ended: Sequence[Ended]) -> list[int]:
    return [each.code for each in ended]


def test_they_meet_share_and_leave(tmp_path: Path):
    ended = members("share", logs=tmp_path).wait()
    assert codes(ended) == [0, 0], [each.said for each in ended]
    for each in ended:
        assert "shared [{'from': 0}, {'from': 1}]" in each.said
        assert last_line(each) == "left"


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_is_named_and_all_stop(victim: int, tmp_path: Path):
    processes = members("wait", logs=tmp_path)
    wait_until_joined(processes)
    killed = time.monotonic()
    processes.processes[victim].send_signal(signal.SIGKILL)
    ended = processes.wait(timeout=60)
    assert time.monotonic() - killed < 30
    for index, each in enumerate(ended):
        if index == victim:
            assert each.code == -signal.SIGKILL
        else:
            assert each.code == 75, each.said
            assert last_line(each) == f"error: process {victim} on {host_name()} has ended, {GO_ON}"


def test_a_process_that_falls_silent_is_named_and_all_stop(tmp_path: Path):
    """Stopped, not ended: as when a host loses its power, its connections stay open."""
    processes = members("wait", logs=tmp_path, numbers=((0, 3), (1, 3), (2, 3)))
    wait_until_joined(processes)
    processes.processes[1].send_signal(signal.SIGSTOP)
    for index in (0, 2):
        processes.processes[index].wait(60)
    processes.processes[1].kill()
    ended = processes.wait()
    assert codes(ended) == [75, -signal.SIGKILL, 75]
    for index in (0, 2):
        assert last_line(ended[index]) == (
            f"error: process 1 on {host_name()} has not been heard of for 3 s, {GO_ON}"
        )


def test_an_error_in_one_process_is_told_by_all(tmp_path: Path):
    ended = members("fail", logs=tmp_path).wait()
    assert codes(ended) == [2, 2]
    line = "rows.jsonl, row 7: no text; remove that row"
    assert last_line(ended[1]) == f"error: {line}"
    assert "Traceback" not in ended[1].said
    assert last_line(ended[0]) == f"error: process 1 on {host_name()} has stopped: {line}"


def test_a_mistake_of_ours_keeps_its_traceback(tmp_path: Path):
    ended = members("bug", logs=tmp_path).wait()
    assert codes(ended) == [1, 1]
    assert 'raise ValueError("a mistake of ours")' in ended[1].said
    assert last_line(ended[0]) == f"error: process 1 on {host_name()} has stopped: a mistake of ours"


def test_who_does_not_come_is_named_and_who_does_not_belong_refused(tmp_path: Path):
    ended = members("wait", logs=tmp_path, numbers=((0, 3), (1, 3), (1, 3), (2, 4)), seconds=6).wait()
    assert codes(ended) == [2, 2, 2, 2]
    assert "not all 3 processes came within 6 s, 2 missing; start each with the same command" in ended[0].said
    assert sum("has the same number; give each a distributed.process_id" in each.said for each in ended) == 1
    assert "was started as one of 4, process 0 as one of 3; give all the same" in last_line(ended[3])


def test_a_coordinator_that_is_not_there(tmp_path: Path):
    port = several_processes.free_port()
    ended = Processes([[MEMBER, "1", "2", str(port), "1", "wait"]], logs=tmp_path).wait()
    assert codes(ended) == [2]
    assert ended[0].said.splitlines() == [
        f"error: distributed.coordinator 127.0.0.1:{port} cannot be reached, tried for 1 s (Connection "
        "refused); see that process 0 runs there and that hosts may connect to that port, or raise "
        "distributed.join_timeout_seconds"
    ]


def test_a_coordinator_s_port_that_is_taken(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        ended = Processes([[MEMBER, "0", "2", str(port), "5", "wait"]], logs=tmp_path).wait()
    assert codes(ended) == [2]
    assert f"127.0.0.1:{port}: this process, number 0, cannot listen there (Address already" in ended[0].said
