"""When requests are meant to leave: the levels of a load test and the schedules of its open-loop
ones.

A schedule is drawn whole, once, from one seeded generator, and holds absolute times: neither a slow
server nor a slow client can move it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.job.spec import LoadtestSpec


@dataclass(frozen=True)
class Load:
    """One load: `concurrency` requests always in flight (closed loop), or `rate` requests per
    second (open loop)."""

    concurrency: int | None = None
    rate: float | None = None

    def __str__(self) -> str:
        if self.concurrency:
            return f"concurrency={self.concurrency}"
        return f"rate={self.rate:g}"

    def fields(self) -> dict[str, Any]:
        """The one key of report.json that tells this level from the others."""
        if self.concurrency:
            return {"concurrency": self.concurrency}
        return {"rate": self.rate}


def levels_of(spec: LoadtestSpec) -> list[Load]:
    """Every level of a job, closed loop first."""
    closed = [Load(concurrency=in_flight) for in_flight in spec.concurrency]
    opened = [Load(rate=rate_rps) for rate_rps in spec.rates]
    return closed + opened


def poisson(rng: np.random.Generator, rate_rps: float, seconds: float) -> np.ndarray:
    """Times (s) of a Poisson process on [0, seconds): given their number, which is left to chance,
    they are uniform."""
    count = rng.poisson(rate_rps * seconds)
    return np.sort(rng.uniform(0, seconds, size=count))


def constant(rng: np.random.Generator, rate_rps: float, seconds: float) -> np.ndarray:
    """Times (s) k / rate on [0, seconds)."""
    return np.arange(0, seconds, 1 / rate_rps)


ARRIVALS: dict[str, Callable[[np.random.Generator, float, float], np.ndarray]] = {
    "poisson": poisson,
    "constant": constant,
}
