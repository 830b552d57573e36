"""Jobs of a running Ray cluster, through its dashboard's job API: start, join, follow, stop."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import aiohttp
from ray.exceptions import RayError
from ray.job_submission import JobStatus, JobSubmissionClient

from engine.backends import ray_secrets
from engine.errors import CapacityError, EngineError, SpecError, StageError
from engine.machines.running_cluster import Cluster

FOLLOW_S = 2
FOLLOW_PATIENCE_S = 600
QUIET_S = 20  # a log without a word for so long: does the dashboard still answer?
# From SIGTERM to SIGKILL when a job is stopped (Ray: 3), for training to save first.
STOP_WAIT_S = 600
_AWAY = (OSError, RuntimeError, RayError, aiohttp.ClientError)


def runtime_env(cluster: Cluster) -> dict[str, Any]:
    """What the job's driver gets of the cluster file, without any key."""
    variables = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S)} | dict(cluster.env)
    given: dict[str, Any] = {"env_vars": variables}
    if cluster.working_dir:
        given |= {"working_dir": cluster.working_dir, "excludes": [".venv", ".git", "runs"]}
    return given


def start_driver(
    cluster: Cluster,
    entrypoint: str,
    *,
    name: str,
    secrets: Mapping[str, str],
    files: Mapping[str, str] | None = None,
    is_door: bool = False,
    on_log: Callable[[str], None],
) -> str:
    """Run `entrypoint` as a Ray job named `name`, with `files` (name: text) in its folder. Gives
    the id by which Ray knows it: that of the one that runs already, where there is one. `is_door`:
    the address is this machine's and leads to another.

    The values of `secrets` are handed to its driver alone (ray_secrets). Works with token
    authentication (RAY_AUTH_MODE=token, or a token in RAY_AUTH_TOKEN or under the home directory).
    CapacityError if the cluster does not answer.
    """
    _require_no_keys_shown(cluster, secrets)
    client = _job_client(cluster)
    earlier = _earlier(client, name, cluster)
    if earlier and not earlier[-1].status.is_terminal():
        job_id = str(earlier[-1].submission_id)
        on_log(f"joined {job_id}, which runs already\n")
        return job_id
    job_id = name
    if earlier:
        job_id = f"{name}-{len(earlier) + 1}"  # Ray keeps those that ended, with their logs
    given = runtime_env(cluster)
    given["env_vars"] |= ray_secrets.hand_over(client, cluster, secrets, is_door=is_door)
    with tempfile.TemporaryDirectory(prefix="distill-") as folder:
        if files:
            given["working_dir"] = folder
            for file, text in files.items():
                Path(folder, file).write_text(text, encoding="utf-8")
        try:
            client.submit_job(entrypoint=entrypoint, submission_id=job_id, runtime_env=given)
        except (RuntimeError, RayError) as error:
            raise CapacityError(
                f"cluster '{cluster.name}' at {cluster.address} did not take the job: {error}"
            ) from error
    on_log(f"submitted {job_id}\n")
    return job_id


def follow_driver(cluster: Cluster, job_id: str, on_log: Callable[[str], None]) -> None:
    """Pass the job's log on until it has succeeded; a dashboard that is away for less than
    FOLLOW_PATIENCE_S is asked again. What the driver ended with is raised: SpecError for its exit
    code 2, else StageError; CapacityError where nobody answers."""
    client = _job_client(cluster)
    ended = _follow(client, job_id, cluster, on_log)
    if ended.status == JobStatus.SUCCEEDED:
        return
    message = ended.message or ""
    kind: type[EngineError] = StageError
    if ended.driver_exit_code == SpecError.exit_code:
        kind = SpecError
    raise kind(
        f"job {job_id} {ended.status.value.lower()}: {message.strip()[-2000:]}; its log: ray job"
        f" logs {job_id}"
    )


def stop_driver(cluster: Cluster, job_id: str) -> None:
    """Ask the job to end: it has STOP_WAIT_S to save."""
    client = _job_client(cluster)
    try:
        client.stop_job(job_id)
    except (RuntimeError, RayError) as error:
        raise CapacityError(f"cluster '{cluster.name}' does not stop {job_id}: {error}") from error


