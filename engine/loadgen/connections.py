"""The connections to one server: kept for the next request, opened when there is none, closed where
an answer did not end well."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from engine.loadgen.answers import NOTHING, TIMEOUT, Answer
from engine.loadgen.target import Target
from engine.loadgen.timer import Timer
from engine.loadgen.wire import Connection


@dataclass(frozen=True)
class Exchange:
    """A request that was sent at `sent` (of time.perf_counter; where it needed a new connection:
    when that was asked for), and what came back. `is_second`: the server had closed the connection
    that it was sent on first, before a byte of an answer."""

    sent: float
    answer: Answer
    is_second: bool = False


class Connections:
    """Of one target. Without proxies; names are resolved once. What is due by `timer` is done while
    answers are read."""

    def __init__(self, target: Target, timeout_s: float, timer: Timer) -> None:
        self._timer = timer
        self._address = target.address()
        self._tls = target.tls()
        self._timeout_s = timeout_s
        self._hosts: list[str] = []  # addresses of the host, the one that answers first
        self._idle: list[Connection] = []

    async def resolve(self) -> None:
        """Look the host up; OSError where nobody knows it."""
        if self._hosts:
            return
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(
            self._address.host, self._address.port, type=socket.SOCK_STREAM
        )
        hosts = [str(place[0]) for *_, place in found]
        self._hosts = list(dict.fromkeys(hosts))

    def ask(self, request: bytes) -> Coroutine[Any, Any, Exchange]:
        """Send it, at once where a connection is kept; what is returned waits for the answer, or
        until its time is up. Neither raises."""
        connection = self._kept()
        sent = time.perf_counter()
        if connection is None:
            return self._ask_anew(request, sent)
        asked = connection.ask(request, self._timeout_s)
        return self._answer_of(connection, asked, request, sent)

    async def _answer_of(
        self, connection: Connection, asked: asyncio.Future[Answer], request: bytes, sent: float
    ) -> Exchange:
        answer = await asked
        if answer.end != NOTHING:
            return self._over(connection, sent, answer)
        return await self._ask_anew(request, sent, is_second=True)

    async def _ask_anew(self, request: bytes, sent: float, is_second: bool = False) -> Exchange:
        try:
            async with asyncio.timeout(self._timeout_s) as deadline:
                connection = await self._connect()
        except OSError as error:  # TimeoutError is one, and so are those of TLS
            end, fault = NOTHING, f"cannot connect: {error}"
            if isinstance(error, TimeoutError) and deadline.expired():
                end, fault = TIMEOUT, f"no connection within {self._timeout_s:g} s"
            return Exchange(sent, Answer(time.perf_counter(), end, fault=fault), is_second)
        left_s = sent + self._timeout_s - time.perf_counter()
        answer = await connection.ask(request, max(0.0, left_s))
        return self._over(connection, sent, answer, is_second)

    def _kept(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                return connection
        return None

    async def _connect(self) -> Connection:
        await self.resolve()
        failure: OSError | None = None
        for host in tuple(self._hosts):
            try:
                return await self._connect_to(host)
            except OSError as error:
                failure = failure or error
                with suppress(ValueError):  # another request may have moved it
                    self._hosts.remove(host)
                self._hosts.append(host)  # it is tried last from now on
        assert failure, "a host that was resolved has an address"
        raise failure

    async def _connect_to(self, host: str) -> Connection:
        loop = asyncio.get_running_loop()
        name = self._address.host if self._tls else None
        _, connection = await loop.create_connection(
            partial(Connection, self._timer),
            host,
            self._address.port,
            ssl=self._tls,
            server_hostname=name,
        )
        return connection

    def _over(
        self, connection: Connection, sent: float, answer: Answer, is_second: bool = False
    ) -> Exchange:
        if answer.end == TIMEOUT:
            answer = replace(answer, fault=f"no end within {self._timeout_s:g} s")
        if answer.is_reusable:
            self._idle.append(connection)
        else:
            connection.close()
        return Exchange(sent, answer, is_second)

    def close(self) -> None:
        """All that are kept."""
        for connection in self._idle:
            connection.close()
        self._idle.clear()
