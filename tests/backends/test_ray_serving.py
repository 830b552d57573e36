"""Fake engines behind real fronts on Ray Serve, over real HTTP: what happens to requests while
replicas come, go, die and are replaced."""

import os
import signal
import threading
import time
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import replace

import httpx
import psutil
import pytest
from conftest import open_to_others
from doubles.clients import KEY, Load, until
from ray import serve
from ray.serve.exceptions import DeploymentUnavailableError

from benchmarks.serving.stand_ins import free_port
from engine.backends import ray_endpoint
from engine.backends.ray_endpoint import Deployed
from engine.backends.ray_serve import Scaling
from engine.job.spec import EngineSpec, Model
from engine.serving.front import FrontSettings
from engine.serving.keys import Keys
from engine.serving.replica import ServedModel

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]


def fake(name="m", **options):
    options = {"step_s": 0.01} | options
    spec = EngineSpec(engine_args=options, max_num_seqs=8)
    return ServedModel(Model(name, "fake", None, spec), "cpu", kind="fake")


@contextmanager
def endpoint(scaling, *models, **settings):
    front = FrontSettings("127.0.0.1", free_port(), Keys.of({"ann": "right"}), **settings)
    served = {each.model.name: each for each in models or (fake(),)}
    with ray_endpoint.deployed(
        served, front, scaling, start_timeout_s=120, on_wait=lambda note: None
    ) as running:
        yield running, f"http://127.0.0.1:{front.port}"


def replicas(running):
    return running.figures()[0]["models"]["m"]["replicas"]


def ask(url, model="m"):
    body = {"model": model, "messages": [{"role": "user", "content": "alone"}]}
    return httpx.post(f"{url}/v1/chat/completions", json=body, headers=KEY, timeout=60)


def engines(running, model="m"):
    """(application, handle) of each generation that runs."""
    prefix = running.prefix(model)
    names = [name for name in serve.status().applications if name.startswith(prefix)]
    return [(name, serve.get_app_handle(name)) for name in names]


def pids(running, model="m"):
    found = []
    for _, handle in engines(running, model):
        with suppress(DeploymentUnavailableError):  # it has none
            found += handle.broadcast("pid").results(timeout_s=30, return_exceptions=True)
    return [each for each in found if isinstance(each, int)]  # a dead one is one that raised


@pytest.fixture(scope="module")
def two(ray_cluster):
    """An endpoint with two replicas, for the tests up to that in which it leaves."""
    with endpoint(Scaling((2, 2), drain_s=20)) as found:
        yield found


def test_two_replicas_are_closed_to_others(two):
    running, url = two
    assert replicas(running) == 2
    assert open_to_others() == []
    for path in ("/health", "/-/healthz", "/-/routes", "/metrics", "/v1/models", "/docs"):
        assert httpx.get(f"{url}{path}").status_code == 401


def test_a_killed_replica_costs_no_request_and_is_replaced(two):
    running, url = two
    with Load(url) as load:
        until(lambda: load.statuses[200] > 20)
        before = pids(running)
        os.kill(before[0], signal.SIGKILL)
        until(lambda: before[0] not in pids(running) and len(pids(running)) == 2)
    assert load.wrong == 0
    assert load.statuses.keys() == {200}, "those of the dead one were tried elsewhere, unseen"


def test_new_weights_that_do_not_start_change_nothing(two):
    running, url = two
    before = pids(running)
    broken = ServedModel(fake().model, "cpu", kind="no such server")
    with pytest.raises(Exception, match="no such server"):
        running.update(broken, start_timeout_s=60)
    ((name, _),) = engines(running)
    assert name.endswith(".1")
    assert pids(running) == before
    assert httpx.get(f"{url}/health", headers=KEY).status_code == 200


def test_new_weights_replace_the_old_ones_without_a_loss(two):
    running, url = two
    before = pids(running)
    with Load(url) as load:
        running.update(fake(step_s=0.005), start_timeout_s=120)
        ((name, _),) = engines(running)
    assert int(name.rpartition(".")[2]) > 1
    assert not set(before) & set(pids(running))
    assert load.statuses.keys() == {200}
    assert load.wrong == 0


def test_an_endpoint_that_leaves_answers_what_is_open(two):
    running, url = two
    with Load(url, tokens=100, stream=True) as load:
        until(lambda: load.statuses[200] > 4)
        leaving = threading.Thread(target=running.remove)
        leaving.start()
        leaving.join()
    assert load.statuses[200] > 4
    assert load.statuses.keys() <= {200, "not let in"}, "what was open was answered"


