"""Models as applications of Ray Serve in which no token travels through Ray.

An application per model and generation of its weights: each replica runs the model's own HTTP
server (engine/serving/replica.py), and an application of fronts, which clients talk to. Ray Serve's
part is placement, restarts, health, autoscaling, and an orderly end. The fronts find a model's
replicas by its applications' names, so new weights need no restart of theirs.
"""

from __future__ import annotations

import asyncio
import importlib
import itertools
import logging
import os
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ApplicationStatus

from engine.job.spec import ServeSpec
from engine.machines.layout import SPANNING, Layout
from engine.serving.autoscale import desired_replicas
from engine.serving.front import Counters, Front, FrontSettings
from engine.serving.metrics import SCRAPE_TIMEOUT_S
from engine.serving.pool import Address
from engine.serving.replica import SERVERS, Listener, ModelServer, ServedModel

_log = logging.getLogger(__name__)

POLL_S = 1.0  # between a front's looks at a model's replicas
# Between its looks at Serve's whole state, which costs it milliseconds that requests wait; an
# update asks for one.
LIST_S = 10.0
WATCH_S = 0.2
LEAVE_POLL_S = (
    0.2  # between Serve's looks at whether a replica that leaves has calls; ours are short
)
NEW_S = 60.0  # longer than fronts take to turn to a replica
MAX_ONGOING = 1000  # calls of ours, no requests
ENGINE = "engine"  # a model's deployment within its application
NODE_SHARE = 0.001  # Ray's way to ask for a node: a crumb of the resource that bears its address


@dataclass(frozen=True)
class Scaling:
    """How many replicas a model has: between `replicas[0]` and [1], by what they have open;
    `initial` of them to begin with (none: the fewest)."""

    replicas: tuple[int, int] = (1, 1)
    initial: int | None = None
    target_open: float = 16.0
    up_s: float = 10.0
    down_s: float = 300.0
    drain_s: float = 120.0

    @classmethod
    def of(cls, spec: ServeSpec) -> Scaling:
        """As a job says it."""
        return cls(
            replicas=spec.replica_range,
            target_open=spec.target_open,
            up_s=spec.upscale_delay_s,
            down_s=spec.downscale_delay_s,
            drain_s=spec.drain_s,
        )

    def options(self) -> dict[str, Any]:
        """As Serve takes it."""
        fewest, most = self.replicas
        if fewest == most:
            return {"num_replicas": most}
        autoscaling = AutoscalingConfig(
            min_replicas=fewest,
            max_replicas=most,
            initial_replicas=self.initial,
            target_ongoing_requests=self.target_open,
            upscale_delay_s=self.up_s,
            downscale_delay_s=self.down_s,
            look_back_period_s=min(5.0, max(2.0, self.up_s)),
            metrics_interval_s=1.0,
            policy=AutoscalingPolicy(policy_function=desired_replicas),
        )
        return {"autoscaling_config": autoscaling}


