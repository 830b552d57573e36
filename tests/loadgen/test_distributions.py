"""Draws have the mean and spread that are asked for, and stay within their bounds."""

import numpy as np
import pytest

from engine.errors import SpecError
from engine.loadgen.distributions import DISTRIBUTIONS, Distribution


@pytest.mark.parametrize("kind", DISTRIBUTIONS)
def test_mean_and_spread_are_those_asked_for(kind):
    draws = Distribution(kind, mean=200, cv=0.3).draw(np.random.default_rng(0), 40_000)
    spread = {"fixed": 0.0, "exponential": 1.0}.get(kind, 0.3)
    assert draws.mean() == pytest.approx(200, rel=0.02)
    assert draws.std() / draws.mean() == pytest.approx(spread, abs=0.02)


def test_counts_are_whole_and_at_least_one():
    counts = Distribution("exponential", mean=0.8).counts(np.random.default_rng(0), 1000)
    assert counts.min() == 1
    assert counts.dtype.kind == "i"


def test_bounds_hold():
    draws = Distribution("normal", 10, 1.0, low=5, high=12).draw(np.random.default_rng(0), 1000)
    assert (draws.min(), draws.max()) == (5, 12)
    assert Distribution("normal", 1, 5.0).draw(np.random.default_rng(0), 1000).min() == 0


@pytest.mark.parametrize(
    "fields",
    [{"kind": "cauchy"}, {"mean": -1}, {"cv": float("nan")}, {"kind": "lognormal", "mean": 0}],
)
def test_what_cannot_be_drawn_is_said(fields):
    with pytest.raises(SpecError, match="distribution"):
        Distribution(**fields)