def _earlier(client: JobSubmissionClient, name: str, cluster: Cluster) -> list[Any]:
    """The jobs of that name as Ray's JobDetails, the newest last."""
    numbered = []
    try:
        every: list[Any] = client.list_jobs()
    except _AWAY as error:
        raise CapacityError(
            f"cluster '{cluster.name}' at {cluster.address} does not say which jobs it has:"
            f" {error}; submit again when its dashboard answers"
        ) from error
    for job in every:
        head, _, tail = str(job.submission_id).partition(name)
        number = tail.removeprefix("-")
        if head == "" and (tail == "" or number.isdigit()):
            numbered.append((int(number or 1), job))
    numbered.sort(key=lambda pair: pair[0])
    return [job for _, job in numbered]


def _require_no_keys_shown(cluster: Cluster, secrets: Mapping[str, str]) -> None:
    shown = []
    for name, value in cluster.env.items():
        if name in secrets or value in secrets.values():
            shown.append(name)
    if shown:
        raise SpecError(
            f"cluster '{cluster.name}': {', '.join(sorted(shown))} under env is a key that the job"
            " names, or has the value of one, and env"
            " is shown to all who see the cluster; take it out there: the job's keys are handed"
            " over by themselves"
        )


class _Tail:
    """The log of a job as it grows. A new connection gets it from its start: what was shown is left
    out."""

    def __init__(self, client: JobSubmissionClient, job_id: str, on_log: Callable[[str], None]):
        self._client = client
        self._job_id = job_id
        self._on_log = on_log
        self._shown = 0
        self.heard = time.monotonic()

    async def read(self) -> None:
        """One connection's life. Raises one of _AWAY where it, or the dashboard, is lost."""
        seen = 0
        lines = self._client.tail_job_logs(self._job_id)
        async for text in self._attended(lines):
            seen += len(text)
            fresh = seen - self._shown
            if fresh > 0:
                self._on_log(text[-fresh:])
                self._shown = seen
            self.heard = time.monotonic()

    async def _attended(self, lines: AsyncIterator[str]) -> AsyncIterator[str]:
        """The chunks; while there is none, the dashboard is asked whether it is still there."""
        while True:
            coming = asyncio.ensure_future(anext(lines, None))
            while not (await asyncio.wait({coming}, timeout=QUIET_S))[0]:
                try:
                    await asyncio.to_thread(self._client.get_job_status, self._job_id)
                except _AWAY:
                    coming.cancel()
                    raise
                self.heard = time.monotonic()
            text = await coming
            if text is None:
                return
            yield text


def _follow(
    client: JobSubmissionClient, job_id: str, cluster: Cluster, on_log: Callable[[str], None]
) -> Any:
    """Ray's JobDetails of the job when it is over."""
    tail = _Tail(client, job_id, on_log)
    is_away = False
    while True:
        try:
            asyncio.run(tail.read())
            job: Any = client.get_job_info(job_id)
            tail.heard = time.monotonic()
            is_away = False
            if job.status.is_terminal():
                return job
        except _AWAY as error:
            if time.monotonic() - tail.heard > FOLLOW_PATIENCE_S:
                raise CapacityError(
                    f"cluster '{cluster.name}' at {cluster.address} has not answered for"
                    f" {FOLLOW_PATIENCE_S} s: {error}. The job goes on"
                    f" there, and its result is kept: ray job logs --address {cluster.address}"
                    f" --follow {job_id}"
                ) from error
            if not is_away:  # said once, however often it is asked
                on_log(
                    f"{cluster.address} does not answer; the job goes on there, and it is asked"
                    " again\n"
                )
            is_away = True
        time.sleep(FOLLOW_S)


def _job_client(cluster: Cluster) -> JobSubmissionClient:
    """Connect, for `wait_s` at most: a head that was just started needs some seconds."""
    deadline = time.monotonic() + cluster.wait_s
    while True:
        try:
            return JobSubmissionClient(cluster.address)
        except (ConnectionError, RuntimeError, RayError) as error:
            if time.monotonic() > deadline or "auth" in str(error).lower():
                raise CapacityError(
                    f"cluster '{cluster.name}' at {cluster.address} does not answer: {error}; is"
                    " `ray start --head` running there,"
                    " and is RAY_AUTH_MODE=token set if it wants a token?"
                ) from error
            time.sleep(2)
