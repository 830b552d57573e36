"""How the client itself fared: a late or breathless client makes any server look slow.

Only facts, as they stand in the files; what follows from them is verdict.py's.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.loadgen.samples import Ceiling, Level
from engine.stages.loadtest.series import Series


@dataclass(frozen=True)
class ClientFacts:
    """Over the window. `ceiling_share`: of what the client can do here, of the process that is
    nearest to it, by its processor time and by what its events and requests should take."""

    processes: int
    cores: float
    ceiling_share: float
    is_calibrated: bool
    lag_p50_ms: float
    lag_p99_ms: float
    loop_lag_p50_ms: float
    loop_lag_p99_ms: float
    clock_jump_s: float
    others_cpu: float
    unsent: int

    def as_fields(self) -> dict[str, Any]:
        """The entry in report.json."""
        return {
            "processes": self.processes,
            "cores": round(self.cores, 4),
            "ceiling_share": round(self.ceiling_share, 4),
            "is_calibrated": self.is_calibrated,
            "lag_ms": {"p50": round(self.lag_p50_ms, 3), "p99": round(self.lag_p99_ms, 3)},
            "loop_lag_ms": {
                "p50": round(self.loop_lag_p50_ms, 3),
                "p99": round(self.loop_lag_p99_ms, 3),
            },
            "clock_jump_s": round(self.clock_jump_s, 3),
            "others_cpu": round(self.others_cpu, 4),
            "unsent": self.unsent,
        }


def client_facts(level: Level, measured: Series, ceiling: Ceiling | None) -> ClientFacts:
    """Of a level's watches and of the requests of its window."""
    cores = 0.0
    busiest = 0.0
    loop_lag_ms: list[float] = []
    for watch in level.watches:
        share = watch.cpu_s / watch.window_s
        cores += share
        busiest = max(busiest, share)
        loop_lag_ms += watch.loop_lag_ms
    if ceiling is not None:
        busiest = max(busiest, _expected_share(level, measured, ceiling))
    lag_p50_ms, lag_p99_ms = p50_and_p99(measured.lag_ms_N)
    loop_p50_ms, loop_p99_ms = p50_and_p99(np.array(loop_lag_ms))
    return ClientFacts(
        processes=len(level.watches),
        cores=cores,
        ceiling_share=busiest,
        is_calibrated=ceiling is not None,
        lag_p50_ms=lag_p50_ms,
        lag_p99_ms=lag_p99_ms,
        loop_lag_p50_ms=loop_p50_ms,
        loop_lag_p99_ms=loop_p99_ms,
        clock_jump_s=max((watch.clock_jump_s for watch in level.watches), default=0.0),
        others_cpu=max((watch.others_cpu for watch in level.watches), default=0.0),
        unsent=max(0, (level.scheduled or 0) - len(measured)),
    )


def _expected_share(level: Level, measured: Series, ceiling: Ceiling) -> float:
    """Core-seconds per second that the fullest process's events and requests should take."""
    events: Counter[int] = Counter()
    requests: Counter[int] = Counter()
    for sample in measured.samples:
        events[sample.process] += sample.events
        requests[sample.process] += 1
    most = 0.0
    for process, sent in requests.items():
        needed_s = events[process] / ceiling.events_per_core_s + sent / ceiling.requests_per_core_s
        most = max(most, needed_s / level.window_s)
    return most


def p50_and_p99(values: np.ndarray) -> tuple[float, float]:
    """Values that were seen (inverse of the empirical distribution); zeros of nothing."""
    if not len(values):
        return 0.0, 0.0
    low, high = np.quantile(values, [0.5, 0.99], method="inverted_cdf").tolist()
    return low, high
