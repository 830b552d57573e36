"""One time axis of a level: slices, and what fell into each."""

import pytest

from engine.loadgen.observer import Observation
from engine.loadgen.samples import Level, Sample
from engine.stages.loadtest.timeline import timeline_of


def answer(due_ms, e2e_ms, ttft_ms=None, status="ok", tokens=10):
    ttft_ms = e2e_ms / 2 if ttft_ms is None else ttft_ms
    return Sample(
        due_ms,
        due_ms,
        status,
        ttft_ms=ttft_ms,
        last_ms=e2e_ms,
        e2e_ms=e2e_ms,
        output_tokens=tokens,
    )


def level(samples, window_s=2.0, warmup_s=1.0):
    return Level("poisson", None, 4.0, window_s, warmup_s, 1e9, 0, None, samples, [])


def test_what_happened_stands_in_its_slice():
    samples = [
        answer(-900, 300),  # due and over in the warm-up
        answer(100, 250, ttft_ms=100),  # 100 to 350: in slices 4 and 5
        answer(1500, 250, ttft_ms=200, status="http_500"),
    ]
    slices = timeline_of("student", "rate=4", level(samples))
    assert [each.at_s for each in slices] == [-0.875 + 0.25 * number for number in range(12)]
    assert {(each.model, each.level) for each in slices} == {("student", "rate=4")}
    assert slices[4].in_flight == pytest.approx(0.6)  # 150 of 250 ms
    assert slices[5].in_flight == pytest.approx(0.4)
    assert [each.sent_rps for each in slices].count(4.0) == 3
    assert slices[5].served_rps == 4.0
    assert [number for number, each in enumerate(slices) if each.failed_rps] == [11]
    assert slices[4].ttft_p50_ms == 100
    assert slices[10].ttft_p50_ms is None  # infinite
    assert slices[7].ttft_p50_ms is None  # nothing was due
    tokens = sum(each.output_tokens_per_second * 0.25 for each in slices)
    assert tokens == pytest.approx(20)


def test_the_server_stands_on_the_same_axis():
    observations = [
        Observation(-800, {"replicas": 1, "running": 4}),
        Observation(100, {"replicas": 2, "front_queued": 3, "waiting": 4, "kv_usage": 0.5}),
        Observation(200, {"replicas": 4, "front_queued": 1, "waiting": 0, "kv_usage": 0.7}),
    ]
    slices = timeline_of("student", "c", level([answer(0, 100)]), observations)
    assert (slices[0].replicas, slices[0].running, slices[0].queued) == (1, 4, None)
    assert (slices[4].replicas, slices[4].queued, slices[4].running) == (3, 4, None)
    assert slices[4].kv_usage == pytest.approx(0.6)
    assert slices[5].replicas is None


@pytest.mark.parametrize(
    ("window_s", "warmup_s", "count"), [(3, 1, 16), (30, 5, 35), (60, 0, 60), (3600, 60, 31)]
)
def test_slices_are_few_and_cover_warm_up_and_window(window_s, warmup_s, count):
    slices = timeline_of("m", "c", level([answer(0, 100)], window_s, warmup_s))
    assert len(slices) == count
    assert slices[0].at_s >= -warmup_s
    assert slices[-1].at_s <= window_s


def test_a_level_without_requests_has_an_empty_axis():
    slices = timeline_of("m", "c", level([]))
    assert {each.in_flight for each in slices} == {0.0}
