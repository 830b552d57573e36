"""Where a level becomes steady, and whether its queue grew: by hand, and on simulated queues."""

import math

import numpy as np
import pytest
from doubles.levels import level, sample, steady

from benchmarks.loadgen.simulated import Server, run_open
from engine.stages.loadtest.series import series_of
from engine.stages.loadtest.steady import (
    find_steady,
    first_passage,
    growth_of,
    steady_of,
    trend,
)


def look(found):
    series = series_of(found.samples)
    growth = growth_of(found, series)
    return steady_of(found, series, growth), growth


def test_a_load_that_is_answered_alike_is_steady_at_once():
    found, growth = look(level(steady()))
    assert growth is None
    assert found.found
    assert -2.0 <= found.start_s < -1.0


def test_a_cold_server_is_steady_when_it_has_caught_up():
    # each of the first answers waits for a start that takes until 3 s of the window
    cold = []
    for intended_ms in np.arange(-2000.0, 10_000.0, 50.0):
        wait_ms = max(0.0, 3000 - intended_ms)
        cold.append(sample(intended_ms, ttft_ms=20 + wait_ms, e2e_ms=100 + wait_ms))
    found, growth = look(level(cold))
    assert growth is None
    assert found.found
    assert found.start_s == pytest.approx(3.0, abs=0.4)


def test_a_stall_in_the_middle_is_no_start():
    stalled = []
    for intended_ms in np.arange(-2000.0, 10_000.0, 50.0):
        wait_ms = max(0.0, 4000 - intended_ms) if intended_ms > 1000 else 0.0
        stalled.append(sample(intended_ms, ttft_ms=20 + wait_ms, e2e_ms=100 + wait_ms))
    found, _ = look(level(stalled))
    assert found.found
    assert found.start_s < 0


def test_a_load_so_far_can_be_asked_whether_it_is_steady():
    cold = [sample(-2000.0 + 50 * n, ttft_ms=max(20.0, 1500.0 - 50 * n)) for n in range(40)]
    series = series_of(cold)
    assert not find_steady(series.within(-2000, -600), -2.0, -0.6).found
    later = series_of(cold + steady(every_ms=50.0, from_ms=0.0))
    assert find_steady(later, -2.0, 4.0).found


def test_too_few_requests_are_not_steady():
    found, _ = look(level(steady(every_ms=1000.0)))
    assert (found.start_s, found.found) == (None, False)


def test_a_first_passage_is_seen_from_where_the_series_begins():
    assert first_passage(np.array([0, 1, 2, 3, 3, 2, 3, 4.0])) == 3
    assert first_passage(np.array([9, 5, 3, 3, 3, 2, 3, 4.0])) == 2
    assert first_passage(np.array([math.nan, 3, 3, 3, 3, 2, 3, 4.0])) == 1
    assert first_passage(np.array([3, math.nan])) is None


def test_a_trend_counts_pairs_that_rise():
    assert trend(np.arange(12.0)) == pytest.approx(65 / math.sqrt(12 * 11 * 29 / 18))
    assert trend(-np.arange(12.0)) < -4
    assert trend(np.full(12, 3.0)) == 0
    assert trend(np.array([1.0, 2.0, math.nan, 3.0])) == 0
    assert trend(np.array([1, 2, 3, 4, math.inf, math.inf])) > 2


def test_a_queue_that_grows_is_never_steady():
    behind = [sample(t, e2e_ms=100.0 + 0.5 * max(0, t + 2000)) for t in range(-2000, 10_000, 50)]
    found, growth = look(level(behind))
    assert (found.start_s, found.found) == (None, False)
    assert growth.unserved == pytest.approx(1 / 3, abs=0.03)  # each 50 ms of load takes 75 ms
    assert growth.last > growth.first + 30


def test_a_closed_load_has_no_queue_that_grows():
    slower = [sample(t, e2e_ms=100.0 + t + 2000) for t in range(-2000, 10_000, 50)]
    assert look(level(slower, concurrency=4))[1] is None


def test_long_answers_that_are_not_yet_over_are_no_growth():
    long = [sample(t, ttft_ms=50.0, e2e_ms=9000.0) for t in range(-2000, 10_000, 50)]
    assert look(level(long))[1] is None
    rising = [sample(t, ttft_ms=50.0, e2e_ms=3000.0) for t in range(0, 10_000, 50)]
    assert look(level(rising, warmup_s=0.0))[1] is None


def ramp(latency_ms):
    """Requests that come ever faster, up to twenty times per second."""
    moments = np.sqrt(np.linspace(0, 1, 200)) * 20_000
    return [sample(float(t), ttft_ms=20.0, e2e_ms=latency_ms(t)) for t in moments]


def test_more_requests_under_way_because_more_arrive_are_no_growth():
    found = level(ramp(lambda t: 1500.0 + t / 200), kind="ramp", window_s=20.0, warmup_s=0.0)
    assert look(found)[1] is None
    beyond = level(
        ramp(lambda t: 1500.0 + max(0.0, t - 10_000)), kind="ramp", window_s=20.0, warmup_s=0.0
    )
    assert look(beyond)[1].unserved > 0.2


@pytest.mark.parametrize("law", ["deterministic", "exponential", "lognormal"])
def test_growth_is_found_beyond_the_capacity_and_not_below(law):
    server = Server(law, places=16, service_s=0.5)
    grown = {}
    for load in (0.7, 1.3):
        rate_rps = load * server.capacity_rps
        levels = [run_open(server, rate_rps, 30.0, 5.0, seed) for seed in range(20)]
        grown[load] = sum(look(each)[1] is not None for each in levels)
    assert grown[0.7] <= 2
    assert grown[1.3] >= 18
