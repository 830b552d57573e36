"""Servers that exist as arithmetic only: their capacity, their latencies and the load at which they
break an SLO are known.

A server has so many places, and a queue that is first come, first served; its first token comes
when a place is free and the prompt is read. So does an engine that decodes `max_num_seqs` answers
at a time. Service times follow one of three laws of equal mean. The result is a Level as the
generator leaves it, or, for the truth, nothing but the waits.

Shapes: N requests.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq

from engine.loadgen.samples import Level, Sample, Watch
from engine.stages.loadtest.goodput import Slo

Law = Callable[[np.random.Generator, int], np.ndarray]
_HEAVY = math.sqrt(math.log(1 + 1.5**2))  # a coefficient of variation of 1.5


def deterministic(rng: np.random.Generator, count: int) -> np.ndarray:
    """All alike."""
    return np.ones(count)


def exponential(rng: np.random.Generator, count: int) -> np.ndarray:
    """Memoryless."""
    return rng.exponential(size=count)


def lognormal(rng: np.random.Generator, count: int) -> np.ndarray:
    """Heavy-tailed: standard deviation of twice the mean."""
    return rng.lognormal(-(_HEAVY**2) / 2, _HEAVY, count)


LAWS: dict[str, Law] = {
    "deterministic": deterministic,
    "exponential": exponential,
    "lognormal": lognormal,
}


@dataclass(frozen=True)
class Server:
    """`places` answers at a time, of `service_s` on average; `prefill_s` of these until the first
    token."""

    law: str
    places: int = 32
    service_s: float = 1.0
    prefill_s: float = 0.05
    tokens: int = 64

    @property
    def capacity_rps(self) -> float:
        """What it answers per second when it is never idle."""
        return self.places / self.service_s

    def services(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """(N,) seconds."""
        return self.service_s * LAWS[self.law](rng, count)


def starts_of(arrivals_N: np.ndarray, services_N: np.ndarray, places: int) -> np.ndarray:
    """(N,) when each request gets its place (Kiefer and Wolfowitz 1955)."""
    free = [-math.inf] * places
    starts = []
    for arrival, service in zip(arrivals_N.tolist(), services_N.tolist(), strict=True):
        start = max(arrival, free[0])
        heapq.heapreplace(free, start + service)
        starts.append(start)
    return np.array(starts)


def run_open(server: Server, rate_rps: float, window_s: float, warmup_s: float, seed: int) -> Level:
    """Poisson arrivals from an empty server on."""
    rng = np.random.default_rng(seed)
    length_s = warmup_s + window_s
    arrivals_N = np.sort(rng.uniform(-warmup_s, window_s, rng.poisson(rate_rps * length_s)))
    services_N = server.services(rng, len(arrivals_N))
    starts_N = starts_of(arrivals_N, services_N, server.places)
    scheduled = int((arrivals_N >= 0).sum())
    samples = _samples(server, arrivals_N, starts_N, services_N)
    return _level("poisson", None, rate_rps, (window_s, warmup_s), seed, scheduled, samples)


def run_users(
    server: Server, users: int, think_s: float, window_s: float, warmup_s: float, seed: int
) -> Level:
    """`users` who each think for an exponential time of this mean after every answer."""
    rng = np.random.default_rng(seed)
    asks = [
        (moment, user) for user, moment in enumerate(-warmup_s + rng.exponential(think_s, users))
    ]
    heapq.heapify(asks)
    free = [-math.inf] * server.places
    rows = []
    while asks[0][0] < window_s:
        arrival, user = heapq.heappop(asks)
        service = float(server.services(rng, 1)[0])
        start = max(arrival, free[0])
        heapq.heapreplace(free, start + service)
        rows.append((arrival, start, service))
        heapq.heappush(asks, (start + service + rng.exponential(think_s), user))
    arrivals_N, starts_N, services_N = np.array(rows).T
    samples = _samples(server, arrivals_N, starts_N, services_N)
    return _level("sessions", users, None, (window_s, warmup_s), seed, None, samples)


def _asked(
    server: Server, users: int, think_s: float, span_s: tuple[float, float], seed: int
) -> np.ndarray:
    """(3, N): arrivals, starts and services of what users ask from one moment to another."""
    rng = np.random.default_rng(seed)
    begin_s, end_s = span_s
    most = users + int(1.2 * (end_s - begin_s) * users / think_s) + 100
    services = server.services(rng, most).tolist()
    thinks = rng.exponential(think_s, most).tolist()
    asks = (begin_s + rng.exponential(think_s, users)).tolist()
    heapq.heapify(asks)
    free = [-math.inf] * server.places
    rows = []
    while asks[0] < end_s:
        arrival = asks[0]
        service = services[len(rows)]
        start = max(arrival, free[0])
        heapq.heapreplace(free, start + service)
        heapq.heapreplace(asks, start + service + thinks[len(rows)])
        rows.append((arrival, start, service))
    return np.array(rows).T


def _samples(
    server: Server, arrivals_N: np.ndarray, starts_N: np.ndarray, services_N: np.ndarray
) -> list[Sample]:
    intended_ms = (1000 * arrivals_N).tolist()
    waits_ms = (1000 * (starts_N - arrivals_N)).tolist()
    services_ms = (1000 * services_N).tolist()
    prefill_ms = 1000 * server.prefill_s
    samples = []
    for intended, wait, service in zip(intended_ms, waits_ms, services_ms, strict=True):
        first = wait + prefill_ms
        end = max(wait + service, first)
        samples.append(
            Sample(
                intended_ms=intended,
                sent_ms=intended,
                status="ok",
                first_byte_ms=first,
                ttft_ms=first,
                last_ms=end,
                e2e_ms=end,
                events=server.tokens,
                prompt_tokens=16,
                output_tokens=server.tokens,
            )
        )
    return samples


def _level(
    kind: str,
    concurrency: int | None,
    rate_rps: float | None,
    lengths_s: tuple[float, float],
    seed: int,
    scheduled: int | None,
    samples: list[Sample],
) -> Level:
    window_s, warmup_s = lengths_s
    idle = Watch(0, 0.0, window_s, (0.1,), 0.0, 0.0)
    return Level(
        kind=kind,
        concurrency=concurrency,
        rate=rate_rps,
        window_s=window_s,
        warmup_s=warmup_s,
        started_s=0.0,
        seed=seed,
        scheduled=scheduled,
        samples=samples,
        watches=[idle],
    )


def true_knee_rps(server: Server, slo: Slo, requests: int, seed: int = 0) -> float:
    """The rate at which the share of requests whose first token is late is just what the SLO
    allows, from one long run of so many: the same draws at every rate, so that the share rises
    with it. The bound on the first token is the only one that is looked at."""
    assert slo.ttft_ms is not None, f"{slo} does not bound the first token"
    bound_s = slo.ttft_ms / 1000 - server.prefill_s
    allowed = 1 - slo.percentile / 100
    capacity = server.capacity_rps
    few_N = _draws(server, max(requests // 20, 50_000), seed)
    near = float(
        brentq(
            lambda rate_rps: _late_share(server, few_N, rate_rps, bound_s) - allowed,
            0.2 * capacity,
            0.99 * capacity,
            rtol=1e-3,
        )
    )
    # near it the logarithm of the share is straight in that of the rate: two long runs are enough
    draws_N = _draws(server, requests, seed + 1)
    rates = np.array([0.985 * near, 1.015 * near])
    shares = [_late_share(server, draws_N, float(rate_rps), bound_s) for rate_rps in rates]
    slope, offset = np.polyfit(np.log(shares), np.log(rates), 1)
    return math.exp(slope * math.log(allowed) + offset)


def true_knee_users(
    server: Server, think_s: float, slo: Slo, window_s: float, seed: int = 0
) -> int:
    """The most users with whom the SLO on the first token is kept, from long runs of such a
    window."""
    assert slo.ttft_ms is not None, f"{slo} does not bound the first token"
    bound_s = slo.ttft_ms / 1000 - server.prefill_s
    kept = 1
    broken = 2 * int(server.capacity_rps * (think_s + server.service_s))
    while broken - kept > 1:
        users = (kept + broken) // 2
        arrivals_N, starts_N, _ = _asked(server, users, think_s, (0.0, window_s), seed)
        if ((starts_N - arrivals_N) > bound_s).mean() <= 1 - slo.percentile / 100:
            kept = users
        else:
            broken = users
    return kept


def _draws(server: Server, requests: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Arrivals (N,) at a rate of 1, and services (N,)."""
    rng = np.random.default_rng(seed)
    return np.cumsum(rng.exponential(size=requests)), server.services(rng, requests)


def _late_share(
    server: Server, draws: tuple[np.ndarray, np.ndarray], rate_rps: float, bound_s: float
) -> float:
    arrivals_N, services_N = draws[0] / rate_rps, draws[1]
    waits_N = starts_of(arrivals_N, services_N, server.places) - arrivals_N
    return float((waits_N > bound_s).mean())


def mm1_sojourns(rng: np.random.Generator, load: float, count: int) -> np.ndarray:
    """(N,) times in a queue with one place, exponential gaps and services of mean 1, in its steady
    state from the first on; their law is exponential with rate 1 - load."""
    services_N = rng.exponential(size=count)
    gaps_N = rng.exponential(1 / load, size=count)
    waiting = 0.0
    if rng.random() < load:
        waiting = float(rng.exponential(1 / (1 - load)))
    steps = np.concatenate(([waiting], services_N[:-1] - gaps_N[1:]))
    walk = np.cumsum(steps)
    lowest = np.minimum(np.minimum.accumulate(walk), 0)  # Lindley's recursion, solved
    return walk - lowest + services_N
