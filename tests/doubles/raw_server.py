"""A server that writes what a test tells it to, byte by byte: what the load generator's connections
are tried against."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from doubles.sse import END, ROLE, text

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
LAST = b"0\r\n\r\n"


def framed(data: bytes) -> bytes:
    """A chunk of HTTP."""
    return b"%x\r\n%b\r\n" % (len(data), data)


PLAIN = HEAD + framed(ROLE) + framed(text("a")) + framed(text("b")) + framed(b"".join(END)) + LAST


@dataclass
class Request:
    """One that came: its place among all, its head in lower case, and its body."""

    number: int
    connection: int
    head: str
    body: dict[str, Any]


@dataclass
class RawServer:
    """A running server, what it got, and how many connections it has."""

    port: int = 0
    scheme: str = "http"
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    open: int = 0
    most_open: int = 0
    left: threading.Event = field(default_factory=threading.Event)  # a client went away

    @property
    def url(self) -> str:
        """The base URL."""
        return f"{self.scheme}://127.0.0.1:{self.port}/v1"


Answer = Callable[[Request, asyncio.StreamWriter], Awaitable[None]]


async def plain(request: Request, writer: asyncio.StreamWriter) -> None:
    """Two tokens at once."""
    writer.write(PLAIN)


@contextlib.contextmanager
def raw_server(answer: Answer = plain, tls: Any = None) -> Iterator[RawServer]:
    """Calls `answer` for each request; a handler that returns keeps the connection."""
    made = RawServer(scheme="https" if tls else "http")
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        made.connections += 1
        connection = made.connections
        made.open += 1
        made.most_open = max(made.most_open, made.open)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
                length = int(head.partition("content-length:")[2].split()[0])
                body = json.loads(await reader.readexactly(length))
                request = Request(len(made.requests), connection, head, body)
                made.requests.append(request)
                await answer(request, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            made.left.set()
        finally:
            made.open -= 1
            writer.close()

    async def start() -> asyncio.Server:
        return await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls, backlog=1000)

    async def stop(server: asyncio.Server) -> None:
        server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    server = asyncio.run_coroutine_threadsafe(start(), loop).result(5)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        asyncio.run_coroutine_threadsafe(stop(server), loop).result(5)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
        loop.close()
