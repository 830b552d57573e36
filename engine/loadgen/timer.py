"""A timer that is right to some ten microseconds. An event loop's own has a grain of a millisecond,
which would be the error of each latency."""

from __future__ import annotations

import asyncio
import ctypes
import heapq
import itertools
import math
import os
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

_CLOCK_MONOTONIC = 1  # that of time.perf_counter
_ABSOLUTE = 1
_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC


class _Spec(ctypes.Structure):
    """struct itimerspec of timerfd_settime(2)."""

    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("at_s", ctypes.c_long),
        ("at_ns", ctypes.c_long),
    )


class Alarm:
    """Calls a function of the running loop at moments of time.perf_counter(), until it is
    closed."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = self._libc.timerfd_create(_CLOCK_MONOTONIC, _FLAGS)
        if self._descriptor < 0:
            raise OSError(ctypes.get_errno(), "no timer")
        self._ring = ring
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._descriptor, self._rung)

    def set(self, at: float, every_s: float = 0.0) -> None:
        """Ring at that moment, and then so often; what was set before is forgotten."""
        spec = _Spec(*_split(every_s), *_split(at))
        if self._libc.timerfd_settime(self._descriptor, _ABSOLUTE, ctypes.byref(spec), None):
            raise OSError(ctypes.get_errno(), "the timer cannot be set")

    def close(self) -> None:
        """Ring no more."""
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)

    def _rung(self) -> None:
        with suppress(BlockingIOError):  # it was set anew since it rang
            os.read(self._descriptor, 8)
            self._ring()


def _split(seconds: float) -> tuple[int, int]:
    """Whole seconds, and nanoseconds."""
    return divmod(math.ceil(seconds * 1e9), 1_000_000_000)


class Timer:
    """Calls functions and wakes coroutines of the running loop at moments of time.perf_counter().
    For the length of a `with` block; outside of it nothing is ever due.

    A loop that has much to read comes to a timer only after all of it. Who reads the clock anyway
    may look at `due`, and ring."""

    due = math.inf  # the moment of the next call

    def __enter__(self) -> Timer:
        self._alarm = Alarm(self.ring)
        self._loop = asyncio.get_running_loop()
        self._waiting: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()  # functions do not compare
        return self

    def __exit__(self, *error: object) -> None:
        self._alarm.close()
        self.due = math.inf

    def call_at(self, at: float, function: Callable[[], None]) -> None:
        """At that moment; soon, where it has passed. It must not raise."""
        heapq.heappush(self._waiting, (at, next(self._numbers), function))
        self._set()

    async def until(self, at: float) -> None:
        """Return at that moment; one that has passed gives others a turn."""
        if at <= time.perf_counter():
            await asyncio.sleep(0)
            return
        future = self._loop.create_future()
        self.call_at(at, partial(_wake, future))
        await future

    def ring(self) -> None:
        """Make the calls that are due."""
        now = time.perf_counter()
        self.due = math.inf  # a call may ask for another one
        while self._waiting and self._waiting[0][0] <= now:
            *_, function = heapq.heappop(self._waiting)
            function()
        if self._waiting:
            self._set()

    def _set(self) -> None:
        first, *_ = self._waiting[0]
        if first < self.due:
            self.due = first
            self._alarm.set(first)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():  # else it was cancelled
        future.set_result(None)
