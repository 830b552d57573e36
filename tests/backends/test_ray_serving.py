"""Fake engines behind real fronts on Ray Serve, over real HTTP: what happens to requests while
replicas come, go, die and are replaced."""

import json
import os
import re
import signal
import threading
import time
from collections import Counter
from contextlib import contextmanager, suppress

import httpx
import psutil
import pytest
from conftest import open_to_others
from ray import serve
from ray.serve.exceptions import DeploymentUnavailableError

from benchmarks.serving.stand_ins import free_port
from engine.backends import ray_endpoint
from engine.backends.ray_serve import Scaling
from engine.job.spec import EngineSpec, Model
from engine.serving.front import FrontSettings
from engine.serving.keys import Keys
from engine.serving.replica import ServedModel

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]
KEY = {"Authorization": "Bearer right"}


def fake(name="m", **engine):
    options = {"step_s": 0.01} | engine
    spec = EngineSpec(engine_args=options, max_num_seqs=8)
    return ServedModel(Model(name, "fake", None, spec), "cpu", kind="fake")


@contextmanager
def endpoint(scaling, **settings):
    front = FrontSettings("127.0.0.1", free_port(), Keys.of({"ann": "right"}), **settings)
    with ray_endpoint.deployed(
        {"m": fake()}, front, scaling, start_timeout_s=120, on_wait=lambda note: None
    ) as running:
        yield running, f"http://127.0.0.1:{front.port}"


class Load:
    """`clients` ask one after the other until the block ends; each answer must carry its request's
    mark. Statuses are HTTP's, `cut` for a broken answer, `not let in` where none began; one that
    failed is asked `retries` times more."""

    def __init__(self, url, clients=4, tokens=20, retries=0, stream=False):
        self._retries, self._stream = retries, stream
        self.statuses, self.wrong = Counter(), 0
        self._url, self._tokens, self._done = url, tokens, threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(n,)) for n in range(clients)]

    def _ask(self, number):
        with httpx.Client(base_url=self._url, headers=KEY, timeout=60) as client:
            for turn in range(1_000_000):
                if self._done.is_set():
                    return
                mark = f"mark-{number}-{turn}"
                body = {"model": "m", "max_tokens": self._tokens, "stream": self._stream}
                body["messages"] = [{"role": "user", "content": mark}]
                for _ in range(1 + self._retries):
                    status, text = self._answer(client, body)
                    if status == 200:
                        break
                self.statuses[status] += 1
                if status == 200:
                    self.wrong += text.split() != [mark] * self._tokens

    def _answer(self, client, body):
        begun = False
        try:
            with client.stream("POST", "/v1/chat/completions", json=body) as reply:
                begun = True
                reply.read()
        except httpx.TransportError:
            return "cut" if begun else "not let in", ""
        if reply.status_code != 200:
            return reply.status_code, ""
        if not self._stream:
            return 200, reply.json()["choices"][0]["message"]["content"]
        events = re.findall(r"data: (\{.*\})", reply.text)
        deltas = [json.loads(event)["choices"][0]["delta"] for event in events]
        return 200, "".join(delta.get("content", "") for delta in deltas)

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._done.set()
        for thread in self._threads:
            thread.join()


def until(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.1)


def replicas(running):
    return running.figures()[0]["models"]["m"]["replicas"]


def engines(running):
    """(application, handle) of each generation that runs."""
    prefix = running.prefix("m")
    names = [name for name in serve.status().applications if name.startswith(prefix)]
    return [(name, serve.get_app_handle(name)) for name in names]


def pids(running):
    found = []
    for _, handle in engines(running):
        with suppress(DeploymentUnavailableError):  # it has none
            found += handle.broadcast("pid").results(timeout_s=30, return_exceptions=True)
    return [each for each in found if isinstance(each, int)]  # a dead one is one that raised


def test_two_replicas_are_closed_to_others_survive_a_kill_and_are_replaced_without_a_loss():
    with endpoint(Scaling((2, 2), drain_s=20)) as (running, url):
        assert open_to_others() == []
        for path in ("/health", "/-/healthz", "/-/routes", "/metrics", "/v1/models", "/docs"):
            assert httpx.get(f"{url}{path}").status_code == 401
        assert replicas(running) == 2
        with Load(url) as load:
            until(lambda: load.statuses[200] > 20)
            before = pids(running)
            os.kill(before[0], signal.SIGKILL)
            until(lambda: before[0] not in pids(running) and len(pids(running)) == 2)
        assert load.wrong == 0
        assert load.statuses.keys() == {200}, "those of the dead one were tried elsewhere, unseen"
        with Load(url) as load:
            running.update(fake(step_s=0.005), start_timeout_s=120)
            ((name, _),) = engines(running)
        assert name.endswith(".2")
        assert not set(before) & set(pids(running))
        assert load.statuses.keys() == {200}
        assert load.wrong == 0
        with Load(url, tokens=100, stream=True) as load:
            until(lambda: load.statuses[200] > 4)
            leaving = threading.Thread(target=running.remove)
            leaving.start()
            leaving.join()
        assert load.statuses[200] > 4
        assert load.statuses.keys() <= {200, "not let in"}, "what was open was answered"
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{url}/health")


def test_replicas_come_with_the_load_from_none_to_two_and_leave_again_and_nothing_is_lost():
    scaling = Scaling((0, 2), target_open=4, up_s=1, down_s=3, drain_s=20)
    with endpoint(scaling) as (running, url):
        assert replicas(running) == 0
        body = {"model": "m", "messages": [{"role": "user", "content": "cold"}]}
        cold = httpx.post(f"{url}/v1/chat/completions", json=body, headers=KEY, timeout=60)
        assert cold.status_code == 200
        with Load(url, clients=7) as load:
            until(lambda: replicas(running) == 2)
        with Load(url, clients=1) as quiet:
            until(lambda: replicas(running) == 1)
        until(lambda: not pids(running))
        assert load.statuses.keys() == quiet.statuses.keys() == {200}
        assert load.wrong + quiet.wrong == 0


def test_new_weights_that_do_not_start_change_nothing():
    with endpoint(Scaling((1, 1), drain_s=5)) as (running, url):
        broken = ServedModel(fake().model, "cpu", kind="no such server")
        with pytest.raises(Exception, match="no such server"):
            running.update(broken, start_timeout_s=60)
        ((name, _),) = engines(running)
        assert name.endswith(".1")
        assert httpx.get(f"{url}/health", headers=KEY).status_code == 200


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
