"""Hand a job to a running cluster: the command that its driver runs there, and the keys that it
must find."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.check.job import check_job
from engine.job.spec import JobSpec
from engine.machines.running_cluster import Cluster, load_cluster
from engine.store.paths import run_folder


def submit(
    job: Path,
    spec: JobSpec,
    cluster: Path,
    *,
    sets: Sequence[str],
    runs: str,
    options: Mapping[str, Any],
    on_log: Callable[[str], None],
) -> None:
    """Run the job file `job` (as loaded: `spec`) on the cluster, follow its log, and raise
    StageError where it fails.

    `options` are those of `distill run`, by name. Keys that are set here are handed over; of the
    others `on_log` hears where they must be set.
    """
    target = load_cluster(cluster)
    check_job(spec, running=())  # its keys may be where the driver runs
    names = {*target.secret_env, *spec.key_variables().values()}
    secrets = {name: os.environ[name] for name in names if os.environ.get(name)}
    if missing := ", ".join(sorted(names - secrets.keys())):
        on_log(
            f"{missing}: not set in this shell, so it must be set where `ray start` runs on"
            f" {target.name}'s head\n"
        )
    from engine.backends import ray_cluster

    ray_cluster.submit_driver(
        target, driver_command(job, target, sets, runs, options), secrets=secrets, on_log=on_log
    )


def driver_command(
    job: Path, target: Cluster, sets: Sequence[str], runs: str, options: Mapping[str, Any]
) -> str:
    """The shell command that the driver runs: in the uploaded folder, or, where nothing is
    uploaded, in this one."""
    where = str(job) if target.working_dir else str(job.resolve())
    command = [
        target.python or "python",
        "-m",
        "engine.cli",
        "run",
        where,
        "--runs",
        target.runs or str(run_folder(runs)),
    ]
    for setting in sets:
        command += ["--set", setting]
    for name, value in options.items():
        flag = f"--{name.rstrip('_')}"
        if value is True:
            command.append(flag)
        elif value:
            command += [flag, value]
    here = "" if target.working_dir else f"cd {shlex.quote(os.getcwd())} && "
    return here + shlex.join(command)
