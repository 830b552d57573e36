"""An endpoint on this cluster for the length of a block: start it, roll new weights in, watch it,
remove it. What runs in it is in ray_serve.py."""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatus

from engine.backends.ray_cluster import nodes, require
from engine.backends.ray_serve import (
    ENGINE,
    POLL_S,
    Scaling,
    engine_application,
    front_application,
)
from engine.errors import CapacityError, StageError
from engine.machines.layout import Layout, count_that_fits, spans
from engine.serving.front import FrontSettings
from engine.serving.replica import ServedModel

UPDATE_TIMEOUT_S = 60
DELETE_MARGIN_S = 60


class Deployed:
    """What runs: for its progress, and for new weights."""

    def __init__(self, name: str, secret: str, scaling: Scaling) -> None:
        self.name = name
        self._secret = secret
        self._scaling = scaling

    @classmethod
    def running(cls, name: str, scaling: Scaling) -> Deployed:
        """What another process deployed under this name. StageError where there is none."""
        if name not in _names():
            raise StageError(f"serve: no endpoint {name} runs there any more; start it again")
        told = serve.get_app_handle(name).secret.remote().result(timeout_s=30)
        return cls(name, told, scaling)

    def prefix(self, model: str) -> str:
        """What the names of a model's applications begin with."""
        return f"{self.name}-{model}"

    def figures(self) -> list[dict[str, Any]]:
        """What each front says of itself; none of those that do not answer now."""
        try:
            answers = serve.get_app_handle(self.name).broadcast("figures")
            found = answers.results(timeout_s=10, return_exceptions=True)
        except (RayServeException, RayError, TimeoutError):  # Serve restarts it
            return []
        return [each for each in found if isinstance(each, dict)]

    def update(
        self,
        served: ServedModel,
        *,
        start_timeout_s: float,
        on_wait: Callable[[str], None] = lambda note: None,
    ) -> None:
        """Replace a model's weights: new replicas start beside the old ones, as many of them as
        there is room for, the fronts turn to them, the old ones answer what they have and leave.
        Nothing changes if the new ones do not start."""
        prefix = self.prefix(served.model.name)
        old = [name for name in _names() if name.rpartition(".")[0] == prefix]
        if not old:
            raise StageError(
                f"serve: {served.model.name} is not served by {self.name}; it serves"
                f" {', '.join(self._models())}"
            )
        newest = max(old, key=_generation_of)
        generation = 1 + _generation_of(newest)
        new = self._run_engine(served, generation, newest)
        try:
            _wait_until_running({new: f"{served.model.name}'s engine"}, start_timeout_s, on_wait)
            self._wait_until_asked(served.model.name, generation)
        except BaseException:
            self._delete([new])
            raise
        self._delete(old)

    def _models(self) -> list[str]:
        own = f"{self.name}-"
        prefixes = {name.rpartition(".")[0] for name in _names() if name.startswith(own)}
        return sorted(prefix.removeprefix(own) for prefix in prefixes)

    def _delete(self, names: list[str]) -> None:
        """All at once, and wait as long as they may answer what they have; Serve itself would give
        up after a minute."""
        for name in names:
            serve.delete(name, _blocking=False)
        deadline = time.monotonic() + self._scaling.drain_s + DELETE_MARGIN_S
        while set(names) & set(_names()) and time.monotonic() < deadline:
            time.sleep(POLL_S)

    def _run_engine(self, served: ServedModel, generation: int, old: str | None = None) -> str:
        """Start a generation, beside the application `old` where there is one."""
        layout = Layout.of(served.model.engine, served.device)
        free = nodes(served.device)
        spanning = spans(layout, free)
        scaling = self._scaling
        if old:
            fewest, most = scaling.replicas
            fewest = max(1, fewest)  # the weights are good when one has started
            wanted = max(fewest, min(most, _replicas_of(old)))
            layout = replace(layout, replicas=(fewest, most))
            initial = count_that_fits(layout, wanted, free, whole=not spanning)
            scaling = replace(scaling, initial=initial)
        app = engine_application(served, scaling, self._secret, generation, spanning=spanning)
        name = f"{self.prefix(served.model.name)}.{generation}"
        _run(app, name)
        return name

    def _wait_until_asked(self, model: str, generation: int) -> None:
        deadline = time.monotonic() + UPDATE_TIMEOUT_S
        while time.monotonic() < deadline:
            fronts = serve.get_app_handle(self.name)
            fronts.broadcast("look").results(timeout_s=30, return_exceptions=True)
            asked = [figures["models"][model]["generation"] for figures in self.figures()]
            if asked and min(asked) >= generation:
                return
            time.sleep(POLL_S)
        raise StageError(f"serve: the fronts did not turn to the new {model}; the old one stays")

    def remove(self) -> None:
        """The fronts first, so that nobody is let in while the engines leave."""
        with suppress(RayServeException, RayError):
            self._delete([self.name])
            self._delete([name for name in _names() if name.startswith(f"{self.name}-")])


