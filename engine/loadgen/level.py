"""A level, run: a plan dealt out, sent by one process or by several, and put together again."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from engine.loadgen.generator import Outcome, Tell, run_share
from engine.loadgen.local import spread_locally
from engine.loadgen.plans import Plan
from engine.loadgen.samples import Level, Sample
from engine.loadgen.shares import Schedule, Share, deal
from engine.loadgen.target import Shape, Target
from engine.rows.records import Messages

Spread = Callable[[Sequence[Share]], list[Outcome]]  # runs shares somewhere, at the same time


def run_level(
    target: Target,
    shape: Shape,
    prompts: Sequence[Messages],
    plan: Plan,
    *,
    processes: int = 1,
    spread: Spread | None = None,
    tell: Tell | None = None,
) -> Level:
    """Load a model as planned and wait for its last answer. One share runs in this process, and
    tells of itself each second; several run where `spread` puts them, by default in processes of
    this machine."""
    shares = deal(target, shape, prompts, plan, processes)
    if spread is None and len(shares) == 1:
        outcomes = [run_share(shares[0], tell=tell)]
    else:
        outcomes = (spread or spread_locally)(shares)
    return merged(plan, shares, outcomes)


def merged(plan: Plan, shares: Sequence[Share], outcomes: Sequence[Outcome]) -> Level:
    """The level that these shares were; its samples in the order in which they were meant to
    leave."""
    samples: list[Sample] = []
    for outcome in outcomes:
        samples += outcome.samples()
    samples.sort(key=lambda sample: sample.intended_ms)
    return Level(
        kind=plan.load.kind,
        concurrency=plan.concurrency,
        rate=plan.rate,
        window_s=plan.seconds,
        warmup_s=plan.warmup_s,
        started_s=outcomes[0].started_s,
        seed=plan.seed,
        scheduled=_scheduled(shares),
        samples=samples,
        watches=[outcome.watch for outcome in outcomes],
    )


def _scheduled(shares: Sequence[Share]) -> int | None:
    """Requests that are due in the window; None: nobody knows before."""
    due = 0
    for share in shares:
        if not isinstance(share.work, Schedule):
            return None
        due += int(np.count_nonzero(share.work.times_s >= 0))
    return due
