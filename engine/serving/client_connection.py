"""A client's connection: requests are read whole, within limits of time and size, and answered one
after the other."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol, cast

import httptools

from engine.serving import replies
from engine.serving.limits import Limits

_access = logging.getLogger("engine.serving.access")
MAX_HEAD_BYTES = 32 * 1024
MAX_AHEAD = 8  # requests that a client may send before the first is answered
KEEP_ALIVE_S = 600.0
HIGH_WATER_BYTES = 256 * 1024  # unread by the client; then its replica waits


@dataclass
class Request:
    """A whole request; header names are in lower case."""

    method: str = ""
    target: bytes = b""
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""
    keep_alive: bool = True
    key: str = ""  # name of the key that it carried

    @property
    def path(self) -> str:
        """Its path, without a query."""
        with suppress(httptools.HttpParserInvalidURLError):
            return httptools.parse_url(self.target).path.decode("latin-1")
        return ""


class Answer(Protocol):
    """An answer that comes in pieces."""

    def start(self) -> None:
        """Begin."""

    def gone(self) -> None:
        """The client left."""

    def choke(self, choked: bool) -> None:
        """The client reads too slowly, or fast enough again."""


class Listener(Protocol):
    """What a connection must know of its front."""

    limits: Limits
    clients: set[ClientConnection]
    is_draining: bool

    def answer(self, request: Request, client: ClientConnection) -> Answer | None:
        """Answer it at once, or give what will."""


class ClientConnection(asyncio.Protocol):
    """Reads requests for `front`, which answers by write() and done()."""

    _transport: asyncio.Transport

    def __init__(self, front: Listener) -> None:
        self._front = front
        self._parser = httptools.HttpRequestParser(self)
        self._requests: deque[Request] = deque()
        self._reading: Request | None = None
        self._body: list[bytes] = []
        self._size = 0  # bytes of the head, then of the body, that is being read
        self._refused: tuple[int, str] | None = None
        self._answering: Request | None = None
        self._exchange: Answer | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._lost = False
        self.is_choked = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: it is there, and has so long to say what it wants."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)
        self._front.clients.add(self)
        self._within(self._front.limits.header_timeout_s)

    def data_received(self, data: bytes) -> None:
        """asyncio: a part of a request, or of several."""
        if self._refused:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # refused where its headers ended
        except httptools.HttpParserError:
            self._refused = (400, "this is no HTTP/1.1 request")
        if self._refused and self._answering is None:
            self._refuse()
        elif len(self._requests) >= MAX_AHEAD:
            self._transport.pause_reading()

    def on_message_begin(self) -> None:
        """httptools: a request begins."""
        self._reading = Request()
        self._body = []
        self._size = 0
        if self._answering is None:
            self._within(self._front.limits.header_timeout_s)

    def on_url(self, url: bytes) -> None:
        """httptools: (a part of) its target."""
        assert self._reading
        self._reading.target += url
        self._count(len(url), MAX_HEAD_BYTES, (431, "the request line is too long"))

    def on_header(self, name: bytes, value: bytes) -> None:
        """httptools: a header."""
        assert self._reading
        self._reading.headers[name.lower()] = value
        self._count(
            len(name) + len(value),
            MAX_HEAD_BYTES,
            (431, f"the headers are longer than {MAX_HEAD_BYTES:,} bytes"),
        )

    def on_headers_complete(self) -> None:
        """httptools: the body comes next."""
        assert self._reading
        reading = self._reading
        self._size = 0
        if self._parser.get_http_version() != "1.1":
            self._refused = (505, "this endpoint speaks HTTP/1.1")
        elif b"upgrade" in reading.headers:
            self._refused = (400, "this endpoint speaks plain HTTP/1.1, not WebSocket or HTTP/2")
        elif reading.headers.get(b"expect", b"").lower() == b"100-continue":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        length = reading.headers.get(b"content-length", b"0")
        self._count(int(length) if length.isdigit() else 0, *self._body_limit())
        self._size = 0

    def on_body(self, body: bytes) -> None:
        """httptools: a part of the body."""
        self._count(len(body), *self._body_limit())
        if not self._refused:
            self._body.append(body)

    def _body_limit(self) -> tuple[int, tuple[int, str]]:
        limit = self._front.limits.max_body_bytes
        return limit, (413, f"the body is longer than {limit:,} bytes")

    def _count(self, size: int, limit: int, refusal: tuple[int, str]) -> None:
        self._size += size
        if self._size > limit and not self._refused:
            self._refused = refusal

    def on_message_complete(self) -> None:
        """httptools: the request is whole."""
        request, self._reading = self._reading, None
        if self._refused or request is None:
            return
        request.method = self._parser.get_method().decode("latin-1")
        request.body = b"".join(self._body)
        request.keep_alive = self._parser.should_keep_alive()
        self._requests.append(request)
        if self._answering is None:
            self._next()

    def _next(self) -> None:
        self._answering = self._requests.popleft()
        self._within(None)
        self._exchange = self._front.answer(self._answering, self)
        if self._exchange:
            self._exchange.start()

    def write(self, data: bytes) -> None:
        """A part of the answer."""
        self._transport.write(data)

    def done(self, *, close: bool = False) -> None:
        """The answer is whole."""
        answered, self._answering, self._exchange = self._answering, None, None
        keep = answered is not None and answered.keep_alive
        if close or self._lost or not keep or self._front.is_draining:
            self._transport.close()
        elif self._requests:
            asyncio.get_running_loop().call_soon(self._resume)
        elif self._refused:
            self._refuse()
        else:
            self._within(KEEP_ALIVE_S)

    def _resume(self) -> None:
        if self._answering is None and self._requests and not self._lost:
            self._transport.resume_reading()
            self._next()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is being answered."""
        return self._answering is None

    def abort(self) -> None:
        """End it so that the client sees a fault."""
        self._transport.abort()

    def _refuse(self) -> None:
        assert self._refused
        status, message = self._refused
        self._transport.write(replies.refusal(status, message, close=True))
        self._transport.close()

    def _within(self, seconds: float | None) -> None:
        """Close it unless something else is said by then."""
        if self._timer:
            self._timer.cancel()
        self._timer = None
        if seconds is not None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._too_late)

    def _too_late(self) -> None:
        if self._reading:
            self._refused = (408, "the request did not arrive in time")
            self._refuse()
        self._transport.abort() if self.is_choked else self._transport.close()

    def pause_writing(self) -> None:
        """asyncio: the client does not read; it may take so long about it."""
        self.is_choked = True
        self._within(self._front.limits.header_timeout_s)
        if self._exchange:
            self._exchange.choke(True)

    def resume_writing(self) -> None:
        """asyncio: it reads again."""
        self.is_choked = False
        self._within(None if self._answering else KEEP_ALIVE_S)
        if self._exchange:
            self._exchange.choke(False)

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the client left."""
        self._lost = True
        self._within(None)
        self._front.clients.discard(self)
        if self._exchange:
            self._exchange.gone()

    def log(self, model: str, how: str, status: int, seconds: float) -> None:
        """The request's one line: no prompt, no key but its name."""
        request = self._answering
        if request is None:
            return
        _access.info(
            "%s %s model=%s key=%s status=%d %s %.0f ms",
            request.method,
            request.path,
            model,
            request.key or "-",
            status,
            how,
            1000 * seconds,
        )
