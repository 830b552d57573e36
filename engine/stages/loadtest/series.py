"""A level's requests as arrays, in the order in which they were meant to leave, so that every
figure is arithmetic on columns.

Times are ms after the start of the window, latencies ms after the intended moment. A failed
request's latencies are infinite, whatever came of it; nan is "does not apply" or "the server did
not say".

Shapes: N requests, S slices of time between S + 1 edges.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.loadgen.samples import Sample


@dataclass(frozen=True)
class Series:
    """N requests. `left_ms_N` is when a request was over, for the server's load: the end of its
    answer, or, of a failed one whose end nobody noted, when it was sent."""

    samples: tuple[Sample, ...]
    intended_ms_N: np.ndarray
    sent_ms_N: np.ndarray
    left_ms_N: np.ndarray
    ok_N: np.ndarray
    first_byte_ms_N: np.ndarray
    ttft_ms_N: np.ndarray
    tpot_ms_N: np.ndarray
    e2e_ms_N: np.ndarray
    output_tokens_N: np.ndarray

    def __len__(self) -> int:
        return len(self.samples)

    def within(self, from_ms: float, to_ms: float) -> Series:
        """Those that were meant to leave in [from, to)."""
        first, last = np.searchsorted(self.intended_ms_N, [from_ms, to_ms])
        columns = []
        for column in dataclasses.fields(self)[1:]:
            columns.append(getattr(self, column.name)[first:last])
        return Series(self.samples[first:last], *columns)

    @property
    def lag_ms_N(self) -> np.ndarray:
        """How late each was sent."""
        return self.sent_ms_N - self.intended_ms_N


def series_of(samples: Sequence[Sample]) -> Series:
    """The samples' columns, by intended moment."""
    ordered = tuple(sorted(samples, key=lambda sample: sample.intended_ms))
    rows = [_row(sample) for sample in ordered]
    table = np.array(rows, float).reshape(len(rows), 9)
    table[table[:, 3] == 0, 4:8] = math.inf
    columns = list(table.T)
    columns[3] = columns[3].astype(bool)
    return Series(ordered, *columns)


def _row(sample: Sample) -> tuple[float, ...]:
    ok = sample.status == "ok"
    left_ms = sample.sent_ms
    if sample.e2e_ms is not None:
        left_ms = sample.intended_ms + sample.e2e_ms
    return (
        sample.intended_ms,
        sample.sent_ms,
        left_ms,
        float(ok),
        _or_nan(sample.first_byte_ms),
        _or_nan(sample.ttft_ms),
        _or_nan(tpot_ms(sample)),
        _or_nan(sample.e2e_ms),
        _or_nan(sample.output_tokens),
    )


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else float(value)


def tpot_ms(sample: Sample) -> float | None:
    """Time per output token after the first one; undefined for one token, for text that came at
    once, and where the server did not count."""
    tokens = sample.output_tokens
    if tokens is None or tokens < 2 or sample.last_ms is None or sample.ttft_ms is None:
        return None
    took_ms = sample.last_ms - sample.ttft_ms
    if took_ms <= 0:
        return None
    return took_ms / (tokens - 1)


def mean_in_flight(series: Series, edges_ms: np.ndarray) -> np.ndarray:
    """(S,) requests under way, averaged over each slice between two of the S + 1 edges."""
    started = _integral(series.sent_ms_N, edges_ms)
    ended = _integral(series.left_ms_N, edges_ms)
    return np.diff(started - ended) / np.diff(edges_ms)


def _integral(moments_N: np.ndarray, edges_ms: np.ndarray) -> np.ndarray:
    """At each edge, the integral over time of how many of the moments had passed."""
    sorted_N = np.sort(moments_N)
    sums = np.concatenate(([0.0], np.cumsum(sorted_N)))
    passed = np.searchsorted(sorted_N, edges_ms)
    return passed * edges_ms - sums[passed]


def answers_ended(series: Series, edges_ms: np.ndarray) -> np.ndarray:
    """(S,) answers that ended well in each slice."""
    ended_ms = series.left_ms_N[series.ok_N]
    return sums_between(ended_ms, np.ones(len(ended_ms)), edges_ms)


def sums_between(
    moments_ms: np.ndarray,
    amounts: np.ndarray,
    edges_ms: np.ndarray,
) -> np.ndarray:
    """(S,) amounts whose moment lies in each slice; an edge belongs to the slice that it begins."""
    inside = moments_ms < edges_ms[-1]
    return np.histogram(moments_ms[inside], edges_ms, weights=amounts[inside])[0]


def tokens_between(series: Series, edges_ms: np.ndarray) -> np.ndarray:
    """(S,) output tokens in each slice: an answer's are spread evenly from its first text to its
    last. Answers that the server did not count have none."""
    counted_N = series.ok_N & ~np.isnan(series.output_tokens_N)
    found = np.zeros(len(edges_ms) - 1)
    if not counted_N.any():
        return found
    tokens = series.output_tokens_N[counted_N]
    first = (series.intended_ms_N + series.ttft_ms_N)[counted_N]
    lasts = [_last_ms(sample) for sample in series.samples]
    last = np.maximum(np.array(lasts)[counted_N], first)
    at_once = last == first
    found += sums_between(first[at_once], tokens[at_once], edges_ms)
    first, last, tokens = first[~at_once], last[~at_once], tokens[~at_once]
    for slice_number, (begin, end) in enumerate(itertools.pairwise(edges_ms)):
        inside = np.minimum(last, end) - np.maximum(first, begin)
        part = np.clip(inside, 0, None) / (last - first)
        found[slice_number] += float((tokens * part).sum())
    return found


def _last_ms(sample: Sample) -> float:
    latency_ms = sample.last_ms
    if latency_ms is None:
        latency_ms = sample.ttft_ms
    return sample.intended_ms + _or_nan(latency_ms)
