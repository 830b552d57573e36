"""One placement group per replica actor, made when Ray Data asks for an actor and removed when that
actor has left for good.

Ray Data has no hook for the end of an actor, and nothing in Ray removes a group that was made for
one. So each actor gets a name, and a sweeper asks the cluster which names still live: an actor that
restarts keeps its name and its group.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from engine.backends import ray_cluster
from engine.machines.layout import SPANNING, Layout, spans

_log = logging.getLogger(__name__)

SWEEP_S = 1.0
REGISTER_S = 30.0  # Ray Data names the actor right after it asked for its arguments
PATIENCE_S = 120.0


@dataclass
class _Group:
    group: PlacementGroup
    made: float
    seen: bool = False
    homeless_since: float | None = None


class Placements:
    """The groups of one stream's replicas: `with Placements(layout) as places: rows.map_batches(…,
    ray_remote_args_fn=places.remote_args)`.

    A replica whose node left moves to free devices. Where there are none for `patience_s` while
    another replica works, its group is given up and the actor dies for good: Ray would let its work
    wait. Without devices (an API) there are no groups.
    """

    def __init__(self, layout: Layout, *, patience_s: float = PATIENCE_S) -> None:
        self._layout, self._patience_s = layout, patience_s
        self._groups: dict[str, _Group] = {}
        self._lock, self._done = threading.Lock(), threading.Event()
        self._sweeper = threading.Thread(target=self._sweep, name="placement-sweeper", daemon=True)

    def __enter__(self) -> Placements:
        self._spanning = spans(self._layout, ray_cluster.nodes(self._layout.device))
        self._sweeper.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._sweeper.join()
        for name in list(self._groups):
            self._remove(name)

    @property
    def resources(self) -> dict[str, float]:
        """What the actor itself takes of its group's first bundle; over several nodes vLLM's Ray
        executor takes all bundles."""
        held = 0 if self._spanning else self._layout.devices
        return (
            {"num_cpus": 0, "num_gpus": held}
            if self._layout.device == "gpu"
            else {"num_cpus": held}
        )

    def remote_args(self) -> dict[str, Any]:
        """Options of the next replica actor, and its group; Ray Data calls this before it starts an
        actor."""
        if not self._layout.devices:
            return self.resources
        name = f"replica-{uuid.uuid4().hex[:12]}"
        group = placement_group(
            self._layout.bundles(self._spanning), "PACK" if self._spanning else "STRICT_PACK", name
        )
        with self._lock:
            self._groups[name] = _Group(group, time.monotonic())
        return self.resources | {
            "name": name,
            "scheduling_strategy": PlacementGroupSchedulingStrategy(
                group, 0, placement_group_capture_child_tasks=True
            ),
            **({"runtime_env": {"env_vars": {SPANNING: "1"}}} if self._spanning else {}),
        }

    def _sweep(self) -> None:
        while not self._done.wait(SWEEP_S):
            now = time.monotonic()
            with self._lock:
                known = dict(self._groups)
            if not known:
                continue
            living = set(ray.util.list_named_actors())
            states = {key: row["state"] for key, row in placement_group_table().items()}
            at_work = any(states.get(item.group.id.hex()) == "CREATED" for item in known.values())
            for name, item in known.items():
                homeless = states.get(item.group.id.hex()) == "RESCHEDULING"
                item.homeless_since = (item.homeless_since or now) if homeless else None
                if name not in living and (item.seen or now - item.made > REGISTER_S):
                    self._remove(name)
                elif (
                    at_work and item.homeless_since and now - item.homeless_since > self._patience_s
                ):
                    _log.warning(
                        "%s: its node left, and for %.0f s no other has had %s; given up",
                        name,
                        self._patience_s,
                        self._layout,
                    )
                    with suppress(ValueError):  # it left by itself
                        ray.kill(
                            ray.get_actor(name)
                        )  # else it would stay "restarting" without a group
                    self._remove(name)
                item.seen = item.seen or name in living

    def _remove(self, name: str) -> None:
        with self._lock:
            item = self._groups.pop(name)
        remove_placement_group(item.group)
