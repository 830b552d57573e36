"""The five ratios: a value with how it was measured, or the reason why there is none."""

import pytest

from engine.stages.report.ratios import (
    RATIOS,
    Measured,
    Pair,
    five_ratios,
    pair_of,
)

QUALITY = {"metric": "exact_match", "n": 500, "teacher": 0.9, "student": 0.81, "retention": 0.9}


def level(concurrency, p50, p95=None, **fields):
    return {
        "concurrency": concurrency,
        "failed": 0,
        "valid": True,
        "invalid_reason": None,
        "e2e_ms": {"p50": p50, "p95": p95 or p50 * 2},
        **fields,
    }


TEACHER = Measured(
    weights_bytes=16e9,
    kv_bytes_per_token=131_072,
    levels=[level(1, 400), level(4, 450, 790), level(16, 900, 2000)],
    usd_per_answer=0.004,
)
STUDENT = Measured(
    weights_bytes=2e9,
    kv_bytes_per_token=32_768,
    levels=[level(1, 100), level(4, 120), level(16, 200, 700)],
    usd_per_answer=0.0005,
)


def ratios(teacher=TEACHER, student=STUDENT, quality=QUALITY, equal_slo=None):
    return five_ratios(Pair(teacher, student, quality, equal_slo))


def test_what_was_measured_of_both_is_a_ratio_with_how_it_was_measured():
    found = ratios()
    assert list(found) == list(RATIOS)
    values = {name: ratio["value"] for name, ratio in found.items()}
    assert values == {
        "latency": 4,
        "memory": 8,
        "kept_accuracy": 0.9,
        "cost_per_answer": pytest.approx(8),
        "concurrent_users": 4,
    }
    assert all(ratio["why_unknown"] is None for ratio in found.values())
    told = {name: ratio["how"] for name, ratio in found.items()}
    assert told["latency"] == (
        "median time to the end of an answer with one request in flight: 400 ms against 100 ms"
    )
    assert told["memory"] == (
        "weights: 16 GB against 2 GB; a token in the KV cache takes 131 kB against 32.8 kB"
    )
    assert told["cost_per_answer"] == "USD per answer: 0.004 against 0.0005"
    assert told["concurrent_users"] == (
        "requests in flight with p95 to the end of an answer <= 800 ms (the teacher's own with one"
        " request in flight): 4 against 16; more were not tried with the student"
    )


def test_nothing_known_gives_five_reasons():
    found = ratios(Measured(), Measured(), {"retention": None})
    assert all(ratio["value"] is None and ratio["how"] is None for ratio in found.values())
    assert found["latency"]["why_unknown"] == (
        "the load test has no level of the teacher and the student; name both in loadtest.models"
    )
    assert "teacher: the size of its weights was not read" in found["memory"]["why_unknown"]
    assert "scores nothing" in found["kept_accuracy"]["why_unknown"]
    assert "no price" in found["cost_per_answer"]["why_unknown"]


def test_a_teacher_behind_an_api_has_a_price_and_no_weights():
    teacher = Measured(why_unknown="its weights are not here", usd_per_answer=0.002)
    student = Measured(weights_bytes=2e9, levels=STUDENT.levels)
    found = ratios(teacher, student)
    assert found["memory"]["why_unknown"] == "teacher: its weights are not here"
    assert found["latency"]["why_unknown"].startswith("the load test has no level of the teacher;")
    assert found["cost_per_answer"] == {
        "value": None,
        "how": None,
        "why_unknown": "an answer of the teacher costs 0.002 USD; the student runs on machines"
        " whose price is not known",
    }


def test_levels_that_were_not_valid_say_why():
    lagged = [level(1, 100, valid=False, invalid_reason="client lagged: p99 61 ms")]
    found = ratios(student=Measured(levels=lagged))
    assert found["latency"]["why_unknown"] == (
        "no level of the load test is valid for both: client lagged: p99 61 ms"
    )
    assert found["concurrent_users"]["value"] is None


def test_latency_is_that_of_the_least_load_that_both_answered_without_failures():
    teacher = Measured(levels=[level(1, 400, failed=2), level(4, 500), level(16, 2000)])
    found = ratios(teacher, Measured(levels=STUDENT.levels))
    assert found["latency"]["value"] == 500 / 120
    assert "with 4 requests in flight" in found["latency"]["how"]


