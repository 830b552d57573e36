"""A cluster that runs already: Ray's job API, on the machine of the cluster file or behind a door
that the user opens to a RayCluster or to what `ray up` started."""

from __future__ import annotations

import os
import shlex
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engine.errors import CapacityError
from engine.machines.native_file import NativeFile
from engine.machines.running_cluster import Cluster, load_cluster
from engine.store.paths import run_folder
from engine.submission.follow import Log
from engine.submission.hand_over import as_yaml
from engine.submission.request import Request

# Behind a door no disk is ours: the job file is copied to a folder that all nodes share.
DOOR = "http://127.0.0.1:8265"
DOOR_WAIT_S = 10.0
SHARED_JOBS = "/shared/jobs"
SHARED_RUNS = "/shared/runs"
JOB_FILE = "job.yaml"
_OPEN = {
    "launcher": "ray dashboard {path}",
    "raycluster": "kubectl port-forward service/{name}-head-svc 8265",
}


def sees_our_disk(file: NativeFile) -> bool:
    """Whether paths of this machine mean the same where the job runs."""
    if file.platform == "running":
        return load_cluster(file.path).working_dir is None
    return file.platform == "slurm"


class RayJobs:
    """Jobs of Ray's own API. A handle is Ray's submission id."""

    def __init__(self, file: NativeFile) -> None:
        self._file = file
        self._is_behind_a_door = file.platform != "running"
        if self._is_behind_a_door:
            name = file.path.stem
            self._cluster = Cluster(name=name, address=DOOR, runs=SHARED_RUNS, wait_s=DOOR_WAIT_S)
        else:
            self._cluster = load_cluster(file.path)

    def shown(self, request: Request) -> str:
        """What Ray's job API would be sent, as YAML; of keys the names."""
        sent: dict[str, Any] = {
            "address": self._cluster.address,
            "submission_id": request.id,
            "entrypoint": self._entrypoint(request),
            "env": dict(self._cluster.env),
        }
        if self._is_behind_a_door:
            sent["files"] = {JOB_FILE: request.text}
        elif self._cluster.working_dir:
            sent["working_dir"] = self._cluster.working_dir
        secrets, missing = self._keys(request)
        sent |= {"keys": sorted(secrets), "keys_to_be_set_there": missing}
        return as_yaml({name: value for name, value in sent.items() if value})

    def start(self, request: Request, on_log: Log) -> str:
        """Submit, or join. Keys that are set here are handed over; of the others `on_log` hears
        where they must be set."""
        secrets, missing = self._keys(request)
        if missing:
            on_log(
                f"{', '.join(missing)}: not set in this shell, so it must be set where `ray start`"
                f" runs on {self._cluster.name}'s head\n"
            )
        from engine.backends import ray_jobs

        files = {JOB_FILE: request.text} if self._is_behind_a_door else None
        with self._door():
            return ray_jobs.start_driver(
                self._cluster,
                self._entrypoint(request),
                name=request.id,
                secrets=secrets,
                files=files,
                is_door=self._is_behind_a_door,
                on_log=on_log,
            )

    def follow(self, handle: str, on_log: Log) -> None:
        """Its log until it has succeeded; raises what it ended with."""
        from engine.backends import ray_jobs

        with self._door():
            ray_jobs.follow_driver(self._cluster, handle, on_log)

    def stop(self, handle: str) -> None:
        """SIGTERM to its driver, which saves first."""
        from engine.backends import ray_jobs

        with self._door():
            ray_jobs.stop_driver(self._cluster, handle)

    def _keys(self, request: Request) -> tuple[Mapping[str, str], list[str]]:
        """The keys that are set in this shell, and the names of the others."""
        names = {*self._cluster.secret_env, *request.key_names}
        secrets = {name: os.environ[name] for name in names if os.environ.get(name)}
        return secrets, sorted(names - secrets.keys())

    def _entrypoint(self, request: Request) -> str:
        """The shell command that the driver runs: on the shared folder behind a door, in the
        uploaded folder, or, where nothing is uploaded, in this one."""
        if self._is_behind_a_door:
            there = f"{SHARED_JOBS}/{request.id}.yaml"
            run = ["distill", "run", there, "--runs", SHARED_RUNS, "--fetch", *request.options]
            return f"mkdir -p {SHARED_JOBS} && cp {JOB_FILE} {there} && {shlex.join(run)}"
        cluster = self._cluster
        where = str(request.job) if cluster.working_dir else str(request.job.resolve())
        runs = cluster.runs or str(run_folder(request.runs))
        command = [cluster.python or "python", "-m", "engine.cli", "run", where, "--runs", runs]
        for setting in request.sets:
            command += ["--set", setting]
        here = "" if cluster.working_dir else f"cd {shlex.quote(str(Path.cwd()))} && "
        return here + shlex.join([*command, *request.options])

    @contextmanager
    def _door(self) -> Generator[None]:
        """Around what asks the cluster: where nobody answers behind a door, how it is opened."""
        try:
            yield
        except CapacityError as error:
            if not self._is_behind_a_door:
                raise
            name = self._file.main.get("metadata", {}).get("name", "")
            way = _OPEN[self._file.platform].format(path=self._file.path, name=name)
            raise CapacityError(f"{error}\nIs the door open? In another shell: {way}") from error