class EngineReplica:
    """A deployment's replica: a model's server on an address of its own, which fronts learn from
    `address`."""

    async def __init__(
        self, served: ServedModel, secret: str, generation: int, drain_s: float
    ) -> None:
        module, name = SERVERS[served.kind].split(":")
        kind: type[ModelServer] = getattr(importlib.import_module(module), name)
        self._server = kind(served)
        self._drain_s = drain_s
        await self._server.start()
        self._listener = Listener(self._server.app, ray.util.get_node_ip_address(), secret)
        self._address = Address(
            uuid.uuid4().hex[:12],
            ray.util.get_node_ip_address(),
            self._listener.port,
            self._server.batch,
            self._server.cards,
            generation,
        )
        await self._listener.start()
        self._began = time.monotonic()
        self._watching = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        """Serve sees a dead actor at once, a sick one only at its next health checks."""
        while not self._server.has_died:
            await asyncio.sleep(WATCH_S)
        os._exit(1)

    def address(self) -> Address:
        """Where it answers."""
        return self._address

    def unfinished(self) -> int:
        """Requests that the engine has."""
        return self._server.unfinished

    def wake(self) -> None:
        """Nothing: a call that waits for a replica makes Serve start one."""

    def pid(self) -> int:
        """Its process."""
        return os.getpid()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Serve's autoscaler asks for it. A new one that nobody has asked yet says nothing: fronts
        turn to new weights when all of their replicas are there, which idle ones would prevent."""
        is_new = time.monotonic() - self._began < NEW_S
        if is_new and not self._listener.was_asked:
            return {}
        return {"open": float(self._listener.open)}

    async def check_health(self) -> None:
        """Serve asks for it, and restarts a replica that raises."""
        await self._server.check_health()
        if not self._listener.is_serving:
            raise RuntimeError("the replica's HTTP server has ended")

    async def __del__(self) -> None:
        """Serve awaits it within graceful_shutdown_timeout_s: by the second look no front sends
        here any more; then what is open is answered."""
        if not hasattr(self, "_listener"):
            return
        self._watching.cancel()
        await asyncio.sleep(3 * POLL_S)
        await self._listener.drain(self._drain_s)
        self._server.shutdown()


class FrontReplica:
    """A deployment's replica: a front that listens as soon as it knows a replica of every model.
    Models that lost theirs are not waited for: who asks for the others shall be answered."""

    async def __init__(
        self,
        settings: FrontSettings,
        applications: Mapping[str, str],
        lazy: tuple[str, ...],
        drain_s: float,
    ) -> None:
        # Serve's own file of this replica; from stderr each line would travel to the driver, too.
        logging.getLogger("engine.serving").handlers = logging.getLogger("ray.serve").handlers
        self._front = Front(settings, tuple(applications), lazy)
        self._front.on_empty = self._wake
        if settings.shares_port:
            self._front.counters_of_others = self._counters_of_others
        self._applications = dict(applications)
        self._drain_s = drain_s
        self._handles: dict[str, DeploymentHandle] = {}
        self._running: Mapping[str, list[str]] = {}  # applications by prefix
        self._starting: frozenset[str] = frozenset()  # prefixes
        self._has_looked = False
        self._listed = 0.0
        self._waking: set[asyncio.Task[Any]] = set()
        self._polling = asyncio.create_task(self._poll())
        while not self._may_listen:
            await asyncio.sleep(0.05)
        await self._front.start()

    @property
    def _may_listen(self) -> bool:
        missing = {self._applications[model] for model in self._front.missing}
        return self._has_looked and not missing & self._starting

    async def _poll(self) -> None:
        while True:
            try:
                if time.monotonic() - self._listed > LIST_S or not self._front.is_ready:
                    await self.look()
                else:
                    await self._find_replicas()
            except Exception:  # noqa: BLE001 - Serve restarts its controller; who was there still is
                _log.warning("no look at the replicas", exc_info=True)
            await asyncio.sleep(POLL_S)

    async def look(self) -> None:
        """See which applications there are, and their replicas."""
        self._running, self._starting = await asyncio.to_thread(_applications_by_prefix)
        self._listed = time.monotonic()
        alive = set(itertools.chain.from_iterable(self._running.values()))
        for name in self._handles.keys() - alive:
            del self._handles[name]
        await self._find_replicas()
        self._has_looked = True

    async def _find_replicas(self) -> None:
        for model, prefix in self._applications.items():
            found: dict[str, Address] = {}
            for name in self._running.get(prefix, ()):
                for address in await self._addresses(name):
                    found[address.id] = address
            self._front.update(model, found)

    async def _addresses(self, application: str) -> list[Address]:
        """Of its replicas that answer; Serve raises where it has none."""
        try:
            if application not in self._handles:
                self._handles[application] = serve.get_app_handle(application)
            asked = self._handles[application].broadcast("address")
            told = await asked.results_async(timeout_s=5, return_exceptions=True)
        except (RayServeException, RayError, TimeoutError):
            return []
        return [each for each in told if isinstance(each, Address)]

    def _wake(self, model: str) -> None:
        for name, handle in self._handles.items():
            if name.rpartition(".")[0] == self._applications[model]:
                task = asyncio.ensure_future(_result_of(handle.wake.remote()))
                self._waking.add(task)
                task.add_done_callback(self._waking.discard)

    def counters(self) -> Counters:
        """For the page of another front."""
        return self._front.counters()

    async def _counters_of_others(self) -> list[Counters]:
        """Of those that answer now."""
        try:
            own = serve.get_app_handle(serve.get_replica_context().app_name)
            asked = own.broadcast("counters")
            told = await asked.results_async(timeout_s=SCRAPE_TIMEOUT_S, return_exceptions=True)
        except (RayServeException, RayError, TimeoutError):
            return []
        fronts = [each for each in told if isinstance(each, tuple)]
        return [(front, text) for front, text in fronts if front != self._front.id]

    def secret(self) -> str:
        """What replicas want to hear; whoever may call this may run code here anyway."""
        return self._front.settings.secret

    def figures(self) -> dict[str, Any]:
        """How busy it is, and which weights it asks."""
        return self._front.figures() | {"pid": os.getpid()}

    async def check_health(self) -> None:
        """Serve asks for it."""
        if not self._front.is_listening:
            raise RuntimeError("the front does not listen")

    async def __del__(self) -> None:
        """Let nobody in any more, and end when what is open is answered."""
        await self._front.drain(self._drain_s)
        self._polling.cancel()


async def _result_of(response: Any) -> None:
    with suppress(Exception):
        await response


def _applications_by_prefix() -> tuple[dict[str, list[str]], frozenset[str]]:
    """Prefix -> applications that are whole, or, where there are none, those that begin: a new
    generation gets no request before all of its replicas are there. And the prefixes of which none
    was ever whole."""
    whole: dict[str, list[str]] = {}
    begun: dict[str, list[str]] = {}
    for name, state in serve.status().applications.items():
        prefix = name.rpartition(".")[0]
        if state.status in (ApplicationStatus.RUNNING, ApplicationStatus.UNHEALTHY):
            whole.setdefault(prefix, []).append(name)
        elif state.status == ApplicationStatus.DEPLOYING:
            begun.setdefault(prefix, []).append(name)
    return begun | whole, frozenset(begun.keys() - whole.keys())


def engine_application(
    served: ServedModel, scaling: Scaling, secret: str, generation: int, *, spanning: bool = False
) -> serve.Application:
    """One model, in one generation of its weights."""
    layout = Layout.of(served.model.engine, served.device)
    options: dict[str, Any] = scaling.options()
    environment = {SPANNING: "1"} if spanning else {}
    kind = {}
    if layout.accelerator_type:
        kind["resources"] = {
            name: share
            for name, share in layout.bundles(False)[0].items()
            if name != layout.resource
        }
    if spanning:
        options["placement_group_bundles"] = layout.bundles(True)
        options["placement_group_strategy"] = "PACK"
        held: dict[str, Any] = {"num_cpus": 0}
    elif served.device == "gpu":
        held = {"num_cpus": 0, "num_gpus": layout.devices} | kind
    else:
        held = {"num_cpus": layout.devices}
    kind_of: Any = serve.deployment  # its annotation is that of a decorator
    deployment = kind_of(EngineReplica).options(
        name=ENGINE,
        ray_actor_options=held | {"runtime_env": {"env_vars": environment}},
        max_ongoing_requests=MAX_ONGOING,
        graceful_shutdown_wait_loop_s=LEAVE_POLL_S,
        max_constructor_retry_count=1,  # an engine that cannot start says so within minutes
        graceful_shutdown_timeout_s=scaling.drain_s + 30,
        health_check_timeout_s=30,
        **options,
    )
    return deployment.bind(served, secret, generation, scaling.drain_s)


def front_application(
    settings: FrontSettings,
    applications: Mapping[str, str],
    *,
    lazy: tuple[str, ...] = (),
    fronts: int = 1,
    drain_s: float = 120.0,
    node: str | None = None,
) -> serve.Application:
    """Fronts for models whose applications' names begin so; all on `node`, where one is given."""
    options: dict[str, Any] = {"num_cpus": 0}
    if node:
        options["resources"] = {f"node:{node}": NODE_SHARE}
    kind_of: Any = serve.deployment
    deployment = kind_of(FrontReplica).options(
        name="front",
        num_replicas=fronts,
        ray_actor_options=options,
        max_ongoing_requests=MAX_ONGOING,
        graceful_shutdown_wait_loop_s=LEAVE_POLL_S,
        max_constructor_retry_count=1,
        graceful_shutdown_timeout_s=drain_s + 30,
    )
    return deployment.bind(settings, dict(applications), lazy, drain_s)
