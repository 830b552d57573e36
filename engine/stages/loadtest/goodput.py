"""Requests that were answered as fast as was promised.

A request is good if it was answered and keeps every bound. The promise is kept if their share
reaches the percentile: stricter than a percentile of each latency by itself, because one request
may break one bound, and the next one another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.stages.loadtest.intervals import (
    RATE_SLICES,
    UNKNOWN,
    Interval,
    rate_interval,
    share_interval,
)
from engine.stages.loadtest.series import Series, sums_between


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
    """Good requests of the window; `tokens_per_second` are theirs, None where the server did not
    count them all. `met`: None if the interval of the share lies on both sides of the percentile,
    so that nobody can say."""

    good: int
    requests: int
    rps: float
    tokens_per_second: float | None
    tokens_interval: Interval
    share: float | None
    interval: Interval
    met: bool | None

    def as_fields(self, slo: Slo) -> dict[str, Any]:
        """The entry in report.json."""
        return {
            "slo": {**slo.bounds, "percentile": slo.percentile},
            "good": self.good,
            "rps": round(self.rps, 4),
            "tokens_per_second": _rounded(self.tokens_per_second),
            "share": _rounded(self.share),
            "share_ci": [_rounded(self.interval.low), _rounded(self.interval.high)],
            "met": self.met,
        }


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
    tokens_per_second, tokens_interval = _good_tokens(measured, good_N, window_s)
    return Goodput(
        good=good,
        requests=len(measured),
        rps=good / window_s,
        tokens_per_second=tokens_per_second,
        tokens_interval=tokens_interval,
        share=share,
        interval=interval,
        met=_met(interval, slo.percentile / 100),
    )


def _good_tokens(
    measured: Series,
    good_N: np.ndarray,
    window_s: float,
) -> tuple[float | None, Interval]:
    """Output tokens of good requests per second of the window in which they were meant to
    leave."""
    tokens_N = measured.output_tokens_N[good_N]
    if np.isnan(tokens_N).any():
        return None, UNKNOWN
    edges_ms = np.linspace(0.0, window_s * 1000, RATE_SLICES + 1)
    tokens_S = sums_between(measured.intended_ms_N[good_N], tokens_N, edges_ms)
    interval = rate_interval(tokens_S, window_s, int(good_N.sum()))
    return float(tokens_S.sum()) / window_s, interval


def _met(interval: Interval, wanted: float) -> bool | None:
    if interval.low is not None and interval.low >= wanted:
        return True
    if interval.high is not None and interval.high < wanted:
        return False
    return None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 5)
