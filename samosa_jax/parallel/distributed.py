"""Starts the processes of a run over several hosts, and ends them together.

    with joined(config.distributed) as group: ...

One process stays on its own and nothing is started. Several meet at the coordinator's address: first by
the connections of `process_group`, which name whoever is missing, then by `jax.distributed` through the same
port.
"""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import jax

from samosa_jax.config import DistributedConfig
from samosa_jax.errors import UserError
from samosa_jax.parallel.hub import Hub
from samosa_jax.parallel.launchers import Place, find_place
from samosa_jax.parallel.process_group import ConnectedGroup, ProcessGroup

RETRY_SECONDS = 0.2
JAX_HEARTBEAT_FACTOR = 10  # our own notice comes first: JAX's ends the process by a failed check in C++
LOOPBACK = "127.0.0.1"
WITHOUT_PROXY = "no_grpc_proxy"  # a variable of gRPC: the hosts it reaches directly


@contextmanager
def joined(config: DistributedConfig) -> Iterator[ProcessGroup]:
    """The processes that were started together, for the span of a command.

    An error in one of several ends that process here and now, and the others say why it did.

    Raises:
        UserError: the coordinator cannot be reached, or not all processes come.
    """
    place = find_place(config, os.environ, full_name=socket.getfqdn())
    if place is None:
        yield ProcessGroup()
        return
    group, service_port = _connect(place, config)
    try:
        _await_all(group, place, config)
        _start_jax(place, config, port=service_port or group.open_relay(place.coordinator))
        yield group
        group.leave()
        jax.distributed.shutdown()
        group.close()
    except UserError as error:
        group.end(error, code=2)
    except KeyboardInterrupt as error:
        group.end(error, code=130)
    except BaseException as error:
        group.end(error, code=1)


def _connect(place: Place, config: DistributedConfig) -> tuple[ConnectedGroup, int]:
    """The connection to process 0; and in process 0 a port for JAX's service, 0 elsewhere."""
    timeout = config.join_timeout_seconds
    hub, service_port, address = None, 0, place.coordinator
    if place.process_id == 0:
        server = _listen(place.coordinator)
        service_port = _free_port()
        hub = Hub(
            server,
            size=place.num_processes,
            service_port=service_port,
            heartbeat_timeout=config.heartbeat_timeout_seconds,
        )
        address = _own_address(server)
    group = ConnectedGroup(
        _reach(address, timeout=timeout),
        index=place.process_id,
        size=place.num_processes,
        heartbeat_timeout=config.heartbeat_timeout_seconds,
        hub=hub,
    )
    return group, service_port


def _await_all(group: ConnectedGroup, place: Place, config: DistributedConfig) -> None:
    """Process 0 alone gives up, for it alone knows who is missing; then the others hear of it."""
    if group.wait_until_complete(timeout=config.join_timeout_seconds if group.is_first else None):
        return
    host, port = place.coordinator
    raise UserError(
        f"distributed.coordinator {host}:{port}: not all {place.num_processes} processes came within "
        f"{config.join_timeout_seconds} s, {', '.join(map(str, group.missing))} missing; start each with the "
        "same command and see what its log says, or raise distributed.join_timeout_seconds"
    )


def _start_jax(place: Place, config: DistributedConfig, *, port: int) -> None:
    """`port` of this host is that of JAX's coordination service, or of the relay to it."""
    # Its preemption service would take SIGTERM away from the training loop.
    jax.config.update("jax_enable_preemption_service", False)
    # gRPC would ask a proxy for the way to this very host, which JAX warns of wherever there is one.
    os.environ[WITHOUT_PROXY] = LOOPBACK
    jax.config.update("jax_check_proxy_envs", False)
    jax.distributed.initialize(
        f"{LOOPBACK}:{port}",
        num_processes=place.num_processes,
        process_id=place.process_id,
        local_device_ids=place.local_device_ids,
        cluster_detection_method="deactivate",
        initialization_timeout=config.join_timeout_seconds,
        heartbeat_timeout_seconds=config.heartbeat_timeout_seconds * JAX_HEARTBEAT_FACTOR,
        coordinator_bind_address=f"{LOOPBACK}:{port}",
    )


def _listen(coordinator: tuple[str, int]) -> socket.socket:
    """On every address of this host, or on the loopback where the coordinator is named by that."""
    host, port = coordinator
    try:
        if host == "localhost" or host.startswith("127."):
            return socket.create_server((host, port))
        if socket.has_dualstack_ipv6():
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        return socket.create_server(("", port))
    except OSError as error:
        raise UserError(
            f"distributed.coordinator {host}:{port}: this process, number 0, cannot listen there "
            f"({error.strerror}); choose a free port"
        ) from error


def _own_address(server: socket.socket) -> tuple[str, int]:
    host, port = server.getsockname()[:2]
    return (LOOPBACK if host in ("::", "0.0.0.0") else host), port


def _free_port() -> int:
    """Of the loopback, for the coordination service: the others reach it through the coordinator's port."""
    with socket.create_server((LOOPBACK, 0)) as server:
        return server.getsockname()[1]


def _reach(address: tuple[str, int], *, timeout: float) -> socket.socket:
    """A connection to process 0, which may start later than this one."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            connection = socket.create_connection(address, timeout=max(0.1, deadline - time.monotonic()))
            connection.settimeout(None)
            return connection
        except OSError as error:
            if time.monotonic() + RETRY_SECONDS < deadline:
                time.sleep(RETRY_SECONDS)
                continue
            raise UserError(
                f"distributed.coordinator {address[0]}:{address[1]} cannot be reached, tried for "
                f"{timeout:g} s ({error.strerror or error}); see that process 0 runs there and that hosts "
                "may connect to that port, or raise distributed.join_timeout_seconds"
            ) from error
