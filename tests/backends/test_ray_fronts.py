"""Two fronts on one port before one fake engine on Ray Serve, over TLS."""

import json
import os
import signal
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from doubles.certificate import self_signed
from doubles.clients import KEY, Load, until
from prometheus_client.parser import text_string_to_metric_families
from ray import serve

from benchmarks.serving.stand_ins import free_port
from engine.backends import ray_endpoint
from engine.backends.ray_serve import Scaling
from engine.job.spec import EngineSpec, Model
from engine.serving.front import FrontSettings
from engine.serving.keys import Keys
from engine.serving.replica import ServedModel

pytestmark = pytest.mark.slow
BATCH, QUEUED = 4, 4


class Served:
    """What runs, and how it is asked."""

    def __init__(self, running, url, certificate):
        self.running, self.url = running, url
        self.verify = ssl.create_default_context(cafile=certificate)

    def client(self, **options):
        """One more connection."""
        return httpx.Client(
            base_url=self.url, verify=self.verify, timeout=60, **{"headers": KEY} | options
        )

    def ask(self, tokens=2):
        body = {"model": "m", "max_tokens": tokens}
        body["messages"] = [{"role": "user", "content": "x"}]
        with self.client() as client:
            return client.post("/v1/chat/completions", json=body)

    def unfinished(self):
        handle = serve.get_app_handle(f"{self.running.prefix('m')}.1")
        return sum(handle.broadcast("unfinished").results(timeout_s=30))


@pytest.fixture(scope="module")
def served(ray_cluster, tmp_path_factory):
    certificate, key = self_signed(tmp_path_factory.mktemp("tls"))
    settings = FrontSettings(
        "127.0.0.1",
        free_port(),
        Keys.of({"ann": "right"}),
        max_queued=QUEUED,
        tls_cert=certificate,
        tls_key=key,
    )
    spec = EngineSpec(engine_args={"step_s": 0.01}, max_num_seqs=BATCH)
    model = ServedModel(Model("m", "fake", None, spec), "cpu", kind="fake", max_queued=QUEUED)
    with ray_endpoint.deployed(
        {"m": model},
        settings,
        Scaling(drain_s=10),
        fronts=2,
        start_timeout_s=120,
        on_wait=lambda note: None,
    ) as running:
        yield Served(running, f"https://127.0.0.1:{settings.port}", certificate)


def test_every_client_speaks_https_and_has_a_key(served):
    assert served.ask().status_code == 200
    with served.client(headers={}) as client:
        for path in ("/health", "/metrics", "/v1/models"):
            assert client.get(path).status_code == 401
    with pytest.raises(httpx.TransportError):
        httpx.get(served.url.replace("https:", "http:"))


def test_clients_share_out_over_the_fronts_and_every_scrape_counts_all_of_them(served):
    for _ in range(40):
        assert served.ask().status_code == 200
    answered = [figures["answered"] for figures in served.running.figures()]
    assert len(answered) == 2
    assert min(answered) > 0
    for _ in range(6):
        with served.client() as client:
            page = client.get("/metrics").text
        counted = {}
        for family in text_string_to_metric_families(page):
            for sample in family.samples:
                if sample.name == "distill_requests_total" and sample.labels["status"] == "200":
                    counted[sample.labels["front"]] = sample.value
        assert sorted(counted.values()) == sorted(answered)
        assert "vllm:generation_tokens_total" in page


def test_together_they_send_an_engine_no_more_than_it_takes_and_the_rest_hear_429(served):
    most, done = [0], threading.Event()

    def watch():
        while not done.is_set():
            most[0] = max(most[0], served.unfinished())
            time.sleep(0.02)

    watching = threading.Thread(target=watch)
    watching.start()
    with ThreadPoolExecutor(40) as pool:
        seen = [reply.result() for reply in [pool.submit(served.ask, 200) for _ in range(40)]]
    done.set()
    watching.join()
    refused = [reply for reply in seen if reply.status_code == 429]
    assert {reply.status_code for reply in seen} == {200, 429}
    assert {reply.headers["retry-after"] for reply in refused} == {"1"}
    assert most[0] == BATCH + QUEUED, "each front alone would let in as many"


def test_a_client_that_leaves_is_aborted_in_the_engine(served):
    """Its answer would take fifty seconds."""
    body = {"model": "m", "max_tokens": 5000, "stream": True}
    body["messages"] = [{"role": "user", "content": "x"}]
    with (
        served.client() as client,
        client.stream("POST", "/v1/chat/completions", json=body) as reply,
    ):
        events = reply.iter_lines()
        assert json.loads(next(events).removeprefix("data: "))["choices"]
        assert served.unfinished() == 1
    until(lambda: served.unfinished() == 0, seconds=20)


def test_where_one_is_killed_the_other_answers_until_there_are_two_again(served):
    before = {figures["pid"] for figures in served.running.figures()}
    with Load(served.url, clients=3, retries=1, verify=served.verify) as load:
        until(lambda: load.statuses[200] > 20)
        killed = before.pop()
        os.kill(killed, signal.SIGKILL)
        until(lambda: killed not in (now := pids(served)) and len(now) == 2)
    assert load.statuses.keys() == {200}
    assert load.wrong == 0
    assert before < set(pids(served)), "one stayed"


def pids(served):
    return [figures["pid"] for figures in served.running.figures()]
