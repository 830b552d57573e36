"""The replicas of one model as a front sees them: who they are, how much each has open, and who is
asked next."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from engine.serving.replica_connection import ReplicaConnection

Routing = Literal["least_open", "prefix"]
CONNECT_TIMEOUT_S = 5.0  # within a cluster; a node that vanished does not even refuse
PREFIX_BLOCK = 256  # bytes of a request's body
PREFIXES_KEPT = 4096  # blocks per replica
# A replica that knows a prompt's beginning may have this many more open than the least busy one.
PREFIX_SLACK = 4


class Waiting(Protocol):
    """A request that no replica has."""

    def resume(self) -> None:
        """There is one again."""


@dataclass(frozen=True)
class Address:
    """Where a replica answers, and what it says of itself; small and picklable."""

    id: str
    host: str
    port: int
    batch: int  # sequences that its engine decodes at a time
    cards: tuple[
        tuple[str, int | None], ...
    ] = ()  # (name, context length) of its model and adapters
    generation: int = 0  # of the weights; the newest one that answers gets all requests


@dataclass(eq=False)
class Replica:
    """One replica, and this front's connection to it."""

    address: Address
    secret: str = ""  # what it wants to hear
    open: int = 0  # requests that this front has there
    prefixes: OrderedDict[bytes, None] = field(default_factory=OrderedDict)
    _opening: asyncio.Task[ReplicaConnection] | None = None

    @property
    def connection(self) -> ReplicaConnection | None:
        """The one that is open."""
        opening = self._opening
        if opening is None or not opening.done() or opening.cancelled() or opening.exception():
            return None
        found = opening.result()
        return None if found.closing else found

    async def connect(self) -> ReplicaConnection:
        """The open one, or a new one, for all who wait. OSError if it cannot be opened in time."""
        if self._opening is None or self._opening.done():
            found = self.connection
            if found:
                return found
            self._opening = asyncio.ensure_future(self._open())
        # Who leaves meanwhile must not take it from the others.
        return await asyncio.shield(self._opening)

    async def _open(self) -> ReplicaConnection:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            _, connection = await loop.create_connection(
                lambda: ReplicaConnection(self.secret), self.address.host, self.address.port
            )
        return connection

    def leave(self) -> None:
        """Nothing more is asked here; what is open is answered."""
        if found := self.connection:
            found.leave()

    def shared(self, blocks: list[bytes]) -> int:
        """How many of a prompt's first blocks it has seen."""
        for count, block in enumerate(blocks):
            if block not in self.prefixes:
                return count
        return len(blocks)

    def remember(self, blocks: list[bytes]) -> None:
        """It sees them now."""
        for block in blocks:
            self.prefixes[block] = None
            self.prefixes.move_to_end(block)
        while len(self.prefixes) > PREFIXES_KEPT:
            self.prefixes.popitem(last=False)


class Pool:
    """The replicas of one model. A front has one process: nothing here is locked."""

    def __init__(
        self, name: str, max_queued: int, routing: Routing = "least_open", secret: str = ""
    ) -> None:
        self.name = name
        self._secret = secret
        self.replicas: dict[str, Replica] = {}
        self.open = 0  # requests that this front has, with a replica or waiting for one
        self.waiting: deque[Waiting] = deque()
        self.cards: tuple[tuple[str, int | None], ...] = ((name, None),)
        self.generation = 0  # of the weights that are asked
        self.on_empty: Callable[[str], None] = lambda model: None  # somebody waits for a replica
        self.seen: set[str] = set()  # all replicas that ever came
        self._max_queued = max_queued
        self._routing = routing

    @property
    def limit(self) -> int:
        """Requests that may be open at once: what the engines batch, and `max_queued` more."""
        return self._max_queued + sum(each.address.batch for each in self.replicas.values())

    @property
    def names(self) -> tuple[str, ...]:
        """The model and its adapters."""
        return tuple(name for name, _ in self.cards)

    def update(self, found: Mapping[str, Address]) -> list[Replica]:
        """These replicas run now; returns those that are gone or of older weights.

        Where none runs the last known ones stay: one that is leaving still answers, until the next
        one is there.
        """
        newest = max((address.generation for address in found.values()), default=0)
        current: dict[str, Replica] = {}
        for name, address in found.items():
            if address.generation < newest:
                continue
            replica = self.replicas.get(name) or Replica(address, self._secret)
            replica.address = address
            current[name] = replica
        if not current:
            return []
        left = [each for name, each in self.replicas.items() if name not in current]
        self.seen |= current.keys()
        self.replicas = current
        self.generation = newest
        self.cards = next(iter(current.values())).address.cards or self.cards
        return left

    def forget(self, replica: Replica) -> None:
        """It does not answer; until it is found again nobody asks it."""
        self.replicas.pop(replica.address.id, None)

    def choose(self, blocks: list[bytes], avoid: Replica | None) -> Replica | None:
        """Whom to ask: the one that has least open, or, with `prefix`, one near that which knows
        most of the prompt's beginning. None where there is nobody (else than `avoid`)."""
        there = [each for each in self.replicas.values() if each is not avoid]
        if not there:
            return None
        chosen = min(there, key=lambda replica: replica.open)
        if self._routing == "prefix" and blocks:
            near = [each for each in there if each.open <= chosen.open + PREFIX_SLACK]
            chosen = max(near, key=lambda replica: (replica.shared(blocks), -replica.open))
            chosen.remember(blocks)
        return chosen

    def blocks_of(self, body: bytes) -> list[bytes]:
        """Digests of the body's blocks, each of all up to it; none where nobody asks for them."""
        if self._routing != "prefix":
            return []
        seen = hashlib.blake2b(digest_size=16)
        blocks = []
        for start in range(0, len(body) - PREFIX_BLOCK + 1, PREFIX_BLOCK):
            seen.update(body[start : start + PREFIX_BLOCK])
            blocks.append(seen.digest())
        return blocks