@contextmanager
def deployed(
    models: Mapping[str, ServedModel],
    settings: FrontSettings,
    scaling: Scaling,
    *,
    fronts: int = 1,
    start_timeout_s: float,
    on_wait: Callable[[str], None],
) -> Generator[Deployed]:
    """Serve `models` at the settings' host and port for the length of the block.

    CapacityError if the devices or the port are not free, StageError with the engine's own words if
    it cannot start.
    """
    layouts = []
    for served in models.values():
        fewest = max(1, scaling.replicas[0])
        layout = Layout.of(served.model.engine, served.device)
        layouts.append(replace(layout, replicas=(fewest, fewest)))
    require(f"serve ({' + '.join(models)})", *layouts)
    require_free_port(settings.host, settings.port)
    secret = settings.secret or secrets.token_hex(32)
    name = f"distill-{settings.port}"
    if name in _names():
        raise CapacityError(
            f"serve: {name} runs on this cluster already; choose another port with --set"
            " serve.port=N, or give --update"
        )
    serve.start(proxy_location="Disabled")  # tokens do not pass it, and it listens without a key
    running = Deployed(name, secret, scaling)
    try:
        started = {}
        for model, served in models.items():
            started[running._run_engine(served, 1)] = f"{model}'s engine"
        lazy = tuple(models) if scaling.replicas[0] == 0 else ()
        front = front_application(
            replace(settings, secret=secret, shares_port=fronts > 1),
            {model: running.prefix(model) for model in models},
            lazy=lazy,
            fronts=fronts,
            drain_s=scaling.drain_s,
            node=ray.util.get_node_ip_address(),  # here is where the URL says that it is
        )
        _run(front, running.name)
        started[running.name] = "the front"
        _wait_until_running(started, start_timeout_s, on_wait)
        yield running
    finally:
        running.remove()
        if not _names():  # somebody else's applications stay
            serve.shutdown()


def _run(app: serve.Application, name: str) -> None:
    serve.run_many(
        [serve.RunTarget(app, name=name, route_prefix=None)],
        wait_for_applications_running=False,
    )


def _generation_of(application: str) -> int:
    return int(application.rpartition(".")[2])


def _replicas_of(application: str) -> int:
    """Of a model, that it has or that are starting."""
    states: Any = serve.status().applications[application].deployments[ENGINE].replica_states
    return states.get("RUNNING", 0) + states.get("STARTING", 0)


def _names() -> list[str]:
    return list(serve.status().applications)


def require_free_port(host: str, port: int) -> None:
    """CapacityError if something listens on the port already."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise CapacityError(
                f"serve: port {port} on {host} cannot be used ({error.strerror}); choose another"
                " with --set serve.port=N"
            ) from error


def _wait_until_running(
    started: Mapping[str, str], timeout_s: float, on_wait: Callable[[str], None]
) -> None:
    """Wait for applications; `started` says what each is for people."""
    deadline = time.monotonic() + timeout_s
    while True:
        applications = serve.status().applications
        waiting = []
        for name, shown in started.items():
            state: Any = applications.get(name)
            status = state and state.status
            if status in (ApplicationStatus.DEPLOY_FAILED, ApplicationStatus.UNHEALTHY):
                raise StageError(f"serve: an engine could not start: {_reasons(state)}")
            if status != ApplicationStatus.RUNNING:
                waiting.append(shown)
        if not waiting:
            return
        if time.monotonic() > deadline:
            raise StageError(
                f"serve: not ready after {timeout_s:g} s; raise serve.start_timeout_s, or look at"
                " `serve status`"
            )
        on_wait(f"waiting for {', '.join(waiting)}")
        time.sleep(0.5)


def _reasons(state: Any) -> str:
    """The last lines of what an application and its deployments say, each line once."""
    messages = [state.message, *(deployment.message for deployment in state.deployments.values())]
    lines: dict[str, None] = {}
    for message in filter(None, messages):
        lines |= dict.fromkeys(message.strip().splitlines()[-4:])
    return "\n".join(lines)
