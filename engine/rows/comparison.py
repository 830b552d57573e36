"""Is one model better than another on the same prompts, and how small a difference could these
prompts have shown?

Paired: each prompt is its own control. Proportions of independent answers have the mid-p McNemar
test, everything else a paired bootstrap, over groups where answers are not independent. Several
metrics are corrected by Holm's method. Nothing here compares models that answered other prompts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from engine.rows.intervals import (
    Clusters,
    Interval,
    group_sums,
    has_groups,
    paired_scores,
    percentiles,
)
from engine.rows.metrics import METRICS, row_scores, score_of

ALPHA = 0.05
POWER = 0.8
MCNEMAR = "McNemar mid-p"
BOOTSTRAP = "paired bootstrap"
_Z = float(stats.norm.ppf(1 - ALPHA / 2))
_Z_POWER = float(stats.norm.ppf(POWER))


@dataclass(frozen=True)
class Comparison:
    """Our score less theirs in one metric, on `n` prompts in `clusters` groups.

    `p` is two-sided, `p_holm` the same after the correction for all metrics; `wins` are prompts
    that we answer better, whichever way the metric points. `mde` is the smallest true difference
    that would be found with a probability of 80 %. None is what so few prompts cannot tell.
    """

    metric: str
    test: str
    difference: float | None
    ci95: Interval
    p: float | None
    p_holm: float | None
    wins: int
    losses: int
    ties: int
    n: int
    clusters: int
    mde: float | None


def compare(
    ours: Mapping[str, np.ndarray],
    theirs: Mapping[str, np.ndarray],
    samples: int,
    seed: int,
    clusters: Clusters = None,
) -> list[Comparison]:
    """One comparison per metric that points somewhere; both sides are statistics (N, C) by metric,
    of the same prompts in the same order."""
    found = []
    for metric, ours_NC in ours.items():
        if METRICS[metric].better is not None:
            compared = compare_metric(metric, ours_NC, theirs[metric], samples, seed, clusters)
            found.append(compared)
    corrected = holm([one.p for one in found])
    pairs = zip(found, corrected, strict=True)
    return [replace(one, p_holm=p_holm) for one, p_holm in pairs]


def compare_metric(
    metric: str,
    ours_NC: np.ndarray,
    theirs_NC: np.ndarray,
    samples: int,
    seed: int,
    clusters: Clusters = None,
) -> Comparison:
    """The comparison in one metric, as if it were the only one."""
    wins, losses, ties = _duels(metric, ours_NC, theirs_NC)
    n = len(ours_NC)
    groups = n if clusters is None else len(set(clusters))
    ours = score_of(metric, ours_NC)
    theirs = score_of(metric, theirs_NC)
    if ours is None or theirs is None:
        nothing = _Tested(BOOTSTRAP)
        return _comparison(metric, nothing, None, (wins, losses, ties), n, groups)
    if METRICS[metric].is_proportion and not has_groups(clusters):
        ci95 = difference_interval(ours_NC[:, 0], theirs_NC[:, 0])
        mde = mcnemar_mde(wins + losses, n)
        tested = _Tested(MCNEMAR, mcnemar_mid_p(wins, losses), ci95, mde)
    else:
        telling = _telling_groups(ours_NC, theirs_NC, clusters)
        scores = paired_scores(metric, ours_NC, theirs_NC, samples, seed, clusters)
        tested = _bootstrapped(scores[0] - scores[1], telling)
    return _comparison(metric, tested, ours - theirs, (wins, losses, ties), n, groups)


@dataclass(frozen=True)
class _Tested:
    """What a test says."""

    test: str
    p: float | None = None
    ci95: Interval = None
    mde: float | None = None


def _comparison(
    metric: str,
    tested: _Tested,
    difference: float | None,
    duels: tuple[int, int, int],
    n: int,
    groups: int,
) -> Comparison:
    return Comparison(
        metric,
        tested.test,
        difference,
        tested.ci95,
        tested.p,
        tested.p,
        *duels,
        n,
        groups,
        tested.mde,
    )


def _bootstrapped(differences_R: np.ndarray, groups: int) -> _Tested:
    """Of the differences of resamples; a resample without a score on one side is left out. One
    group alone is no evidence."""
    there = differences_R[np.isfinite(differences_R)]
    if groups < 2 or not len(there):
        return _Tested(BOOTSTRAP, 1.0)
    p = bootstrap_p(there, groups)
    return _Tested(BOOTSTRAP, p, bootstrap_interval(there, groups), bootstrap_mde(there, groups))


def _duels(metric: str, ours_NC: np.ndarray, theirs_NC: np.ndarray) -> tuple[int, int, int]:
    """Prompts that we answer better, worse and equally well; without a score on a side they are in
    none of the three."""
    ours = row_scores(metric, ours_NC)
    theirs = row_scores(metric, theirs_NC)
    if METRICS[metric].better == "lower":
        ours, theirs = theirs, ours
    wins = int((ours > theirs).sum())
    losses = int((ours < theirs).sum())
    return wins, losses, int((ours == theirs).sum())


def _telling_groups(ours_NC: np.ndarray, theirs_NC: np.ndarray, clusters: Clusters) -> int:
    """Groups on which the models differ: only these tell anything, and as few as they are, so wide
    is the interval."""
    apart_GC = group_sums(ours_NC, clusters) != group_sums(theirs_NC, clusters)
    return int(apart_GC.any(1).sum())


def mcnemar_mid_p(wins: int, losses: int) -> float:
    """Two-sided mid-p of McNemar's test: among the prompts on which the models differ, either wins
    with probability 1/2; the outcome that was seen counts half (Fagerland, Lydersen and Laake,
    2013)."""
    differ = wins + losses
    fewer = min(wins, losses)
    binomial = stats.binom(differ, 0.5)
    return float(min(1.0, 2 * binomial.cdf(fewer) - binomial.pmf(fewer)))


def difference_interval(ours_N: np.ndarray, theirs_N: np.ndarray) -> Interval:
    """95 % interval of the difference of paired proportions: Wald's with one prompt added to each
    kind on which the models differ (Bonett and Price, 2012)."""
    n = len(ours_N) + 2
    more = ((ours_N > theirs_N).sum() + 1) / n
    less = ((ours_N < theirs_N).sum() + 1) / n
    half = _Z * math.sqrt((more + less - (more - less) ** 2) / n)
    difference = float(more - less)
    return [max(-1.0, difference - half), min(1.0, difference + half)]


def mcnemar_mde(differ: int, n: int) -> float | None:
    """Smallest difference of proportions that McNemar's test finds with 80 % power, if the models
    differ on as many of `n` prompts as they did: the root of
    d √n = z₁ √s + z₂ √(s - d²), where s is that share (Connor, 1987)."""
    fewest = _fewest_wins()
    if n < fewest:
        return None
    share = max(differ, fewest) / n
    a = n + _Z_POWER**2
    b = math.sqrt(n * share) * _Z
    c = share * (_Z**2 - _Z_POWER**2)
    root = (b + math.sqrt(max(0.0, b * b - a * c))) / a
    return min(max(root, fewest / n), share)


def _fewest_wins() -> int:
    """Fewest wins without a loss that are significant."""
    wins = 1
    while mcnemar_mid_p(wins, 0) > ALPHA:
        wins += 1
    return wins


def bootstrap_interval(differences_R: np.ndarray, groups: int) -> Interval:
    """Percentile interval, as much wider as few groups need: a resample's spread is that of groups
    without the correction by their number, and normal instead of Student's ("expanded percentile",
    Hesterberg, 2015)."""
    tail = 100 * stats.norm.cdf(-_widened(_student(ALPHA / 2, groups), groups))
    return percentiles(differences_R, (tail, 100 - tail))


def bootstrap_p(differences_R: np.ndarray, groups: int) -> float:
    """Two-sided p: 1 less the greatest confidence at which the interval above leaves 0 out. Not
    below what as many resamples can tell."""
    count = len(differences_R)
    ties = (differences_R == 0).sum() / 2
    fewer = min((differences_R < 0).sum(), (differences_R > 0).sum()) + ties
    tail = max(fewer, 0.5) / count
    deviation = -stats.norm.ppf(tail) / math.sqrt(groups / (groups - 1))
    return float(min(1.0, 2 * stats.t.sf(deviation, groups - 1)))


def bootstrap_mde(differences_R: np.ndarray, groups: int) -> float | None:
    """(t₁ + t₂) standard errors (Bloom, 1995); None where the models never differ."""
    error = float(np.std(differences_R)) * math.sqrt(groups / (groups - 1))
    if not error:
        return None
    return (_student(ALPHA / 2, groups) + _student(1 - POWER, groups)) * error


def _student(tail: float, groups: int) -> float:
    return float(stats.t.isf(tail, groups - 1))


def _widened(deviation: float, groups: int) -> float:
    return deviation * math.sqrt(groups / (groups - 1))


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """p-values after Holm's step-down correction (Holm, 1979), in the order given; None stays
    None."""
    there = [(p, at) for at, p in enumerate(ps) if p is not None]
    corrected: list[float | None] = [None] * len(ps)
    least = 0.0
    for rank, (p, at) in enumerate(sorted(there)):
        least = max(least, min(1.0, p * (len(there) - rank)))
        corrected[at] = least
    return corrected
