"""Ray Data streams shards through a pool of replicas: what goes in are descriptors, what comes out are receipts.

A replica is an actor that holds one costly thing (an engine) and works on several shards at a time, so that the
engine's batch never drains between shards. Rows never travel through Ray: a replica writes them itself.
"""

from __future__ import annotations

import json
import pickle
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import ray
import ray.data
from ray.util.annotations import RayDeprecationWarning

from engine.backends import ray_cluster
from engine.backends.ray_placement import PATIENCE_S, Placements
from engine.errors import EngineError, StageError
from engine.layout import Layout

Receipt = dict[str, Any]
ShardWorker = Callable[[dict[str, Any]], Awaitable[Receipt]]


class _Replica:
    def __init__(self, build: Callable[[], ShardWorker], what: str) -> None:
        self._work, self._what = build(), what

    async def __call__(self, batch: dict[str, Any]) -> AsyncIterator[dict[str, list[Any]]]:
        for shard in map(json.loads, batch["shard"]):
            try:
                outcome = pickle.dumps(await self._work(shard))
            except EngineError as error:  # raised again in the driver; an error that comes through Ray is a lost replica
                outcome = pickle.dumps(error)
            except Exception as error:  # noqa: BLE001 - likewise
                outcome = pickle.dumps(StageError(f"{self._what} failed: {type(error).__name__}: {error}"))
            yield {"shard": [shard["id"]], "outcome": [outcome]}


def stream(
    shards: Sequence[dict[str, Any]], build: Callable[[], ShardWorker], *, what: str, layout: Layout, shards_in_flight: int,
    patience_s: float = PATIENCE_S,
) -> Iterator[Receipt]:
    """Yield the receipt of each shard as it finishes; `build` makes the worker inside each replica.

    Replicas are placed by `layout`; one that dies is started again and its unfinished shards run again. One whose node
    left, with no free devices elsewhere for `patience_s`, is given up, and its shards go to the others at the end.
    CapacityError if the fewest replicas do not fit; StageError with the replica's last words if it cannot be built.
    """
    left = {shard["id"]: shard for shard in shards}
    while left:
        ray_cluster.require(what, layout)
        before = len(left)
        for name, receipt in _pass(list(left.values()), build, what, layout, shards_in_flight, patience_s):
            del left[name]
            yield receipt
        if len(left) == before:
            raise StageError(f"{what} lost all its replicas and finished none of {before} shards; run the same command again")
        layout = replace(layout, replicas=(1, layout.replicas[1]))


def _pass(
    shards: list[dict[str, Any]], build: Callable[[], ShardWorker], what: str, layout: Layout, shards_in_flight: int, patience_s: float
) -> Iterator[tuple[str, Receipt]]:
    """Every shard once, without those of replicas that left for good."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = False
    context.max_errored_blocks = -1  # our own errors come as outcomes
    context.issue_detectors_config.detectors = []  # one of them asks for an actor's arguments, and so for a group, from time to time
    # One block per shard in, one small block out: nothing is split, merged or retried as a larger unit.
    rows = ray.data.from_items([{"shard": json.dumps(shard)} for shard in shards], override_num_blocks=len(shards))
    fewest, most = (min(n, len(shards)) for n in layout.replicas)
    try:
        with Placements(layout, patience_s=patience_s) as places, warnings.catch_warnings():
            # Ray 2.60 deprecates free remote arguments, but has no named one for tasks at a time per actor yet.
            warnings.simplefilter("ignore", RayDeprecationWarning)
            outcomes = rows.map_batches(
                _Replica, fn_constructor_args=(build, what), batch_size=1, zero_copy_batch=True,
                compute=ray.data.ActorPoolStrategy(min_size=fewest, max_size=most, max_tasks_in_flight_per_actor=2 * shards_in_flight),
                max_concurrency=shards_in_flight, ray_remote_args_fn=places.remote_args, **places.resources,
            )
            for row in outcomes.iter_rows():
                outcome = pickle.loads(row["outcome"])
                if isinstance(outcome, EngineError):
                    raise outcome
                yield row["shard"], outcome
    except EngineError:
        raise
    except Exception as error:
        cause = ray_cluster.root_cause(error)
        if isinstance(cause, EngineError):
            raise cause from error
        last = "\n".join(str(cause).strip().splitlines()[-8:])
        raise StageError(f"{what} failed: {type(cause).__name__}: {last}") from error
