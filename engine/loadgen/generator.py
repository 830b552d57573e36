"""One process's share of a load, from its first request to its last answer."""

from __future__ import annotations

import asyncio
import gc
import resource
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import uvloop

from engine.loadgen.loads import LOADS
from engine.loadgen.samples import Sample, Watch
from engine.loadgen.sender import FIELDS, Progress, Sender
from engine.loadgen.shares import Share
from engine.loadgen.timer import Timer
from engine.loadgen.watch import watch

HEAD_START_S = 0.02
TELL_S = 1.0

Tell = Callable[[Progress], None]


@dataclass(frozen=True)
class Outcome:
    """What a share left behind; samples as columns, which travel well. `started_s` is the Unix time
    of the window's start, by the clock of its machine."""

    columns: Mapping[str, list[Any]]
    watch: Watch
    started_s: float

    def samples(self) -> list[Sample]:
        """The rows."""
        columns = [self.columns[name] for name in FIELDS]
        return samples_of(zip(*columns, strict=True))


def run_share(share: Share, begin_s: float | None = None, tell: Tell | None = None) -> Outcome:
    """Send a share and wait for its last answer. The load begins, with its warm-up, at `begin_s` of
    Unix time, or at once; `tell` is called each second."""
    _allow_many_connections()
    with _without_collections():
        return uvloop.run(_run(share, begin_s, tell))


def _allow_many_connections() -> None:
    """As many as this process may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        with suppress(ValueError, OSError):  # then it has what it had
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@contextmanager
def _without_collections() -> Generator[None]:
    """A garbage collection stops everything, for longer the more objects there are; what is made
    here can do without."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


async def _run(share: Share, begin_s: float | None, tell: Tell | None) -> Outcome:
    with Timer() as timer:
        sender = Sender(share, timer)
        with suppress(OSError):  # each request says so
            await sender.connections.resolve()
        # The clock starts last: what was prepared must not make the first requests late.
        if begin_s is None:
            begin_s = time.time() + HEAD_START_S
        zero = time.perf_counter() + begin_s - time.time() + share.warmup_s
        sender.open_window(zero)
        teller = asyncio.create_task(_tell_each_second(sender, tell))
        try:
            watched, _ = await asyncio.gather(
                watch(timer, share.process, zero, share.seconds),
                LOADS[type(share.work)](sender, share.work),
            )
        finally:
            teller.cancel()
            sender.connections.close()
    columns = [list(column) for column in zip(*sender.rows, strict=True)]
    columns = columns or [[] for _ in FIELDS]
    return Outcome(dict(zip(FIELDS, columns, strict=True)), watched, begin_s + share.warmup_s)


def samples_of(rows: Iterable[Sequence[Any]]) -> list[Sample]:
    """Rows of a sender."""
    return [Sample(*row) for row in rows]


async def _tell_each_second(sender: Sender, tell: Tell | None) -> None:
    if tell is None:
        return
    while True:
        await asyncio.sleep(TELL_S)
        tell(sender.progress())
