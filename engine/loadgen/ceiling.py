"""What this client can do on this machine: events and requests per second of one processor core.

Measured by the client's own processor time against a server that only streams, not by the clock:
that server shares the machine, and so may others.
"""

from __future__ import annotations

from engine.errors import StageError
from engine.loadgen.level import run_level
from engine.loadgen.noop_server import MODEL, noop_server
from engine.loadgen.plans import Closed, Plan
from engine.loadgen.samples import Ceiling, Level
from engine.loadgen.target import Shape, Target

EVENTS = 64  # of an answer
STREAMS = 32
WARMUP_S = 0.3
_PROMPTS = [[{"role": "user", "content": "Say something. " * 8}]]


def measure_ceiling(processes: int = 1, seconds: float = 2.0) -> Ceiling:
    """Half of `seconds` with answers of 64 events, half with answers of one. All processes of a
    load are alike, so one is measured, in this process."""
    with noop_server() as (url, _):
        streamed = _run(url, EVENTS, seconds / 2)
        asked = _run(url, 1, seconds / 2)
    return Ceiling(
        events_per_core_s=events_in(streamed) / streamed.watches[0].cpu_s,
        requests_per_core_s=ended_in(asked) / asked.watches[0].cpu_s,
        processes=processes,
    )


def _run(url: str, tokens: int, seconds: float) -> Level:
    target = Target(url, MODEL)
    plan = Plan(Closed(STREAMS), seconds, WARMUP_S)
    level = run_level(target, Shape(max_tokens=tokens, timeout_s=30), _PROMPTS, plan)
    failed = [sample for sample in level.samples if sample.status != "ok"]
    if failed or not level.samples:
        words = failed[0].error if failed else "no request was answered"
        raise StageError(f"loadtest: the client's own ceiling cannot be measured: {words}")
    return level


def events_in(level: Level) -> float:
    """Events with text that came within the window, as if those of an answer had come evenly."""
    window_ms = 1000 * level.window_s
    found = 0.0
    for sample in level.samples:
        first, last = sample.ttft_ms or 0.0, sample.last_ms or 0.0
        begin, end = sample.intended_ms + first, sample.intended_ms + last
        inside = max(0.0, min(end, window_ms) - max(begin, 0.0))
        share = inside / (end - begin) if end > begin else float(0 <= end < window_ms)
        found += sample.events * share
    return found


def ended_in(level: Level) -> int:
    """Answers that ended within the window."""
    window_ms = 1000 * level.window_s
    ended = 0
    for sample in level.samples:
        ended += 0 <= sample.intended_ms + (sample.e2e_ms or 0.0) < window_ms
    return ended
