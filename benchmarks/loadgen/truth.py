"""Are the figures true? Those of a level against the log of the server that it loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.loadgen.known_server import MODEL, Done, known_server, load_log
from benchmarks.loadgen.part import Settings
from benchmarks.result import Found, bounded
from engine.loadgen.level import run_level
from engine.loadgen.plans import Open, Plan
from engine.loadgen.samples import Level
from engine.loadgen.target import Shape, Target
from engine.stages.loadtest.figures import figures_of, percentiles

RATE_RPS, SECONDS, WARMUP_S = 40.0, 20.0, 2.0
STALL_AT_S, STALL_S = 6.0, 5.0
WITHIN = 0.02
LATENCIES = ("ttft_ms", "tpot_ms", "e2e_ms")


def unequal(settings: Settings, work: Path, seconds: float = SECONDS) -> Found:
    """Unequal latencies in bursts: percentiles and rates within 2 % of the server's own."""
    level, log = _run(work / "unequal.jsonl", seconds)
    found = figures_of(level)
    expected = truth_of(level, log)
    ratios = {}
    for name in (*LATENCIES, "served_rps", "output_tokens_per_second"):
        off = largest_error(found[name], expected[name])
        ratios[f"truth_{name}_off"] = bounded(round(off, 5), "<=", WITHIN)
    return ratios, {"truth": {"found": _short(found), "expected": expected}}


def stall(settings: Settings, work: Path, seconds: float = SECONDS) -> Found:
    """A server that sleeps for 5 s: p99 is that of the intended schedule, which the server itself,
    asleep, did not see."""
    arguments = ("--stall-at", str(WARMUP_S + STALL_AT_S), "--stall-s", str(STALL_S))
    level, log = _run(work / "stall.jsonl", seconds, *arguments)
    found = figures_of(level)
    expected = truth_of(level, log)
    own = percentiles([1000 * (done.first_s - done.read_s) for done in log])
    ratios = {
        "stall_ttft_p99_off": bounded(
            round(largest_error(found["ttft_ms"]["p99"], expected["ttft_ms"]["p99"]), 5),
            "<=",
            WITHIN,
        ),
        "stall_ttft_p99_ms": bounded(found["ttft_ms"]["p99"] or 0.0, ">=", 600 * STALL_S),
    }
    raw = {"found": _short(found), "expected": expected, "from_reading_on": own}
    return ratios, {"stall": raw}


def _run(log: Path, seconds: float, *arguments: str) -> tuple[Level, list[Done]]:
    """Each request with a prompt of its own, so that it is found again in the log."""
    plan = Plan(Open(RATE_RPS), seconds, WARMUP_S, seed=11)
    most = int(3 * RATE_RPS * (seconds + WARMUP_S))
    prompts = [[{"role": "user", "content": f"request {number}"}] for number in range(most)]
    with known_server(log, *arguments) as url:
        level = run_level(Target(url, MODEL), Shape(max_tokens=64, timeout_s=60), prompts, plan)
    return level, load_log(log)


def truth_of(level: Level, log: list[Done]) -> dict[str, Any]:
    """What the server's log says of the level's window, from the moments at which its requests were
    meant to leave. RuntimeError unless each request is in it once."""
    told = {done.prompt: done for done in log}
    if len(told) != len(log) or len(log) != len(level.samples):
        raise RuntimeError(f"{len(level.samples)} requests were sent, {len(log)} are in the log")
    latencies: dict[str, list[float]] = {name: [] for name in LATENCIES}
    for sample in level.samples:
        done = told[f"request {sample.prompt}"]
        if not 0 <= sample.intended_ms < 1000 * level.window_s:
            continue
        intended_s = level.started_s + sample.intended_ms / 1000
        latencies["ttft_ms"].append(1000 * (done.first_s - intended_s))
        latencies["e2e_ms"].append(1000 * (done.end_s - intended_s))
        if done.tokens > 1:
            took_s = done.last_s - done.first_s
            latencies["tpot_ms"].append(1000 * took_s / (done.tokens - 1))
    expected: dict[str, Any] = {name: percentiles(found) for name, found in latencies.items()}
    return expected | _rates(level, log)


def _rates(level: Level, log: list[Done]) -> dict[str, float]:
    end_s = level.started_s + level.window_s
    answers = 0
    tokens = 0.0
    for done in log:
        answers += level.started_s <= done.end_s < end_s
        inside_s = min(done.last_s, end_s) - max(done.first_s, level.started_s)
        tokens += done.tokens * max(0.0, inside_s) / max(done.last_s - done.first_s, 1e-9)
    return {
        "served_rps": answers / level.window_s,
        "output_tokens_per_second": tokens / level.window_s,
    }


def largest_error(found: Any, expected: Any) -> float:
    """Relative; of percentiles the largest. What is infinite or unknown on one side is off by
    all."""
    if isinstance(found, dict):
        return max(largest_error(found[name], expected[name]) for name in expected)
    if found is None or not expected:
        return 1.0
    return float(np.abs(found / expected - 1))


def _short(figures: dict[str, Any]) -> dict[str, Any]:
    wanted = (*LATENCIES, "served_rps", "output_tokens_per_second", "verdict", "verdict_reason")
    return {name: figures[name] for name in (*wanted, "requests", "failures", "client")}
