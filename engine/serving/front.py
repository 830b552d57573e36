"""The front: what clients talk to. It admits, refuses, chooses a replica, and hands bytes on.

Written by hand because what is on the market does not fit: tokens through Serve's own proxy cost
several hundred microseconds each, and Serve's HAProxy binds further ports on all addresses without
a key, cannot route by model and answers health checks before any guard (measured in
benchmarks/serving). The parsing of HTTP is llhttp's, by httptools.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import resource
import ssl
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from engine.serving import replies
from engine.serving.client_connection import ClientConnection, Request
from engine.serving.connections import Connections, most_connections
from engine.serving.exchange import Exchange
from engine.serving.keys import Keys
from engine.serving.limits import Limits
from engine.serving.link import Asked
from engine.serving.metrics import CONTENT_TYPE, FrontMetrics
from engine.serving.pool import Address, Pool, Replica, Routing
from engine.serving.replies import Refusal
from engine.serving.tls_server import TlsServer

HEALTH = ("/health", "/-/healthz")
BACKLOG = 4096
_log = logging.getLogger(__name__)
# What of a client's headers a replica gets to see; its key is not among them.
_PASSED = (b"x-request-id", b"traceparent", b"tracestate")
_LONE_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_OUTSIDE_V1 = {"/tokenize", "/detokenize", "/score", "/rerank", "/classify", "/pooling"}


Counters = tuple[str, str]  # a front's id, and Prometheus' text


@dataclass(frozen=True)
class FrontSettings:
    """What a front must know; picklable."""

    host: str
    port: int
    keys: Keys = field(default_factory=Keys)
    secret: str = ""  # the bearer key that replicas want
    max_queued: int = 512  # requests beyond what the engines batch
    routing: Routing = "least_open"
    limits: Limits = field(default_factory=Limits)
    wait_s: float = 60.0  # for a replica, where there is none
    open_health: bool = False
    cors_origins: tuple[str, ...] = ()
    tls_cert: str | None = None
    tls_key: str | None = None
    shares_port: bool = False  # with other fronts


class Front:
    """Listens at host:port from start() on, and serves the models of `names`."""

    def __init__(
        self, settings: FrontSettings, names: tuple[str, ...], lazy: tuple[str, ...] = ()
    ) -> None:
        self.settings = settings
        self.id = uuid.uuid4().hex[:12]
        self.limits = settings.limits
        self._lazy = lazy  # models that may have no replica: they start when they are asked for
        self.on_empty: Callable[[str], None] = lambda model: None  # one of them is asked for
        # What the others on this port counted, by their ids: a scrape meets one of all.
        self.counters_of_others: Callable[[], Awaitable[list[Counters]]] = _no_others
        self.pools: dict[str, Pool] = {}
        for name in names:
            pool = Pool(name, settings.max_queued, settings.routing, settings.secret)
            pool.on_empty = self._wake
            self.pools[name] = pool
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.clients = Connections(most_connections(settings.limits.max_connections, files))
        self.metrics = FrontMetrics(self.pools.values(), self.clients)
        self.is_draining = False
        self._scrapes: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | TlsServer | None = None
        self._log_access()

    @staticmethod
    def _log_access() -> None:
        log = logging.getLogger("engine.serving")
        log.setLevel(logging.INFO)
        if not log.handlers:
            log.addHandler(logging.StreamHandler())

    async def start(self) -> None:
        """Listen. OSError if the port is taken by somebody who does not share it."""
        settings = self.settings
        if settings.tls_cert:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(settings.tls_cert, settings.tls_key)
            self._server = TlsServer(
                lambda: ClientConnection(self),
                context,
                handshake_timeout_s=settings.limits.header_timeout_s,
                most=self.clients.most,
            )
            await self._server.start(
                settings.host, settings.port, shares_port=settings.shares_port, backlog=BACKLOG
            )
            return
        self._server = await asyncio.get_running_loop().create_server(
            lambda: ClientConnection(self),
            settings.host,
            settings.port,
            reuse_port=settings.shares_port,
            backlog=BACKLOG,
        )

    @property
    def is_listening(self) -> bool:
        """Whether clients can come."""
        return self._server is not None and self._server.is_serving()

    @property
    def missing(self) -> list[str]:
        """Models that have no replica and should."""
        pools = self.pools.items()
        return [name for name, pool in pools if not (pool.replicas or name in self._lazy)]

    @property
    def is_ready(self) -> bool:
        """Whether every model has a replica."""
        return not self.missing

    def _wake(self, model: str) -> None:
        self.on_empty(model)

    def figures(self) -> dict[str, Any]:
        """How busy it is, by model."""
        models = {}
        for name, pool in self.pools.items():
            models[name] = {
                "open": pool.open,
                "waiting": len(pool.waiting),
                "replicas": len(pool.replicas),
                "generation": pool.generation,
            }
        return {"answered": self.metrics.answered, "models": models}

    @property
    def open(self) -> int:
        """Requests under way."""
        return sum(pool.open for pool in self.pools.values())

    def update(self, model: str, found: Mapping[str, Address]) -> None:
        """These replicas of the model run now; who waits for one is served."""
        pool = self.pools[model]
        for left in pool.update(found):
            left.leave()
        if pool.replicas:
            waiting = list(pool.waiting)
            pool.waiting.clear()
            for exchange in waiting:
                exchange.resume()

    def let_in(self, client: ClientConnection) -> bool:
        """Whether there is room for one more."""
        has_room = self.clients.let_in(client)
        if not has_room:
            self.metrics.turned_away.inc()
        return has_room

    async def drain(self, within_s: float) -> None:
        """Let nobody in any more, and wait until what is open is answered."""
        if self._server:
            self._server.close()
        self.is_draining = True
        for client in list(self.clients):
            if client.is_idle:
                client.leave()
        deadline = asyncio.get_running_loop().time() + within_s
        # Clients too: what was written to them is not read yet.
        while self.clients and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.05)
        for client in list(self.clients):
            client.abort()

    def turns_away(self, request: Request) -> tuple[int, str] | None:
        """(HTTP status, why) of who may not come in, by the head alone."""
        if request.method == "HEAD":
            return 405, "HEAD is not a method of this endpoint"
        if _is_preflight(request):
            return None
        if request.path in HEALTH and self.settings.open_health:
            return None
        name = self.settings.keys.name_of(request.headers.get(b"authorization", b""))
        if name is None:
            return 401, "missing or wrong API key"
        request.key = name
        return None

    def answer(self, request: Request, client: ClientConnection) -> Exchange | None:
        """Answer it here, or give the exchange that will."""
        try:
            if _is_preflight(request):
                client.write(replies.reply(204, headers=self._preflight(request)))
                client.done()
                return None
            if request.path == "/metrics" and request.method == "GET":
                self._scrape(client)
                return None
            if request.method == "POST":
                return self._exchange(request, client)
            client.write(self._local(request))
        except Refusal as refused:
            headers = self._cors(request)
            client.write(
                replies.refusal(refused.status, str(refused), refused.code, headers=headers)
            )
        client.done()
        return None

    def _local(self, request: Request) -> bytes:
        """What the front knows itself."""
        path = request.path
        head = self._cors(request)
        if request.method != "GET":
            raise Refusal(405, f"{request.method} is not a method of this endpoint")
        if path in HEALTH:
            if not self.is_ready:
                raise Refusal(503, "not every model has a replica yet")
            return replies.reply(200, b'{"status": "ok"}', headers=head)
        cards = {}
        for card in self._cards():
            cards[card["id"]] = card
        if path == "/v1/models":
            listed = {"object": "list", "data": [*cards.values()]}
            return replies.reply(200, json.dumps(listed).encode(), headers=head)
        name = path.removeprefix("/v1/models/")
        if name in cards and name != path:
            return replies.reply(200, json.dumps(cards[name]).encode(), headers=head)
        raise Refusal(404, f"there is no {request.method} {path} here")

    def _cards(self) -> list[dict[str, Any]]:
        cards = []
        for pool in self.pools.values():
            for name, length in pool.cards:
                card = {"id": name, "object": "model", "created": 0, "owned_by": "distill"}
                parent = None if name == pool.name else pool.name
                cards.append(card | {"max_model_len": length, "parent": parent})
        return cards

    def _exchange(self, request: Request, client: ClientConnection) -> Exchange:
        path = request.path
        if not (path.startswith("/v1/") or path in _OUTSIDE_V1):
            raise Refusal(404, f"there is no POST {path} here")
        kind = request.headers.get(b"content-type", b"application/json")
        if kind.partition(b";")[0].strip().lower() != b"application/json":
            raise Refusal(415, "the content type must be application/json")
        pool = self._pool_of(request.body)
        if pool.replicas and pool.open >= pool.limit:
            self.metrics.ended(pool.name, "refused", 429, e2e_s=0.0, ttft_s=None)
            raise Refusal(429, f"{pool.name} has as many requests as it can hold; try again")
        if not pool.replicas and len(pool.waiting) >= max(1, self.settings.max_queued):
            self.metrics.ended(pool.name, "refused", 503, e2e_s=0.0, ttft_s=None)
            raise Refusal(503, f"no replica of {pool.name} is ready; try again")
        extra = self._cors(request)
        if not request.keep_alive:
            extra["connection"] = "close"
        return Exchange(
            pool,
            client,
            self._forwarded(request),
            pool.blocks_of(request.body),
            wait_s=self.settings.wait_s,
            metrics=self.metrics,
            extra_head="".join(f"{name}: {value}\r\n" for name, value in extra.items()).encode(),
        )

    def _pool_of(self, body: bytes) -> Pool:
        try:
            content = json.loads(body.decode())  # of bytes it would guess, and let surrogates pass
        except UnicodeDecodeError:
            raise Refusal(400, "the body is not UTF-8") from None
        except (ValueError, RecursionError):
            raise Refusal(400, "the body is not JSON") from None
        if not isinstance(content, dict):
            raise Refusal(400, "the body must be a JSON object")
        if _LONE_SURROGATE.search(body) and not _is_text(content):
            raise Refusal(400, "the body holds half of a surrogate pair, which is no character")
        name = content.get("model")
        if name is None and len(self.pools) == 1:
            return next(iter(self.pools.values()))
        for pool in self.pools.values():
            if name in pool.names or name == pool.name:
                return pool
        if not isinstance(name, str):
            raise Refusal(400, f"`model` must be one of {', '.join(self._names())}")
        shown = name if len(name) <= 100 else name[:100] + "…"
        raise Refusal(
            404,
            f"the model {shown!r} does not exist; there is {', '.join(self._names())}",
            "model_not_found",
        )

    def _names(self) -> list[str]:
        names: list[str] = []
        for pool in self.pools.values():
            names += pool.names
        return names

    @staticmethod
    def _forwarded(request: Request) -> Asked:
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(request.body)),
        ]
        headers += [(name, request.headers[name]) for name in _PASSED if name in request.headers]
        return Asked("POST", request.path, tuple(headers), request.body)

    def counters(self) -> Counters:
        """What it counted."""
        return self.id, self.metrics.text()

    def _scrape(self, client: ClientConnection) -> None:
        async def scrape() -> None:
            replicas: list[Replica] = []
            for pool in self.pools.values():
                replicas += pool.replicas.values()
            try:
                fronts = [self.counters(), *await self.counters_of_others()]
                page = await self.metrics.page(fronts, replicas)
                client.write(replies.reply(200, page, kind=CONTENT_TYPE))
            except Exception as error:  # noqa: BLE001 - a client waits for whatever comes of it
                _log.error("no page of metrics: %s", type(error).__name__)
                client.write(replies.refusal(500, "the metrics cannot be told now"))
            client.done()

        task = asyncio.ensure_future(scrape())
        self._scrapes.add(task)
        task.add_done_callback(self._scrapes.discard)

    def _cors(self, request: Request) -> dict[str, str]:
        """Headers that let a page of another origin read the reply; none unless it was asked
        for."""
        origin = request.headers.get(b"origin", b"").decode("latin-1")
        allowed = self.settings.cors_origins
        if not origin or not ("*" in allowed or origin in allowed):
            return {}
        return {"access-control-allow-origin": origin, "vary": "origin"}

    def _preflight(self, request: Request) -> dict[str, str]:
        headers = self._cors(request)
        if headers:
            headers["access-control-allow-methods"] = "GET, POST"
            wanted = request.headers.get(b"access-control-request-headers", b"authorization")
            headers["access-control-allow-headers"] = wanted.decode("latin-1")
        return headers


async def _no_others() -> list[Counters]:
    return []


def _is_preflight(request: Request) -> bool:
    asks = b"access-control-request-method" in request.headers
    return request.method == "OPTIONS" and asks and b"origin" in request.headers


def _is_text(content: Any) -> bool:
    try:
        json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True
