"""A process that watches itself sees what is wrong with it, and with its clock."""

import asyncio
import time

import pytest
import uvloop

from engine.loadgen.timer import Timer
from engine.loadgen.watch import watch


def watched(wall=time.time, beside=None, seconds=0.2):
    async def run():
        with Timer() as timer:
            begin = time.perf_counter() + 0.02
            if beside:
                asyncio.get_running_loop().call_later(0.1, beside)
            return await watch(timer, 3, begin, seconds, wall)

    return uvloop.run(run())


@pytest.mark.parametrize("jump_s", [-2.0, 0.5])
def test_a_clock_that_jumps_is_seen_even_if_it_jumps_back(jump_s):
    begun = time.perf_counter()

    def wall():
        at = time.perf_counter() - begun
        return 1e9 + at + (jump_s if 0.08 < at < 0.14 else 0.0)

    # A process that is put aside between its looks at the two clocks sees them a little apart.
    assert watched(wall).clock_jump_s == pytest.approx(abs(jump_s), abs=0.2)
    assert watched().clock_jump_s < 0.2


def test_a_loop_that_is_blocked_is_late():
    found = watched(beside=lambda: time.sleep(0.15), seconds=0.4)
    assert 100 < max(found.loop_lag_ms) < 1000
    assert found.process == 3


def test_what_this_process_computes_is_its_own():
    def compute():
        until = time.process_time() + 0.2
        while time.process_time() < until:
            pass

    found = watched(beside=compute, seconds=0.5)
    assert found.cpu_s >= 0.2
    assert found.window_s > 0.4
