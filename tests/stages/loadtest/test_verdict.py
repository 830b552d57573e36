"""Whose fault it is: overload, a dying server, a slow client, clocks that jump, a stall."""

import dataclasses

import numpy as np
import pytest
from doubles.levels import level, sample, steady, watch

from benchmarks.loadgen.simulated import Server, run_open
from engine.loadgen.samples import Ceiling
from engine.stages.loadtest.figures import figures_of
from engine.stages.loadtest.verdict import evidence_of, verdict_of


def verdict(found, ceiling=None):
    return verdict_of(evidence_of(found, ceiling))


def name_of(found, ceiling=None):
    return verdict(found, ceiling).name


def some_failed(status, every, **more):
    """Requests every 50 ms, some of which failed."""
    requests = []
    for number in range(240):
        intended_ms = -2000.0 + 50 * number
        if number % every == every - 1:
            requests.append(sample(intended_ms, status, **more))
        else:
            requests.append(sample(intended_ms))
    return requests


def test_a_server_that_keeps_up_is_ok():
    found = verdict(level(steady()))
    assert found.name == "ok"
    assert found.reason == "10.00 of 10.00 requests/s were answered, and no queue grew"
    closed = verdict(level(steady(), concurrency=2))
    assert (closed.name, closed.reason) == ("ok", "10.00 requests/s were answered")


def test_a_failure_now_and_then_is_ok_and_said():
    found = verdict(level([*steady(), sample(55.0, "http_500", error="out of luck")]))
    assert found.name == "ok"
    assert "1 of 101 failed (http_500: 1; 'out of luck')" in found.reason


def test_overload_is_not_ok():
    server = Server("exponential", places=8, service_s=1.0)
    found = verdict(run_open(server, 2.5 * server.capacity_rps, 30.0, 5.0, seed=1))
    assert found.name == "overloaded"
    assert "of 20" in found.reason
    assert "requests/s were served: those under way grew from" in found.reason


@pytest.mark.parametrize("status", ["http_429", "http_503"])
def test_refusals_are_overload(status):
    found = verdict(level(some_failed(status, every=4, error="too many requests")))
    assert found.name == "overloaded"
    assert "50 of 200 requests were refused" in found.reason
    assert "'too many requests'" in found.reason


def test_all_429_is_overload_and_all_503_a_server_that_is_not_there():
    refused = [sample(t, "http_429", error="slow down") for t in range(0, 10_000, 100)]
    found = verdict(level(refused))
    assert (found.name, "every one of 100" in found.reason) == ("overloaded", True)
    absent = [sample(t, "http_503", error="no replica") for t in range(0, 10_000, 100)]
    assert name_of(level(absent)) == "failed"


def test_timeouts_while_the_server_still_answers_are_overload():
    # a queue that grew to the deadline: late requests time out, early ones are still answered
    requests = []
    for t in range(-2000, 10_000, 50):
        wait_ms = 2.0 * (t + 2000)
        late = sample(t, "timeout", error="no end within 12 s")
        requests.append(late if wait_ms > 12_000 else sample(t, e2e_ms=100 + wait_ms))
    found = verdict(level(requests))
    assert found.name == "overloaded"
    assert "not answered in time" in found.reason


@pytest.mark.parametrize("status", ["connection", "cut_stream", "http_500", "http_503"])
def test_a_server_that_dies_in_mid_level_has_failed(status):
    dying = [sample(t) for t in range(-2000, 6000, 50)]
    dying += [sample(t, status, error="gone") for t in range(6000, 10_000, 50)]
    found = verdict(level(dying))
    assert found.name == "failed"
    assert "the server stopped answering: all requests from 6.0 s on failed, 79 of" in found.reason
    assert "'gone'" in found.reason


def test_a_server_that_hangs_in_mid_level_has_failed():
    hung = [sample(t) for t in range(-2000, 6000, 50)]
    hung += [sample(t, "timeout", error="no end within 60 s") for t in range(6000, 10_000, 50)]
    assert name_of(level(hung)) == "failed"
    assert "stopped answering" in verdict(level(hung)).reason


def test_a_server_that_hangs_under_a_closed_load_has_failed_though_few_requests_did():
    one = [sample(t, e2e_ms=50.0) for t in range(-2000, 6000, 50)]
    one.append(sample(6000, "timeout", error="no end within 60 s"))
    assert name_of(level(one, concurrency=1)) == "failed"
    # a last request that failed, as one may, is no such silence
    one = [sample(t, e2e_ms=50.0) for t in range(-2000, 9900, 50)]
    assert name_of(level([*one, sample(9900, "timeout")], concurrency=1)) == "ok"


def test_a_server_that_dies_at_the_very_end_is_not_ok():
    dying = [sample(t) for t in range(-2000, 9700, 10)]
    dying += [sample(t, "cut_stream") for t in range(9700, 9800, 10)]  # under way as it dies
    dying += [sample(t, "connection") for t in range(9800, 10_000, 50)]
    assert name_of(level(dying)) == "failed"


def test_a_dying_server_is_not_excused_by_a_late_client():
    late = [dataclasses.replace(each, sent_ms=each.sent_ms + 40) for each in steady()]
    dead = [sample(t, "connection", late_ms=40.0) for t in range(5000, 10_000, 50)]
    died = [each for each in late if each.intended_ms < 5000] + dead
    assert name_of(level(late)) == "client limited"
    assert name_of(level(died)) == "failed"


