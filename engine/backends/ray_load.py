"""Shares of a load on the nodes of a cluster: where one process is not enough, or too near to the
server."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import RayError

from engine.errors import StageError
from engine.loadgen.generator import Outcome, run_share
from engine.loadgen.shares import Share

HEAD_START_S = 0.5  # from the word that all are ready to the first request
CLOCK_LOOKS = 7


class _Sender:
    """A share in an actor."""

    _share: Share

    def prepare(self, share: Share) -> None:
        """Take a share. It holds a key, and what an actor is made with is kept by the head."""
        self._share = share

    def clock_s(self) -> float:
        """Unix time on this node."""
        return time.time()

    def run(self, begin_s: float) -> Outcome:
        """Send it from that time on, by this node's clock."""
        return run_share(self._share, begin_s)


def spread_over_cluster(shares: Sequence[Share]) -> list[Outcome]:
    """What each share left behind, in an actor of its own, on as many nodes as there are. All begin
    at one moment, whatever their clocks say. StageError if one is lost."""
    actor = ray.remote(num_cpus=0, max_restarts=0, scheduling_strategy="SPREAD")(_Sender)
    senders: list[Any] = [actor.remote() for _ in shares]
    try:
        ray.get(
            [sender.prepare.remote(share) for sender, share in zip(senders, shares, strict=True)]
        )
        ahead_s = [_ahead_s(sender) for sender in senders]
        begin_s = time.time() + HEAD_START_S
        running = []
        for sender, ahead in zip(senders, ahead_s, strict=True):
            running.append(sender.run.remote(begin_s + ahead))
        outcomes: list[Outcome] = ray.get(running)
    except RayError as error:
        raise StageError(f"loadtest: an actor that makes load was lost: {error}") from error
    finally:
        for sender in senders:
            ray.kill(sender)
    here = []
    for outcome, ahead in zip(outcomes, ahead_s, strict=True):
        here.append(replace(outcome, started_s=outcome.started_s - ahead))
    return here


def _ahead_s(sender: Any) -> float:
    """How far a node's clock is ahead of this one's, from the look that came back soonest: half of
    its way is the error."""
    looks = []
    for _ in range(CLOCK_LOOKS):
        before = time.time()
        there = ray.get(sender.clock_s.remote())
        after = time.time()
        looks.append((after - before, there - (before + after) / 2))
    _, ahead = min(looks)
    return ahead
