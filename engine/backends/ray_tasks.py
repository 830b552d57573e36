"""Pure functions over many orders as tasks of a Ray cluster: a task that dies with its node runs
again elsewhere, so each must be one that may run twice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import ray

from engine.backends import ray_cluster
from engine.backends.processes import AHEAD, a_few_ahead
from engine.errors import EngineError, StageError

_RETRIES = 3


def is_connected() -> bool:
    """Whether this process has joined or started a cluster."""
    return ray.is_initialized()


def spread_over_cluster(
    most: int | None, work: Callable[[Any], Any], orders: Iterable[Any]
) -> Iterator[Any]:
    """The result of each order, in order; at most `most` at a time. What a function raises is
    raised here."""
    # Given once: an index that all tasks read is not sent with each of them.
    shared = ray.put(work)
    task = ray.remote(num_cpus=1, max_retries=_RETRIES, scheduling_strategy="SPREAD")(_do)
    in_flight = AHEAD * int(ray.cluster_resources().get("CPU", 1))
    if most is not None:
        in_flight = min(in_flight, most)
    start = partial(task.remote, shared)
    for reference in a_few_ahead(start, orders, in_flight):
        yield _result(reference)


def _do(work: Callable[[Any], Any], order: Any) -> Any:
    return work(order)


def _result(reference: Any) -> Any:
    try:
        return ray.get(reference)
    except EngineError:
        raise
    except Exception as error:
        cause = ray_cluster.root_cause(error)
        if isinstance(cause, EngineError):
            raise type(cause)(str(cause)) from error
        raise StageError(
            f"a task of the cluster failed: {type(cause).__name__}: {cause}"
        ) from error
