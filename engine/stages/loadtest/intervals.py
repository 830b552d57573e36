"""How sure a figure is: 95 % intervals of percentiles, shares and rates, of requests that may hang
together.

Percentiles are order statistics, so an infinite latency (a failed request) is a value like any
other. Requests that waited in one queue tell less than as many independent ones: their number is
divided by the inflation of the variance before anything is claimed.
`benchmarks/loadgen/coverage.py` measures how often the intervals hold the truth, of independent
latencies and of a queue's.

Shapes: N requests in the order in which they were meant to leave, S slices of time.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
from scipy.fft import next_fast_len
from scipy.special import betainc, chdtri, stdtrit

LEVEL = 0.95
_TAIL = (1 - LEVEL) / 2
_NORMAL = 1.959964  # 97.5 % point
# A correlation counts if it stands out by so many standard errors: of independent requests one in
# twenty would be widened otherwise, and hold the truth too often.
_STANDS_OUT = 2.0
# The inflation at a high percentile rests on few requests. Those twice and five times as frequent
# hang together alike and are more.
_NEIGHBOURS = (1, 2, 5)
_FEWEST_BATCHES = 8
RATE_SLICES = 20  # of a window
_FEW = 20  # events; below, a count is taken as Poisson's


@dataclass(frozen=True)
class Interval:
    """Both ends; None: unknown, the requests are too few to say. An end may be infinite."""

    low: float | None
    high: float | None

    def holds(self, value: float) -> bool:
        """Whether `value` lies within; an unknown end bounds nothing."""
        is_above = self.low is None or self.low <= value
        is_below = self.high is None or value <= self.high
        return is_above and is_below


UNKNOWN = Interval(None, None)


def percentile_interval(values_N: np.ndarray, share: float) -> Interval:
    """Interval of the `share` quantile (0.99: p99) of values in order of time.

    Fractional order statistics of a binomial (Hutson, "Calculating nonparametric confidence
    intervals for quantiles using fractional order statistics", J. Applied Statistics 26, 1999),
    with the effective number of requests in place of theirs.
    """
    count = len(values_N)
    if count == 0:
        return UNKNOWN
    sorted_N = np.sort(values_N)
    effective = count / inflation_at(values_N, share)
    low_rank, high_rank = _ranks(share, round(effective, 3))
    return Interval(
        _order_statistic(sorted_N, low_rank, effective),
        _order_statistic(sorted_N, high_rank, effective),
    )


def fewest_for(share: float) -> int:
    """So many independent requests bound the `share` quantile from above."""
    return math.ceil(math.log(_TAIL) / math.log(share))


@functools.lru_cache(maxsize=4096)
def _ranks(share: float, count: float) -> tuple[float, float]:
    """The ranks r, between two requests where need be, at which P(r-th smallest <= quantile) is
    97.5 % and 2.5 %. Outside 1..count: there is no such request."""
    return _rank_at(share, count, 1 - _TAIL), _rank_at(share, count, _TAIL)


def _rank_at(share: float, count: float, chance: float) -> float:
    below, above = 0.0, count + 1
    for _ in range(60):
        rank = (below + above) / 2
        if betainc(rank, count + 1 - rank, share) > chance:
            below = rank
        else:
            above = rank
    return (below + above) / 2


def _order_statistic(sorted_N: np.ndarray, rank: float, effective: float) -> float | None:
    """The value at a rank among `effective` requests, between two neighbours in proportion; None
    where it lies before the first or beyond the last of them."""
    if not 1 <= rank <= effective:
        return None
    count = len(sorted_N)
    place = rank * (count + 1) / (effective + 1)
    left = min(int(place), count)
    part = place - left
    value = float(sorted_N[left - 1])
    if part == 0 or left == count:
        return value
    right = float(sorted_N[left])
    if math.isinf(right):
        return right
    return value + part * (right - value)


def inflation_at(values_N: np.ndarray, share: float) -> float:
    """The largest inflation at this quantile and at those of its neighbours that are nearer to the
    median."""
    sorted_N = np.sort(values_N)
    count = len(values_N)
    most = 1.0
    for times in _NEIGHBOURS:
        beyond = max(1 - share, min(times * (1 - share), 0.5))
        place = math.ceil(count * (1 - beyond)) - 1
        if 0 <= place < count - 1:
            below_N = values_N <= sorted_N[place]
            most = max(most, inflation(below_N))
    return most


def inflation(flags_N: np.ndarray) -> float:
    """By how much the variance of the mean of these flags, in order of time, exceeds that of
    independent ones; 1 if nothing stands out.

    The larger of Geyer's initial monotone sequence of autocorrelations ("Practical Markov chain
    Monte Carlo", Statistical Science 7, 1992), which sees strong correlation, and of batch means,
    which see a weak one that lasts. Both are too small while the series is short against its
    memory: the last lines widen for that (measured, see the module).
    """
    count = len(flags_N)
    if count < _FEWEST_BATCHES:
        return 1.0
    centred_N = flags_N - flags_N.mean()
    variance = float(np.mean(centred_N**2))
    if variance == 0:
        return 1.0
    correlation_N = _autocovariance(centred_N) / variance
    lags = math.isqrt(count)
    at_once = correlation_N[1] * math.sqrt(count)
    lasting = correlation_N[1 : lags + 1].sum() * math.sqrt(count / lags)
    if max(at_once, lasting) <= _STANDS_OUT:
        return 1.0
    found = max(
        1.0,
        _initial_sequence(correlation_N),
        _batch_means(centred_N, variance, lags),
        _batch_means(centred_N, variance, 2 * lags),
    )
    found *= 1 + 6 * (found - 1) / count
    freedom = max(count / found - 1, 2.0)
    return found * (stdtrit(freedom, 1 - _TAIL) / _NORMAL) ** 2


def _autocovariance(centred_N: np.ndarray) -> np.ndarray:
    count = len(centred_N)
    length = next_fast_len(2 * count, real=True)
    spectrum = np.fft.rfft(centred_N, length)
    return np.fft.irfft(spectrum * spectrum.conj(), length)[:count] / count


def _initial_sequence(correlation_N: np.ndarray) -> float:
    """Sums of neighbouring correlations, while they are positive, each at most the one before."""
    pairs = correlation_N[: len(correlation_N) // 2 * 2].reshape(-1, 2).sum(1)
    negative = np.flatnonzero(pairs <= 0)
    if len(negative):
        pairs = pairs[: negative[0]]
    return float(2 * np.minimum.accumulate(pairs).sum() - 1)


def _batch_means(centred_N: np.ndarray, variance: float, size: int) -> float:
    batches = len(centred_N) // size
    if batches < _FEWEST_BATCHES:
        return 1.0
    means = centred_N[: batches * size].reshape(batches, size).mean(1)
    return float(size * means.var(ddof=1) / variance)


def share_interval(flags_N: np.ndarray) -> Interval:
    """Interval of the share of True among flags in order of time (Wilson's, of the effective
    number)."""
    if len(flags_N) == 0:
        return UNKNOWN
    effective = len(flags_N) / inflation(flags_N)
    return wilson(float(np.mean(flags_N)), effective)


def wilson(share: float, count: float) -> Interval:
    """Wilson's score interval of a share of `count` independent trials."""
    square = _NORMAL**2
    centre = (share + square / (2 * count)) / (1 + square / count)
    spread = share * (1 - share) / count + square / (4 * count**2)
    half = _NORMAL * math.sqrt(spread) / (1 + square / count)
    return Interval(max(0.0, centre - half), min(1.0, centre + half))


def rate_interval(amounts_S: np.ndarray, seconds: float, events: int) -> Interval:
    """Interval of an amount per second (answers, tokens) from its amounts in equal slices that fill
    `seconds`: batch means (Law, "Simulation Modeling and Analysis", ch. 9). `events` is how many
    answers stand behind it; few of them are taken as a Poisson count (Garwood 1936)."""
    slices = len(amounts_S)
    rate = float(amounts_S.sum()) / seconds
    if events < _FEW:
        each = float(amounts_S.sum()) / max(events, 1)
        low = float(chdtri(2 * events, 1 - _TAIL)) / 2 if events else 0.0
        high = float(chdtri(2 * events + 2, _TAIL)) / 2
        if not events:
            each = 1.0
        return Interval(low * each / seconds, high * each / seconds)
    error = float(amounts_S.std(ddof=1)) / math.sqrt(slices) * slices / seconds
    half = float(stdtrit(slices - 1, 1 - _TAIL)) * error
    return Interval(max(0.0, rate - half), rate + half)