def test_rates_serve_where_no_users_were_tried():
    def rates(ms):
        return Measured(levels=[level(None, ms, rate=2.5)])

    found = ratios(rates(300), rates(100))
    assert found["latency"]["value"] == 3
    assert "with 2.5 requests per second" in found["latency"]["how"]
    assert found["concurrent_users"]["value"] is None


def test_the_peak_of_memory_wins_over_the_weights():
    teacher = Measured(weights_bytes=16e9, peak_memory_bytes=20e9)
    student = Measured(weights_bytes=2e9, peak_memory_bytes=4e9)
    found = ratios(teacher, student)["memory"]
    assert found["value"] == 5
    assert found["how"].startswith("peak memory of the engine while it answered: 20 GB")


def test_users_are_counted_up_to_the_first_miss():
    bumpy = Measured(levels=[level(1, 100), level(4, 900), level(16, 100)])
    assert ratios(student=bumpy)["concurrent_users"]["value"] == 1 / 4
    slow = Measured(levels=[level(1, 500), level(4, 900)])
    missed = ratios(student=slow)["concurrent_users"]
    assert missed["why_unknown"].startswith("the student misses the limit with the fewest users")


def knees(first, second, at="concurrency=4"):
    """What a load test says of teacher and student at an SLO, but for what nobody reads here."""

    def figure(value):
        how = "no load broke the SLO, the largest was 16" if value is None else "3 levels"
        return {"value": value, "how": how}

    median = {"first": figure(90.0), "second": figure(60.0), "ratio": figure(1.5)}
    latency = {"load": at, "how": f"both at {at}", "e2e_ms_p50": median}
    return {
        "first": "teacher",
        "second": "student",
        "slo": {"ttft_ms": 500, "percentile": 90},
        "unit": "requests in flight",
        "load": {"first": figure(first), "second": figure(second)},
        "latency": latency if at else {"load": None, "how": "no load at which both were ok"},
    }


def test_with_an_slo_users_and_latency_are_those_that_the_load_test_compared():
    report = {"generate": {}, "quality": QUALITY, "serving": {}, "equal_slo": knees(6.0, 15.0)}
    found = five_ratios(pair_of(report))
    assert found["concurrent_users"]["value"] == 2.5
    assert found["concurrent_users"]["how"] == (
        "requests in flight with TTFT ≤ 500 ms for 90 % of the requests (loadtest.slo): 6 against"
        " 15"
    )
    assert found["latency"]["value"] == 1.5
    assert found["latency"]["how"] == (
        "median time to the end of an answer at concurrency=4, the largest load at which both were"
        " ok: 90 ms against 60 ms"
    )


def test_an_slo_that_no_load_broke_bounds_nobody():
    found = ratios(equal_slo=knees(6.0, None, at=None))
    assert found["concurrent_users"]["why_unknown"] == (
        "student: no load broke the SLO, the largest was 16"
    )
    assert found["latency"]["why_unknown"] == "no load at which both were ok"


def test_users_who_talk_are_counted_before_requests_in_flight():
    def both(in_flight_ms, users_ms):
        users = [level(2, users_ms, kind="sessions"), level(8, users_ms * 3, kind="sessions")]
        return Measured(levels=[level(1, in_flight_ms, kind="closed"), *users])

    found = ratios(both(50, 300), both(25, 100))
    assert found["latency"]["how"].startswith(
        "median time to the end of an answer with one request in flight: 50 ms against 25 ms"
    )
    assert found["concurrent_users"]["value"] == 4
    assert found["concurrent_users"]["how"].startswith(
        "users with p95 to the end of an answer <= 600 ms (the teacher's own with 2 users): 2"
    )


def test_a_trace_is_compared_with_the_same_trace():
    def replayed(ms):
        return Measured(levels=[level(None, ms, kind="trace")])

    found = ratios(replayed(300), replayed(100))
    assert found["latency"]["value"] == 3
    assert "with the trace: 300 ms" in found["latency"]["how"]


def test_agreement_with_the_teacher_is_called_so():
    quality = QUALITY | {"teacher": None}
    assert "against the teacher's answers" in ratios(quality=quality)["kept_accuracy"]["how"]
