"""The search against servers of which the knee is known, and against those that break it off."""

import math

import numpy as np
import pytest
from doubles.levels import level, sample, steady, watch

from benchmarks.loadgen.simulated import Server, run_open, true_knee_rps
from engine.stages.loadtest.goodput import Slo
from engine.stages.loadtest.intervals import Interval
from engine.stages.loadtest.knee import Trial, knee_of, search, trial_of
from engine.stages.loadtest.knee_fit import Seen, fit, half_width

SLO = Slo(ttft_ms=500, percentile=95)


def answer(load, good, requests=1000, verdict="ok", **more):
    fields = {"strain": 0.1, "inflation": 1.0, "served_rps": load, "reason": "so it was"}
    return Trial(load=load, good=good, requests=requests, verdict=verdict, **{**fields, **more})


class Logistic:
    """A server whose odds of bad requests rise with a power of the load; asked for what?"""

    def __init__(self, knee, power=25.0, requests=2000, seed=0):
        self.knee = knee
        self.power = power
        self.requests = requests
        self.draws = np.random.default_rng(seed)
        self.asked = []

    def __call__(self, load):
        self.asked.append(load)
        odds = (load / self.knee) ** self.power * 0.05 / 0.95
        bad = self.draws.binomial(self.requests, odds / (1 + odds))
        strain = 0.1 + 0.9 * load / self.knee
        return answer(load, self.requests - bad, self.requests, strain=strain)


@pytest.mark.parametrize("knee", [0.3, 7.0, 310.0])
def test_the_knee_is_found_and_decided_within_twelve_levels(knee):
    for seed in range(10):
        server = Logistic(knee, seed=seed)
        found = search(server, SLO)
        assert found.decided
        assert len(found.trials) == len(server.asked) <= 12
        assert found.load == pytest.approx(knee, rel=0.05)
        assert half_width(found.interval) <= 0.03


def test_users_are_whole_and_a_sharp_edge_is_found_to_one():
    asked = []

    def measure(users):
        asked.append(users)
        good = 1000 if users <= 21 else 0
        return answer(users, good, strain=users / 21)

    found = search(measure, SLO, whole=True)
    assert found.load == 21
    assert found.decided
    assert len(asked) <= 12
    assert all(users == int(users) for users in asked)


def test_noise_in_bursts_leaves_it_open_and_says_so():
    server = Logistic(40.0)

    def measure(load):
        return answer(load, server(load).good, 2000, inflation=250.0, strain=load / 40)

    found = search(measure, SLO, max_levels=8)
    assert not found.decided
    assert found.reason == "8 levels: its interval is wider than 3% to either side"
    assert found.interval.holds(40.0)
    assert half_width(found.interval) > 0.03


def test_a_server_that_never_breaks_bounds_the_knee_from_below():
    found = search(lambda load: answer(load, 1000), SLO, most=100.0)
    assert (found.load, found.interval) == (None, Interval(100.0, None))
    assert found.reason == "no load broke the SLO, the largest was 100; 5 levels"


def test_a_server_that_never_keeps_it_bounds_the_knee_from_above():
    found = search(lambda load: answer(load, 400), SLO, start=4.0, whole=True)
    assert (found.load, found.interval) == (None, Interval(0.0, 1.0))
    assert "already at 1 only 40.0% of the requests kept the SLO" in found.reason


def test_a_first_load_that_is_too_much_is_lowered():
    found = search(Logistic(0.3), SLO, start=50.0)
    assert found.load == pytest.approx(0.3, rel=0.05)


def test_a_client_that_is_the_limit_says_nothing_of_the_server():
    asked = []

    def measure(load):
        asked.append(load)
        if load > 20:
            return answer(load, 0, verdict="client limited", reason="the client sent late")
        return answer(load, 1000)

    found = search(measure, SLO)
    assert asked == [1, 4, 16, 64, 64]  # once more, then no further
    assert (found.load, found.interval) == (None, Interval(16.0, None))
    assert found.reason.endswith("at 64, as at the level before, the client sent late")


def test_a_hiccup_of_the_client_is_tried_again_and_not_counted():
    server = Logistic(7.0)
    hiccups = iter([False, False, True])

    def measure(load):
        if next(hiccups, False):
            return answer(load, 0, verdict="client limited")
        return server(load)

    assert search(measure, SLO).load == pytest.approx(7.0, rel=0.05)


def test_a_server_that_dies_ends_the_search():
    loads = []

    def measure(load):
        loads.append(load)
        if len(loads) > 3:  # and it does not come back
            return answer(load, 0, verdict="failed", reason="the server stopped answering")
        return answer(load, 1000)

    found = search(measure, SLO)
    assert len(loads) < 8
    assert "as at the level before, the server stopped answering" in found.reason
    assert (found.load, found.interval) == (None, Interval(16.0, None))
    refused = search(lambda load: answer(load, 0, verdict="failed", reason="gone"), SLO)
    assert refused.reason.endswith("1 levels; at 1 gone")


def test_levels_of_any_choice_have_a_knee():
    trials = [answer(load, 1000 if load < 9 else 600) for load in (1, 4, 8, 16, 16)]
    found = knee_of(trials, SLO, whole=True)
    assert 8 <= found.load < 16
    assert not found.decided
    last = found.trials[-1]
    assert (last.load, last.share, last.verdict) == (16, 0.6, "ok")
    assert knee_of([], SLO).interval == Interval(None, None)


def test_a_level_becomes_a_trial():
    requests = steady() + [sample(5000 + t, ttft_ms=800.0, e2e_ms=900.0) for t in range(10)]
    found = trial_of(10.0, level(requests), SLO)
    assert (found.good, found.requests, found.verdict) == (100, 110, "ok")
    assert found.strain == pytest.approx(1.6)
    assert found.inflation > 3  # the ten late ones came together
    assert found.served_rps == pytest.approx(11.0)
    slow = trial_of(10.0, level(steady(), watches=[watch(cpu_s=9.0)]), SLO)
    assert slow.verdict == "client limited"
    assert trial_of(10.0, level([]), SLO).share == 0


def test_belief_narrows_with_what_was_seen():
    few = fit([Seen(10.0, 1, 99), Seen(11.0, 30, 70)], 0.05, 5.0, 22.0)
    many = fit([Seen(10.0, 20, 1980), Seen(11.0, 600, 1400)], 0.05, 5.0, 22.0)
    assert half_width(many.interval) < half_width(few.interval) / 2
    assert many.quantile(0.5) == pytest.approx(10.43, abs=0.05)
    assert half_width(Interval(None, 3.0)) == math.inf


@pytest.mark.slow
@pytest.mark.parametrize("law", ["deterministic", "exponential", "lognormal"])
def test_the_knee_of_a_simulated_server_is_found(law):
    server = Server(law, places=16, service_s=0.1, prefill_s=0.01)
    slo = Slo(ttft_ms=60, percentile=90)
    truth = true_knee_rps(server, slo, 200_000)
    counter = iter(range(100))

    def measure(load):
        return trial_of(load, run_open(server, load, 30.0, 3.0, next(counter)), slo)

    found = search(measure, slo)
    assert found.load == pytest.approx(truth, rel=0.1)
    assert len(found.trials) <= 12
