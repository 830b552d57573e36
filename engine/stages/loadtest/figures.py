"""One level -> its entry in report.json: latencies, rates and tokens with their intervals,
failures, goodput, and the verdict.

Pure functions of what is in the files: the same samples, watches and ceiling give the same figures.
All of them are of the declared window, warm-up left out; where steadiness began later, a note says
so.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.loadgen.samples import Ceiling, Level, Sample
from engine.stages.loadtest.goodput import Slo, goodput_of
from engine.stages.loadtest.intervals import (
    RATE_SLICES,
    Interval,
    fewest_for,
    percentile_interval,
    rate_interval,
)
from engine.stages.loadtest.series import Series, answers_ended, tokens_between
from engine.stages.loadtest.steady import Steady, steady_of
from engine.stages.loadtest.verdict import Verdict, evidence_of, verdict_of

PERCENTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


def figures_of(
    level: Level,
    ceiling: Ceiling | None = None,
    slo: Slo | None = None,
) -> dict[str, Any]:
    """The level's entry. Latencies are ms from the intended moment; a failed request counts as
    infinitely slow. Null is infinite or unknown; `notes` say where an interval is unknown.

    `served_rps` is answers that ended well inside the window per second, warm-up ones included:
    they fill the server as much. `output_tokens_per_second` spreads each answer's tokens evenly
    between its first and last text and counts what falls into the window.
    """
    evidence = evidence_of(level, ceiling)
    measured = evidence.measured
    steady = steady_of(level, evidence.series, evidence.growth)
    latencies = {
        "ttft_ms": measured.ttft_ms_N,
        "tpot_ms": measured.tpot_ms_N,
        "e2e_ms": measured.e2e_ms_N,
        "first_byte_ms": measured.first_byte_ms_N,
    }
    entry: dict[str, Any] = _load(level, measured)
    entry |= _failures(measured.samples)
    entry |= _rates(evidence.series, level.window_s)
    notes = _notes(level, steady)
    for name, values_N in latencies.items():
        found, said = _latency(name, values_N)
        entry |= found
        notes += said
    entry["goodput"] = None
    if slo is not None:
        entry["goodput"] = goodput_of(measured, slo, level.window_s).as_fields(slo)
    entry["tokens"] = _tokens(measured)
    entry["oddities"] = oddities_of(measured.samples)
    entry["steady"] = {"start_s": steady.start_s, "found": steady.found}
    entry["client"] = evidence.client.as_fields()
    return entry | _judged(verdict_of(evidence), measured) | {"notes": notes}


def _load(level: Level, measured: Series) -> dict[str, Any]:
    """What was asked of the server. A closed load offers no rate: it waits for the answers."""
    asked: dict[str, Any] = {"kind": level.kind}
    offered_rps = None
    if level.concurrency is not None:
        asked["concurrency"] = level.concurrency
    else:
        offered_rps = round(len(measured) / level.window_s, 4)
    if level.rate is not None:
        asked["rate"] = level.rate
    return asked | {"requests": len(measured), "offered_rps": offered_rps}


def _failures(samples: Sequence[Sample]) -> dict[str, Any]:
    """How many failed of what, and for each cause what one of them said."""
    causes: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for sample in samples:
        if sample.status == "ok":
            continue
        causes[sample.status] += 1
        if sample.error:
            examples.setdefault(sample.status, sample.error)
    return {
        "failed": causes.total(),
        "failures": dict(causes.most_common()),
        "failure_examples": examples,
    }


def _rates(series: Series, window_s: float) -> dict[str, Any]:
    edges_ms = np.linspace(0.0, window_s * 1000, RATE_SLICES + 1)
    answers_S = answers_ended(series, edges_ms)
    answers = int(answers_S.sum())
    served_rps = round(answers / window_s, 4)
    served = rate_interval(answers_S, window_s, answers)
    tokens_S = tokens_between(series, edges_ms)
    tokens = rate_interval(tokens_S, window_s, answers)
    return {
        "served_rps": served_rps,
        "served_rps_ci": ends(served, digits=4),
        "request_throughput": served_rps,
        "output_tokens_per_second": round(float(tokens_S.sum()) / window_s, 3),
        "output_tokens_per_second_ci": ends(tokens),
    }


def _latency(name: str, values_N: np.ndarray) -> tuple[dict[str, Any], list[str]]:
    """Percentiles and their intervals, and notes on what the requests were too few for."""
    values_N = values_N[~np.isnan(values_N)]
    intervals: dict[str, list[float | None]] = {}
    too_few = []
    for percentile, share in PERCENTILES.items():
        interval = percentile_interval(values_N, share)
        intervals[percentile] = ends(interval)
        if len(values_N) and interval.high is None:
            too_few.append(percentile)
    notes = []
    if too_few:
        least = fewest_for(PERCENTILES[too_few[-1]])
        notes.append(
            f"{name}: {len(values_N)} requests are too few to bound {' and '.join(too_few)} from"
            f" above; {too_few[-1]} takes {least} that do not hang together, more that do"
        )
    return {name: percentiles(values_N), f"{name}_ci": intervals}, notes


def percentiles(values: np.ndarray | Sequence[float]) -> dict[str, float | None]:
    """p50, p95, p99 as values that were really seen (inverse of the empirical distribution); null:
    infinite, or no values."""
    if not len(values):
        return dict.fromkeys(PERCENTILES)
    seen = np.quantile(values, list(PERCENTILES.values()), method="inverted_cdf")
    rounded = map(_finite, seen.tolist())
    return dict(zip(PERCENTILES, rounded, strict=True))


def ends(interval: Interval, digits: int = 3) -> list[float | None]:
    """[low, high] for JSON: null is infinite or unknown."""
    return [_finite(interval.low, digits), _finite(interval.high, digits)]


def _finite(value: float | None, digits: int = 3) -> float | None:
    if value is None or not math.isfinite(value):
        return None
    return round(value, digits)


def _tokens(measured: Series) -> dict[str, int]:
    """By the server's own count. `uncounted`: good answers of which it did not say how long they
    are."""
    counts = {"prompt": 0, "output": 0, "uncounted": 0}
    for sample in measured.samples:
        if sample.status != "ok":
            continue
        counts["prompt"] += sample.prompt_tokens or 0
        counts["output"] += sample.output_tokens or 0
        counts["uncounted"] += sample.output_tokens is None
    return counts


def oddities_of(samples: Sequence[Sample]) -> dict[str, int]:
    """What the reader met and did not understand, by kind."""
    found: Counter[str] = Counter()
    for sample in samples:
        for oddity in filter(None, sample.oddities.split(",")):
            kind, _, count = oddity.rpartition(":")
            found[kind] += int(count)
    return dict(found.most_common())


def _notes(level: Level, steady: Steady) -> list[str]:
    """What a reader should know before comparing."""
    notes = []
    if steady.start_s is not None and steady.start_s > 0:
        needed_s = level.warmup_s + steady.start_s
        notes.append(
            f"it was steady only from {steady.start_s:.1f} s of the window on: a warm-up of"
            f" {math.ceil(needed_s)} s would have left that out"
        )
    return notes


def _judged(verdict: Verdict, measured: Series) -> dict[str, Any]:
    """The verdict, and whether the figures describe the server at all."""
    valid = verdict.is_on_the_server and len(measured) > 0
    reason = None if valid else verdict.reason
    return {
        "verdict": verdict.name,
        "verdict_reason": verdict.reason,
        "valid": valid,
        "invalid_reason": reason,
    }
