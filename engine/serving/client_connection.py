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
from engine.serving.connections import Connections
from engine.serving.limits import Limits

_log = logging.getLogger(__name__)
_access = logging.getLogger("engine.serving.access")
MAX_HEAD_BYTES = 32 * 1024
MAX_AHEAD = 8  # requests that a client may send before the first is answered
KEEP_ALIVE_S = 600.0
LINGER_S = 2.0
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
    clients: Connections
    is_draining: bool

    def let_in(self, client: ClientConnection) -> bool:
        """Whether there is room for one more."""

    def answer(self, request: Request, client: ClientConnection) -> Answer | None:
        """Answer it at once, or give what will."""

    def turns_away(self, request: Request) -> tuple[int, str] | None:
        """(HTTP status, why) where its head alone says that it is not let in."""


class ClientConnection(asyncio.Protocol):
    """Reads requests for `front`, which answers by write() and done()."""

    _transport: asyncio.Transport

    def __init__(self, front: Listener) -> None:
        self._front = front
        self._parser = httptools.HttpRequestParser(self)
        self._requests: deque[Request] = deque()
        self._reading: Request | None = None
        self._body: list[bytes] = []
        self._has_head = False
        self._size = 0  # bytes of the head, then of the body, that is being read
        self._unparsed = 0  # bytes since the parser last said anything
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
        if self._front.let_in(self):
            self._within(self._front.limits.header_timeout_s)
        elif self._front.clients.is_told(self):
            self._refused = (503, "as many clients are connected as there is room for; try again")
            self._refuse()
        else:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """asyncio: a part of a request, or of several."""
        if self._refused:
            return
        # httptools tells of a header only when it has ended.
        self._unparsed += len(data)
        if self._unparsed > MAX_HEAD_BYTES + len(data):
            self._refused = (431, f"the head is longer than {MAX_HEAD_BYTES:,} bytes")
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # refused where its headers ended
        except httptools.HttpParserError:
            self._refused = (400, "this is no HTTP/1.1 request")
        if self._refused and self._answering is None:
            self._refuse()
        else:
            self._read_on()

    def _read_on(self) -> None:
        """Read, or let the client wait: it has sent too much ahead, or does not read itself."""
        if self.is_choked or len(self._requests) >= MAX_AHEAD:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def on_message_begin(self) -> None:
        """httptools: a request begins."""
        self._reading = Request()
        self._body = []
        self._has_head = False
        self._unparsed = self._size = 0
        self._front.clients.asks(self)
        if self._answering is None:
            self._within(self._front.limits.header_timeout_s)

    def on_url(self, url: bytes) -> None:
        """httptools: (a part of) its target."""
        assert self._reading
        self._unparsed = 0
        self._reading.target += url
        self._count(len(url), MAX_HEAD_BYTES, (431, "the request line is too long"))

    def on_header(self, name: bytes, value: bytes) -> None:
        """httptools: a header."""
        assert self._reading
        self._unparsed = 0
        if self._has_head:
            return  # a trailer
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
        self._has_head = True
        self._unparsed = self._size = 0
        reading.method = self._parser.get_method().decode("latin-1")
        if self._answering is None:
            self._within(self._front.limits.header_timeout_s)
        if self._refused:
            return
        if self._parser.get_http_version() != "1.1":
            self._refused = (505, "this endpoint speaks HTTP/1.1")
        elif b"upgrade" in reading.headers:
            self._refused = (400, "this endpoint speaks plain HTTP/1.1, not WebSocket or HTTP/2")
        else:
            self._refused = self._front.turns_away(reading)
        length = reading.headers.get(b"content-length", b"0")
        self._count(int(length[:18]) if length.isdigit() else 0, *self._body_limit())
        self._size = 0
        waits = reading.headers.get(b"expect", b"").lower() == b"100-continue"
        if waits and not self._refused and self._answering is None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        """httptools: a part of the body."""
        self._unparsed = 0
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
        self._unparsed = 0
        if self._refused or request is None:
            return
        request.body = b"".join(self._body)
        request.keep_alive = self._parser.should_keep_alive()
        self._requests.append(request)
        if self._answering is None:
            self._next()

    def _next(self) -> None:
        self._answering = self._requests.popleft()
        self._within(None)
        try:
            self._exchange = self._front.answer(self._answering, self)
            if self._exchange:
                self._exchange.start()
        except Exception as error:  # noqa: BLE001 - one request's fault must not take the others
            # Its kind alone: words may repeat a prompt.
            kind = type(error).__name__
            _log.error("%s %s: %s", self._answering.method, self._answering.path, kind)
            self.write(replies.refusal(500, "this request failed here", close=True))
            self.done(close=True)

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
            self._within(self._patience_s)
            if not self._reading:
                self._front.clients.rests(self)

    @property
    def _patience_s(self) -> float:
        """How long a client that is not being answered may take: to send the rest of a request, or
        to think of one."""
        return self._front.limits.header_timeout_s if self._reading else KEEP_ALIVE_S

    def _resume(self) -> None:
        if self._answering is None and self._requests and not self._lost:
            self._next()
            self._read_on()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is being answered."""
        return self._answering is None

    def abort(self) -> None:
        """End it so that the client sees a fault."""
        self._transport.abort()

    def leave(self) -> None:
        """End it when what was written is with the client."""
        self._transport.close()

    def _refuse(self) -> None:
        assert self._refused
        status, message = self._refused
        self._transport.write(replies.refusal(status, message, close=True))
        if not self._transport.can_write_eof():  # TLS
            self._transport.close()
            return
        # Closed at once, what the client still sends would take the reply from it.
        self._transport.write_eof()
        self._reading = None
        self._within(LINGER_S)

    def _within(self, seconds: float | None) -> None:
        """Close it unless something else is said by then; a client that does not read has no more
        time for whatever it sends."""
        if self.is_choked and self._timer:
            return
        if self._timer:
            self._timer.cancel()
        self._timer = None
        if seconds is not None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._too_late)

    def _too_late(self) -> None:
        if self.is_choked or self._refused:
            self._transport.abort()
        elif self._reading:
            self._refused = (408, "the request did not arrive in time")
            self._refuse()
        else:
            self._transport.close()

    def pause_writing(self) -> None:
        """asyncio: the client does not read; it may take so long about it."""
        self._within(self._front.limits.header_timeout_s)
        self.is_choked = True
        self._read_on()
        if self._exchange:
            self._exchange.choke(True)

    def resume_writing(self) -> None:
        """asyncio: it reads again."""
        self.is_choked = False
        self._within(None if self._answering else self._patience_s)
        self._read_on()
        if self._exchange:
            self._exchange.choke(False)

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the client left."""
        self._lost = True
        self.is_choked = False
        self._within(None)
        self._front.clients.left(self)
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
