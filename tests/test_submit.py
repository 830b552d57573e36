"""`distill submit` on a cluster of its own: a job is followed to its end, and its keys are seen by
nobody on the way."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import requests
from conftest import distill
from doubles import misbehaving_api
from ray.job_submission import JobSubmissionClient

from engine.backends import ray_secrets
from engine.errors import SpecError, StageError
from engine.machines.running_cluster import HANDED_KEYS, Cluster

CANARY = misbehaving_api.KEY  # the server answers 401 to anything else
TOKEN = "0123456789abcdef0123456789abcdef"


@dataclass
class Head:
    """A head with token authentication, started without any key in its environment."""

    gcs: str
    dashboard: str
    folder: Path
    environment: dict[str, str]

    def places(self) -> dict[str, bytes]:
        """All that a curious user can read: what the dashboard tells, and each file under Ray's
        folder."""
        told = {}
        for route in (
            "/api/jobs/",
            "/api/v0/jobs",
            "/api/v0/actors?detail=1",
            "/api/v0/workers?detail=1",
            "/api/v0/tasks?detail=1",
            "/api/v0/runtime_envs?detail=1",
            "/nodes?view=summary",
            "/logical/actors",
        ):
            reply = requests.get(
                self.dashboard + route, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60
            )
            told[route] = reply.content
        assert b"submission_id" in told["/api/jobs/"]
        files = {
            str(file): file.read_bytes()
            for file in self.folder.rglob("*")
            if file.is_file() and not file.is_symlink()
        }
        assert any("runtime_env" in name for name in files)
        assert any("job-driver" in name for name in files)
        return told | files

    def entries(self) -> list[str]:
        """What is in the cluster's store of any job's keys."""
        code = (
            "import sys; from ray._raylet import GcsClient; from engine.backends.ray_secrets import"
            " _PREFIX;"
            "print(*GcsClient(address=sys.argv[1]).internal_kv_keys(_PREFIX.encode(), None))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, self.gcs],
            capture_output=True,
            text=True,
            check=True,
            env=self.environment,
        )
        return done.stdout.split()


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(4)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        gcs, dashboard, client, agent = (str(probe.getsockname()[1]) for probe in probes)
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith("RAY_")
    } | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    short = tempfile.mkdtemp(prefix="ray-")  # its sockets need a short path
    ray = [sys.executable, "-m", "ray.scripts.scripts"]
    process = subprocess.Popen(
        [
            *ray,
            "start",
            "--head",
            "--block",
            "--port",
            gcs,
            "--dashboard-port",
            dashboard,
            "--num-cpus",
            "2",
            "--temp-dir",
            short,
            "--ray-client-server-port",
            client,
            "--dashboard-agent-listen-port",
            agent,
        ],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", int(gcs)), timeout=1),
        ):
            break
        time.sleep(0.2)
    yield Head(f"127.0.0.1:{gcs}", f"http://127.0.0.1:{dashboard}", Path(short), environment)
    for each in (
        *psutil.Process(process.pid).children(recursive=True),
        process,
    ):  # its own way to stop takes half a minute
        with contextlib.suppress(psutil.Error):
            each.kill()
    process.wait(60)
    shutil.rmtree(short, ignore_errors=True)


@pytest.fixture
def submit(head, job_file, tmp_path):
    """Submit a job of ten prompts whose API wants the canary; `env` is the cluster file's."""
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text(
        f"name: here\naddress: {head.dashboard}\nray_address: auto\npython:"
        f" {sys.executable}\nwait_s: 120\nsecret_env: [MORE_SECRET]\n"
        f"env: {{PYTHONPATH: '{tmp_path}', DO_NOT_TRACK: '0', SOMETHING: else}}\n"
    )

    def run(url: str, canary: str, *arguments: str) -> subprocess.CompletedProcess:
        teacher = {
            "name": "t",
            "kind": "openai",
            "model": "m",
            "base_url": f"{url}/v1",
            "api_key_env": "CANARY_KEY",
        }
        path = job_file(
            10,
            generate={"teachers": [teacher], "max_attempts": 1},
            serve={"api_key_env": "CANARY_KEY"},
        )
        environment = head.environment | (
            {"CANARY_KEY": canary, "MORE_SECRET": f"more-{canary}"} if canary else {}
        )
        return distill(
            "submit",
            path,
            "--cluster",
            cluster,
            "--runs",
            tmp_path / "runs",
            *arguments,
            env=environment,
        )

    return run


def without(secret: str, places: dict[str, bytes], *more: str) -> None:
    assert [name for name, content in places.items() if secret.encode() in content] == []
    assert [text[:200] for text in more if secret in text] == []


