"""Requests that were answered as fast as was promised.

A request is good if it was answered and keeps every bound. The promise is kept if their share
reaches the percentile: stricter than a percentile of each latency by itself, because one request
may break one bound, and the next one another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.stages.loadtest.intervals import Interval, share_interval
from engine.stages.loadtest.series import Series


@dataclass(frozen=True)
class Slo:
    """Bounds in ms, None: none; `percentile` per cent of the requests keep them all."""

    ttft_ms: float | None = None
    tpot_ms: float | None = None
    e2e_ms: float | None = None
    percentile: float = 99.0

    @property
    def bounds(self) -> dict[str, float]:
        """Those that are given."""
        named = {"ttft_ms": self.ttft_ms, "tpot_ms": self.tpot_ms, "e2e_ms": self.e2e_ms}
        return {name: bound for name, bound in named.items() if bound is not None}

    def __str__(self) -> str:
        words = [f"{name} <= {bound:g}" for name, bound in self.bounds.items()]
        bounds = " and ".join(words) or "an answer"
        return f"{bounds} for {self.percentile:g} % of the requests"


@dataclass(frozen=True)
class Goodput:
    """Good requests of the window. `met`: None if the interval of the share lies on both sides of
    the percentile, so that nobody can say."""

    good: int
    requests: int
    rps: float
    share: float | None
    interval: Interval
    met: bool | None


def strain(series: Series, slo: Slo) -> np.ndarray:
    """(N,) the largest share of a bound that each request took: up to 1 it is good. What has no
    TPOT (one token, an uncounted answer) takes nothing of its bound; a failed one takes all."""
    strain_N = np.where(series.ok_N, 0.0, np.inf)
    columns = {
        "ttft_ms": series.ttft_ms_N,
        "tpot_ms": series.tpot_ms_N,
        "e2e_ms": series.e2e_ms_N,
    }
    for name, bound in slo.bounds.items():
        strain_N = np.fmax(strain_N, columns[name] / bound)
    return strain_N


def is_good(series: Series, slo: Slo) -> np.ndarray:
    """(N,) whether each request is good."""
    return strain(series, slo) <= 1


def goodput_of(measured: Series, slo: Slo, window_s: float) -> Goodput:
    """Of the requests that were meant to leave within the window."""
    good_N = is_good(measured, slo)
    good = int(good_N.sum())
    interval = share_interval(good_N)
    share = None
    if len(measured):
        share = good / len(measured)
    met = _met(interval, slo.percentile / 100)
    return Goodput(good, len(measured), good / window_s, share, interval, met)


def _met(interval: Interval, wanted: float) -> bool | None:
    if interval.low is not None and interval.low >= wanted:
        return True
    if interval.high is not None and interval.high < wanted:
        return False
    return None


def as_fields(slo: Slo, found: Goodput) -> dict[str, Any]:
    """The entry in report.json."""
    share = None if found.share is None else round(found.share, 5)
    return {
        "slo": {**slo.bounds, "percentile": slo.percentile},
        "good": found.good,
        "rps": round(found.rps, 4),
        "share": share,
        "share_ci": [_rounded(found.interval.low), _rounded(found.interval.high)],
        "met": found.met,
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 5)
