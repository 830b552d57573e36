"""Hand a job to a cluster of any platform, follow it, stop it.

The cluster file says by its own fields where it goes (machines/native_file.py): a RayJob through
kubectl, a Slurm script through sbatch, a SkyPilot task through sky, and to a cluster that runs
already through Ray's job API. What a platform gets is in hand_over.py; here is the order of steps.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from engine.check.job import check_job
from engine.errors import SpecError
from engine.machines.holding import count_nodes, require_machines
from engine.machines.native_file import NativeFile, Platform, read_native_file
from engine.submission.follow import Jobs, Log
from engine.submission.kubernetes import KubernetesJobs
from engine.submission.ledger import Submission, read_submission, write_submission
from engine.submission.request import Request
from engine.submission.running import RayJobs, sees_our_disk
from engine.submission.sky import SkyJobs
from engine.submission.slurm import SlurmJobs

# Where a file of each platform sends jobs.
JOBS: dict[Platform, type[Jobs]] = {
    "rayjob": KubernetesJobs,
    "slurm": SlurmJobs,
    "sky": SkyJobs,
    "running": RayJobs,
    "raycluster": RayJobs,
    "launcher": RayJobs,
}


def submit(
    request: Request, cluster: Path, *, dry_run: bool = False, detach: bool = False, on_log: Log
) -> None:
    """Have the cluster run the job, and follow its log to the end unless `detach`; raises what the
    driver ended with. A job that is there already is joined. `dry_run` says what would be handed
    over, and does nothing.

    SpecError, before anything starts, for what is wrong with the job or what the file's machines
    cannot hold.
    """
    file = read_native_file(cluster)
    jobs = _jobs_of(file)
    check_job(request.spec, running=(), is_here=sees_our_disk(file))
    request = fitted(request, file)
    if dry_run:
        on_log(jobs.shown(request) + "\n")
        return
    handle = jobs.start(request, on_log)
    name = request.spec.name
    write_submission(request.runs, name, Submission.now(request.id, handle, cluster))
    if detach:
        on_log(f"distill logs {request.job} follows it, distill stop {request.job} ends it\n")
        return
    jobs.follow(handle, on_log)


def read_log(name: str, runs: str, on_log: Log) -> None:
    """Follow the last submission of the job `name` to its end; raises what it ended with."""
    submission = read_submission(runs, name)
    jobs = _jobs_of(read_native_file(Path(submission.cluster)))
    jobs.follow(submission.handle, on_log)


def stop(name: str, runs: str, on_log: Log) -> None:
    """Ask the last submission of the job `name` to end; what is finished is kept."""
    submission = read_submission(runs, name)
    _jobs_of(read_native_file(Path(submission.cluster))).stop(submission.handle)
    on_log(f"{submission.handle} was asked to end; submit again to resume it\n")


def fitted(request: Request, file: NativeFile) -> Request:
    """The request for as many of the file's machines as it can use. SpecError where they cannot
    hold it, with the nearest layout that they can."""
    machines = require_machines(request.spec, file)
    if not machines:
        return request
    return replace(request, nodes=count_nodes(request.spec, machines))


def _jobs_of(file: NativeFile) -> Jobs:
    if file.platform not in JOBS:
        raise SpecError(
            f"{file.path}: kind: RayService serves a model and takes no job (kubectl apply -f"
            f" {file.path}); submit to a RayJob, a RayCluster or another cluster file"
        )
    return JOBS[file.platform](file)
