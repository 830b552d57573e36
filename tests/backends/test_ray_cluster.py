import json
import os
import signal
import subprocess
from types import SimpleNamespace

import psutil
import pytest
import ray
from conftest import open_to_others
from doubles.clients import until

from engine.backends import ray_cluster as backend
from engine.errors import CapacityError, StageError
from engine.machines.layout import Layout, Node


def test_our_own_error_is_found_inside_rays_wrappers():
    inner = StageError("the cause")
    outer = RuntimeError("wrapper")
    outer.cause = inner
    assert backend.root_cause(outer) is inner


def test_the_innermost_error_that_says_something_is_the_cause():
    outer, inner, empty = RuntimeError("outer"), ValueError("why"), KeyError()
    outer.__cause__, inner.__cause__ = inner, empty
    assert backend.root_cause(outer) is inner


@pytest.mark.slow
def test_a_job_that_wants_more_than_the_cluster_has_says_the_numbers_and_the_way_out(ray_cluster):
    backend.require("generate", Layout(0, replicas=(99, 99), device="cpu"))  # an API's clients
    backend.require("generate", Layout(replicas=(4, 4), device="cpu"))
    with pytest.raises(
        CapacityError,
        match=r"generate wants 8 CPUs \(replicas=4 x tensor_parallel=2\); the cluster"
        r" has 4\. Set repl.*: 2",
    ):
        backend.require("generate", Layout(2, 2, replicas=(4, 4), device="cpu"))
    with pytest.raises(
        CapacityError, match=r"the cluster has 0\. Use a larger --cluster; with device: cpu"
    ):
        backend.require("generate", Layout())


@pytest.mark.slow
def test_devices_that_something_else_holds_are_waited_for_and_then_counted_as_missing(
    ray_cluster, monkeypatch
):
    monkeypatch.setattr(backend, "FREE_WAIT_S", 1.0)
    holder = ray.util.placement_group([{"CPU": 3}])
    ray.get(holder.ready(), timeout=60)
    with pytest.raises(
        CapacityError,
        match=r"wants 2 CPUs .*; the cluster has 4 \(1 node of 4\), 1 of them free\."
        r" Set replicas: 1",
    ):
        backend.require("generate", Layout(replicas=(2, 2), device="cpu"))
    ray.util.remove_placement_group(holder)
    backend.require("generate", Layout(replicas=(2, 2), device="cpu"))


@ray.remote(num_cpus=0)
class Starter:
    """A worker as vLLM's is: what it started does not look whether it is still there."""

    def start(self):
        shell = ["sh", "-c", "sleep 600 & echo $!; wait"]
        child = subprocess.Popen(shell, stdout=subprocess.PIPE, text=True)
        return os.getpid(), child.pid, int(child.stdout.readline())


def is_alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.slow
def test_what_a_killed_worker_had_started_is_ended_too(ray_cluster):
    worker, *started = ray.get(Starter.remote().start.remote())
    assert all(map(is_alive, started))
    os.kill(worker, signal.SIGKILL)
    until(lambda: not any(map(is_alive, started)))


@pytest.mark.slow
def test_a_signal_to_this_processs_group_spares_the_cluster(ray_cluster):
    names = {"raylet", "gcs_server"}
    own = [child for child in psutil.Process().children() if child.name() in names]
    assert {child.name() for child in own} == names
    assert os.getpgid(0) not in [os.getpgid(child.pid) for child in own]


@pytest.mark.slow
def test_a_local_cluster_listens_on_loopback_only(ray_cluster):
    """Ray's own processes and its metrics; test_ray_train.py looks while workers train,
    test_end_to_end.py while models are served."""
    ray.get([ray.remote(num_cpus=0)(lambda: None).remote() for _ in range(2)])
    assert open_to_others() == []
    assert ray.nodes()[0]["NodeManagerAddress"] == "127.0.0.1"


