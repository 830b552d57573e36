"""Where the share of bad requests crosses what an SLO allows, from levels at several loads.

Near the knee the odds of a bad request rise with a power of the load. The knee and that power are
uncertain together: what the levels say of both is kept on a grid (Bayes, flat in the logarithms),
so that the knee comes with an interval and no fit can run away. A share of bad requests that no
load explains is allowed for, and loads far beyond the knee, where the power law ends, say only that
they are beyond it.

Shapes: K knees of the grid, P powers, B bases.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.stages.loadtest.intervals import Interval

_KNEES = 600
_POWERS = np.geomspace(2, 500, 40)
# Queues and batches alike: nine in ten between 8 and 110 (benchmarks/loadgen/simulated.py).
_USUAL_POWER, _SPREAD = 30.0, 0.8  # the latter of the logarithm
_BASES = np.array([0.0, 0.1, 0.3, 0.6])  # of what the SLO allows, bad at any load
_MOST_BAD = 0.7
_LEAST_BAD = 1e-7


@dataclass(frozen=True)
class Seen:
    """Bad and good requests at a load, as many as were independent of each other."""

    load: float
    bad: float
    good: float


@dataclass(frozen=True)
class Belief:
    """How likely each knee is; `knees` rise, `weights` add up to 1."""

    knees: np.ndarray
    weights: np.ndarray

    def quantile(self, share: float) -> float:
        """The knee below which this share of the belief lies, between the grid's points."""
        return float(np.interp(share, np.cumsum(self.weights), self.knees))

    @property
    def interval(self) -> Interval:
        """95 % of it."""
        return Interval(self.quantile(0.025), self.quantile(0.975))


def fit(seen: Sequence[Seen], allowed: float, low: float, high: float) -> Belief:
    """The belief in knees from `low` to `high`, where the share of bad requests is `allowed`."""
    knees_K = np.geomspace(low, high, _KNEES)
    prior_P = -(np.log(_POWERS / _USUAL_POWER) ** 2) / (2 * _SPREAD**2)
    log_KPB = np.zeros((_KNEES, len(_POWERS), len(_BASES))) + prior_P[:, None]
    for each in seen:
        ratio_KP = np.outer(np.log(each.load / knees_K), _POWERS)
        log_KPB += _log_likelihood(each, ratio_KP, allowed)
    weights_K = np.exp(log_KPB - log_KPB.max()).sum(axis=(1, 2))
    return Belief(knees_K, weights_K / weights_K.sum())


def _log_likelihood(seen: Seen, ratio_KP: np.ndarray, allowed: float) -> np.ndarray:
    """(K, P, B) of one level. At the knee itself base and rise together are what is allowed."""
    base_B = _BASES * allowed
    at_knee_B = (allowed - base_B) / (1 - allowed)
    odds_KPB = np.exp(np.clip(ratio_KP, -50, 50))[:, :, None] * at_knee_B
    bad_KPB = base_B + (1 - base_B) * odds_KPB / (1 + odds_KPB)
    bad_KPB = np.clip(bad_KPB, _LEAST_BAD, _MOST_BAD)
    return seen.bad * np.log(bad_KPB) + seen.good * np.log1p(-bad_KPB)


def half_width(interval: Interval) -> float:
    """Half of what lies between both ends, as a share of the middle one."""
    if interval.low is None or interval.high is None or interval.low <= 0:
        return math.inf
    return math.sqrt(interval.high / interval.low) - 1
