"""Figures by hand: percentiles, failures as infinitely slow, the steady window, the verdict."""

import json

import pytest

from engine.rows.records import RequestSample
from engine.stages.loadtest.arrivals import Level
from engine.stages.loadtest.client import Measurement
from engine.stages.loadtest.summary import percentiles, summarise


def sample(intended_ms, status="ok", ttft_ms=20.0, e2e_ms=100.0, tokens=11, sent_ms=None):
    if status != "ok":
        return RequestSample(
            "student",
            "rate=1",
            intended_ms,
            sent_ms or intended_ms,
            status,
            None,
            None,
            None,
            0,
            0,
            "broken",
        )
    tpot_ms = (e2e_ms - ttft_ms) / (tokens - 1)
    return RequestSample(
        "student",
        "rate=1",
        intended_ms,
        sent_ms or intended_ms,
        "ok",
        ttft_ms,
        tpot_ms,
        e2e_ms,
        5,
        tokens,
    )


def measurement(samples, warmup=(), **fields):
    return Measurement(Level(rate=1.0), 10.0, list(samples), list(warmup), **fields)


def test_percentiles_are_values_that_were_seen():
    assert percentiles(range(1, 101)) == {"p50": 50, "p95": 95, "p99": 99}
    assert percentiles([]) == {"p50": None, "p95": None, "p99": None}


def test_failed_requests_count_as_infinitely_slow_and_are_null_in_json():
    level = summarise(
        measurement(
            [sample(i, ttft_ms=float(i)) for i in range(1, 95)] + [sample(200, "http_500")] * 6
        )
    )
    assert (level["requests"], level["failed"], level["failures"]) == (100, 6, {"http_500": 6})
    assert level["ttft_ms"] == {"p50": 50, "p95": None, "p99": None}
    assert level["e2e_ms"]["p50"] == 100
    json.dumps(level, allow_nan=False)


def test_throughput_counts_what_happened_inside_the_window():
    inside, across_the_end = sample(0), sample(9950, ttft_ms=0.0, e2e_ms=100.0, tokens=10)
    across_the_start = sample(-50, ttft_ms=0.0, e2e_ms=100.0, tokens=10)
    level = summarise(measurement([inside, across_the_end], [across_the_start, sample(-500)]))
    assert level["requests"] == 2
    assert level["request_throughput"] == pytest.approx(
        2 / 10
    )  # `inside` and the warm-up answer that ended inside
    assert level["output_tokens_per_second"] == pytest.approx((11 + 5 + 5) / 10)


def test_a_punctual_client_is_valid():
    level = summarise(
        measurement([sample(i) for i in range(50)], loop_lag_ms=[0.3] * 100, cpu_fraction=0.4)
    )
    assert level["valid"]
    assert level["invalid_reason"] is None


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (
            {"samples": [sample(i, sent_ms=i + 60.0, ttft_ms=900.0) for i in range(50)]},
            "client lagged",
        ),
        (
            {"samples": [sample(i) for i in range(50)], "loop_lag_ms": [0.1] * 90 + [30.0] * 10},
            "client lagged: p99",
        ),
        ({"samples": [sample(i) for i in range(50)], "cpu_fraction": 0.97}, "busy 97%"),
        ({"samples": []}, "no request fell into the 10 s window"),
    ],
)
def test_a_late_or_saturated_client_invalidates_the_level(broken, words):
    level = summarise(measurement(**broken))
    assert not level["valid"]
    assert words in level["invalid_reason"]


def test_one_token_has_no_time_per_output_token():
    one = RequestSample("student", "rate=1", 0.0, 0.0, "ok", 20.0, None, 20.0, 5, 1)
    assert summarise(measurement([one]))["tpot_ms"] == {"p50": None, "p95": None, "p99": None}
