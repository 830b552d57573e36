"""Figures by hand: percentiles, failures as infinitely slow, the steady window, the verdict."""

import json

import pytest

from engine.rows.records import LoadLevel, RequestSample
from engine.stages.loadtest.summary import percentiles, serving_of, summarise


def sample(
    intended_ms, status="ok", ttft_ms=20.0, e2e_ms=100.0, tokens=11, sent_ms=None, level="rate=1"
):
    times = {
        "model": "student",
        "level": level,
        "warm": intended_ms < 0,
        "intended_ms": intended_ms,
        "sent_ms": sent_ms or intended_ms,
        "status": status,
    }
    if status != "ok":
        return RequestSample(**times, error="broken")
    return RequestSample(
        **times,
        ttft_ms=ttft_ms,
        tpot_ms=(e2e_ms - ttft_ms) / (tokens - 1) if tokens > 1 else None,
        e2e_ms=e2e_ms,
        prompt_tokens=5,
        output_tokens=tokens,
    )


def level_row(level="rate=1", rate=1.0, cpu_fraction=0.0, loop_lag_ms=(), model="student"):
    return LoadLevel(
        model=model,
        level=level,
        concurrency=None,
        rate=rate,
        started_s=1.8e9,
        window_s=10.0,
        cpu_fraction=cpu_fraction,
        loop_lag_ms=list(loop_lag_ms),
    )


def figures(samples, **fields):
    return summarise(level_row(**fields), samples)


def test_percentiles_are_values_that_were_seen():
    assert percentiles(range(1, 101)) == {"p50": 50, "p95": 95, "p99": 99}
    assert percentiles([]) == {"p50": None, "p95": None, "p99": None}


def test_failed_requests_count_as_infinitely_slow_and_are_null_in_json():
    level = figures(
        [sample(i, ttft_ms=float(i)) for i in range(1, 95)] + [sample(200, "http_500")] * 6
    )
    assert (level["requests"], level["failed"], level["failures"]) == (100, 6, {"http_500": 6})
    assert level["ttft_ms"] == {"p50": 50, "p95": None, "p99": None}
    assert level["e2e_ms"]["p50"] == 100
    json.dumps(level, allow_nan=False)


def test_throughput_counts_what_happened_inside_the_window():
    inside, across_the_end = sample(0), sample(9950, ttft_ms=0.0, e2e_ms=100.0, tokens=10)
    across_the_start = sample(-50, ttft_ms=0.0, e2e_ms=100.0, tokens=10)
    level = figures([sample(-500), across_the_start, inside, across_the_end])
    assert level["requests"] == 2
    assert level["request_throughput"] == pytest.approx(
        2 / 10
    )  # `inside` and the warm-up answer that ended inside
    assert level["output_tokens_per_second"] == pytest.approx((11 + 5 + 5) / 10)


def test_a_punctual_client_is_valid():
    level = figures([sample(i) for i in range(50)], loop_lag_ms=[0.3] * 100, cpu_fraction=0.4)
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
        ({"samples": [sample(-20)]}, "no request fell into the 10 s window"),
    ],
)
def test_a_late_or_saturated_client_invalidates_the_level(broken, words):
    level = figures(**broken)
    assert not level["valid"]
    assert words in level["invalid_reason"]


def test_one_token_has_no_time_per_output_token():
    one = sample(0.0, e2e_ms=20.0, tokens=1)
    assert figures([one])["tpot_ms"] == {"p50": None, "p95": None, "p99": None}


def test_a_warm_up_request_is_in_the_throughputs_alone():
    late_and_broken = [sample(-80, sent_ms=900.0, ttft_ms=9000.0, e2e_ms=9001.0)]
    late_and_broken += [sample(-90, "timeout")]
    level = figures([*late_and_broken, *map(sample, range(50))])
    assert (level["requests"], level["failed"], level["failures"]) == (50, 0, {})
    assert level["valid"]
    assert level["ttft_ms"]["p99"] == 20.0
    assert level["request_throughput"] == pytest.approx(51 / 10)


def test_each_level_of_each_model_gets_its_own_samples():
    samples = [sample(0), sample(1), sample(2, level="rate=2")]
    rows = [level_row(), level_row("rate=2", 2.0), level_row(model="teacher")]
    serving = serving_of(rows, samples)
    assert list(serving) == ["student", "teacher"]
    levels = serving["student"]["levels"]
    assert [(level["rate"], level["requests"]) for level in levels] == [(1.0, 2), (2.0, 1)]
    assert serving["teacher"]["levels"][0]["requests"] == 0
