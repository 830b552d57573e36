"""A server for TLS that counts clients from the moment they come.

asyncio's own tells of a client only when hands are shaken: those that never shake would be unseen,
and many of them would take all files of the process. Here they make room for each other, the one
that takes longest first, which is none that shakes hands as clients do.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress

ACCEPT_AGAIN_S = 0.05


class TlsServer:
    """Makes a `client` of each connection; `most` of them may be shaking hands at a time."""

    def __init__(
        self,
        client: Callable[[], asyncio.Protocol],
        context: ssl.SSLContext,
        *,
        handshake_timeout_s: float,
        most: int,
    ) -> None:
        self._client = client
        self._context = context
        self._handshake_timeout_s = handshake_timeout_s
        self._most = most
        self._shaking: OrderedDict[socket.socket, asyncio.Task[None]] = OrderedDict()
        self._listening: dict[socket.socket, asyncio.Task[None]] = {}

    async def start(self, host: str, port: int, *, shares_port: bool, backlog: int) -> None:
        """Listen at all addresses of `host`. OSError if the port is taken by somebody who does not
        share it."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, address in dict.fromkeys((each[0], each[4]) for each in found):
            listening = socket.create_server(
                address, family=family, backlog=backlog, reuse_port=shares_port
            )
            listening.setblocking(False)
            self._listening[listening] = asyncio.create_task(self._accept(listening))

    def is_serving(self) -> bool:
        """Whether clients can come."""
        tasks = self._listening.values()
        return bool(tasks) and not any(task.done() for task in tasks)

    def close(self) -> None:
        """Listen no more; who is there stays."""
        for task in self._listening.values():
            task.cancel()
        self._listening.clear()

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with listening:
            while True:
                try:
                    arrived, _ = await loop.sock_accept(listening)
                except OSError:  # it left already, or there are no more files
                    await asyncio.sleep(ACCEPT_AGAIN_S)
                else:
                    self._take(arrived)

    def _take(self, arrived: socket.socket) -> None:
        if len(self._shaking) >= self._most:
            longest, _ = self._shaking.popitem(last=False)
            with suppress(OSError):  # it just left
                longest.shutdown(socket.SHUT_RDWR)
        self._shaking[arrived] = asyncio.create_task(self._shake_hands(arrived))

    async def _shake_hands(self, arrived: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(
                self._client,
                arrived,
                ssl=self._context,
                ssl_handshake_timeout=self._handshake_timeout_s,
            )
        except OSError:  # it speaks no TLS, trusts us not, took too long, or left
            pass
        finally:
            self._shaking.pop(arrived, None)