@pytest.mark.slow
def test_a_submitted_jobs_keys_reach_its_workers_and_nobody_else(head, submit, tmp_path):
    """The server that the workers ask refuses all keys but this one; the cluster file's `env` holds
    variables that we set too."""
    with misbehaving_api.serve() as api:
        done = submit(api.url, CANARY, "--set", "train.epochs=1", "--until", "generate")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "generate  done" in done.stdout
    written = {
        str(file): file.read_bytes() for file in (tmp_path / "runs").rglob("*") if file.is_file()
    }
    assert any(name.endswith(".parquet") for name in written)
    without(CANARY, head.places() | written, done.stdout, done.stderr)
    assert head.entries() == []


@pytest.mark.slow
def test_a_submitted_job_that_fails_says_why_and_shows_no_key(head, submit, tmp_path):
    wrong = "canary-that-the-server-refuses-31337"
    with misbehaving_api.serve() as api:
        failed = submit(api.url, wrong, "--until", "generate")
    assert failed.returncode == 1
    assert "check the key in CANARY_KEY" in failed.stdout + failed.stderr
    written = {
        str(file): file.read_bytes() for file in (tmp_path / "runs").rglob("*") if file.is_file()
    }
    without(wrong, head.places() | written, failed.stdout, failed.stderr)
    assert head.entries() == []


@pytest.mark.slow
def test_a_key_that_nobody_set_is_asked_for_where_the_driver_runs(submit):
    failed = submit("http://127.0.0.1:1", "", "--until", "curate")
    assert failed.returncode == 2, "the driver's own"
    assert (
        "CANARY_KEY, MORE_SECRET: not set in this shell, so it must be set where `ray start` runs"
        " on here's head" in failed.stdout
    )
    assert "the environment variable CANARY_KEY is not set" in failed.stdout


JOINED = """
import sys
from engine.backends import ray_jobs
from engine.errors import StageError
from engine.machines.running_cluster import Cluster
here = Cluster(name="here", address=sys.argv[1])
said = []
def start(command):
    return ray_jobs.start_driver(here, command, name="long", secrets={}, on_log=said.append)
first = start("echo begun; sleep 600")
assert start("echo begun; sleep 600") == first == "long", said
assert "joined long" in said[-1]
ray_jobs.stop_driver(here, first)
try:
    ray_jobs.follow_driver(here, first, said.append)
except StageError as error:
    assert "stopped" in str(error)
again = start("echo $((6 * 7))")
ray_jobs.follow_driver(here, again, said.append)
print(again, "".join(said))
"""


