"""Figures by hand: percentiles, failures as infinitely slow, the window, tokens, notes."""

import json

import pytest
from doubles.levels import level, sample, serving_of, steady, watch

from engine.loadgen.samples import Ceiling
from engine.run.facts import LoadtestInfo
from engine.stages.loadtest.figures import figures_of, oddities_of, percentiles
from engine.stages.loadtest.files import Measured
from engine.stages.loadtest.goodput import Slo


def test_percentiles_are_values_that_were_seen():
    assert percentiles(range(1, 101)) == {"p50": 50, "p95": 95, "p99": 99}
    assert percentiles([]) == {"p50": None, "p95": None, "p99": None}


def test_failed_requests_count_as_infinitely_slow_and_are_null_in_json():
    requests = [sample(i, ttft_ms=1.0 + 37 * i % 94) for i in range(1, 95)]
    requests += [sample(200 + i, "http_500", error=f"fault {i}") for i in range(6)]
    found = figures_of(level(requests))
    assert (found["requests"], found["failed"], found["failures"]) == (100, 6, {"http_500": 6})
    assert found["failure_examples"] == {"http_500": "fault 0"}
    assert found["ttft_ms"] == {"p50": 50, "p95": None, "p99": None}
    assert found["ttft_ms_ci"]["p99"] == [None, None]
    assert found["ttft_ms_ci"]["p50"][0] == pytest.approx(40, abs=3)
    assert found["e2e_ms"]["p50"] == 100
    json.dumps(found, allow_nan=False)


def test_rates_count_what_happened_inside_the_window():
    inside = sample(0)
    across_the_end = sample(9950, ttft_ms=0.0, e2e_ms=100.0, tokens=10)
    across_the_start = sample(-50, ttft_ms=0.0, e2e_ms=100.0, tokens=10)
    found = figures_of(level([sample(-500), across_the_start, inside, across_the_end]))
    assert (found["requests"], found["offered_rps"]) == (2, 0.2)
    # `inside`, and the warm-up answer that ended inside
    assert found["served_rps"] == found["request_throughput"] == pytest.approx(2 / 10)
    assert found["output_tokens_per_second"] == pytest.approx((11 + 5 + 5) / 10)
    low, high = found["served_rps_ci"]
    assert low < 0.2 < high


def test_a_warm_up_request_is_in_the_rates_alone():
    broken = [sample(-80, late_ms=980.0, ttft_ms=9000.0, e2e_ms=9001.0), sample(-90, "timeout")]
    found = figures_of(level([*broken, *map(sample, range(50))]))
    assert (found["requests"], found["failed"], found["failures"]) == (50, 0, {})
    assert (found["verdict"], found["ttft_ms"]["p99"]) == ("ok", 20.0)
    assert found["served_rps"] == pytest.approx(51 / 10)


def test_what_a_closed_load_offers_depends_on_the_answers():
    found = figures_of(level(steady(), concurrency=4))
    assert (found["kind"], found["concurrency"], found["offered_rps"]) == ("closed", 4, None)
    assert "rate" not in found


def test_one_token_has_no_time_per_output_token():
    found = figures_of(level([sample(0.0, e2e_ms=20.0, tokens=1)]))
    assert found["tpot_ms"] == {"p50": None, "p95": None, "p99": None}
    assert found["tpot_ms_ci"]["p50"] == [None, None]


def test_tokens_are_the_servers_and_those_it_did_not_count_are_told():
    requests = [sample(0), sample(1, output_tokens=None, prompt_tokens=None), sample(2, "timeout")]
    assert figures_of(level(requests))["tokens"] == {"prompt": 5, "output": 11, "uncounted": 1}


def test_oddities_add_up_by_kind():
    requests = [sample(0, oddities="no_done:1,delta.audio:3"), sample(1, oddities="delta.audio:2")]
    assert oddities_of(requests) == {"delta.audio": 5, "no_done": 1}
    assert oddities_of([sample(0)]) == {}


def test_notes_say_what_the_requests_are_too_few_for():
    found = figures_of(level(steady()))
    assert found["ttft_ms_ci"]["p99"][1] is None
    assert found["ttft_ms_ci"]["p50"] == [20.0, 20.0]
    (note,) = [note for note in found["notes"] if note.startswith("ttft_ms")]
    assert note == (
        "ttft_ms: 100 requests are too few to bound p99 from above; p99 takes 368 that do not"
        " hang together, more that do"
    )


def test_notes_say_how_long_a_warm_up_would_have_done():
    cold = []
    for t in range(-2000, 10_000, 25):
        wait_ms = max(0, 2500 - t)
        cold.append(sample(t, ttft_ms=20 + wait_ms, e2e_ms=100 + wait_ms))
    found = figures_of(level(cold))
    assert found["steady"]["found"]
    (note,) = [note for note in found["notes"] if "steady only" in note]
    assert "a warm-up of 5 s would have left that out" in note


def test_a_client_limited_level_says_nothing_of_the_server():
    found = figures_of(level(steady(), watches=[watch(cpu_s=8.0)]))
    assert (found["verdict"], found["valid"]) == ("client limited", False)
    assert found["invalid_reason"] == found["verdict_reason"]
    assert found["client"]["ceiling_share"] == 0.8
    empty = figures_of(level([]))
    assert (empty["verdict"], empty["valid"]) == ("failed", False)
    fine = figures_of(level(steady()))
    assert (fine["valid"], fine["invalid_reason"]) == (True, None)


def test_an_entry_is_what_the_report_promises():
    measured = [
        Measured("student", level(steady()), Ceiling(1e5, 1e4, 1)),
        Measured("teacher", level(steady(), concurrency=2)),
        Measured("student", level([])),
    ]
    serving = serving_of(measured, Slo(ttft_ms=500, tpot_ms=50))
    assert {name: len(model["levels"]) for name, model in serving.items()} == {
        "student": 2,
        "teacher": 1,
    }
    info = LoadtestInfo.model_validate({"serving": serving})
    said = info.model_dump(mode="json", exclude_unset=True)["serving"]
    assert said == json.loads(json.dumps(serving))
    first = serving["student"]["levels"][0]
    assert first["goodput"]["good"] == first["requests"] == 100
    assert first["client"]["is_calibrated"]
    assert not serving["teacher"]["levels"][0]["client"]["is_calibrated"]
