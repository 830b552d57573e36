"""Request samples of one level -> the figures of report.json, and the verdict whether they can be
trusted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.rows.records import RequestSample
from engine.stages.loadtest.client import Measurement

MAX_LAG_MS = 50.0
MAX_LAG_FRACTION = 0.10  # of the latency at the same percentile
LAG_FLOOR_MS = 5.0  # what timers and a shared processor cost anyway
MAX_CPU_FRACTION = 0.9


def percentiles(values: Sequence[float]) -> dict[str, float | None]:
    """p50, p95, p99 as values that were really seen (inverse of the empirical distribution); null:
    infinite, or no values."""
    if not len(values):
        return {"p50": None, "p95": None, "p99": None}
    found = np.percentile(values, [50, 95, 99], method="inverted_cdf")
    return {
        name: round(float(v), 3) if np.isfinite(v) else None
        for name, v in zip(("p50", "p95", "p99"), found, strict=True)
    }


def summarise(found: Measurement) -> dict[str, Any]:
    """The level's entry in report.json; latencies in ms, a failed request counts as infinitely slow
    (null in JSON).

    `request_throughput` is answers that ended inside the window per second, warm-up ones included:
    they fill the server as much. `output_tokens_per_second` spreads each answer's tokens evenly
    between its first and last chunk and counts what falls into the window.
    """
    samples, window_ms = found.samples, found.window_s * 1000
    good = [s for s in samples if s.status == "ok"]
    failures = Counter(s.status for s in samples if s.status != "ok")
    failed = [float("inf")] * (len(samples) - len(good))
    everything = [s for s in [*found.warmup, *samples] if s.status == "ok"]
    ended = sum(0 <= s.intended_ms + s.e2e_ms < window_ms for s in everything)
    reason = _invalid_reason(found, good)
    return found.level.fields() | {
        "requests": len(samples),
        "failed": len(failed),
        "failures": dict(failures),
        "request_throughput": round(ended / found.window_s, 4),
        "output_tokens_per_second": round(
            sum(_tokens_within(s, window_ms) for s in everything) / found.window_s, 3
        ),
        "ttft_ms": percentiles([s.ttft_ms for s in good] + failed),
        "tpot_ms": percentiles([s.tpot_ms for s in good if s.tpot_ms is not None] + failed),
        "e2e_ms": percentiles([s.e2e_ms for s in good] + failed),
        "valid": reason is None,
        "invalid_reason": reason,
    }


def _tokens_within(sample: RequestSample, window_ms: float) -> float:
    """Output tokens of one answer that fell into [0, window)."""
    first, last = sample.intended_ms + sample.ttft_ms, sample.intended_ms + sample.e2e_ms
    if last <= first:
        return sample.output_tokens if 0 <= first < window_ms else 0.0
    return sample.output_tokens * max(0.0, min(last, window_ms) - max(first, 0.0)) / (last - first)


def _invalid_reason(found: Measurement, good: list[RequestSample]) -> str | None:
    """Why the figures say more about the client than about the server: it was late to send or to
    wake up, or too busy."""
    if not found.samples:
        return (
            f"no request fell into the {found.window_s:g} s window; raise loadtest.seconds or the"
            " rate"
        )
    if found.cpu_fraction > MAX_CPU_FRACTION:
        return (
            f"client saturated: its thread was busy {found.cpu_fraction:.0%} of the time; lower the"
            " load, or use more machines"
        )
    ttft_ms, asleep_ms = percentiles([s.ttft_ms for s in good]), percentiles(found.loop_lag_ms)
    late_ms = percentiles([s.sent_ms - s.intended_ms for s in found.samples])
    for name in ("p50", "p99"):
        lag_ms = max(late_ms[name], asleep_ms[name] or 0.0)
        limit_ms = min(MAX_LAG_MS, max(LAG_FLOOR_MS, MAX_LAG_FRACTION * (ttft_ms[name] or 0.0)))
        if lag_ms > limit_ms:
            return (
                f"client lagged: {name} lag {lag_ms:.1f} ms, more than {limit_ms:.1f} ms; run it on"
                " a machine of its own"
            )
    return None
