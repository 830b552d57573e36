"""Since when a level was steady, and whether its queue only grew.

The start is a first passage (Fishman's crossing of means, "Concepts and Methods in Discrete Event
Digital Simulation", 1973): the load's first slice in which both the requests under way and the time
to the first token have come to their typical value of the level's second half. A start-up is what
lies before it; a stall in the middle is not, and stays in the figures, where rules that minimise
the error of the mean (MSER-5) would cut it off. Growth takes two trends (as guidellm's test of
over-saturation does): requests under way and their latency both rise through the window.

Shapes: S slices of time.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from engine.loadgen.samples import Level
from engine.stages.loadtest.series import Series, mean_in_flight

SLICES = 40  # of warm-up and window, for the start
_TREND_SLICES = 12  # of the window, for growth
_FEWEST_REQUESTS = 20
# Measured on simulated queues of 30 s: growth is found in 0 to 6 % of the runs at 80 % load, in 0
# to 15 % at 90 %, in 79 to 100 % at 120 %, always at 150 %.
_RISES = 2.33  # standard errors of the trend of the requests under way (1 %)
_SLOWS = 1.64  # and of their latency (5 %)
LEAST_UNSERVED = 0.05  # of the requests that arrive


@dataclass(frozen=True)
class Steady:
    """`start_s` after the start of the window, negative within the warm-up; None: never."""

    start_s: float | None
    found: bool


@dataclass(frozen=True)
class Growth:
    """Requests under way in the first and in the last twelfth of the window, and the share of the
    arrivals by which the queue grew."""

    first: float
    last: float
    unserved: float


def steady_of(level: Level, series: Series, growth: Growth | None) -> Steady:
    """Where the steady part of a level begins; one whose queue grows has none."""
    if growth is not None:
        return Steady(None, False)
    return find_steady(series, -level.warmup_s, level.window_s)


def find_steady(series: Series, from_s: float, to_s: float) -> Steady:
    """Of the load from its start to some moment: to now, while it warms up, or to the window's
    end. Found: in the first half."""
    edges_ms = np.linspace(from_s, to_s, SLICES + 1) * 1000
    passages = [
        first_passage(mean_in_flight(series, edges_ms)),
        first_passage(_median_by_slice(series.ttft_ms_N, series, edges_ms)),
    ]
    known = [passage for passage in passages if passage is not None]
    if len(series) < _FEWEST_REQUESTS or not known:
        return Steady(None, False)
    start = max(known)
    start_s = float(edges_ms[start]) / 1000
    return Steady(round(start_s, 3), start <= SLICES // 2)


def first_passage(levels_S: np.ndarray) -> int | None:
    """The first slice at (to 1 %) or beyond the median of the second half, seen from where the
    series begins; nan: nothing was seen in a slice. None: nothing at all."""
    seen = np.flatnonzero(~np.isnan(levels_S))
    later = seen[seen >= len(levels_S) // 2]
    if not len(later):
        return None
    typical = float(np.quantile(levels_S[later], 0.5, method="inverted_cdf"))
    near = 0.01 * abs(typical) if math.isfinite(typical) else 0.0
    is_above = levels_S[seen] > typical + near
    is_below = levels_S[seen] < typical - near
    not_yet = is_above if is_above[0] else is_below
    arrived = np.flatnonzero(~not_yet)
    return int(seen[arrived[0]])


def growth_of(level: Level, series: Series) -> Growth | None:
    """How the queue of an open load grew through its window; None: it did not, or nobody can say:
    too few requests, or answers so long that their number had not settled in half of the window.

    Where the load itself follows the answers (closed, sessions) there is no such queue.
    """
    if level.concurrency is not None:
        return None
    window_ms = level.window_s * 1000
    from_ms = _filled_ms(series, level)
    measured = series.within(from_ms, window_ms)
    if len(measured) < _FEWEST_REQUESTS or from_ms > window_ms / 2:
        return None
    edges_ms = np.linspace(from_ms, window_ms, _TREND_SLICES + 1)
    under_way_S = mean_in_flight(series, edges_ms)
    waiting_S = under_way_S - _due_to_the_rate(measured, edges_ms)
    latency_S = _median_by_slice(measured.e2e_ms_N, measured, edges_ms)
    if trend(waiting_S) <= _RISES or trend(latency_S) <= _SLOWS:
        return None
    middles_s = (edges_ms[:-1] + edges_ms[1:]) / 2000
    slope_rps, _ = np.polyfit(middles_s, waiting_S, 1)
    arrivals_rps = len(measured) / (window_ms - from_ms) * 1000
    unserved = float(slope_rps) / arrivals_rps
    if unserved < LEAST_UNSERVED:
        return None
    return Growth(float(under_way_S[0]), float(under_way_S[-1]), unserved)


def _due_to_the_rate(measured: Series, edges_ms: np.ndarray) -> np.ndarray:
    """(S,) requests that are under way because more of them arrive (a ramp, a trace), by Little's
    law with the latency of the first ones; zeros while the rate does not rise."""
    arrivals_S = np.histogram(measured.intended_ms_N, edges_ms)[0]
    early = measured.e2e_ms_N[: len(measured) // 3]
    if trend(arrivals_S.astype(float)) <= _RISES or not np.isfinite(early).any():
        return np.zeros(len(arrivals_S))
    return arrivals_S / np.diff(edges_ms) * np.median(early[np.isfinite(early)])


def _filled_ms(series: Series, level: Level) -> float:
    """From when on a rise is growth: before, the load's first answers are still under way and their
    number rises however fast the server is."""
    early = series.within(-level.warmup_s * 1000, 0.0)
    if not early.ok_N.any():
        early = series.within(0.0, level.window_s * 250)
    answered = early.e2e_ms_N[np.isfinite(early.e2e_ms_N)]
    if not len(answered):
        return 0.0
    return max(0.0, float(np.median(answered)) - level.warmup_s * 1000)


def _median_by_slice(
    values_N: np.ndarray,
    series: Series,
    edges_ms: np.ndarray,
) -> np.ndarray:
    """(S,) median over the requests that were meant to leave in each slice; nan without any."""
    found = np.full(len(edges_ms) - 1, math.nan)
    bounds = np.searchsorted(series.intended_ms_N, edges_ms)
    for slice_number, (begin, end) in enumerate(itertools.pairwise(bounds)):
        values = values_N[begin:end]
        values = values[~np.isnan(values)]
        if len(values):
            found[slice_number] = np.quantile(values, 0.5, method="inverted_cdf")
    return found


def trend(values_S: np.ndarray) -> float:
    """Standard errors by which the values rise with their place (Mann 1945, Kendall 1975, with
    ties); 0: they do not, or are fewer than four. nan is left out, infinity is the largest."""
    values = values_S[~np.isnan(values_S)]
    count = len(values)
    if count < 4:
        return 0.0
    _, ranks, ties = np.unique(values, return_inverse=True, return_counts=True)
    earlier, later = np.triu_indices(count, 1)
    score = float(np.sign(ranks[later] - ranks[earlier]).sum())
    tied = float((ties * (ties - 1) * (2 * ties + 5)).sum())
    variance = (count * (count - 1) * (2 * count + 5) - tied) / 18
    if variance <= 0 or score == 0:
        return 0.0
    return (score - math.copysign(1, score)) / math.sqrt(variance)
