"""Schedules are drawn once, reproducibly, and are the processes that they claim to be; dealt out to
several processes they are still."""

import inspect

import numpy as np
import pytest
from scipy import stats

from engine.errors import SpecError
from engine.loadgen.arrivals import ARRIVALS, arrivals, constant, gamma, poisson, ramp
from engine.loadgen.plans import Open, Plan
from engine.loadgen.shares import deal
from engine.loadgen.target import Shape, Target

PROMPTS = [[{"role": "user", "content": f"question {number}"}] for number in range(7)]
TARGET = Target("http://127.0.0.1:1/v1", "m")


def rng(seed=0):
    return np.random.default_rng(seed)


def merged(load, seconds, seed, processes, warmup_s=0.0):
    """The times of all shares of a level, put together as a server sees them."""
    plan = Plan(load, seconds, warmup_s, seed)
    shares = deal(TARGET, Shape(), PROMPTS, plan, processes)
    assert len(shares) == processes
    return np.sort(np.concatenate([share.work.times_s for share in shares]))


def dispersion(times, seconds, width_s):
    """Variance of the counts in windows to their mean: 1 for Poisson."""
    counts, _ = np.histogram(times, bins=round(seconds / width_s), range=(0, seconds))
    return counts.var(ddof=1) / counts.mean()


@pytest.mark.parametrize("name", ARRIVALS)
def test_draws_are_reproducible_rise_and_lie_in_the_window(name):
    for rate_rps in (0.01, 0.5, 300.0):
        times = ARRIVALS[name](rng(7), rate_rps, 10.0)
        assert np.array_equal(times, ARRIVALS[name](rng(7), rate_rps, 10.0))
        assert ((times >= 0) & (times < 10.0)).all()
        assert (np.diff(times) > 0).all()
    if name != "constant":
        assert not np.array_equal(times[:5], ARRIVALS[name](rng(8), 300.0, 10.0)[:5])


@pytest.mark.parametrize("processes", [1, 4])
def test_poisson_passes_a_dispersion_and_a_kolmogorov_smirnov_test(processes):
    """20 s at 200 requests/s, 40 seeds: at a level of 1 %, 0.4 of each kind of test may fail by
    chance; 5 would happen once in 10,000 runs of other seeds."""
    failed = {"dispersion": 0, "gaps": 0, "times": 0}
    for seed in range(40):
        times = merged(Open(200.0), 20.0, seed, processes)
        counts, _ = np.histogram(times, bins=100, range=(0, 20.0))
        chi2 = (counts.size - 1) * counts.var(ddof=1) / counts.mean()
        tail = stats.chi2.cdf(chi2, counts.size - 1)
        failed["dispersion"] += min(tail, 1 - tail) < 0.005
        gaps = stats.kstest(np.diff(times), "expon", args=(0, 1 / 200.0))
        failed["gaps"] += gaps.pvalue < 0.01
        failed["times"] += stats.kstest(times / 20.0, "uniform").pvalue < 0.01
    assert max(failed.values()) < 5, failed


def test_the_tests_see_processes_in_lockstep():
    """The same draws in four processes, which is what some load generators send."""
    one = poisson(rng(), 50.0, 20.0)
    assert dispersion(np.sort(np.concatenate([one] * 4)), 20.0, 0.2) > 2.5
    assert 0.7 < dispersion(poisson(rng(), 200.0, 20.0), 20.0, 0.2) < 1.3


@pytest.mark.parametrize("load", [Open(50.0), Open(50.0, "gamma"), Open(50.0, "ramp")])
def test_how_many_processes_send_a_load_changes_no_time_of_it(load):
    alone = merged(load, 10.0, 3, 1, warmup_s=2.0)
    assert np.array_equal(alone, merged(load, 10.0, 3, 4, warmup_s=2.0))
    assert alone[0] >= -2.0
    assert not np.array_equal(alone, merged(load, 10.0, 4, 1, warmup_s=2.0))


def test_counts_of_poisson_are_left_to_chance():
    counts = [len(poisson(rng(seed), 10.0, 10.0)) for seed in range(400)]
    assert np.mean(counts) == pytest.approx(100, rel=0.03)
    assert np.var(counts) / np.mean(counts) == pytest.approx(1, abs=0.25)  # rescaled gaps give 0


@pytest.mark.parametrize("burstiness", [0.1, 0.5, 1.0, 4.0])
def test_gamma_has_the_rate_and_the_burstiness_that_are_asked_for(burstiness):
    times = gamma(rng(), 100.0, 400.0, burstiness)
    gaps = np.diff(times)
    assert len(times) / 400.0 == pytest.approx(100, rel=0.06)
    assert gaps.var() / gaps.mean() ** 2 == pytest.approx(1 / burstiness, rel=0.12)
    assert dispersion(times, 400.0, 2.0) == pytest.approx(1 / burstiness, rel=0.35)
    if burstiness >= 0.5:  # below, gaps are smaller than what times of 400 s can tell
        fits = stats.kstest(gaps, "gamma", args=(burstiness, 0, 1 / (100.0 * burstiness)))
        assert fits.pvalue > 0.001


def test_gamma_has_its_rate_from_the_first_second():
    """A process that begins with a burst at 0 would send (1 / burstiness - 1) / 2 = 2 too many."""
    counts = [len(gamma(rng(seed), 10.0, 1.0, 0.2)) for seed in range(3000)]
    assert np.mean(counts) == pytest.approx(10, abs=5 * np.std(counts) / 3000**0.5)


def test_constant_gaps_are_one_over_the_rate():
    assert constant(rng(), 4.0, 1.0).tolist() == [0, 0.25, 0.5, 0.75]
    assert len(constant(rng(), 3.0, 7.0)) == 21


@pytest.mark.parametrize("from_rps", [0.0, 40.0, 100.0])
def test_a_ramp_rises_in_a_straight_line(from_rps):
    times = ramp(rng(), 100.0, 100.0, from_rps)
    area = (from_rps + 100.0) / 2 * 100
    assert len(times) == pytest.approx(area, abs=5 * area**0.5)

    def expected(at_s):
        return (from_rps * at_s + (100.0 - from_rps) * at_s**2 / 200) / area

    assert stats.kstest(times, expected).pvalue > 0.001
    if from_rps < 100:
        assert stats.kstest(times / 100.0, "uniform").pvalue < 0.001


@pytest.mark.parametrize(
    ("name", "rate_rps", "options", "words"),
    [
        ("pareto", 1.0, {}, "choose one of poisson, gamma, constant, ramp"),
        ("poisson", 0.0, {}, "must be greater than 0"),
        ("poisson", float("inf"), {}, "must be greater than 0"),
        ("poisson", 1.0, {"burstiness": 2}, "unknown option burstiness; its options: none"),
        ("gamma", 1.0, {"shape": 2}, "unknown option shape; its options: burstiness"),
        ("gamma", 1.0, {"burstiness": 0}, "more than 0"),
        ("ramp", 1.0, {"from_rps": -1}, "0 or more"),
    ],
)
def test_what_cannot_be_drawn_is_said(name, rate_rps, options, words):
    with pytest.raises(SpecError, match=words):
        arrivals(name, rng(), rate_rps, 1.0, options)


def test_an_arrival_process_is_a_function_of_generator_rate_and_length():
    for function in ARRIVALS.values():
        first = list(inspect.signature(function).parameters)[:3]
        assert first == ["rng", "rate_rps", "seconds"]
