"""Connect to Ray, and compare what a job wants with what the cluster has."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Generator, Iterable, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray

# vLLM reads free devices by it; Ray's public API has only totals.
from ray._private.state import available_resources_per_node
from ray.autoscaler.sdk import request_resources
from ray.exceptions import AuthenticationError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from engine.backends import ray_loopback, ray_secrets
from engine.errors import CapacityError, EngineError
from engine.machines.layout import Layout, Node, shortfall
from engine.store.paths import Folder

# Chosen by us, inherited by every process of the job: no usage reports, and of Serve what it does
# stands in its own log files alone.
JOB_ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "RAY_SERVE_LOG_TO_STDERR": "0",
    # an engine over several nodes holds no GPU itself, yet must see what it drives
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}

CONNECT_TIMEOUT_S = 10
FREE_WAIT_S = 60
GROW_S = 2.0
# Variable of a cluster that starts nodes when it is asked (clusters/): how long one may take.
NODES_WAIT = "DISTILL_NODES_WAIT_S"
_log = logging.getLogger(__name__)
LOCAL = "local"  # without it ray.init would join whatever cluster was started last on this machine


@contextmanager
def connected(
    address: str | None,
    *,
    shared: Folder,
    environment: Mapping[str, str] | None = None,
    keys: Iterable[str] = (),
    **local: Any,
) -> Generator[str | None]:
    """Ray for the length of the block: this process's own connection if it has one, else `address`,
    else RAY_ADDRESS, else a new local cluster. Gives a sentence that says which cluster was joined,
    None for one of its own.

    `environment` reaches every process of the job, and so do the values of the variables `keys`,
    which nobody else sees; `local` are arguments of ray.init for a local cluster. A connection made
    here is closed here. CapacityError if no cluster answers or a node does not see `shared`.
    """
    if ray.is_initialized():
        yield None
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = address or os.environ.get("RAY_ADDRESS") or LOCAL
    variables = JOB_ENVIRONMENT | dict(environment or {})
    if address != LOCAL:
        with _joined_cluster(address, _for_workers(variables), keys):
            require_shared(shared)
            yield _joined()
        return
    # The cluster's own processes start here and inherit it.
    os.environ.update(variables | ray_loopback.environment())
    with _own_cluster(_for_workers(variables | ray_loopback.FOR_WORKERS), local) as session:
        require_shared(shared)
        yield None
    _remove_session(session)  # nothing failed, so nobody looks for a cause in there


def _for_workers(variables: Mapping[str, str]) -> dict[str, str]:
    """What of `variables` the job's processes must be told, and where they find this package."""
    told = {**variables, "PYTHONPATH": os.pathsep.join(_package_path())}
    for name in _variables_of_this_job():
        told.pop(name, None)
    return told


@contextmanager
def _own_cluster(variables: dict[str, str], options: dict[str, Any]) -> Generator[Path]:
    """A cluster of this machine alone; gives the folder of its session."""
    options = {"include_dashboard": False, "object_store_memory": _object_store_bytes()} | options
    with _as_no_ray(LOCAL), ray_loopback.apart():
        context = _connect(LOCAL, variables, ray_loopback.HOOK, options)
    try:
        yield Path(context.address_info["session_dir"])
    finally:
        ray.shutdown()


@contextmanager
def _joined_cluster(
    address: str, variables: dict[str, str], keys: Iterable[str]
) -> Generator[None]:
    """The cluster at `address`, whose processes are lent the keys for as long as the block runs."""
    with ExitStack() as stack:
        with _as_no_ray(address):
            _require_answer(address)
            lent = stack.enter_context(ray_secrets.lent(address, keys))
            hook = ray_secrets.HOOK if lent else None
            _connect(address, variables | lent, hook, {})
        stack.callback(ray.shutdown)
        yield


def _connect(
    address: str, variables: dict[str, str], hook: str | None, options: dict[str, Any]
) -> Any:
    runtime_env: dict[str, Any] = {"env_vars": variables}
    if hook:
        runtime_env["worker_process_setup_hook"] = hook
    context = ray.init(
        address=address,
        namespace="distill",
        log_to_driver=True,
        runtime_env=runtime_env,
        **options,
    )
    # Ray's own handler, installed just now, prints a stack and aborts.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
    return context


@contextmanager
def _as_no_ray(address: str) -> Generator[None]:
    try:
        yield
    except Exception as error:
        raise _no_ray(address, error) from error


def _remove_session(session: Path) -> None:
    """Ray's folder of a cluster that is gone, some megabytes each: Ray itself leaves them all under
    /tmp/ray."""
    shutil.rmtree(session, ignore_errors=True)
    latest = session.parent / "session_latest"
    if latest.is_symlink() and not latest.exists():
        latest.unlink(missing_ok=True)


def _no_ray(address: str, error: Exception) -> CapacityError:
    if address == LOCAL:  # Ray says "The current node timed out during startup" by a bare Exception
        return CapacityError(
            f"Ray does not start on this machine: {error}; is it out of memory, disk under /tmp or"
            " processors just now? Give the"
            " command again, or join a cluster that runs already: --cluster FILE"
        )
    if isinstance(error, AuthenticationError):
        return CapacityError(
            f"the Ray cluster at {address} refuses this shell's token; set RAY_AUTH_MODE=token, and"
            " RAY_AUTH_TOKEN (or"
            " ~/.ray/auth_token) to the token that the cluster was started with"
        )
    return CapacityError(
        f"no Ray cluster answers at {address}: {error}; start one with `ray start --head`, or leave"
        " --cluster out"
    )


