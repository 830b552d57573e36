"""What a front counts, for Prometheus, and what its replicas' servers count, under one page."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from engine.serving.connections import Connections
from engine.serving.link import Asked
from engine.serving.pool import Pool, Replica
from engine.serving.replica_connection import Page

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SCRAPE_TIMEOUT_S = 5.0
_BUCKETS_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120)


class FrontMetrics:
    """Counters of one front, by model; `page` is that of all fronts. What only an engine knows
    (tokens, time per token) its replica's server counts."""

    def __init__(self, pools: Iterable[Pool], connections: Connections) -> None:
        self._registry = registry = CollectorRegistry()
        model = ["model"]
        self.requests = Counter(
            "distill_requests",
            "Requests by how they ended and their HTTP status",
            ["model", "how", "status"],
            registry=registry,
        )
        self.retries = Counter(
            "distill_retries", "Requests sent once more, elsewhere", model, registry=registry
        )
        self.faults = Counter(
            "distill_replica_faults", "Answers of 500 by replicas", model, registry=registry
        )
        self.ttft = Histogram(
            "distill_time_to_first_byte_seconds",
            "From a whole request to the first byte of its answer",
            model,
            buckets=_BUCKETS_S,
            registry=registry,
        )
        self.e2e = Histogram(
            "distill_request_seconds",
            "From a whole request to the end of its answer",
            model,
            buckets=_BUCKETS_S,
            registry=registry,
        )
        open_now = Gauge("distill_open", "Requests under way", model, registry=registry)
        waiting = Gauge("distill_queued", "Requests that no replica has", model, registry=registry)
        replicas = Gauge("distill_replicas", "Replicas that answer", model, registry=registry)
        restarts = Gauge(
            "distill_replicas_started",
            "Replicas that ever came; more than there are: some were restarted or scaled",
            model,
            registry=registry,
        )
        connected = Gauge("distill_connections", "Clients that are connected", registry=registry)
        connected.set_function(lambda: len(connections))
        self.turned_away = Counter(
            "distill_connections_turned_away",
            "Clients for whose connection there was no room",
            registry=registry,
        )
        self.answered = 0
        for pool in pools:
            open_now.labels(pool.name).set_function(lambda pool=pool: pool.open)
            waiting.labels(pool.name).set_function(lambda pool=pool: len(pool.waiting))
            replicas.labels(pool.name).set_function(lambda pool=pool: len(pool.replicas))
            restarts.labels(pool.name).set_function(lambda pool=pool: len(pool.seen))

    def ended(
        self, model: str, how: str, status: int, *, e2e_s: float, ttft_s: float | None
    ) -> None:
        """A request is over: `how` is answered, refused, cut or gone."""
        self.answered += how == "answered"
        self.requests.labels(model, how, status).inc()
        self.e2e.labels(model).observe(e2e_s)
        if ttft_s is not None:
            self.ttft.labels(model).observe(ttft_s)

    def text(self) -> str:
        """What this front counted."""
        return generate_latest(self._registry).decode()

    @staticmethod
    async def page(fronts: Iterable[tuple[str, str]], replicas: Iterable[Replica]) -> bytes:
        """The whole page: of all fronts, by their ids, the text, and what their replicas count; a
        replica that does not answer is left out."""
        texts = await asyncio.gather(*(_scrape(each) for each in replicas))
        merged = CollectorRegistry()
        merged.register(_Merged(fronts, "front", "distill_"))
        merged.register(_Merged(texts, "replica", "vllm:"))
        return generate_latest(merged)


async def _scrape(replica: Replica) -> tuple[str, str]:
    try:
        async with asyncio.timeout(SCRAPE_TIMEOUT_S):
            connection = await replica.connect()
            page = Page()
            number = connection.send(page, Asked("GET", "/metrics"))
            try:
                text = await page.body
            finally:
                connection.abandon(number)  # of one that takes too long
    except OSError:  # TimeoutError is one
        text = None
    return replica.address.id, (text or b"").decode()


class _Merged(Collector):
    """Pages of several processes as one, each sample labelled with its process's id; of metrics
    whose names begin so."""

    def __init__(self, texts: Iterable[tuple[str, str]], label: str, prefix: str) -> None:
        self._texts = list(texts)
        self._label = label
        self._prefix = prefix

    def collect(self) -> Iterator[Metric]:
        """prometheus_client: all families."""
        families: dict[str, Metric] = {}
        for process, text in self._texts:
            for family in text_string_to_metric_families(text):
                if not family.name.startswith(self._prefix):
                    continue
                merged = families.setdefault(
                    family.name, Metric(family.name, family.documentation, family.type)
                )
                for sample in family.samples:
                    labels = sample.labels | {self._label: process}
                    merged.add_sample(sample.name, labels, sample.value)
        yield from families.values()
