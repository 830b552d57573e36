"""Pure functions over many orders: in this process where they are few, else in processes of this
machine, or as tasks of the cluster that this process is connected to.

Whoever hands functions over lets them write what they make; what comes back is small. The results
and their order are the same, wherever the functions ran.
"""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager, nullcontext
from functools import partial

from engine.backends.processes import Processes, Spread, here


def spread_for(workers: int | None, orders: int) -> AbstractContextManager[Spread]:
    """Who does about `orders` pieces of work at a time, in this block: `workers`, and of None as
    many as there are processors for them. No cluster is started for it."""
    most = min(orders, workers or len(os.sched_getaffinity(0)))
    if orders < 2 or workers == 1:
        return nullcontext(here)
    if _is_on_cluster():
        from engine.backends.ray_tasks import spread_over_cluster

        return nullcontext(partial(spread_over_cluster, workers))
    return Processes(most) if most > 1 else nullcontext(here)


def _is_on_cluster() -> bool:
    if "ray" not in sys.modules:  # seconds to import
        return False
    from engine.backends import ray_tasks

    return ray_tasks.is_connected()
