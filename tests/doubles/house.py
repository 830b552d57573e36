"""A front and fake servers behind it on real sockets, in a thread with a loop of their own; no
Ray."""

import asyncio
import threading
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import httpx
import uvloop
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.serving.stand_ins import free_port
from engine.backends.fake_server import FakeServer
from engine.job.spec import EngineSpec, Model
from engine.serving.front import Front, FrontSettings
from engine.serving.pool import Address
from engine.serving.replica import Listener, ServedModel

SECRET = "only-fronts-know"


class House:
    """`front` at `url`, and the replicas that it knows; what needs the loop runs by `call`."""

    def __init__(self, settings: FrontSettings, models: tuple[str, ...]) -> None:
        self.loop = uvloop.new_event_loop()  # Ray gives it to its asynchronous actors
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self.settings = replace(settings, port=settings.port or free_port(), secret=SECRET)
        self.front: Front = self.call(self._front(models))
        self.url = f"http://{settings.host}:{self.settings.port}"
        self.replicas: dict[str, tuple[FakeServer, Listener]] = {}
        self.found: dict[str, dict[str, Address]] = {model: {} for model in models}
        self.call(self.front.start())

    async def _front(self, models: tuple[str, ...]) -> Front:
        return Front(self.settings, models)

    def call(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    def add(self, model: str, name: str, generation: int = 0, **engine: Any) -> FakeServer:
        """One replica more, which the front knows at once."""
        return self.call(self._add(model, name, generation, engine))

    def look(self, model: str) -> None:
        """The front sees who is there, as it does every second on Ray."""
        self.call(self._update(model))

    async def _add(
        self, model: str, name: str, generation: int, engine: dict[str, Any]
    ) -> FakeServer:
        options = _taken(engine, "step_s", "tokens", "faulty")
        limits = _taken(engine, "max_queued", "max_queued_tokens")
        spec = EngineSpec(engine_args=options, **engine)
        served = ServedModel(Model(model, "fake", None, spec), "cpu", kind="fake", **limits)
        server = FakeServer(served)
        await server.start()
        listener = Listener(server.app, "127.0.0.1", SECRET)
        await listener.start()
        self.replicas[name] = (server, listener)
        self.found[model][name] = Address(
            name, "127.0.0.1", listener.port, server.batch, server.cards, generation
        )
        self.front.update(model, self.found[model])
        return server

    def remove(self, model: str, name: str, *, told: bool = True) -> None:
        """A replica leaves; the front is told, or finds out."""
        del self.found[model][name]
        if told:
            self.call(self._update(model))

    async def _update(self, model: str) -> None:
        self.front.update(model, self.found[model])

    def kill(self, name: str) -> None:
        """It ends as a killed process does: all its connections break, and nobody listens."""
        self.call(self._kill(name))

    async def _kill(self, name: str) -> None:
        _, listener = self.replicas.pop(name)
        listener.stop()
        for connection in list(listener.connections):
            connection.abort()

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a sample's values on the front's page, of those with these labels."""
        page = httpx.get(f"{self.url}/metrics", timeout=30).text
        found = 0.0
        for family in text_string_to_metric_families(page):
            for sample in family.samples:
                if sample.name == name and labels.items() <= sample.labels.items():
                    found += sample.value
        return found

    def close(self) -> None:
        self.call(self.front.drain(0))
        for name in list(self.replicas):
            self.kill(name)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(5)


def _taken(engine: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: engine.pop(name) for name in names if name in engine}


def chat(text: str, model: str = "m", **more: Any) -> dict[str, Any]:
    """The body of a request."""
    return {"model": model, "messages": [{"role": "user", "content": text}], **more}