@pytest.mark.slow
def test_a_submission_is_joined_stopped_and_made_again(head):
    command = [sys.executable, "-c", JOINED, head.dashboard]
    done = subprocess.run(command, capture_output=True, text=True, env=head.environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("long-2 submitted long")
    assert "42" in done.stdout.splitlines()  # Ray writes its own lines before and after


@pytest.mark.slow
@pytest.mark.parametrize(
    "environment",
    [{"RAY_AUTH_TOKEN": "another" * 5}, {"RAY_AUTH_MODE": "disabled"}],
    ids=["wrong", "none"],
)
def test_a_wrong_token_is_named_and_not_waited_for(head, job_file, tmp_path, environment):
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text(f"name: here\naddress: {head.dashboard}\nray_address: {head.gcs}\n")
    runs = ("--runs", tmp_path / "runs", "--until", "generate")
    failed = distill(
        "run", job_file(), "--cluster", cluster, *runs, env=head.environment | environment
    )
    assert failed.returncode == 1
    assert (
        f"the Ray cluster at {head.gcs} refuses this shell's token; set RAY_AUTH_MODE=token, and"
        " RAY_AUTH_TOKEN" in failed.stderr
    )
    assert TOKEN not in failed.stderr


class Client:
    """A dashboard that keeps what it is sent."""

    def __init__(self, status: int = 200) -> None:
        self.status, self.sent = status, []

    def _do_request(self, method: str, endpoint: str, *, data: bytes):
        self.sent.append((method, endpoint, data))
        return type("Reply", (), {"status_code": self.status})()


@pytest.mark.parametrize("host", ["10.0.0.1", "head.example.org"])
def test_keys_leave_this_machine_only_for_a_cluster_with_a_token(host, monkeypatch):
    cluster, client = Cluster(name="far", address=f"http://{host}:8265"), Client()
    monkeypatch.setattr(ray_secrets, "is_token_auth_enabled", lambda: False)
    with pytest.raises(
        SpecError, match="another machine and asks for no token, so A_KEY would be given to anybody"
    ) as refused:
        ray_secrets.hand_over(client, cluster, {"A_KEY": CANARY})
    assert CANARY not in str(refused.value)
    assert client.sent == []
    assert ray_secrets.hand_over(client, cluster, {}) == {}
    monkeypatch.setattr(ray_secrets, "is_token_auth_enabled", lambda: True)
    given = ray_secrets.hand_over(client, cluster, {"A_KEY": CANARY})
    assert given.keys() == {HANDED_KEYS}
    assert CANARY not in json.dumps(given)
    assert CANARY.encode() not in client.sent[0][2][:15], "Ray repeats them in an error"


def test_behind_a_door_is_another_machine_too(monkeypatch):
    monkeypatch.setattr(ray_secrets, "is_token_auth_enabled", lambda: False)
    near = Cluster(name="near", address="http://127.0.0.1:8265")
    with pytest.raises(SpecError, match="so A_KEY would be given to anybody"):
        ray_secrets.hand_over(Client(), near, {"A_KEY": CANARY}, is_door=True)


def test_a_cluster_that_does_not_take_keys_ends_the_submission():
    cluster = Cluster(name="near", address="http://127.0.0.1:8265")
    with pytest.raises(StageError, match="does not take the job's keys: status 404"):
        ray_secrets.hand_over(Client(404), cluster, {"A_KEY": CANARY})


class Store(dict):
    """Ray's key-value store of one process."""

    def __init__(self, *running: str) -> None:
        environment = type("E", (), {"serialized_runtime_env": json.dumps(running)})
        self.jobs = {
            1: type(
                "Job",
                (),
                {"is_dead": False, "config": type("C", (), {"runtime_env_info": environment})},
            )
        }

    def internal_kv_put(self, key, value, overwrite, namespace):
        self[key] = value

    def internal_kv_get(self, key, namespace):
        return self.get(key)

    def internal_kv_del(self, key, by_prefix, namespace):
        self.pop(key, None)

    def internal_kv_keys(self, prefix, namespace):
        return [key for key in self if key.startswith(prefix)]

    def get_all_job_info(self):
        return self.jobs


def test_what_was_handed_over_is_taken_once_and_lent_until_the_block_ends(monkeypatch):
    client = Client()
    given = ray_secrets.hand_over(
        client,
        Cluster(name="near", address="http://127.0.0.1:8265"),
        {"HANDED_A": "a", "HANDED_B": "b"},
    )
    old, recent, ours = (
        f"{ray_secrets._PREFIX}{int(time.time()) - age}-{name}.zip"
        for age, name in ((9999, "x"), (60, "y"), (9999, "z"))
    )
    store = Store(ours)
    store |= {
        given[HANDED_KEYS].encode(): client.sent[0][2],
        old.encode(): b"",
        recent.encode(): b"",
        ours.encode(): b"",
    }
    monkeypatch.setattr(ray_secrets, "GcsClient", lambda address: store)
    monkeypatch.setattr(
        ray_secrets, "canonicalize_bootstrap_address_or_die", lambda address: address
    )
    monkeypatch.setattr(ray_secrets, "_internal_kv_get", lambda name: store.get(name.encode()))
    monkeypatch.setattr(ray_secrets, "_taken", set())
    for name in ("HANDED_A", "HANDED_B", ray_secrets.LENT_KEYS):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv(HANDED_KEYS, given[HANDED_KEYS])
    ray_secrets.take()
    assert (os.environ["HANDED_A"], os.environ["HANDED_B"]) == ("a", "b")
    assert given[HANDED_KEYS].encode() not in store
    ray_secrets.take()  # nothing is left to take
    with ray_secrets.lent("auto", ["HANDED_A"]) as variables:
        assert set(store) > {recent.encode(), ours.encode()}
        assert old.encode() not in store
        monkeypatch.setenv("HANDED_A", "")
        monkeypatch.setenv("HANDED_B", "")
        monkeypatch.setenv(ray_secrets.LENT_KEYS, variables[ray_secrets.LENT_KEYS])
        ray_secrets.borrow()
        assert (os.environ["HANDED_A"], os.environ["HANDED_B"]) == ("a", "b")
    assert set(store) == {recent.encode(), ours.encode()}
    ray_secrets.borrow()  # a worker that outlives the job
    monkeypatch.setenv(HANDED_KEYS, given[HANDED_KEYS])
    with pytest.raises(StageError, match="a driver takes them once"):
        ray_secrets.take()


def test_the_clients_request_is_rays_own():
    assert callable(JobSubmissionClient._do_request)
