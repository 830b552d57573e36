"""A generator process watches itself: a late client makes a server look slow."""

from __future__ import annotations

import time
from collections.abc import Callable

import psutil

from engine.loadgen.samples import Watch
from engine.loadgen.timer import Alarm, Timer

BEAT_S = 0.01
_IDLE = {"idle", "iowait", "guest", "guest_nice"}  # guests are in user and nice already


class _Beats:
    """How late each beat came, and how far the wall clock went from where it should be."""

    def __init__(self, begin: float, wall: Callable[[], float]) -> None:
        self._wall = wall
        self._offset = wall() - time.perf_counter()
        self._due = begin + BEAT_S
        self.lag_ms: list[float] = []
        self.jump_s = 0.0

    def beat(self) -> None:
        """One that is due; those that were missed meanwhile are not made good."""
        now = time.perf_counter()
        self.lag_ms.append(1000 * (now - self._due))
        self.jump_s = max(self.jump_s, abs(self._wall() - now - self._offset))
        while self._due <= now:
            self._due += BEAT_S


async def watch(
    timer: Timer,
    process: int,
    begin: float,
    seconds: float,
    wall: Callable[[], float] = time.time,
) -> Watch:
    """How this process fares for so many seconds from `begin` (of time.perf_counter) on. `wall` is
    the clock whose jumps are told."""
    beats = _Beats(begin, wall)
    alarm = Alarm(beats.beat)
    alarm.set(begin + BEAT_S, BEAT_S)
    try:
        await timer.until(begin)
        started, busy_s, own_s = time.perf_counter(), _machine_s(), time.process_time()
        await timer.until(begin + seconds)
        window_s = time.perf_counter() - started
        cpu_s = time.process_time() - own_s
        others_s = _machine_s() - busy_s - cpu_s
    finally:
        alarm.close()
    share = others_s / (window_s * (psutil.cpu_count() or 1))
    return Watch(
        process=process,
        cpu_s=cpu_s,
        window_s=window_s,
        loop_lag_ms=tuple(beats.lag_ms),
        clock_jump_s=beats.jump_s,
        others_cpu=min(1.0, max(0.0, share)),
    )


def _machine_s() -> float:
    """Seconds that all processors of this machine have worked."""
    times = psutil.cpu_times()._asdict()
    return sum(seconds for name, seconds in times.items() if name not in _IDLE)
