"""Two models at one SLO, by hand."""

import math

import pytest
from doubles.levels import level, sample, steady, watch

from engine.run.facts import LoadtestInfo
from engine.stages.loadtest.equal_slo import Estimate, _ratio, compare
from engine.stages.loadtest.files import Measured
from engine.stages.loadtest.goodput import Slo
from engine.stages.loadtest.intervals import Interval
from engine.stages.report.equal_slo_table import equal_slo

SLO = Slo(ttft_ms=500, percentile=90)


def curve(model, breaks_at, ttft_ms, users=(1, 4, 16, 64), **more):
    """Levels of so many users; from `breaks_at` on the first token comes too late."""
    found = []
    for count in users:
        slow_ms = 900.0 if count >= breaks_at else ttft_ms
        requests = steady(every_ms=20.0, ttft_ms=slow_ms, e2e_ms=slow_ms + 80, tokens=11)
        found.append(Measured(model, level(requests, concurrency=count, **more)))
    return found


def test_users_latency_tokens_and_cost_stand_side_by_side_with_their_ratio():
    measured = [*curve("teacher", 16, 300.0), *curve("student", 64, 100.0)]
    found = compare(measured, "teacher", "student", SLO, {"teacher": 8.0, "student": 2.0})
    assert found["unit"] == "requests in flight"
    load = found["load"]
    assert 4 <= load["first"]["value"] < 16 <= load["second"]["value"] < 64
    assert load["ratio"]["value"] == load["second"]["value"] / load["first"]["value"]
    low, high = load["ratio"]["ci"]
    assert low < load["ratio"]["value"] < high

    tokens = found["good_tokens_per_second"]
    assert tokens["first"]["value"] == tokens["second"]["value"] == 550.0
    assert tokens["second"]["how"] == (
        "at concurrency=16, the largest load of 'student' that kept the SLO"
    )
    cost = found["usd_per_million_good_tokens"]
    assert cost["first"]["value"] == pytest.approx(8 / (550 * 3600 / 1e6), rel=1e-3)
    assert cost["ratio"]["value"] == pytest.approx(4.0, rel=1e-3)
    assert cost["first"]["how"].startswith("8 USD per hour, at concurrency=4")

    latency = found["latency"]
    assert latency["load"] == "concurrency=64"
    assert latency["ttft_ms_p50"]["ratio"]["value"] == 1.0  # both are late there


def test_latency_is_that_of_the_largest_load_at_which_both_were_ok():
    busy = curve("student", 64, 100.0, users=(16, 64), watches=[watch(cpu_s=9.0)])
    measured = [*curve("teacher", 16, 300.0), *curve("student", 64, 100.0, users=(1, 4)), *busy]
    found = compare(measured, "teacher", "student", SLO, {})["latency"]
    assert found["load"] == "concurrency=4"
    assert found["ttft_ms_p50"]["first"]["value"] == 300
    assert found["ttft_ms_p50"]["ratio"]["value"] == 3.0
    assert found["ttft_ms_p50"]["ratio"]["ci"] == [3.0, 3.0]
    assert found["e2e_ms_p99"]["ratio"]["value"] == pytest.approx(380 / 180, rel=1e-3)
    apart = [*curve("teacher", 16, 300.0, users=(2,)), *curve("student", 64, 100.0, users=(3,))]
    unknown = compare(apart, "teacher", "student", SLO, {})["latency"]
    assert unknown["load"] is None
    assert unknown["how"] == "no load at which both 'teacher' and 'student' were ok"


def test_what_was_not_measured_is_unknown_and_says_why():
    measured = [*curve("teacher", 1, 300.0), *curve("student", 999, 100.0)]
    found = compare(measured, "teacher", "student", SLO, {"teacher": 8.0})
    load = found["load"]
    assert load["first"]["value"] is None
    assert "already at 1 only 0.0% of the requests kept the SLO" in load["first"]["how"]
    assert load["second"]["ci"] == [64.0, None]
    assert load["ratio"]["value"] is None
    cost = found["usd_per_million_good_tokens"]
    assert cost["first"]["how"] == "no level of 'teacher' kept the SLO"
    assert cost["second"]["how"] == "no price per hour was given for 'student'"
    assert cost["ratio"]["value"] is None


def test_a_model_without_levels_is_unknown():
    found = compare(curve("student", 64, 100.0), "baseline", "student", SLO, {})
    assert found["unit"] is None
    assert found["load"]["first"]["how"] == "there is no kind of load that both models had"
    assert found["load"]["ratio"]["value"] is None


def test_uncounted_tokens_cost_nobody_knows_what():
    requests = [sample(t, output_tokens=None) for t in range(-2000, 10_000, 50)]
    measured = [Measured(name, level(requests, concurrency=4)) for name in ("teacher", "student")]
    tokens = compare(measured, "teacher", "student", SLO, {})["good_tokens_per_second"]
    assert tokens["first"]["how"] == "'teacher' does not say how long its answers are"


def test_loads_of_one_kind_are_compared_and_users_first():
    def levels(model, **fields):
        return [Measured(model, level(steady(), **fields))]

    both = [*curve("teacher", 16, 300.0), *levels("student", rate=5.0)]
    both += [*levels("teacher", rate=2.0), *levels("student", rate=10.0)]
    rates = compare(both, "teacher", "student", SLO, {})
    assert rates["unit"] == "requests/s"
    assert rates["load"]["first"]["ci"] == [2.0, None]
    assert rates["load"]["second"]["ci"] == [10.0, None]
    both += levels("teacher", kind="sessions", concurrency=3)
    both += levels("student", kind="sessions", concurrency=30)
    users = compare(both, "teacher", "student", SLO, {})
    assert users["unit"] == "users"
    assert users["load"]["second"]["ci"] == [30.0, None]


def test_where_both_only_had_a_trace_no_load_is_compared():
    replayed = [Measured(name, level(steady(), kind="trace")) for name in ("teacher", "student")]
    info = {"serving": {}, "equal_slo": compare(replayed, "teacher", "student", SLO, {})}
    found = LoadtestInfo.model_validate(info).equal_slo
    assert found.unit is None
    assert found.load.ratio.how == "there is no kind of load that both models had"
    assert equal_slo(info["equal_slo"]).rows[0][0] == "load within the SLO"


def test_a_ratio_has_the_interval_of_both():
    above = Estimate(30.0, Interval(30.0 / 1.2, 30.0 * 1.3), "")
    below = Estimate(10.0, Interval(10.0 / 1.1, 10.0 * 1.4), "")
    found = _ratio(above, below)
    assert found.value == 3.0
    assert found.interval.low == pytest.approx(
        3 * math.exp(-math.hypot(math.log(1.2), math.log(1.4)))
    )
    assert found.interval.high == pytest.approx(
        3 * math.exp(math.hypot(math.log(1.3), math.log(1.1)))
    )
    open_end = _ratio(Estimate(30.0, Interval(25.0, None), ""), below)
    assert open_end.interval.high is None
    assert open_end.interval.low == found.interval.low
