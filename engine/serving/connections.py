"""How many clients may be connected to a front, and who makes room for one more.

A process may open only so many files: without a bound the fronts would run out of them, and then
nobody is answered.
"""

from __future__ import annotations

import logging
import resource
from collections import OrderedDict
from collections.abc import Iterator
from typing import Protocol

_log = logging.getLogger(__name__)
TOLD_AT_ONCE = 128
RESERVED_FILES = 128 + TOLD_AT_ONCE  # for Ray, logs, replicas, and who is told of no room


class Client(Protocol):
    """One of them."""

    @property
    def is_idle(self) -> bool:
        """Whether nothing is being answered."""

    def abort(self) -> None:
        """End it so that the client sees a fault."""

    def leave(self) -> None:
        """End it when what was written is with the client."""


class Connections:
    """The clients that were let in; those that have nothing asked for are known by how long."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._clients: set[Client] = set()
        self._resting: OrderedDict[Client, None] = OrderedDict()  # the longest first
        self._turned_away: set[Client] = set()  # and still there, to read why

    def __len__(self) -> int:
        return len(self._clients)

    def __iter__(self) -> Iterator[Client]:
        return iter(self._clients)

    def let_in(self, client: Client) -> bool:
        """Whether there is room for it; who has rested longest makes some."""
        if len(self._clients) >= self.most and self._resting:
            longest, _ = self._resting.popitem(last=False)
            self._clients.discard(longest)
            longest.leave()
        if len(self._clients) >= self.most:
            return False
        self._clients.add(client)
        return True

    def is_told(self, client: Client) -> bool:
        """Whether one that is not let in may stay until it has read why: so many at a time."""
        if len(self._turned_away) >= TOLD_AT_ONCE:
            return False
        self._turned_away.add(client)
        return True

    def rests(self, client: Client) -> None:
        """It was answered, and is kept in case that it asks again."""
        if client in self._clients:
            self._resting[client] = None

    def asks(self, client: Client) -> None:
        """A request of it begins."""
        self._resting.pop(client, None)

    def left(self, client: Client) -> None:
        """It is gone."""
        self._resting.pop(client, None)
        self._clients.discard(client)
        self._turned_away.discard(client)


def most_connections(wanted: int, files: int) -> int:
    """As many as are wanted and a process that may open so many `files` has room for: one each, and
    as many for clients that shake hands (tls_server.py)."""
    if files == resource.RLIM_INFINITY:
        return wanted
    most = max(1, (files - RESERVED_FILES) // 2)
    if most < wanted:
        _log.warning(
            "at most %d connections of clients in place of %d: this process may open %d files;"
            " raise `ulimit -n` where Ray is started",
            *(most, wanted, files),
        )
    return min(most, wanted)
