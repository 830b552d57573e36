"""The other end of a front's connection: a model's server in a replica's process, on an address of
its own, that only those who know the application's secret may talk to."""

from __future__ import annotations

import asyncio
import socket
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from engine.job.spec import Model
from engine.serving.front_connection import FrontConnection

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
    compiled: bool = False  # on a CPU, for who serves longer than that takes


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
    """Answers fronts at `host` and a port that is free, if they know `secret`."""

    def __init__(self, app: Any, host: str, secret: str) -> None:
        self.app = app
        self.expected = secret.encode()
        self.connections: set[FrontConnection] = set()
        self.was_asked = False  # ever
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(family)
        self._socket.bind((host, 0))
        self.port: int = self._socket.getsockname()[1]
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen, until stop()."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: FrontConnection(self), sock=self._socket)

    @property
    def is_serving(self) -> bool:
        """Whether it still listens."""
        return self._server is not None and self._server.is_serving()

    @property
    def open(self) -> int:
        """Requests under way."""
        return sum(connection.open for connection in self.connections)

    async def drain(self, within_s: float) -> None:
        """Wait until what is open is answered, and stop."""
        deadline = asyncio.get_running_loop().time() + within_s
        while self.open and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.05)
        self.stop()
        for connection in list(self.connections):
            connection.close()

    def stop(self) -> None:
        """Let no further front in."""
        if self._server:
            self._server.close()