def test_requests_that_fail_all_along_are_a_failed_level():
    found = verdict(level(some_failed("cut_stream", every=10)))
    assert found.name == "failed"
    assert "20 of 200 requests failed (cut_stream: 20; 'broken')" in found.reason


def test_nothing_but_errors_says_what_the_server_said():
    wrong = [sample(t, "http_404", error="no model 'x'") for t in range(0, 10_000, 100)]
    busy = [watch(cpu_s=9.9, lag_ms=900.0, clock_jump_s=30.0)]
    found = verdict(level(wrong, watches=busy))
    assert found.name == "failed"
    assert found.reason == "none of 100 requests succeeded (http_404: 100; 'no model 'x'')"


def test_an_empty_level_has_measured_nothing():
    for requests in ([], [sample(-20.0)]):
        found = verdict(level(requests))
        assert found.name == "failed"
        assert "no request fell into the window of 10 s" in found.reason


SLOW_CLIENT = {
    "a busy process": ({"watches": [watch(cpu_s=6.0)]}, "60% of what one of its processes can do"),
    "a late loop": ({"watches": [watch(lag_ms=30.0)]}, "event loop woke up late: 30.0 ms"),
    "a busy machine": (
        {"watches": [watch(lag_ms=6.0, others_cpu=0.97)]},
        "other processes used 97% of this machine",
    ),
    "a late process of two": (
        {"watches": [watch(), watch(lag_ms=80.0, process=1)]},
        "woke up late: 80.0 ms",
    ),
    "what was not sent": ({"scheduled": 130}, "sent 100 of the 130 requests"),
    "a clock that was set": ({"watches": [watch(clock_jump_s=0.8)]}, "clock jumped by 0.80 s"),
}


@pytest.mark.parametrize("case", SLOW_CLIENT)
def test_a_slow_client_is_not_told_as_a_slow_server(case):
    broken, words = SLOW_CLIENT[case]
    found = verdict(level(steady(), **broken))
    assert found.name == "client limited"
    assert words in found.reason
    # nor where the answers look like overload, which it may have caused itself
    behind = [sample(t, e2e_ms=100.0 + 0.5 * (t + 2000)) for t in range(-2000, 10_000, 100)]
    assert name_of(level(behind)) == "overloaded"
    assert name_of(level(behind, **broken)) == "client limited"


def test_on_a_machine_that_others_fill_slow_answers_are_no_excuse():
    slow = [sample(t, ttft_ms=40.0 if t % 1000 else 900.0) for t in range(-2000, 10_000, 100)]
    late = {"lag_ms": 20.0}
    assert name_of(level(slow, watches=[watch(**late)])) == "ok"  # a tenth of p99 is 90 ms
    assert name_of(level(slow, watches=[watch(**late, others_cpu=0.95)])) == "client limited"


def test_requests_that_left_late_say_nothing_of_the_server():
    late = [sample(t, late_ms=60.0, ttft_ms=90.0) for t in range(-2000, 10_000, 100)]
    found = verdict(level(late))
    assert found.name == "client limited"
    assert "sent late: 60.0 ms at the median and 60.0 ms at p99" in found.reason
    # a tenth of a time to the first token that is long anyway does no harm
    patient = [sample(t, late_ms=60.0, ttft_ms=700.0) for t in range(-2000, 10_000, 100)]
    assert name_of(level(patient)) == "ok"


def test_a_client_is_judged_by_what_it_can_do_here():
    requests = steady(events=40)  # 400 events and 10 requests per second
    assert name_of(level(requests), Ceiling(2000.0, 50.0, 1)) == "ok"
    assert name_of(level(requests), Ceiling(1000.0, 50.0, 1)) == "client limited"
    assert name_of(level(requests), Ceiling(2000.0, 20.0, 1)) == "client limited"
    halves = [dataclasses.replace(each, process=number % 2) for number, each in enumerate(requests)]
    two = [watch(), watch(process=1)]
    assert name_of(level(halves, watches=two), Ceiling(1000.0, 50.0, 2)) == "ok"


def test_a_client_without_connections_is_told_so():
    spent = "[Errno 24] Too many open files"
    found = verdict(level(some_failed("connection", every=3, error=spent)))
    assert found.name == "client limited"
    assert "raise its limit of open files" in found.reason
    # a server without connections says so itself
    assert name_of(level(some_failed("http_500", every=3, error=spent))) == "failed"


def test_a_sleep_of_the_machine_is_the_clients_fault_even_if_requests_failed():
    slept = some_failed("cut_stream", every=3)
    found = verdict(level(slept, watches=[watch(clock_jump_s=45.0)]))
    assert (found.name, "clock jumped by 45.00 s" in found.reason) == ("client limited", True)


def test_a_stall_of_five_seconds_has_the_p99_of_the_intended_schedule():
    """A server that does nothing from 3 s to 8 s, then answers all at once."""
    stalled = []
    waits = []
    for t in np.arange(-2000.0, 30_000.0, 50.0):
        wait_ms = 8000 - t if 3000 <= t < 8000 else 0.0
        stalled.append(sample(t, ttft_ms=20 + wait_ms, e2e_ms=100 + wait_ms))
        if t >= 0:
            waits.append(20 + wait_ms)
    found = level(stalled, window_s=30.0)
    figures = figures_of(found)
    assert figures["verdict"] == "ok"
    assert figures["ttft_ms"]["p99"] == pytest.approx(np.quantile(waits, 0.99), rel=0.02)
    assert figures["ttft_ms"]["p99"] > 4500
    assert figures["ttft_ms"]["p50"] == 20
    assert figures["steady"]["start_s"] < 0
