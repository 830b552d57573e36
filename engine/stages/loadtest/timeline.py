"""A level on one time axis: the load, what was served, how fast, and what the server said.

It averages over slices and judges nothing. Shapes: S slices of time between S + 1 edges.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from engine.loadgen.observer import Observation
from engine.loadgen.samples import Level
from engine.rows.records import TimeSlice
from engine.stages.loadtest.series import (
    Series,
    answers_ended,
    mean_in_flight,
    series_of,
    tokens_between,
)

_WIDTHS_S = (0.25, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600)
_MOST_SLICES = 60
# What waits at a front or in an engine waits for the server alike.
_QUEUES = ("front_queued", "waiting")


def timeline_of(
    model: str, label: str, level: Level, observations: Sequence[Observation] = ()
) -> list[TimeSlice]:
    """Warm-up and window in at most 60 slices; `label` names the level in the stage's files."""
    edges_s = _edges_s(level)
    edges_ms = edges_s * 1000
    widths_s = np.diff(edges_s)
    series = series_of(level.samples)
    in_flight_S = mean_in_flight(series, edges_ms)
    sent_S = np.histogram(series.sent_ms_N, edges_ms)[0] / widths_s
    served_S = answers_ended(series, edges_ms) / widths_s
    failed_S = np.histogram(series.left_ms_N[~series.ok_N], edges_ms)[0] / widths_s
    tokens_S = tokens_between(series, edges_ms) / widths_s
    slices = []
    for number, (begin_ms, end_ms) in enumerate(itertools.pairwise(edges_ms.tolist())):
        due = series.within(begin_ms, end_ms)
        inside = [seen for seen in observations if begin_ms <= seen.at_ms < end_ms]
        slices.append(
            TimeSlice(
                model=model,
                level=label,
                at_s=(begin_ms + end_ms) / 2000,
                in_flight=float(in_flight_S[number]),
                sent_rps=float(sent_S[number]),
                served_rps=float(served_S[number]),
                failed_rps=float(failed_S[number]),
                output_tokens_per_second=float(tokens_S[number]),
                ttft_p50_ms=_percentile(due, 0.5),
                ttft_p95_ms=_percentile(due, 0.95),
                replicas=_mean(inside, ("replicas",)),
                queued=_mean(inside, _QUEUES),
                running=_mean(inside, ("running",)),
                kv_usage=_mean(inside, ("kv_usage",)),
            )
        )
    return slices


def _edges_s(level: Level) -> np.ndarray:
    """(S + 1,) whole slices on both sides of the window's start; the outer ones may be shorter."""
    whole_s = level.warmup_s + level.window_s
    fitting = [width for width in _WIDTHS_S if whole_s / width <= _MOST_SLICES]
    width_s = fitting[0] if fitting else whole_s / _MOST_SLICES
    before = math.ceil(level.warmup_s / width_s)
    after = math.ceil(level.window_s / width_s)
    edges_s = np.arange(-before, after + 1) * width_s
    edges_s = np.clip(edges_s, -level.warmup_s, level.window_s)
    return np.unique(edges_s)


def _percentile(due: Series, share: float) -> float | None:
    """None: nothing was due, or it is infinite."""
    seen = due.ttft_ms_N[~np.isnan(due.ttft_ms_N)]
    if not len(seen):
        return None
    value = float(np.quantile(seen, share, method="inverted_cdf"))
    return value if math.isfinite(value) else None


def _mean(inside: Sequence[Observation], names: Sequence[str]) -> float | None:
    """Of the sum of these; None where none of them was seen."""
    sums = []
    for seen in inside:
        known = [seen.values[name] for name in names if name in seen.values]
        if known:
            sums.append(sum(known))
    return sum(sums) / len(sums) if sums else None
