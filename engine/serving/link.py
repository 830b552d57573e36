"""What a front and a replica say to each other: frames of many requests over one connection.

HTTP/1.1 would take a connection for every request under way, and for every token a system call on
each side. Here one step of an engine is one write and one read, however many answers it moves. A
front and its replicas are of one release, so nothing is negotiated.

A frame is the number of its request (4 bytes), its kind (1 byte), the length of its content (4
bytes) and the content; numbers are big-endian, and a front counts its requests from 1.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

# A front's frames.
HELLO = 0  # content: the application's secret; the first frame of a connection
REQUEST = 1  # content: an Asked
ABORT = 2  # nobody wants the answer any more
PAUSE = 3  # the client does not read; nothing more of this answer until RESUME
RESUME = 4
# A replica's frames.
HEAD = 5  # content: the HTTP status (2 bytes) and the head of the answer, as HTTP/1.1 has it
DATA = 6  # content: a part of the answer's body, as HTTP/1.1 has it, whole chunks only
LAST = 7  # the same, and the answer is whole
BROKEN = 8  # the answer ends before it is whole

_HEADER = struct.Struct("!IBI")
ANY_SIZE = 2**32  # more than a header can say
STATUS = struct.Struct("!H")
# A node that vanished says nothing: asked after 5 s of silence, given up after 15.
_KEEP_ALIVE = {
    "TCP_KEEPIDLE": 5,
    "TCP_KEEPINTVL": 5,
    "TCP_KEEPCNT": 2,
    "TCP_USER_TIMEOUT": 15_000,
}


@dataclass(frozen=True)
class Asked:
    """A request as a replica gets it: rebuilt by the front, so that nothing is smuggled past it."""

    method: str
    path: str
    headers: tuple[tuple[bytes, bytes], ...] = ()  # names in lower case
    body: bytes = b""

    def content(self) -> bytes:
        """As a frame holds it: lines as in HTTP, an empty one, and the body."""
        lines = [f"{self.method} {self.path}".encode("latin-1")]
        lines += [name + b": " + value for name, value in self.headers]
        return b"\r\n".join(lines) + b"\r\n\r\n" + self.body

    @classmethod
    def of(cls, content: bytes) -> Asked:
        """Back from its frame."""
        head, _, body = content.partition(b"\r\n\r\n")
        first, *lines = head.split(b"\r\n")
        method, _, path = first.decode("latin-1").partition(" ")
        headers = []
        for line in lines:
            name, _, value = line.partition(b": ")
            headers.append((name, value))
        return cls(method, path, tuple(headers), body)


class Frames:
    """Bytes as they come, as frames of at most `limit` bytes."""

    def __init__(self, limit: int = ANY_SIZE) -> None:
        self.limit = limit
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[int, int, bytes]]:
        """(request, kind, content) of each frame that is whole now. ValueError for one that is
        longer than the limit."""
        buffer = self._buffer
        buffer += data
        at = 0
        try:
            while len(buffer) - at >= _HEADER.size:
                request, kind, size = _HEADER.unpack_from(buffer, at)
                start = at + _HEADER.size
                if size > self.limit:
                    raise ValueError(f"a frame of {size:,} bytes")
                if len(buffer) - start < size:
                    return
                at = start + size
                yield request, kind, bytes(buffer[start:at])
        finally:
            del buffer[:at]


class Outbox:
    """Frames that leave together: what one turn of the event loop says is one write."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._parts: list[bytes] = []

    def put(self, request: int, kind: int, content: bytes = b"") -> None:
        """A frame, in the order of the calls."""
        if not self._parts:
            asyncio.get_running_loop().call_soon(self.leave)
        self._parts.append(_HEADER.pack(request, kind, len(content)))
        self._parts.append(content)

    def leave(self) -> None:
        """What is there leaves now."""
        parts, self._parts = self._parts, []
        if parts and not self._transport.is_closing():
            self._transport.write(b"".join(parts))

    def close(self) -> None:
        """Send what is there, and then close the connection."""
        self.leave()
        self._transport.close()


def keep_alive(transport: asyncio.BaseTransport) -> None:
    """Let the connection break when the node at its other end has vanished."""
    own = transport.get_extra_info("socket")
    own.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEP_ALIVE.items():
        if hasattr(socket, name):  # Linux
            own.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
