"""Jobs of a running cluster: what is refused before anything is sent, and a dashboard that goes
away. tests/test_submit.py has a real one."""

import asyncio
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests
from ray.job_submission import JobStatus

from engine.backends import ray_jobs as backend
from engine.errors import CapacityError, SpecError, StageError
from engine.machines.running_cluster import Cluster

HERE = Cluster(name="c", address="http://127.0.0.1:1")


def test_a_cluster_that_wants_a_token_says_so(monkeypatch):
    class Refuses(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(401)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Refuses)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    cluster = Cluster(name="closed", address=f"http://127.0.0.1:{server.server_port}", wait_s=0.1)
    with pytest.raises(CapacityError, match="RAY_AUTH_MODE=token"):
        backend.start_driver(cluster, "true", name="j", secrets={}, on_log=print)
    server.shutdown()


@pytest.mark.parametrize("env", [{"LAB_ACCESS": "other"}, {"HARMLESS": "sk-canary"}])
def test_a_key_in_the_clusters_env_is_refused_before_anything_is_sent(env, monkeypatch):
    monkeypatch.setattr(
        backend, "_job_client", lambda cluster: pytest.fail("a connection was made")
    )
    cluster = Cluster(name="c", address="http://127.0.0.1:1", env=env)
    with pytest.raises(
        SpecError, match="is a key that the job names, or has the value of one"
    ) as refused:
        backend.start_driver(
            cluster, "true", name="j", secrets={"LAB_ACCESS": "sk-canary"}, on_log=print
        )
    assert "sk-canary" not in str(refused.value)


class Dashboard:
    """A job's dashboard: one turn a connection, the log up to then and what ends the connection: a
    status, or an error. None: it says nothing more, and is gone when it is asked."""

    def __init__(self, *turns, code=1, jobs=()):
        self.turns = list(turns)
        self.code = code
        self.jobs = [SimpleNamespace(submission_id=name, status=status) for name, status in jobs]
        self.sent = []
        self.ended = None

    async def tail_job_logs(self, job_id):
        log, self.ended = self.turns.pop(0) if len(self.turns) > 1 else self.turns[0]
        for place in range(0, len(log), 3):
            yield log[place : place + 3]
        if isinstance(self.ended, Exception):
            raise self.ended
        if self.ended is None:
            await asyncio.sleep(60)

    def get_job_status(self, job_id):
        if self.ended is None:
            raise OSError("gone")
        return self.ended

    def list_jobs(self):
        if self.jobs is None:
            raise RuntimeError("502 from a proxy")
        return self.jobs

    def submit_job(self, **given):
        self.sent.append(given)

    def get_job_info(self, job_id):
        status = self.get_job_status(job_id)
        return SimpleNamespace(status=status, message="it failed", driver_exit_code=self.code)


@pytest.fixture
def dashboard(monkeypatch):
    """Put a dashboard in the place of the cluster's."""
    monkeypatch.setattr(backend, "FOLLOW_S", 0)
    monkeypatch.setattr(backend, "QUIET_S", 0.01)

    def put(*turns, **more):
        made = Dashboard(*turns, **more)
        monkeypatch.setattr(backend, "_job_client", lambda cluster: made)
        return made

    return put


@pytest.mark.parametrize(
    "error",
    [requests.ConnectionError("refused"), RuntimeError("1006"), requests.ReadTimeout("slow"), None],
)
def test_a_dashboard_that_is_away_for_a_while_is_asked_again(error, dashboard):
    dashboard(
        ("first\n", error),
        ("", error),
        ("first\nsecond\n", JobStatus.RUNNING),
        ("first\nsecond\n", error),
        ("first\nsecond\nthird\n", JobStatus.SUCCEEDED),
    )
    told = []
    backend.follow_driver(HERE, "j", told.append)
    away = "http://127.0.0.1:1 does not answer; the job goes on there, and it is asked again\n"
    assert "".join(told) == f"first\n{away}second\n{away}third\n"


def test_a_dashboard_that_stays_away_ends_the_command_and_not_the_job(dashboard, monkeypatch):
    monkeypatch.setattr(backend, "FOLLOW_PATIENCE_S", 0.1)
    dashboard(("", OSError("gone")))
    with pytest.raises(
        CapacityError,
        match=r"has not answered for 0\.1 s: gone\. The job goes on there.*--follow job-1",
    ):
        backend.follow_driver(HERE, "job-1", print)


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (JobStatus.FAILED, 2, SpecError),
        (JobStatus.FAILED, 1, StageError),
        (JobStatus.STOPPED, None, StageError),
    ],
)
def test_a_job_that_failed_ends_the_command_with_its_drivers_code(dashboard, status, code, error):
    dashboard(("", status), code=code)
    with pytest.raises(error, match=f"job j {status.value.lower()}: it failed"):
        backend.follow_driver(HERE, "j", print)


def test_a_job_that_runs_already_is_joined_and_one_that_ended_keeps_its_name(dashboard):
    names = ("j", JobStatus.FAILED), ("j-2", JobStatus.RUNNING), ("other-3", JobStatus.RUNNING)
    there = dashboard(("", JobStatus.RUNNING), jobs=names)
    told = []
    assert backend.start_driver(HERE, "true", name="j", secrets={}, on_log=told.append) == "j-2"
    assert told == ["joined j-2, which runs already\n"]
    assert there.sent == []
    there.jobs[1].status = JobStatus.SUCCEEDED
    assert backend.start_driver(HERE, "true", name="j", secrets={}, on_log=print) == "j-3"
    assert there.sent[0]["submission_id"] == "j-3"
    assert backend.start_driver(HERE, "true", name="other", secrets={}, on_log=print) == "other-3"


def test_a_dashboard_that_does_not_say_what_runs_gets_no_second_job(dashboard):
    there = dashboard(("", JobStatus.RUNNING))
    there.jobs = None
    with pytest.raises(CapacityError, match="502 from a proxy; submit again"):
        backend.start_driver(HERE, "true", name="j", secrets={}, on_log=print)
    assert there.sent == []


def test_files_travel_as_the_jobs_folder(dashboard, monkeypatch):
    there = dashboard(("", JobStatus.RUNNING))
    seen = {}

    def submit_job(**given):
        folder = Path(given["runtime_env"]["working_dir"])
        seen.update({file.name: file.read_text() for file in folder.iterdir()})

    monkeypatch.setattr(there, "submit_job", submit_job)
    files = {"job.yaml": "version: 1\n"}
    backend.start_driver(HERE, "true", name="j", secrets={}, files=files, on_log=print)
    assert seen == files
