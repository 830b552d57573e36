"""A local cluster listens on loopback only: Ray with its metrics, torch's gloo, and Serve's
replicas. What only a cluster of several nodes needs is left out."""

from __future__ import annotations

import functools
import socket
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from ray._private import ray_constants, services

ADDRESS = "127.0.0.1"
HOOK = "engine.backends.ray_loopback.set_up_worker"
# No node of it is ever drained, so training needs no process that watches for that; and its few
# workers can be asked more often than once in 2 s whether they are done.
FOR_WORKERS = {
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
}


def environment() -> dict[str, str]:
    """Prepare this process to start such a cluster; what its processes must have in their
    environment.

    Ray has this as its way on macOS and Windows, where it supports no clusters; on Linux it
    replaces `_node_ip_address="127.0.0.1"`.
    """
    ray_constants.ENABLE_RAY_CLUSTER = False
    variables = {
        ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0",
        # Ray's workers are 15 by default: whatever else runs here takes their time. On two cores
        # ten idle workers came in 22 s that way, in 11 s this way.
        "RAY_worker_niceness": "0",
        # Ten looks a second at what it serves cost Serve's controller a twentieth of a core.
        "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.3",
    }
    loopbacks = [name for _, name in socket.if_nameindex() if name.startswith("lo")]
    if loopbacks:
        variables["GLOO_SOCKET_IFNAME"] = loopbacks[0]
    return variables


@contextmanager
def apart() -> Generator[None]:
    """A cluster that starts in the block has process groups of its own.

    In this process's group its raylet would end with it where a signal goes to all of the group (a
    terminal that closes, `kill %1`, `timeout`): before this process has ended in order what runs
    there, and vLLM's engines, whose replicas nobody ends then, would stay for ever.
    """
    start = services.ConsolePopen
    grouped: Any = functools.partial(start, process_group=0)
    services.ConsolePopen = grouped
    try:
        yield
    finally:
        services.ConsolePopen = start


def set_up_worker() -> None:
    """In each worker process as it starts."""
    _narrow()


def _narrow() -> None:
    """gRPC servers that would listen on all addresses get loopback.

    Each Serve replica of Ray 2.60 has one, on [::] without a choice, and it asks for no key.
    """
    from grpc.aio._server import Server

    anywhere = Server.add_insecure_port

    def add_insecure_port(self: Server, address: str) -> int:
        host, _, port = address.rpartition(":")
        if host in ("[::]", "0.0.0.0"):
            address = f"{ADDRESS}:{port}"
        return anywhere(self, address)

    Server.add_insecure_port = add_insecure_port
