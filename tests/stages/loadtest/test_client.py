"""The client against a real local server: what is timed, what is excluded, and what becomes of each
fault."""

import asyncio
import logging
import statistics
import time

import pytest
from doubles.fake_server import Behaviour, serve

from engine.job.spec import LoadtestSpec
from engine.stages.loadtest.arrivals import Load
from engine.stages.loadtest.client import measure
from engine.stages.loadtest.figures import figures_of
from engine.stages.loadtest.series import tpot_ms

PROMPTS = [[{"role": "user", "content": f"question {i}"}] for i in range(40)]


def spec(**fields):
    defaults = {
        "concurrency": [1],
        "seconds": 1.0,
        "warmup_seconds": 0.0,
        "timeout_s": 5.0,
        "arrivals": "constant",
    }
    return LoadtestSpec(**(defaults | fields))


def load(server, level, **fields):
    return asyncio.run(measure(server.url, "student", PROMPTS, level, spec(**fields), seed=3))


# A busy machine makes everything later, never earlier: these tests bound times from below, and from
# above by ratios only.


def test_times_are_those_of_the_server():
    with serve(lambda i: Behaviour(ttft_s=0.10, gap_s=0.05, tokens=9)) as server:
        found = load(server, Load(concurrency=2))
    assert all(
        s.status == "ok" and s.output_tokens == 9 and s.prompt_tokens == 7 for s in found.samples
    )
    assert all(
        s.ttft_ms > 99 for s in found.samples
    )  # content, not the role chunk that is sent at once
    assert statistics.median(s.ttft_ms / s.e2e_ms for s in found.samples) < 0.5
    assert statistics.median(tpot_ms(s) for s in found.samples) > 45
    assert all(s.e2e_ms == pytest.approx(s.ttft_ms + 8 * tpot_ms(s)) for s in found.samples)


def test_tokens_are_the_servers_count_not_the_chunks():
    with serve(lambda i: Behaviour(tokens=8, tokens_per_chunk=4, gap_s=0.07)) as server:
        found = load(server, Load(concurrency=1), seconds=0.3)
    assert {s.output_tokens for s in found.samples} == {8}
    assert all(tpot_ms(s) == pytest.approx((s.e2e_ms - s.ttft_ms) / 7) for s in found.samples)


def test_closed_loop_keeps_the_concurrency_and_not_more():
    with serve(lambda i: Behaviour(ttft_s=0.1, tokens=1)) as server:
        found = load(server, Load(concurrency=4))
    edges = sorted(
        [(s.sent_ms, 1) for s in found.samples]
        + [(s.intended_ms + s.e2e_ms, -1) for s in found.samples]
    )
    depth, deepest = 0, 0
    for _, change in edges:
        depth += change
        deepest = max(deepest, depth)
    assert deepest == 4
    assert 4 < len(found.samples) <= 40
    summary = figures_of(found)
    assert summary["request_throughput"] == pytest.approx(len(found.samples), abs=4.5)


def test_a_stall_is_charged_to_every_request_that_was_due_in_it():
    """Coordinated omission: a client that waits for the stalled answer would see one slow request
    instead of fourteen."""
    began = []

    def behave(index):
        began.append(time.monotonic())
        elapsed_s = time.monotonic() - began[0]
        return Behaviour(ttft_s=max(0.0, 1.5 - elapsed_s) if elapsed_s > 0.3 else 0.0, tokens=1)

    with serve(behave) as server:
        found = load(server, Load(rate=20.0), seconds=1.6)
    due = [s for s in found.samples if 790 < s.intended_ms < 1490]
    assert (len(found.samples), len(due)) == (32, 14)
    assert all(s.intended_ms + s.ttft_ms >= 1499 for s in due)


def test_latency_counts_from_the_intended_time_and_a_blocked_client_is_invalid():
    async def blocked():
        async def block():
            await asyncio.sleep(0.4)
            time.sleep(0.3)

        level = measure(server.url, "student", PROMPTS, Load(rate=50.0), spec(), seed=3)
        return (await asyncio.gather(level, block()))[0]

    with serve() as server:
        found = asyncio.run(blocked())
    late = max(found.samples, key=lambda s: s.sent_ms - s.intended_ms)
    assert late.sent_ms - late.intended_ms > 200
    assert late.ttft_ms > 200  # though the server answered at once
    summary = figures_of(found)
    assert not summary["valid"]
    assert "client sent late" in summary["invalid_reason"]