def test_what_a_submitted_job_was_given_is_not_told_to_ray_again(monkeypatch, tmp_path):
    """Ray refuses a variable that both the job and its driver set, and prints all of them, keys
    too."""
    told = {}

    def init(**options):
        told.update(options["runtime_env"]["env_vars"])
        raise ConnectionError("nobody is there")

    given = {"env_vars": {"PYTHONPATH": "/theirs", "DO_NOT_TRACK": "1", "CANARY_KEY": "sk-canary"}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"runtime_env": given}))
    monkeypatch.setattr(backend.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(backend.ray, "init", init)
    monkeypatch.setattr(backend, "_require_answer", lambda address: None)
    with (
        pytest.raises(CapacityError, match="no Ray cluster answers at auto"),
        backend.connected("auto", shared=tmp_path),
    ):
        pass
    assert "VLLM_NO_USAGE_STATS" in told
    assert not told.keys() & given["env_vars"].keys()


@pytest.mark.parametrize(("nodes", "said"), [(1, "(1 nodes, 8 GPUs)"), (2, "(2 nodes, 16 GPUs)")])
def test_the_cluster_that_was_joined_is_named(nodes, said, monkeypatch):
    monkeypatch.setattr(
        backend.ray,
        "nodes",
        lambda: [{"Alive": True, "Resources": {"GPU": 8.0}}] * nodes + [{"Alive": False}],
    )
    monkeypatch.setattr(
        backend.ray, "get_runtime_context", lambda: SimpleNamespace(gcs_address="10.0.0.1:6379")
    )
    assert backend._joined() == f"connected to the Ray cluster at 10.0.0.1:6379 {said}"


def test_a_ray_that_does_not_start_here_is_an_error_with_a_remedy(monkeypatch, tmp_path):
    def init(**options):
        raise Exception("The current node timed out during startup.")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(backend.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(backend.ray, "init", init)
    said = r"Ray does not start on this machine: .*timed out.*Give the command again"
    with pytest.raises(CapacityError, match=said), backend.connected(None, shared=tmp_path):
        pass


def test_a_cluster_that_grows_is_asked_for_the_most_and_waited_for(monkeypatch):
    """Nodes come one by one; what a stage wants stays asked for until its fewest replicas fit."""
    asked = []
    there = [Node(0, 0)]

    def nodes(device):
        if asked and asked[-1]:
            there.append(Node(8, 8, frozenset({"H200"})))
        return list(there)

    monkeypatch.setattr(backend, "nodes", nodes)
    monkeypatch.setattr(backend, "request_resources", lambda bundles: asked.append(bundles))
    monkeypatch.setattr(backend, "GROW_S", 0)
    layout = Layout(8, 8, replicas=(2, 3), accelerator_type="H200")
    with pytest.raises(CapacityError, match="wants 16 H200 GPUs"):
        backend.require("generate", layout)
    assert asked == [], "one that does not grow is not asked"
    monkeypatch.setenv(backend.NODES_WAIT, "60")
    backend.require("generate", layout)
    assert asked == [[{"GPU": 8.0, "accelerator_type:H200": 0.001}] * 3, []]
    assert len(there) == 3, "the fewest are enough to begin"


def test_a_cluster_that_grows_too_slowly_is_not_waited_for_longer(monkeypatch):
    asked = []
    monkeypatch.setattr(backend, "nodes", lambda device: [Node(0, 0)])
    monkeypatch.setattr(backend, "request_resources", lambda bundles: asked.append(bundles))
    monkeypatch.setattr(backend, "GROW_S", 0)
    monkeypatch.setenv(backend.NODES_WAIT, "0.01")
    layout = Layout(16, 8, 2, replicas=(1, 1))
    with pytest.raises(CapacityError, match=r"no more nodes came within 0\.01 s"):
        backend.require("generate", layout)
    assert asked == [[{"GPU": 8.0}] * 2, []], "pipeline stages may lie on several nodes"
