"""A front's side of its connection to a replica, which all of its requests there share: the bytes
of an answer go to the client as they come."""

from __future__ import annotations

import asyncio
import itertools
from typing import Protocol, cast

import httptools

from engine.serving import link
from engine.serving.link import Asked, Frames, Outbox


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

    def answered(self) -> None:
        """It is whole."""

    def broken(self) -> None:
        """The replica left, or gave up, before it was whole."""


class ReplicaConnection(asyncio.Protocol):
    """Requests by their numbers, and who waits for their answers."""

    _transport: asyncio.Transport

    def __init__(self, secret: str) -> None:
        self._secret = secret
        self._frames = Frames()
        self._waiting: dict[int, Receiver] = {}
        self._numbers = itertools.count(1)
        self._leaving = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: it is there, and breaks when its node has vanished."""
        self._transport = cast("asyncio.Transport", transport)
        link.keep_alive(transport)
        self._outbox = Outbox(self._transport)
        self._outbox.put(0, link.HELLO, self._secret.encode())

    @property
    def closing(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._transport.is_closing()

    def send(self, receiver: Receiver, asked: Asked) -> int:
        """Begin a request; returns its number here."""
        number = next(self._numbers)
        self._waiting[number] = receiver
        self._outbox.put(number, link.REQUEST, asked.content())
        return number

    def data_received(self, data: bytes) -> None:
        """asyncio: parts of answers."""
        for number, kind, content in self._frames.feed(data):
            receiver = self._waiting.get(number)
            if receiver is None:
                continue  # abandoned
            if kind == link.DATA:
                receiver.client.write(content)
            elif kind == link.HEAD:
                (status,) = link.STATUS.unpack_from(content)
                if not receiver.head(status, content[link.STATUS.size :]):
                    self.abandon(number)
            elif kind == link.LAST:
                receiver.client.write(content)
                self._forget(number)
                receiver.answered()
            else:
                self._forget(number)
                receiver.broken()

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: it is gone."""
        waiting, self._waiting = self._waiting, {}
        for receiver in waiting.values():
            receiver.broken()

    def abandon(self, number: int) -> None:
        """Nobody wants the rest of the answer."""
        if number in self._waiting:
            self._outbox.put(number, link.ABORT)
            self._forget(number)

    def _forget(self, number: int) -> None:
        del self._waiting[number]
        if self._leaving and not self._waiting:
            self._outbox.close()

    def leave(self) -> None:
        """Close it as soon as what is open is answered."""
        self._leaving = True
        if not self._waiting:
            self._outbox.close()

    def pause(self, number: int) -> None:
        """Take no more of the answer for now."""
        self._outbox.put(number, link.PAUSE)

    def resume(self, number: int) -> None:
        """Go on."""
        self._outbox.put(number, link.RESUME)


class Page:
    """Receives a whole answer, for the front itself. `body` is None where there is none of 200."""

    def __init__(self) -> None:
        self.client = self
        self.body: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        self._parser = httptools.HttpResponseParser(self)
        self._parts: list[bytes] = []

    def on_body(self, body: bytes) -> None:
        """httptools: a part of the body."""
        self._parts.append(body)

    def head(self, status: int, data: bytes) -> bool:
        """It begins."""
        if status != 200:
            self.broken()
            return False
        self._parser.feed_data(data)
        return True

    def write(self, data: bytes) -> None:
        """A part of it."""
        self._parser.feed_data(data)

    def answered(self) -> None:
        """It is whole."""
        if not self.body.done():
            self.body.set_result(b"".join(self._parts))

    def broken(self) -> None:
        """It will not come."""
        if not self.body.done():
            self.body.set_result(None)
