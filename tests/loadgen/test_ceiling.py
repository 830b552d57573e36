"""The client's own ceiling is measured on the spot, against a server that only streams."""

import time

import psutil
import pytest

from engine.loadgen.ceiling import ended_in, events_in, measure_ceiling
from engine.loadgen.level import run_level
from engine.loadgen.noop_server import MODEL, noop_server
from engine.loadgen.plans import Closed, Plan
from engine.loadgen.samples import Level, Sample
from engine.loadgen.target import Shape, Target

PROMPTS = [[{"role": "user", "content": "hello"}]]


def test_a_core_can_do_more_than_it_was_seen_to_do():
    found = measure_ceiling(processes=3, seconds=1.0)
    assert found.processes == 3
    assert found.requests_per_core_s > 100
    assert found.events_per_core_s > 10 * found.requests_per_core_s / 5
    assert found.events_per_core_s < 10_000_000


def test_the_server_streams_an_event_a_step_and_counts_them():
    with noop_server(step_ms=2.0) as (url, process):
        plan = Plan(Closed(3), 0.4)
        level = run_level(Target(url, MODEL), Shape(max_tokens=20), PROMPTS, plan)
        assert psutil.pid_exists(process)
    assert {sample.status for sample in level.samples} == {"ok"}
    for sample in level.samples:
        assert (sample.events, sample.output_tokens, sample.oddities) == (20, 20, "")
        assert sample.last_ms - sample.ttft_ms > 19
        assert sample.finish_reason == "length"


def test_the_server_is_gone_afterwards():
    with noop_server() as (_, process):
        pass
    deadline = time.monotonic() + 10
    while psutil.pid_exists(process) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not psutil.pid_exists(process)


def test_only_what_came_in_the_window_counts():
    samples = []
    for first_s, last_s in ((-4.0, 4.0), (1.0, 3.0), (9.0, 11.0), (11.0, 12.0), (5.0, 5.0)):
        times = {"ttft_ms": 0.0, "last_ms": 1000 * (last_s - first_s)}
        times["e2e_ms"] = times["last_ms"]
        samples.append(Sample(1000 * first_s, 1000 * first_s, "ok", events=10, **times))
    level = Level("closed", 1, None, 10.0, 5.0, 0.0, 0, None, samples, [])
    assert events_in(level) == pytest.approx(5 + 10 + 5 + 0 + 10)
    assert ended_in(level) == 3