def test_replicas_come_with_the_load_from_none_to_two_are_updated_and_leave_and_nothing_is_lost():
    scaling = Scaling((0, 2), target_open=4, up_s=1, down_s=3, drain_s=20)
    with endpoint(scaling) as (running, url):
        assert replicas(running) == 0
        assert ask(url).status_code == 200
        with Load(url, clients=7) as load:
            until(lambda: replicas(running) == 2)
            # By load alone a second one would come in ten minutes.
            slow = replace(scaling, up_s=600)
            Deployed.running(running.name, slow).update(fake(), start_timeout_s=120)
            assert replicas(running) == len(pids(running)) == 2
        with Load(url, clients=1) as quiet:
            until(lambda: replicas(running) == 1)
        until(lambda: not pids(running))
        assert load.statuses.keys() == quiet.statuses.keys() == {200}
        assert load.wrong + quiet.wrong == 0
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{url}/health")


@pytest.mark.proof
def test_new_weights_of_a_model_without_a_replica_start_one_that_shows_that_they_are_good():
    with endpoint(Scaling((0, 2), drain_s=20)) as (running, _):
        assert replicas(running) == 0
        running.update(fake(), start_timeout_s=120)
        assert replicas(running) == 1


@pytest.mark.proof
def test_a_front_that_was_restarted_serves_the_models_that_are_there(tmp_path):
    may_start = tmp_path / "may start"
    may_start.touch()
    slow = fake("n", starts_with=str(may_start))
    with endpoint(Scaling(), fake(), slow, wait_s=0.5) as (running, url):
        (front,) = [figures["pid"] for figures in running.figures()]
        assert ask(url, "n").status_code == 200
        may_start.unlink()
        os.kill(pids(running, "n")[0], signal.SIGKILL)
        os.kill(front, signal.SIGKILL)
        until(lambda: [f["pid"] for f in running.figures()] not in ([], [front]))
        assert ask(url).status_code == 200
        absent = ask(url, "n")
        assert (absent.status_code, absent.headers["retry-after"]) == (503, "1")
        assert httpx.get(f"{url}/health", headers=KEY).status_code == 503
        may_start.touch()
        until(lambda: httpx.get(f"{url}/health", headers=KEY).status_code == 200)
        assert ask(url, "n").status_code == 200


MINUTES = float(os.environ.get("DISTILL_PROOF_MINUTES", "30"))
SCALE_DOWNS = int(os.environ.get("DISTILL_PROOF_SCALE_DOWNS", "100"))


@pytest.mark.proof
@pytest.mark.timeout(7200)
def test_half_an_hour_of_kills_costs_at_most_one_retry_and_no_memory(record_property):
    with endpoint(Scaling((2, 2), drain_s=20)) as (running, url), Load(url, retries=1) as load:
        until(lambda: load.statuses[200] > 500)
        front = psutil.Process(running.figures()[0]["pid"])
        before, kills = front.memory_info().rss, 0
        ends = time.monotonic() + 60 * MINUTES
        while time.monotonic() < ends:
            os.kill(pids(running)[kills % 2], signal.SIGKILL)
            kills += 1
            time.sleep(30)
            until(lambda: len(pids(running)) == 2)
        grown = (front.memory_info().rss - before) / 2**20
    total = load.statuses.total()
    record_property("kills", kills)
    record_property("requests", total)
    record_property("statuses", {str(status): n for status, n in load.statuses.items()})
    record_property("front_grown_mib", round(grown, 1))
    assert load.wrong == 0
    assert load.statuses[200] >= 0.999 * total
    assert grown <= 10


@pytest.mark.proof
@pytest.mark.timeout(7200)
def test_a_hundred_scale_downs_lose_nothing(record_property):
    scaling = Scaling((1, 2), target_open=3, up_s=0, down_s=0, drain_s=20)
    statuses, wrong = Counter(), 0
    with endpoint(scaling) as (running, url):
        for _ in range(SCALE_DOWNS):
            with Load(url, clients=5) as many:
                until(lambda: replicas(running) == 2)
            with Load(url, clients=1) as few:
                until(lambda: replicas(running) == 1)
            statuses += many.statuses + few.statuses
            wrong += many.wrong + few.wrong
    record_property("scale_downs", SCALE_DOWNS)
    record_property("requests", statuses.total())
    assert statuses.keys() == {200}
    assert wrong == 0
