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
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError
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

    @property
    def key(self) -> str:
        """Its name in Ray's table."""
        return self.group.id.hex()


class Placements:
    """The groups of one stream's replicas: `with Placements(layout, started) as places:
    rows.map_batches(…, ray_remote_args_fn=places.remote_args)`.

    A replica whose node left moves to free devices. Where there are none for `patience_s` while
    another replica works, its group is given up and the actor dies for good: Ray would let its work
    wait. One that is not among `started()` (names of actors) has no work, and waits for a node at
    nobody's cost: the death of an actor that never began would end the whole stream. Without
    devices (an API) there are no groups.
    """

    def __init__(
        self,
        layout: Layout,
        started: Callable[[], Collection[str]],
        *,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._layout = layout
        self._started = started
        self._patience_s = patience_s
        self._groups: dict[str, _Group] = {}
        self._lock = threading.Lock()
        self._done = threading.Event()
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
        if self._layout.device == "gpu":
            return {"num_cpus": 0, "num_gpus": held}
        return {"num_cpus": held}

    def remote_args(self) -> dict[str, Any]:
        """Options of the next replica actor, and its group; Ray Data calls this before it starts an
        actor."""
        if not self._layout.devices:
            return self.resources
        name = f"replica-{uuid.uuid4().hex[:12]}"
        strategy = "PACK" if self._spanning else "STRICT_PACK"
        group = placement_group(self._layout.bundles(self._spanning), strategy, name)
        with self._lock:
            self._groups[name] = _Group(group, time.monotonic())
        options: dict[str, Any] = {
            **self.resources,
            "name": name,
            "scheduling_strategy": PlacementGroupSchedulingStrategy(
                group, 0, placement_group_capture_child_tasks=True
            ),
        }
        if self._spanning:
            options["runtime_env"] = {"env_vars": {SPANNING: "1"}}
        return options

    def _sweep(self) -> None:
        while not self._done.wait(SWEEP_S):
            with self._lock:
                known = dict(self._groups)
            if not known:
                continue
            try:
                self._look_at(known)
            except RayError as error:  # a lost connection must not end the look after the others
                _log.warning("no look at groups: %s: %s", type(error).__name__, error)

    def _look_at(self, groups: dict[str, _Group]) -> None:
        now = time.monotonic()
        living = set(ray.util.list_named_actors())
        states = {key: row["state"] for key, row in placement_group_table().items()}
        # With no replica at work there is nobody whom the work could go to: all wait for a node.
        at_work = any(states.get(item.key) == "CREATED" for item in groups.values())
        for name, item in groups.items():
            if states.get(item.key) != "RESCHEDULING":
                item.homeless_since = None
            elif item.homeless_since is None:
                item.homeless_since = now
            homeless_s = now - (item.homeless_since or now)
            # An actor that Ray has not named yet is not one that left.
            if name not in living and (item.seen or now - item.made > REGISTER_S):
                self._remove(name)
            elif at_work and homeless_s > self._patience_s and name in self._started():
                self._give_up(name)
            item.seen = item.seen or name in living

    def _give_up(self, name: str) -> None:
        _log.warning(
            "%s: its node left, and for %.0f s no other has had %s; given up",
            name,
            self._patience_s,
            self._layout,
        )
        with suppress(ValueError):  # it left by itself
            ray.kill(ray.get_actor(name))  # else it would stay "restarting" without a group
        self._remove(name)

    def _remove(self, name: str) -> None:
        with self._lock:
            item = self._groups.pop(name)
        remove_placement_group(item.group)
