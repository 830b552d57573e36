"""Keys of a job on their way through a Ray cluster: into processes' memory, never into a
runtime_env, a file or a log.

A runtime_env is shown by the dashboard and `GET /api/jobs/`, and written to logs under Ray's
session folder. So values travel as entries of the cluster's key-value store, which is the memory of
its head; what a runtime_env holds is an entry's random name:

    submit ── hand_over ──> entry ── take, once ──> driver's environment ── lent ──> entry ── borrow
    ──> every worker's environment

The first entry is gone when the driver has read it, the second when the driver ends. What a killed
driver left is swept by the next. A head whose store is Redis (fault tolerance) keeps entries there
as long.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from urllib.parse import urlsplit

# What Ray's own client decides by.
from ray._private.authentication.authentication_utils import is_token_auth_enabled

# GcsClient knows no "auto".
from ray._private.services import canonicalize_bootstrap_address_or_die

# Compiled, and left out of the stub beside it.
from ray._raylet import GcsClient  # ty: ignore[missing-module-member]
from ray.experimental.internal_kv import _internal_kv_get
from ray.job_submission import JobSubmissionClient

from engine.errors import SpecError, StageError
from engine.machines.running_cluster import HANDED_KEYS, Cluster

LENT_KEYS = "DISTILL_LENT_KEYS"  # variable of all workers that names the second entry
HOOK = "engine.backends.ray_secrets.borrow"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
SWEEP_S = 3600  # younger entries may belong to a driver that Ray does not list yet
# where the dashboard's package route writes, the only one that puts and never shows
_PREFIX = "gcs://distill-keys-"
_taken: set[str] = set()  # what this driver was handed, and lends to all of its workers
_HEAD = "distill-keys "  # Ray repeats the first 15 bytes of a package that it cannot store


def hand_over(
    client: JobSubmissionClient,
    cluster: Cluster,
    values: Mapping[str, str],
    *,
    is_door: bool = False,
) -> dict[str, str]:
    """Give `values` to the driver of the job that is submitted with the returned environment.

    SpecError where they would leave this machine for a cluster that asks nobody for a token;
    `is_door`: an address of this machine leads to another.
    """
    if not values:
        return {}
    is_here = urlsplit(cluster.address).hostname in LOOPBACK and not is_door
    if not is_here and not is_token_auth_enabled():
        names = ", ".join(sorted(values))
        raise SpecError(
            f"cluster '{cluster.name}' at {cluster.address} is another machine and asks for no"
            f" token, so {names} would be given to anybody;"
            " start it and this command with RAY_AUTH_MODE=token, or export the keys where `ray"
            " start` runs and unset them here"
        )
    name = _new_name()
    protocol, _, package = name.partition("://")
    # Ray's client uploads only files and folders; a key must not touch a disk.
    reply = client._do_request("PUT", f"/api/packages/{protocol}/{package}", data=_packed(values))
    if reply.status_code != 200:
        raise StageError(
            f"cluster '{cluster.name}' does not take the job's keys: status {reply.status_code}; is"
            " its Ray as old as ours?"
        )
    return {HANDED_KEYS: name}


def take() -> None:
    """In the driver of a submitted job: what was handed over becomes its environment, and the entry
    is deleted."""
    if not (name := os.environ.pop(HANDED_KEYS, None)):
        return
    store = head_of("auto")
    entry = store.internal_kv_get(name.encode(), None)
    store.internal_kv_del(name.encode(), False, None)
    if entry is None:
        raise StageError(
            "the keys that were submitted with this job are gone: a driver takes them once; submit"
            " it again"
        )
    values = _unpacked(entry)
    _taken.update(values)
    os.environ.update(values)


@contextmanager
def lent(address: str, names: Iterable[str]) -> Generator[dict[str, str]]:
    """Lend a job's processes on the cluster at `address` the variables `names`, and all that was
    taken, until the block ends.

    Yields what its runtime_env must hold in `env_vars`; `worker_process_setup_hook` must be HOOK.
    """
    values = {}
    for variable in {*names, *_taken}:
        if os.environ.get(variable):
            values[variable] = os.environ[variable]
    if not values:
        yield {}
        return
    store = head_of(address)
    _sweep(store)
    name = _new_name()
    store.internal_kv_put(name.encode(), _packed(values), True, None)
    try:
        yield {LENT_KEYS: name}
    finally:
        store.internal_kv_del(name.encode(), False, None)


def borrow() -> None:
    """In each worker process as it starts. One of a job that ended (Serve's, which stay) finds
    nothing, and needs nothing."""
    name = os.environ.get(LENT_KEYS)
    entry = _internal_kv_get(name) if name else None
    if entry:
        os.environ.update(_unpacked(entry))


def head_of(address: str) -> GcsClient:
    """The head of the cluster at `address` (host:port or auto). AuthenticationError at once where
    it refuses this process's token."""
    return GcsClient(address=canonicalize_bootstrap_address_or_die(address))


def _sweep(store: GcsClient) -> None:
    """Delete old entries that no running job names."""
    jobs = [job for job in store.get_all_job_info().values() if not job.is_dead]
    running = " ".join(job.config.runtime_env_info.serialized_runtime_env for job in jobs)
    for key in store.internal_kv_keys(_PREFIX.encode(), None):
        made = int(key.decode().removeprefix(_PREFIX).split("-")[0])
        if time.time() - made > SWEEP_S and key.decode() not in running:
            store.internal_kv_del(key, False, None)


def _new_name() -> str:
    return f"{_PREFIX}{int(time.time())}-{secrets.token_hex(16)}.zip"


def _packed(values: Mapping[str, str]) -> bytes:
    return (_HEAD + json.dumps(dict(values))).encode()


def _unpacked(content: bytes) -> dict[str, str]:
    values: dict[str, str] = json.loads(content.decode().removeprefix(_HEAD))
    return values
