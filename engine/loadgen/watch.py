"""A generator process watches itself: a late client makes a server look slow."""

from __future__ import annotations

import time
from collections.abc import Callable

import psutil

from engine.loadgen.samples import Watch
from engine.loadgen.timer import Timer

BEAT_S = 0.01
_BUSY = ("user", "nice", "system", "irq", "softirq", "steal")  # guests are in user and nice


async def watch(
    timer: Timer,
    process: int,
    begin: float,
    seconds: float,
    wall: Callable[[], float] = time.time,
) -> Watch:
    """How this process fares from `begin` (of time.perf_counter) on. `wall` is the clock whose
    jumps are told."""
    lag_ms: list[float] = []
    offset = wall() - time.perf_counter()
    jump_s = 0.0
    await timer.until(begin)
    busy_s, own_s = _machine_s(), time.process_time()
    started = at = time.perf_counter()
    end = begin + seconds
    while at < end or not lag_ms:
        due = min(at + BEAT_S, max(at, end))
        await timer.until(due)
        now = time.perf_counter()
        lag_ms.append(1000 * (now - due))
        jump_s = max(jump_s, abs(wall() - now - offset))
        at = now
    cpu_s = time.process_time() - own_s
    window_s = at - started
    others_s = _machine_s() - busy_s - cpu_s
    share = others_s / (window_s * (psutil.cpu_count() or 1))
    return Watch(
        process=process,
        cpu_s=cpu_s,
        window_s=window_s,
        loop_lag_ms=tuple(lag_ms),
        clock_jump_s=jump_s,
        others_cpu=min(1.0, max(0.0, share)),
    )


def _machine_s() -> float:
    """Seconds that all processors of this machine have worked."""
    times = psutil.cpu_times()
    return sum(getattr(times, name, 0.0) for name in _BUSY)  # which there are, the system decides
