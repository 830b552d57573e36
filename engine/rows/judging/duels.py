"""What a judge's votes come to: wins, losses and ties of one model against another, and how far the
votes can be trusted. What one pair comes to is duel.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import spearmanr

from engine.rows.comparison import Comparison, compare_metric, mcnemar_mid_p
from engine.rows.intervals import Clusters, Interval, interval_of
from engine.rows.judging.duel import Duel, Result

# The comparison of metrics asks a metric how its sums are scored: these two are shares and means.
_SHARE = "accuracy"
_MEAN = "f1"
_FEWEST = 10  # pairs or answers that a correlation is made of
_POINTS: dict[Result, int] = {"win": 1, "tie": 0, "loss": -1}


@dataclass(frozen=True)
class Positions:
    """Votes that name a winner, those of them for the answer that stood first, and the pairs that
    flipped towards the first and towards the second."""

    named: int
    first: int
    flipped_first: int
    flipped_second: int

    @property
    def first_share(self) -> float | None:
        """0.5 of a judge to whom places say nothing."""
        return self.first / self.named if self.named else None

    @property
    def p(self) -> float | None:
        """Two-sided, that places say nothing to it: then a flip goes either way."""
        return mcnemar_mid_p(self.flipped_first, self.flipped_second) if self.named else None


def positions_of(duels: Sequence[Duel]) -> Positions:
    """How the judge's votes go by place."""
    named = 0
    first = 0
    flips = {"first": 0, "second": 0}
    for duel in duels:
        for vote in duel.votes:
            named += vote != "tie"
            first += vote == "first"
        if duel.is_flip:
            flips[str(duel.ours_first)] += 1
    return Positions(named, first, flips["first"], flips["second"])


def flip_rate(duels: Sequence[Duel]) -> float | None:
    """Of the duels that were asked about and have a result, the share whose winner changed with
    the order."""
    judged = [duel for duel in duels if duel.result is not None and not duel.is_same]
    if not judged:
        return None
    return sum(duel.is_flip for duel in judged) / len(judged)


def compare_duels(
    duels: Sequence[Duel], samples: int, seed: int, clusters: Clusters = None
) -> Comparison | None:
    """Our share of wins less theirs, of the duels with a result; None where none has one."""
    told = [at for at, duel in enumerate(duels) if duel.result is not None]
    if not told:
        return None
    results = [duels[at].result for at in told]
    ours_NC = _counted([float(result == "win") for result in results])
    theirs_NC = _counted([float(result == "loss") for result in results])
    groups = _of(clusters, told)
    return compare_metric(_SHARE, ours_NC, theirs_NC, samples, seed, groups)


def win_rate(difference: float) -> float:
    """The share of wins where ties count half, of wins less losses; also for ends of intervals."""
    return (1 + difference) / 2


def length_correlation(duels: Sequence[Duel]) -> float | None:
    """Spearman's, of our answer's words more than theirs and our result; None of too few."""
    told = [duel for duel in duels if duel.result is not None and not duel.is_same]
    more = [duel.our_words - duel.their_words for duel in told]
    points = [_POINTS[duel.result] for duel in told if duel.result is not None]
    return rank_correlation(more, points)


def longer_won(duels: Sequence[Duel]) -> float | None:
    """The share of wins and losses that went to the longer answer; None where there are none."""
    longer = 0
    decided = 0
    for duel in duels:
        more = duel.our_words - duel.their_words
        if duel.result in ("win", "loss") and more:
            decided += 1
            longer += (duel.result == "win") == (more > 0)
    return longer / decided if decided else None


def mean_grade(
    grades: Sequence[float | None], samples: int, seed: int, clusters: Clusters = None
) -> tuple[float | None, Interval]:
    """Mean of the grades that there are, and its 95 % interval."""
    told = [at for at, grade in enumerate(grades) if grade is not None]
    values = [grades[at] or 0.0 for at in told]
    if not values:
        return None, None
    interval = interval_of(_MEAN, _counted(values), samples, seed, _of(clusters, told))
    return float(np.mean(values)), interval


def compare_grades(
    ours: Sequence[float | None],
    theirs: Sequence[float | None],
    samples: int,
    seed: int,
    clusters: Clusters = None,
) -> Comparison | None:
    """Our mean grade less theirs, of the prompts where both answers have one; None where none
    has."""
    pairs = list(zip(ours, theirs, strict=True))
    told = [at for at, pair in enumerate(pairs) if None not in pair]
    if not told:
        return None
    ours_NC = _counted([ours[at] or 0.0 for at in told])
    theirs_NC = _counted([theirs[at] or 0.0 for at in told])
    groups = _of(clusters, told)
    return compare_metric(_MEAN, ours_NC, theirs_NC, samples, seed, groups)


def rank_correlation(ours: Sequence[float], theirs: Sequence[float]) -> float | None:
    """Spearman's; None of fewer than ten, or where one side is always the same."""
    if len(ours) < _FEWEST or len(set(ours)) < 2 or len(set(theirs)) < 2:
        return None
    return round(float(spearmanr(ours, theirs).statistic), 4)


def _counted(values: Sequence[float]) -> np.ndarray:
    """(N, 2): each value, and that it was counted."""
    return np.stack([np.array(values, float), np.ones(len(values))], 1)


def _of(clusters: Clusters, chosen: Sequence[int]) -> Clusters:
    return None if clusters is None else [clusters[at] for at in chosen]