def _variables_of_this_job() -> dict[str, str]:
    """Environment that a submitted job was given: Ray refuses to be told any of it twice, and hands
    it to all processes anyway."""
    config = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}")
    return (config.get("runtime_env") or {}).get("env_vars") or {}


def _joined() -> str:
    living = _living_nodes()
    gpus = sum(int(node["Resources"].get("GPU", 0)) for node in living)
    return f"connected to the Ray cluster at {address()} ({len(living)} nodes, {gpus} GPUs)"


def _living_nodes() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _require_answer(address: str) -> None:
    """OSError, or Ray's AuthenticationError, where ray.init would try for a minute and name
    neither."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S).close()
    ray_secrets.head_of(address)


def _package_path() -> list[str]:
    ours = str(Path(__file__).resolve().parents[2])
    return [ours, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]


def _object_store_bytes() -> int:
    """A fifth of the free shared memory, at most 2 GB: receipts and manifests travel through Ray,
    rows do not."""
    place = "/dev/shm" if os.path.isdir("/dev/shm") else "/tmp"
    disk = os.statvfs(place)
    return max(100_000_000, min(2_000_000_000, disk.f_bavail * disk.f_frsize // 5))


def address() -> str:
    """host:port by which another process joins the cluster."""
    return ray.get_runtime_context().gcs_address


def is_on_loopback() -> bool:
    """Whether the cluster is one of this machine alone, which nobody else may reach."""
    addresses = {node["NodeManagerAddress"] for node in _living_nodes()}
    return addresses <= {ray_loopback.ADDRESS}


def nodes(device: str) -> list[Node]:
    """The living nodes of the cluster with their GPUs (or CPUs, with device: cpu) and how many of
    those are free."""
    free = available_resources_per_node()
    return [_node_of(row, free.get(row["NodeID"], {}), device) for row in _living_nodes()]


def _node_of(row: dict[str, Any], free: Mapping[str, float], device: str) -> Node:
    resource = device.upper()
    held = row["Resources"]
    kinds = [name.partition(":")[2] for name in held if name.startswith("accelerator_type:")]
    devices = int(held.get(resource, 0))
    free_devices = int(free.get(resource, 0))
    return Node(devices, free_devices, frozenset(kinds))


def require(what: str, *layouts: Layout) -> None:
    """CapacityError if the cluster cannot hold the fewest replicas of all `layouts` at once.

    At once if it never could; after FREE_WAIT_S if something else holds the devices, such as a
    stage that just ended. A cluster that starts nodes when asked (NODES_WAIT) is asked for what is
    missing, as many as the most replicas want, and waited for.
    """
    layouts = tuple(layout for layout in layouts if layout.devices)
    if not layouts:
        return
    problem = _shortfall_when_idle(layouts)
    if problem and (wait_s := float(os.environ.get(NODES_WAIT) or 0)):
        problem = _grow(what, layouts, wait_s)
    deadline = time.monotonic() + FREE_WAIT_S
    there = nodes(layouts[0].device)
    while problem is None and (held := shortfall(layouts, there)):
        if time.monotonic() > deadline:
            problem = held
        time.sleep(0.5)
        there = nodes(layouts[0].device)
    if problem:
        raise CapacityError(f"{what} {problem}")


def _shortfall_when_idle(layouts: tuple[Layout, ...]) -> str | None:
    there = nodes(layouts[0].device)
    return shortfall(layouts, [replace(node, free=node.devices) for node in there])


def _grow(what: str, layouts: tuple[Layout, ...], wait_s: float) -> str | None:
    """Ask the cluster's autoscaler for nodes, and wait until the fewest replicas fit; what is still
    missing after `wait_s`, None if nothing is."""
    bundles = []
    for layout in layouts:
        bundles += layout.node_bundles() * layout.replicas[1]
    _log.info("%s: asking the cluster for %s", what, bundles)
    deadline = time.monotonic() + wait_s
    request_resources(bundles=bundles)
    try:
        while problem := _shortfall_when_idle(layouts):
            if time.monotonic() > deadline:
                return f"{problem} (no more nodes came within {wait_s:g} s, {NODES_WAIT})"
            time.sleep(GROW_S)
        return None
    finally:
        request_resources(bundles=[])  # the stage holds what it takes; the rest may go


def require_shared(folder: Folder) -> None:
    """Raise CapacityError if a node of the cluster cannot read back what this process writes to
    `folder`."""
    living = _living_nodes()
    if len(living) < 2:
        return
    probe = folder / f".probe-{os.getpid()}-{time.time_ns()}"
    content = str(time.time_ns())
    probe.write_text(content)

    @ray.remote(num_cpus=0)
    def problem_with(path: Folder) -> str | None:
        try:
            return None if path.read_text() == content else "reads something else there"
        except OSError as error:
            return str(error)

    try:
        looks = []
        for node in living:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            looks.append(problem_with.options(scheduling_strategy=there).remote(probe))
        for node, problem in zip(living, ray.get(looks), strict=True):
            if problem:
                raise CapacityError(
                    f"node {node['NodeManagerHostname']} does not see {folder} ({problem}); give"
                    " --runs a folder that every node shares,"
                    " or an object store whose credentials every node has"
                )
    finally:
        probe.unlink(missing_ok=True)


def root_cause(error: BaseException) -> BaseException:
    """The error of ours inside Ray's wrappers, if there is one, else the innermost error that says
    something."""
    chain = [error]
    while following := getattr(chain[-1], "cause", None) or chain[-1].__cause__:
        chain.append(following)
    telling = [link for link in chain if str(link)] or chain
    return next((link for link in chain if isinstance(link, EngineError)), telling[-1])
