"""Intervals by hand, and how often they hold the truth (benchmarks/loadgen/coverage.py: more)."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from benchmarks.loadgen.simulated import mm1_sojourns
from engine.stages.loadtest.intervals import (
    Interval,
    fewest_for,
    inflation,
    percentile_interval,
    rate_interval,
    share_interval,
    wilson,
)


def rng(seed=0):
    return np.random.default_rng(seed)


def test_the_median_of_an_odd_sample_lies_between_order_statistics_of_the_binomial():
    values = rng().permutation(np.arange(1.0, 102.0))
    found = percentile_interval(values, 0.5)
    # P(X_(41) <= median <= X_(61)) is 95.4 % for 101 independent values
    assert 40 < found.low < 42
    assert 60 < found.high < 62


def test_failures_are_infinite_and_an_end_among_them_is_too():
    values = np.full(1000, 5.0)
    values[::40] = math.inf  # 2.5 % failed
    found = percentile_interval(rng().permutation(values), 0.99)
    assert found == Interval(math.inf, math.inf)
    found = percentile_interval(rng().permutation(values), 0.95)
    assert found == Interval(5.0, 5.0)
    values[::95] = math.inf  # nearly all that p95 leaves out
    assert percentile_interval(rng().permutation(values), 0.965).high == math.inf


def test_too_few_requests_bound_nothing_from_above():
    assert fewest_for(0.99) == 368
    values = rng().lognormal(size=367)
    assert percentile_interval(values, 0.99).high is None
    assert percentile_interval(values, 0.99).low is not None
    assert percentile_interval(values, 0.5).high is not None
    assert percentile_interval(rng().lognormal(size=400), 0.99).high is not None
    assert percentile_interval(values[:3], 0.5) == Interval(None, None)
    assert percentile_interval(values[:0], 0.5) == Interval(None, None)


def test_an_unknown_end_bounds_nothing():
    assert Interval(1.0, None).holds(math.inf)
    assert not Interval(1.0, None).holds(0.9)
    assert Interval(None, 3.0).holds(-5)
    assert not Interval(1.0, 3.0).holds(3.1)


@pytest.mark.parametrize(("share", "count"), [(0.5, 300), (0.99, 1000)])
def test_intervals_of_independent_latencies_hold_the_truth_about_95_times_in_100(share, count):
    truth = math.exp(0.5 * {0.5: 0.0, 0.99: 2.3263479}[share])
    draws = rng(3)
    held = 0
    for _ in range(400):
        values = np.round(np.exp(0.5 * draws.standard_normal(count)), 3)
        held += percentile_interval(values, share).holds(truth)
    assert 0.92 <= held / 400 <= 0.98


def test_a_queue_is_not_taken_for_independent_requests():
    draws = rng(4)
    truth = math.log(2) / 0.3
    held = naive = 0
    for _ in range(300):
        values = mm1_sojourns(draws, 0.7, 2000)
        held += percentile_interval(values, 0.5).holds(truth)
        # the same values without their order are as wide as independent ones
        naive += percentile_interval(draws.permutation(values), 0.5).holds(truth)
    assert held / 300 >= 0.88
    assert naive / 300 <= 0.6


def test_inflation_is_one_of_independent_flags_and_of_blocks_their_length():
    alone = [inflation(rng(seed).random(1000) < 0.3) for seed in range(40)]
    assert np.mean(alone) < 1.1
    blocks = [inflation(np.repeat(rng(seed).random(500) < 0.5, 20)) for seed in range(20)]
    assert np.mean(blocks) == pytest.approx(20, rel=0.3)
    assert inflation(np.ones(500, bool)) == 1.0
    # worn down by a weak memory that lasts, as long answers in a slow hour
    slow = [rng(seed).random(2000) < np.repeat(rng(seed).random(20), 100) for seed in range(20)]
    assert np.mean([inflation(flags) for flags in slow]) > 10


def test_a_share_has_wilsons_interval_of_as_many_as_are_independent():
    found = wilson(0.9, 100)
    expected = binomtest(90, 100).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx(tuple(expected))
    flags = rng().permutation(np.arange(100) < 90)
    assert share_interval(flags) == found
    bursts = np.repeat(rng(2).random(50) < 0.9, 20)
    alone = wilson(float(bursts.mean()), 1000)
    together = share_interval(bursts)
    assert together.high - together.low > 2 * (alone.high - alone.low)
    assert share_interval(flags[:0]) == Interval(None, None)


def test_a_rate_has_the_interval_of_its_slices():
    even = np.full(20, 5.0)
    assert rate_interval(even, 10.0, 100) == Interval(10.0, 10.0)
    draws = rng(5)
    held = 0
    for _ in range(400):
        counts = draws.poisson(5.0, size=20).astype(float)
        held += rate_interval(counts, 10.0, int(counts.sum())).holds(10.0)
    assert 0.92 <= held / 400 <= 0.98


def test_few_answers_are_a_poisson_count():
    nothing = rate_interval(np.zeros(20), 10.0, 0)
    assert nothing.low == 0
    assert nothing.high == pytest.approx(3.689 / 10, abs=1e-3)  # Garwood's upper end of 0
    three = np.zeros(20)
    three[[2, 9, 17]] = 11.0  # tokens of three answers
    found = rate_interval(three, 10.0, 3)
    assert (found.low, found.high) == pytest.approx((0.6187 * 1.1, 8.7673 * 1.1), abs=1e-3)
