"""Where the time goes, worked out by hand from a client's answers and a server's counts."""

import pytest

from engine.loadgen.observer import Observation, Observed
from engine.loadgen.samples import Level, Sample
from engine.stages.loadtest.server_time import PARTS, server_time


def answer(due_ms, e2e_ms, late_ms=2.0, ttft_ms=40.0, status="ok"):
    return Sample(due_ms, due_ms + late_ms, status, ttft_ms=ttft_ms, e2e_ms=e2e_ms)


def level(*samples, window_s=10.0):
    return Level("closed", 4, None, window_s, 2.0, 1e9, 0, None, list(samples), [])


def counts(requests, front_ms=None, engine_ms=None, queue_ms=10.0, prefill_ms=20.0, decode_ms=50.0):
    """What the histograms hold after so many requests that were alike."""
    means = {"front_request": front_ms, "engine_request": engine_ms}
    if engine_ms is not None:
        means |= {
            "engine_queue": queue_ms,
            "engine_prefill": prefill_ms,
            "engine_decode": decode_ms,
            "engine_first_token": queue_ms + prefill_ms + 5.0,
        }
    values = {}
    for name, mean_ms in means.items():
        if mean_ms is not None:
            values[f"{name}_n"] = requests
            values[f"{name}_s"] = requests * mean_ms / 1000
    return values


def seen(*looks, notes=()):
    """Looks at (ms, values)."""
    observations = [Observation(at_ms, values) for at_ms, values in looks]
    return Observed(observations, list(notes), "http://h/metrics", len(looks))


ANSWERS = [answer(due_ms, 100.0) for due_ms in (500, 1500, 2500, 3500)]


def test_the_parts_add_up_to_what_the_client_saw():
    observed = seen((0, counts(10, 95, 85)), (9000, counts(14, 95, 85)))
    found = server_time(level(*ANSWERS), observed)
    assert found["parts_ms"] == {
        "late": 2.0,
        "network": 3.0,  # 100 - 2 - 95
        "ingress": 10.0,  # 95 - 85
        "handling": 5.0,  # 85 - 10 - 20 - 50
        "queue": 10.0,
        "prefill": 20.0,
        "decode": 50.0,
    }
    assert sum(found["parts_ms"].values()) == found["e2e_ms"] == 100.0
    assert (found["ttft_ms"], found["engine_ttft_ms"], found["answers"]) == (40.0, 35.0, 4)
    assert found["unknown"] == []
    assert (found["from_s"], found["to_s"]) == (0.0, 9.0)


def test_only_what_ended_between_the_looks_counts_on_both_sides():
    samples = [*ANSWERS, answer(-500, 400.0), answer(8950, 900.0), answer(5000, 77.0, status="cut")]
    observed = seen((-1000, counts(2, 95, 85)), (0, counts(10, 95, 85)), (9000, counts(14, 95, 85)))
    found = server_time(level(*samples), observed)
    assert found["answers"] == 4
    assert found["e2e_ms"] == 100.0


def test_without_a_front_the_network_holds_what_lies_before_the_engine():
    observed = seen((0, counts(10, None, 85)), (9000, counts(14, None, 85)))
    found = server_time(level(*ANSWERS), observed)
    assert found["parts_ms"]["network"] == 13.0
    assert found["parts_ms"]["ingress"] is None
    assert "no front shows metrics" in found["unknown"][0]
    known = [ms for ms in found["parts_ms"].values() if ms is not None]
    assert sum(known) == found["e2e_ms"]


def test_a_front_without_an_engine_tells_the_network_alone():
    observed = seen((0, counts(10, 95)), (9000, counts(14, 95)))
    found = server_time(level(*ANSWERS), observed)
    known = {name: ms for name, ms in found["parts_ms"].items() if ms is not None}
    assert known == {"late": 2.0, "network": 3.0}
    assert "no engine shows metrics" in found["unknown"][0]


def test_counts_that_came_to_be_after_the_first_look_began_at_nothing():
    observed = seen((0, {"running": 0}), (9000, counts(4, 95, 85)))
    assert server_time(level(*ANSWERS), observed)["parts_ms"]["queue"] == 10.0


@pytest.mark.parametrize("looks", [[], [(0, counts(1, 95, 85))]])
def test_less_than_two_looks_tell_nothing_and_say_so(looks):
    found = server_time(level(*ANSWERS), seen(*looks))
    assert found["parts_ms"] == dict.fromkeys(PARTS)
    assert found["unknown"] == [
        f"{len(looks)} looks at the server's metrics fell into the window, and it takes two"
    ]


def test_why_there_is_no_page_is_said_instead():
    found = server_time(level(*ANSWERS), seen(notes=["h/metrics is not there (HTTP 404)"]))
    assert found["unknown"] == ["h/metrics is not there (HTTP 404)"]


def test_a_level_without_a_good_answer_has_no_parts():
    observed = seen((0, counts(10, 95, 85)), (9000, counts(14, 95, 85)))
    found = server_time(level(answer(500, None, ttft_ms=None, status="http_500")), observed)
    assert found["parts_ms"] == dict.fromkeys(PARTS)
    assert "no answer ended well" in found["unknown"][0]


def test_requests_of_others_are_noticed():
    observed = seen((0, counts(10, 95, 85)), (9000, counts(24, 95, 85)))
    (said,) = server_time(level(*ANSWERS), observed)["unknown"]
    assert said.startswith("the server ended 14 requests meanwhile, and 4 of them")


def test_a_part_below_nothing_is_not_hidden():
    observed = seen((0, counts(10, 120, 85)), (9000, counts(14, 120, 85)))
    found = server_time(level(*ANSWERS), observed)
    assert found["parts_ms"]["network"] == -22.0
    assert "network cannot be less than 0" in found["unknown"][0]


def test_what_the_server_said_of_itself():
    first = {"output_tokens": 0, "prefix_hits": 0, "prefix_queries": 0, "running": 3, "waiting": 1}
    last = {
        "output_tokens": 900,
        "prefix_hits": 30,
        "prefix_queries": 40,
        "running": 8,
        "waiting": 2,
        "front_queued": 5,
        "replicas": 2,
        "kv_usage": 0.75,
    }
    said = server_time(level(*ANSWERS), seen((0, first), (9000, last)))["said"]
    assert said["output_tokens_per_second"] == 100.0
    assert said["prefix_hit_share"] == 0.75
    assert (said["running_max"], said["queued_max"], said["kv_usage_max"]) == (8, 7, 0.75)
    assert (said["replicas_min"], said["replicas_max"]) == (2, 2)
    assert said["retries"] is None
