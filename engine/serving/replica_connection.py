"""A front's side of one keep-alive connection to a replica: the bytes of an answer go to the client
as they come, and are parsed only to see where the answer ends."""

from __future__ import annotations

import asyncio
import socket
from typing import Protocol, cast

import httptools

# A node that vanished says nothing: asked after 5 s of silence, given up after 15.
KEEP_ALIVE = {
    "TCP_KEEPIDLE": 5,
    "TCP_KEEPINTVL": 5,
    "TCP_KEEPCNT": 2,
    "TCP_USER_TIMEOUT": 15_000,
}


class Writable(Protocol):
    """Where an answer goes."""

    def write(self, data: bytes) -> None:
        """A part of it."""


class Receiver(Protocol):
    """Who waits for an answer."""

    @property
    def client(self) -> Writable:
        """To whom it goes."""

    def head(self, status: int, data: bytes) -> bool:
        """It begins; False: the rest is not wanted."""

    def answered(self, *, reusable: bool) -> None:
        """It is whole."""

    def broken(self, *, between_events: bool) -> None:
        """The connection is lost."""


class ReplicaConnection(asyncio.Protocol):
    """One request at a time. What arrives with no request under way closes the connection."""

    _transport: asyncio.Transport

    def __init__(self) -> None:
        self._exchange: Receiver | None = None
        self._parser: httptools.HttpResponseParser
        self._head = b""
        self._passing = False  # the answer's head is with the client
        self._has_head = False
        self._is_stream = False
        self._in_chunk = False
        self._complete = False
        self._reusable = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: it is there, and breaks when its node has vanished."""
        self._transport = cast("asyncio.Transport", transport)
        own = transport.get_extra_info("socket")
        own.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in KEEP_ALIVE.items():
            if hasattr(socket, name):  # Linux
                own.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    @property
    def closing(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._transport.is_closing()

    def send(self, exchange: Receiver, request: bytes) -> None:
        """Begin an exchange."""
        self._exchange = exchange
        self._parser = httptools.HttpResponseParser(self)
        self._head = b""
        self._passing = self._has_head = self._is_stream = False
        self._in_chunk = self._complete = False
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """asyncio: a part of the answer."""
        exchange = self._exchange
        if exchange is None:
            self._transport.close()
            return
        if self._passing:
            exchange.client.write(data)
            self._feed(data)
        else:
            self._head += data
            self._feed(data)
            if not self._has_head:
                return
            if not exchange.head(self._parser.get_status_code(), self._head):
                self.abandon()
                return
            self._passing = True
        if self._complete:
            self._exchange = None
            exchange.answered(reusable=self._reusable)

    def _feed(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:  # the same as if it had gone
            self._transport.abort()

    def on_header(self, name: bytes, value: bytes) -> None:
        """httptools: a header of the answer."""
        if name.lower() == b"content-type" and value.startswith(b"text/event-stream"):
            self._is_stream = True

    def on_headers_complete(self) -> None:
        """httptools: the status is known."""
        self._has_head = True

    def on_chunk_header(self) -> None:
        """httptools: a chunk begins."""
        self._in_chunk = True

    def on_chunk_complete(self) -> None:
        """httptools: the chunk is whole."""
        self._in_chunk = False

    def on_message_complete(self) -> None:
        """httptools: the answer is whole."""
        self._complete = True
        self._reusable = self._parser.should_keep_alive()  # it forgets when this returns

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: it is gone."""
        exchange, self._exchange = self._exchange, None
        if exchange:
            exchange.broken(between_events=self._is_stream and not self._in_chunk)

    def abandon(self) -> None:
        """Nobody wants the rest of the answer."""
        self._exchange = None
        self._transport.abort()

    def close(self) -> None:
        """It is needed no more."""
        self._transport.close()

    def pause(self) -> None:
        """Take no more of the answer for now."""
        self._transport.pause_reading()

    def resume(self) -> None:
        """Go on."""
        self._transport.resume_reading()
