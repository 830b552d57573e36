"""A replica's side of a front's connection: each request becomes a call of the model's ASGI
application, and what that sends leaves in frames."""

from __future__ import annotations

import asyncio
import hmac
import logging
from http import HTTPStatus
from typing import Any, Protocol, cast

from engine.serving import link
from engine.serving.link import Asked, Frames, Outbox

HELLO_TIMEOUT_S = 5.0
MAX_HELLO_BYTES = 1024
HIGH_WATER_BYTES = 1024 * 1024  # unread by the front; then the answers wait
# Of a stream: its role, and its first token. Somebody waits for them, and so they do not wait for
# what the same step of the engine says in other answers.
FIRST_WORDS = 2
_NO_BODY = (204, 304)
_log = logging.getLogger(__name__)


class Replica(Protocol):
    """What a connection must know of its replica."""

    app: Any  # ASGI 3
    expected: bytes  # the secret
    connections: set[FrontConnection]
    was_asked: bool  # ever


class FrontConnection(asyncio.Protocol):
    """The calls of one front, by their numbers. Nothing is said to who does not know the secret."""

    _transport: asyncio.Transport

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._frames = Frames(MAX_HELLO_BYTES)
        self._is_known = False
        self.calls: dict[int, Call] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.writable = asyncio.Event()
        self.writable.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: somebody is there, and has so long to say that it is a front."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)
        link.keep_alive(transport)
        self.outbox = Outbox(self._transport)
        self._replica.connections.add(self)
        loop = asyncio.get_running_loop()
        self._patience = loop.call_later(HELLO_TIMEOUT_S, self._transport.abort)

    def data_received(self, data: bytes) -> None:
        """asyncio: requests, and what becomes of them."""
        try:
            for number, kind, content in self._frames.feed(data):
                if self._is_known:
                    self._hear(number, kind, content)
                else:
                    self._greet(kind, content)
        except ValueError:  # this is no front
            self._transport.abort()

    def _greet(self, kind: int, content: bytes) -> None:
        if kind != link.HELLO or not hmac.compare_digest(content, self._replica.expected):
            raise ValueError("it does not know the secret")
        self._is_known = True
        self._frames.limit = link.ANY_SIZE  # fronts have their own limit of a body
        self._patience.cancel()

    def _hear(self, number: int, kind: int, content: bytes) -> None:
        if kind == link.REQUEST:
            self._begin(number, Asked.of(content))
        elif call := self.calls.get(number):
            call.hear(kind)

    @property
    def open(self) -> int:
        """Requests under way; who reads counters makes none."""
        return sum(call.asked.method == "POST" for call in self.calls.values())

    def _begin(self, number: int, asked: Asked) -> None:
        self._replica.was_asked |= asked.method == "POST"
        call = self.calls[number] = Call(self, number, asked)
        task = asyncio.ensure_future(call.run(self._replica.app))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def pause_writing(self) -> None:
        """asyncio: the front does not keep up."""
        self.writable.clear()

    def resume_writing(self) -> None:
        """asyncio: it does again."""
        self.writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the front left, and with it all of its clients."""
        self._patience.cancel()
        self._replica.connections.discard(self)
        self.writable.set()
        for call in self.calls.values():
            call.hear(link.ABORT)

    def close(self) -> None:
        """Say what is to be said, and end it."""
        self.outbox.close()

    def abort(self) -> None:
        """End it as a process that dies would."""
        self._transport.abort()


class Call:
    """One request, as an ASGI application sees it."""

    def __init__(self, connection: FrontConnection, number: int, asked: Asked) -> None:
        self._connection = connection
        self._number = number
        self.asked = asked
        self._body_given = False
        self._gone = asyncio.Event()  # the front wants no more, or has all
        self._reading = asyncio.Event()
        self._reading.set()
        self._is_chunked = False
        self._hurried = FIRST_WORDS

    def hear(self, kind: int) -> None:
        """What the front says of it."""
        if kind == link.ABORT:
            self._gone.set()
            self._reading.set()
        elif kind == link.PAUSE:
            self._reading.clear()
        elif kind == link.RESUME:
            self._reading.set()

    @property
    def is_paused(self) -> bool:
        """Whether the front takes nothing more of the answer now."""
        return not self._reading.is_set()

    async def run(self, app: Any) -> None:
        """Call the application; an answer that it leaves unfinished is broken."""
        try:
            await app(self._scope(), self._receive, self._send)
        except Exception as error:  # noqa: BLE001 - one request's fault must not take the others
            # Its kind alone: words may repeat a prompt.
            _log.error("%s %s: %s", self.asked.method, self.asked.path, type(error).__name__)
        finally:
            if not self._gone.is_set():
                self._end(link.BROKEN)
            self._connection.calls.pop(self._number, None)

    def _scope(self) -> dict[str, Any]:
        asked = self.asked
        return {
            "type": "http",
            # Starlette asks receive() whether the client has left; from 2.4 on it would only
            # notice when it sends.
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "server": None,
            "client": None,
            "scheme": "http",
            "method": asked.method,
            "root_path": "",
            "path": asked.path,
            "raw_path": asked.path.encode("latin-1"),
            "query_string": b"",
            "headers": list(asked.headers),
            "state": {},
        }

    async def _receive(self) -> dict[str, Any]:
        if not self._body_given:
            self._body_given = True
            return {"type": "http.request", "body": self.asked.body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        if self._gone.is_set():
            return
        if message["type"] == "http.response.start":
            self._begin(message["status"], message.get("headers", ()))
            return
        body = message.get("body", b"")
        is_last = not message.get("more_body", False)
        if self._is_chunked:
            body = _chunks(body, is_last)
        if is_last:
            self._end(link.LAST, body)
            return  # the front forgets it, and says nothing more of it
        if body:
            self._connection.outbox.put(self._number, link.DATA, body)
            if self._hurried:
                self._hurried -= 1
                self._connection.outbox.leave()
        if not self._connection.writable.is_set():
            await self._connection.writable.wait()
        if self.is_paused:
            await self._reading.wait()

    def _begin(self, status: int, headers: Any) -> None:
        lines = [b"HTTP/1.1 %d %s" % (status, HTTPStatus(status).phrase.encode())]
        self._is_chunked = status not in _NO_BODY
        for name, value in headers:
            if name.lower() == b"content-length":
                self._is_chunked = False
            lines.append(name + b": " + value)
        if self._is_chunked:
            lines.append(b"transfer-encoding: chunked")
        head = link.STATUS.pack(status) + b"\r\n".join(lines) + b"\r\n\r\n"
        self._connection.outbox.put(self._number, link.HEAD, head)

    def _end(self, kind: int, content: bytes = b"") -> None:
        self._connection.outbox.put(self._number, kind, content)
        self._gone.set()


def _chunks(body: bytes, is_last: bool) -> bytes:
    """In HTTP's chunked coding."""
    coded = b"%x\r\n%s\r\n" % (len(body), body) if body else b""
    return coded + b"0\r\n\r\n" if is_last else coded