def test_warmup_is_sent_but_not_measured():
    with serve(lambda i: Behaviour(tokens=1)) as server:
        found = load(server, Load(rate=60.0), seconds=1.0, warmup_seconds=0.5)
    assert (len(found.samples), len(server.requests)) == (90, 90)
    assert sum(s.intended_ms < 0 for s in found.samples) == 30
    assert figures_of(found)["requests"] == 60


def test_the_level_says_when_it_was_measured_and_how_the_client_fared():
    before_s = time.time()
    with serve(lambda i: Behaviour(tokens=1)) as server:
        level = load(server, Load(concurrency=2), seconds=0.4, warmup_seconds=0.2)
    assert (level.kind, level.concurrency, level.rate) == ("closed", 2, None)
    assert before_s + 0.2 <= level.started_s <= time.time() - 0.4 + 0.01
    assert level.window_s == 0.4
    (watch,) = level.watches
    assert 1 <= len(watch.loop_lag_ms) <= 40
    assert 0 < watch.cpu_s / watch.window_s <= 1.1


def test_warmup_uses_other_prompts():
    with serve(lambda i: Behaviour(tokens=1)) as server:
        found = load(server, Load(concurrency=1), seconds=0.6, warmup_seconds=0.3)
    asked = [r["messages"][0]["content"] for r in server.requests]
    warm_requests = sum(s.intended_ms < 0 for s in found.samples)
    warm, timed = set(asked[:warm_requests]), set(asked[warm_requests:])
    assert warm
    assert timed
    assert not warm & timed


def test_the_same_seed_sends_the_same_prompts_at_the_same_times():
    seen = []
    for _ in range(2):
        with serve(lambda i: Behaviour(tokens=1)) as server:
            found = load(server, Load(rate=30.0), arrivals="poisson")
        seen.append(
            (
                sorted(s.intended_ms for s in found.samples),
                sorted(r["messages"][0]["content"] for r in server.requests),
            )
        )
    assert seen[0] == seen[1]


def test_a_request_is_no_line_of_the_clients_log(caplog):
    with caplog.at_level(logging.INFO), serve(lambda i: Behaviour()) as server:
        load(server, Load(concurrency=2), seconds=0.2)
    assert len(server.requests) > 2
    assert [record for record in caplog.records if "HTTP Request" in record.getMessage()] == []


def test_the_request_carries_the_jobs_knobs():
    with serve() as server:
        load(server, Load(concurrency=1), seconds=0.05, max_tokens=17, temperature=0.5)
    body = server.requests[0]
    assert (body["model"], body["max_tokens"], body["temperature"], body["stream"]) == (
        "student",
        17,
        0.5,
        True,
    )
    assert body["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (Behaviour(status=500), "http_500"),
        (Behaviour(status=429), "http_429"),
        (Behaviour(cut_after=2), "cut_stream"),
        (Behaviour(hang_after=1), "timeout"),
        (Behaviour(ttft_s=30.0), "timeout"),
        (Behaviour(usage=False), "no_usage"),
    ],
)
def test_each_fault_becomes_a_status_and_is_never_retried(fault, status):
    with serve(lambda i: fault if i == 1 else Behaviour()) as server:
        found = load(server, Load(rate=10.0), seconds=0.5, timeout_s=2.0)
    assert sorted(s.status for s in found.samples) == sorted(["ok"] * 4 + [status])
    assert len(server.requests) == 5
    broken = next(s for s in found.samples if s.status != "ok")
    assert broken.ttft_ms is None
    assert figures_of(found)["failures"] == {status: 1}


def test_an_answer_without_content_counts_to_its_finish():
    with serve(lambda i: Behaviour(tokens=0)) as server:
        found = load(server, Load(concurrency=1), seconds=0.05)
    assert all(
        s.status == "ok" and s.ttft_ms == s.e2e_ms and tpot_ms(s) is None for s in found.samples
    )


def test_a_server_that_is_not_there_is_a_failure_not_a_crash_and_is_not_hammered():
    found = asyncio.run(
        measure(
            "http://127.0.0.1:9",
            "student",
            PROMPTS,
            Load(concurrency=2),
            spec(seconds=0.5),
            seed=3,
        )
    )
    assert {s.status for s in found.samples} == {"connection"}
    assert len(found.samples) <= 12
