"""The other end of a front's connection: a model's server in a replica's process, on an address of
its own, that only those who know the application's secret may talk to."""

from __future__ import annotations

import asyncio
import hmac
import socket
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from engine.job.spec import Model

CLOSE_S = 5.0
KEEP_ALIVE_S = 3600  # longer than a front keeps what it does not use
SERVERS = {
    "vllm": "engine.backends.vllm_server:VllmServer",
    "fake": "engine.backends.fake_server:FakeServer",
}


@dataclass(frozen=True)
class ServedModel:
    """What a replica serves: a model by its name, adapters on it by theirs (folders), and further
    arguments of its server. Its engine answers 503 beyond the limits; none: it has none."""

    model: Model
    device: str
    adapters: Mapping[str, str] = field(default_factory=dict)
    server_args: Mapping[str, Any] = field(default_factory=dict)
    max_queued: int | None = None  # sequences that its engine takes beyond those that it decodes
    max_queued_tokens: int | None = None  # of prompts that have no first token yet
    kind: str = "vllm"


class ModelServer(ABC):
    """A model behind an ASGI application in this process."""

    app: Any  # ASGI 3
    batch: int  # sequences that the engine decodes at a time
    cards: tuple[
        tuple[str, int | None], ...
    ]  # (name, context length) of the model and its adapters

    @abstractmethod
    def __init__(self, served: ServedModel) -> None:
        """Load nothing yet."""

    @abstractmethod
    async def start(self) -> None:
        """Load the model; StageError with the engine's own words where it cannot."""

    def attach(self, server: Any) -> None:
        """Hear which HTTP server runs the application."""
        self.http_server = server

    @property
    @abstractmethod
    def unfinished(self) -> int:
        """Requests that the engine has."""

    @property
    @abstractmethod
    def has_died(self) -> bool:
        """Whether it will never answer again."""

    @abstractmethod
    async def check_health(self) -> None:
        """Raise if it does not answer."""

    @abstractmethod
    def shutdown(self) -> None:
        """Free what it holds."""


class Listener:
    """Serves an application at `host` and a port that is free, behind `secret`."""

    def __init__(self, app: Any, host: str, secret: str) -> None:
        import uvicorn

        self._app = app
        self._expected = f"Bearer {secret}".encode()
        self.open = 0
        self.was_asked = False  # ever
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(family)
        self._socket.bind((host, 0))
        self.port: int = self._socket.getsockname()[1]
        config = uvicorn.Config(
            self._guarded,
            loop="none",
            lifespan="off",
            interface="asgi3",  # uvicorn takes a bound method for ASGI 2
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
        )
        self.server = uvicorn.Server(config)
        self._serving: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Listen, until stop()."""
        self._serving = asyncio.create_task(self.server.serve(sockets=[self._socket]))

    @property
    def is_serving(self) -> bool:
        """Whether it still listens."""
        return self._serving is not None and not self._serving.done()

    async def _guarded(self, scope: Any, receive: Any, send: Any) -> None:
        headers = dict(scope.get("headers", ()))
        given = headers.get(b"authorization", b"")
        if scope["type"] != "http" or not hmac.compare_digest(given, self._expected):
            await send({"type": "http.response.start", "status": 401, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        counts = scope["method"] == "POST"
        self.open += counts
        self.was_asked |= counts
        try:
            await self._app(scope, receive, send)
        finally:
            self.open -= counts

    async def drain(self, within_s: float) -> None:
        """Wait until what is open is answered, and stop."""
        deadline = asyncio.get_running_loop().time() + within_s
        while self.open and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.05)
        self.server.should_exit = True
        if self._serving:
            await asyncio.wait([self._serving], timeout=CLOSE_S)
