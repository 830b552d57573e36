"""Ray Data streams shards through a pool of replicas: what goes in are descriptors, what comes out are receipts.

A replica is an actor that holds one costly thing (an engine) and works on several shards at a time, so that the
engine's batch never drains between shards. Rows never travel through Ray: a replica writes them itself.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any

import ray
import ray.data
from ray.util.annotations import RayDeprecationWarning

from engine.backends import ray_cluster
from engine.errors import EngineError, StageError

Receipt = dict[str, Any]
ShardWorker = Callable[[dict[str, Any]], Awaitable[Receipt]]


class _Replica:
    def __init__(self, build: Callable[[], ShardWorker]) -> None:
        self._work = build()

    async def __call__(self, batch: dict[str, Any]) -> AsyncIterator[dict[str, list[str]]]:
        for shard in batch["shard"]:
            yield {"receipt": [json.dumps(await self._work(json.loads(shard)))]}


def stream(
    shards: Sequence[dict[str, Any]], build: Callable[[], ShardWorker], *, what: str, replicas: int, devices: float,
    device: str, shards_in_flight: int,
) -> Iterator[Receipt]:
    """Yield the receipt of each shard as it finishes; `build` makes the worker inside each replica.

    `devices` GPUs (or CPUs, with device: cpu) are reserved per replica. StageError with the replica's own last words if
    it cannot be built or its work fails; a replica that dies is replaced, and its unfinished shards run again.
    """
    if devices:
        ray_cluster.require(what, device, replicas * int(devices), f"replicas={replicas} x tensor_parallel={int(devices)}", int(devices))
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = False
    # One block per shard in, one small block out: nothing is split, merged or retried as a larger unit.
    rows = ray.data.from_items([{"shard": json.dumps(shard)} for shard in shards], override_num_blocks=len(shards))
    resources = {"num_gpus": devices, "num_cpus": 0} if device == "gpu" else {"num_cpus": devices}
    with warnings.catch_warnings():
        # Ray 2.60 deprecates free remote arguments, but has no named one for tasks at a time per actor yet.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        receipts = rows.map_batches(
            _Replica, fn_constructor_args=(build,), batch_size=None, zero_copy_batch=True,
            compute=ray.data.ActorPoolStrategy(size=min(replicas, len(shards)), max_tasks_in_flight_per_actor=2 * shards_in_flight),
            max_concurrency=shards_in_flight, **resources,
        )
    try:
        for row in receipts.iter_rows():
            yield json.loads(row["receipt"])
    except Exception as error:
        cause = ray_cluster.root_cause(error)
        if isinstance(cause, EngineError):
            raise cause from error
        last = "\n".join(str(cause).strip().splitlines()[-8:])
        raise StageError(f"{what} failed: {type(cause).__name__}: {last}") from error
