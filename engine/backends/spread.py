"""Pure functions over many orders: in this process where they are few, else in processes of this
machine, or as tasks of the cluster that this process is connected to.

Whoever hands functions over lets them write what they make; what comes back is small. The results
and their order are the same, wherever the functions ran.
"""

from __future__ import annotations

import os
import sys
from functools import partial

from engine.backends.processes import Spread, here, spread_over_processes


def spread_for(workers: int | None, orders: int) -> Spread:
    """Who does about `orders` pieces of work: `workers` at a time, and of None as many as there are
    processors for them. No cluster is started for it."""
    if orders < 2 or workers == 1:
        return here
    if "ray" in sys.modules:
        from engine.backends import ray_tasks

        if ray_tasks.is_connected():
            return partial(ray_tasks.spread_over_cluster, workers)
    most = min(orders, workers or len(os.sched_getaffinity(0)))
    return partial(spread_over_processes, most) if most > 1 else here
