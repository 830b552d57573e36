"""Rows of a load test (its levels and request samples) -> the figures of report.json, and the
verdict whether they can be trusted.

Pure functions of what the stage keeps: the same rows read back from its files give the same
figures.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from engine.rows.records import LoadLevel, RequestSample
from engine.stages.loadtest.arrivals import Load

PERCENTILES = {"p50": 50, "p95": 95, "p99": 99}
MAX_LAG_MS = 50.0
MAX_LAG_FRACTION = 0.10  # of the latency at the same percentile
LAG_FLOOR_MS = 5.0  # what timers and a shared processor cost anyway
MAX_CPU_FRACTION = 0.9


def serving_of(
    levels: Iterable[LoadLevel], samples: Iterable[RequestSample]
) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """`serving` of report.json: the levels of every model, in the order in which they were run."""
    of_level: dict[tuple[str, str], list[RequestSample]] = defaultdict(list)
    for sample in samples:
        of_level[sample.model, sample.level].append(sample)
    serving: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for level in levels:
        curve = serving.setdefault(level.model, {"levels": []})["levels"]
        curve.append(summarise(level, of_level[level.model, level.level]))
    return serving


def summarise(level: LoadLevel, samples: Sequence[RequestSample]) -> dict[str, Any]:
    """The level's entry in report.json from its row and its samples, warm-up ones too; latencies in
    ms, a failed request counts as infinitely slow (null in JSON).

    `request_throughput` is answers that ended inside the window per second, warm-up ones included:
    they fill the server as much. `output_tokens_per_second` spreads each answer's tokens evenly
    between its first and last chunk and counts what falls into the window.
    """
    window_ms = level.window_s * 1000
    measured = measured_of(samples)
    failures = Counter(sample.status for sample in measured if sample.status != "ok")
    ended = 0
    tokens = 0.0
    for sample in samples:
        ended += 0 <= _ended_ms(sample) < window_ms
        tokens += _tokens_within(sample, window_ms)
    reason = _invalid_reason(level, measured)
    return Load(level.concurrency, level.rate).fields() | {
        "requests": len(measured),
        "failed": failures.total(),
        "failures": dict(failures),
        "request_throughput": round(ended / level.window_s, 4),
        "output_tokens_per_second": round(tokens / level.window_s, 3),
        **_latencies(measured),
        "valid": reason is None,
        "invalid_reason": reason,
    }


def measured_of(samples: Iterable[RequestSample]) -> list[RequestSample]:
    """Those that count: sent inside the window, not to warm the server up."""
    return [sample for sample in samples if not sample.warm]


def percentiles(values: Sequence[float]) -> dict[str, float | None]:
    """p50, p95, p99 as values that were really seen (inverse of the empirical distribution); null:
    infinite, or no values."""
    if not len(values):
        return dict.fromkeys(PERCENTILES)
    seen = np.percentile(values, list(PERCENTILES.values()), method="inverted_cdf")
    rounded = map(_rounded, seen.tolist())
    return dict(zip(PERCENTILES, rounded, strict=True))


def _rounded(value: float) -> float | None:
    return round(value, 3) if math.isfinite(value) else None


def _latencies(measured: Sequence[RequestSample]) -> dict[str, dict[str, float | None]]:
    """Percentiles of TTFT, TPOT and E2E; an answer of one token or one chunk has no TPOT, and is
    left out there."""
    ttft_ms: list[float] = []
    tpot_ms: list[float] = []
    e2e_ms: list[float] = []
    for sample in measured:
        ttft_ms.append(_or_never(sample.ttft_ms))
        e2e_ms.append(_or_never(sample.e2e_ms))
        if sample.tpot_ms is not None or sample.status != "ok":
            tpot_ms.append(_or_never(sample.tpot_ms))
    return {
        "ttft_ms": percentiles(ttft_ms),
        "tpot_ms": percentiles(tpot_ms),
        "e2e_ms": percentiles(e2e_ms),
    }


def _or_never(ms: float | None) -> float:
    """A failed request has no latency: its answer never comes."""
    return math.inf if ms is None else ms


def _ended_ms(sample: RequestSample) -> float:
    return sample.intended_ms + _or_never(sample.e2e_ms)


def _tokens_within(sample: RequestSample, window_ms: float) -> float:
    """Output tokens of one answer that fell into [0, window)."""
    if sample.status != "ok":
        return 0.0
    first_ms = sample.intended_ms + _or_never(sample.ttft_ms)
    last_ms = _ended_ms(sample)
    if last_ms > first_ms:
        inside_ms = max(0.0, min(last_ms, window_ms) - max(first_ms, 0.0))
        return sample.output_tokens * inside_ms / (last_ms - first_ms)
    return sample.output_tokens * (0 <= first_ms < window_ms)


def _invalid_reason(level: LoadLevel, measured: Sequence[RequestSample]) -> str | None:
    """Why the figures say more about the client than about the server: it was late to send or to
    wake up, or too busy."""
    if not measured:
        return (
            f"no request fell into the {level.window_s:g} s window; raise loadtest.seconds or the"
            " rate"
        )
    if level.cpu_fraction > MAX_CPU_FRACTION:
        return (
            f"client saturated: its thread was busy {level.cpu_fraction:.0%} of the time; lower the"
            " load, or use more machines"
        )
    ttft_ms = percentiles([s.ttft_ms for s in measured if s.ttft_ms is not None])
    late_ms = percentiles([sample.sent_ms - sample.intended_ms for sample in measured])
    asleep_ms = percentiles(level.loop_lag_ms)
    for name in ("p50", "p99"):
        lag_ms = max(late_ms[name] or 0.0, asleep_ms[name] or 0.0)
        tolerated_ms = MAX_LAG_FRACTION * (ttft_ms[name] or 0.0)
        limit_ms = min(MAX_LAG_MS, max(LAG_FLOOR_MS, tolerated_ms))
        if lag_ms > limit_ms:
            return (
                f"client lagged: {name} lag {lag_ms:.1f} ms, more than {limit_ms:.1f} ms; run it on"
                " a machine of its own"
            )
    return None
