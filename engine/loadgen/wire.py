"""One keep-alive connection: bytes out, an answer's bytes and their moments in.

A segment of an answer costs one reading of the clock, a look at what is due, and two appends.
Nothing is parsed until what came looks like the end of a message, or is much; then httptools gets
each segment once.
"""

from __future__ import annotations

import asyncio
import time
from typing import cast

import httptools

from engine.loadgen.answers import CLOSED, GARBLED, NOTHING, TIMEOUT, WHOLE, Answer
from engine.loadgen.timer import Timer

_END = b"\r\n\r\n"  # of a body in chunks, with or without trailers
_MANY = 500  # segments
_SMALL = len(_END)  # a segment below that may be the rest of an end


class Connection(asyncio.Protocol):
    """asyncio's and httptools' callbacks; one request at a time."""

    _transport: asyncio.Transport
    _parser: httptools.HttpResponseParser
    _deadline: asyncio.TimerHandle
    _done: asyncio.Future[Answer] | None = None

    def __init__(self, timer: Timer) -> None:
        self.is_open = False
        self._timer = timer
        self._reset()

    def _reset(self) -> None:
        self._segments: list[bytes] = []
        self._times: list[float] = []
        self._fed = 0  # segments that the parser has
        self._headers: dict[str, str] = {}
        self._parts: list[bytes] = []
        self._arrived: list[float] = []
        self._at = 0.0  # of the segment that the parser reads
        self._code = 0
        self._has_head = self._is_chunked = self._ends_with_connection = False
        self._is_whole = self._has_more = self._keeps_alive = False

    def ask(self, request: bytes, timeout_s: float) -> asyncio.Future[Answer]:
        """Send a whole HTTP request; its answer, whatever becomes of it. When its time is up the
        connection is closed, so that the server sees that nobody listens any more."""
        self._reset()
        self._parser = httptools.HttpResponseParser(self)
        loop = asyncio.get_running_loop()
        self._done = loop.create_future()
        self._deadline = loop.call_later(timeout_s, self._expire)
        self._transport.write(request)
        return self._done

    def _expire(self) -> None:
        self._parse()
        self.close()
        self._settle(TIMEOUT, "its time was up")

    def close(self) -> None:
        """At once, also with an answer under way."""
        self.is_open = False
        self._transport.abort()

    # asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: it is there."""
        self._transport = cast("asyncio.Transport", transport)
        self.is_open = True

    def data_received(self, data: bytes) -> None:
        """asyncio: a segment."""
        if self._done is None or self._done.done():  # nobody asked
            self.close()
            return
        now = time.perf_counter()
        if now >= self._timer.due:
            self._timer.ring()  # a request need not wait until all is read
        self._times.append(now)
        self._segments.append(data)
        is_long = len(self._segments) % _MANY == 0  # and is not to be parsed all at once
        if not self._is_chunked or len(data) < _SMALL or data.endswith(_END) or is_long:
            self._parse()
            if self._is_whole:
                self._settle(WHOLE)

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the server closed it, or this client."""
        self.is_open = False
        if self._done is None or self._done.done():
            return
        self._parse()
        fault = f"the connection closed: {exc}" if exc else "the server closed the connection"
        if self._ends_with_connection and not exc:
            self._settle(WHOLE)
        else:
            self._settle(CLOSED if self._segments else NOTHING, fault)

    # httptools

    def on_header(self, name: bytes, value: bytes) -> None:
        """httptools: a header."""
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """httptools: the head has ended."""
        if self._is_whole:
            return
        self._code = self._parser.get_status_code()
        self._has_head = True
        self._is_chunked = "chunked" in self._headers.get("transfer-encoding", "").lower()
        has_length = "content-length" in self._headers
        self._ends_with_connection = not (self._is_chunked or has_length)

    def on_body(self, body: bytes) -> None:
        """httptools: a part of the body."""
        self._parts.append(body)
        self._arrived.append(self._at)

    def on_message_begin(self) -> None:
        """httptools: an answer, or a second one that nobody asked for."""
        if self._is_whole:
            self._has_more = True

    def on_message_complete(self) -> None:
        """httptools: the body has ended; or a head that only announces the answer's."""
        if self._code < 200:
            self._headers.clear()
            self._has_head = False
        else:
            self._is_whole = True
            self._keeps_alive = self._parser.should_keep_alive()  # it forgets at once

    # both

    def _parse(self) -> None:
        """Give the parser what it has not seen."""
        try:
            while self._fed < len(self._segments) and not self._has_more:
                self._at = self._times[self._fed]
                self._parser.feed_data(self._segments[self._fed])
                self._fed += 1
        except httptools.HttpParserError as error:
            self._has_more = True  # what follows is no HTTP
            if not self._is_whole:
                self._settle(GARBLED, str(error) or type(error).__name__)

    def _settle(self, end: str, fault: str = "") -> None:
        if self._done and not self._done.done():
            self._deadline.cancel()
            self._done.set_result(self._answer(end, fault))

    def _answer(self, end: str, fault: str = "") -> Answer:
        is_clean = end == WHOLE and self.is_open and not self._has_more
        return Answer(
            ended=self._times[-1] if self._times else time.perf_counter(),
            end=end,
            code=self._code if self._has_head else 0,
            headers=self._headers,
            parts=self._parts,
            arrived=self._arrived,
            fault=fault,
            is_reusable=is_clean and self._keeps_alive,
        )
