"""What a replica lets in: a bounded number of rows, groups that must run alone, and requests that
the budget still allows."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple

from engine.job.spec import PriceSpec
from engine.rows.tools import Conversation

_OVERHEAD_TOKENS = 16  # of a chat template, per message
EXPECT_S = 60.0  # without a row that an earlier process asked, after which none is expected
_TOOLS_TOKENS = 1024  # what a vendor tells its model of tools, besides the tools

GiveBack = Callable[[], Awaitable[None]]  # one row's place


class Room:
    """Holds up to `size` rows. A group that must be alone waits until no other is in or wants to
    be, and then keeps others out.

    So what is asked again after a death delays nothing else: it comes last, in a room that has
    emptied by itself.
    """

    def __init__(self, size: int) -> None:
        self._size, self.held = size, 0
        self._alone = False
        self._waiting: list[
            int
        ] = []  # rows of each group that is not in yet and may enter beside others
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def hold(
        self, rows: int, *, alone: bool
    ) -> AsyncGenerator[Callable[[], Awaitable[None]]]:
        """Room for a group; the block gets a function that gives one row's place back."""
        left = rows

        async def give_back(count: int = 1) -> None:
            nonlocal left
            async with self._changed:
                left -= count
                self.held -= count
                if (
                    self.held == 0 or self.held + min(self._waiting, default=0) <= self._size
                ):  # else nobody could enter
                    self._changed.notify_all()

        async with self._changed:
            if not alone:
                self._waiting.append(rows)
            try:
                await self._changed.wait_for(lambda: self._admits(rows, alone))
            finally:
                if not alone:
                    self._waiting.remove(rows)
            self._alone = alone
            self.held += rows
        try:
            yield give_back
        finally:
            self._alone = self._alone and not alone
            await give_back(left)

    def _admits(self, rows: int, alone: bool) -> bool:
        if self._alone:
            return False
        return (self.held == 0 and not (alone and self._waiting)) or (
            not alone and self.held + rows <= self._size
        )


class Reservation(NamedTuple):
    """The most that one try of a request can cost, and how many tries the budget holds."""

    most_usd: float
    tries: int


class Budget:
    """Dollars of an API. Each request reserves the most that it can cost, so that the limit is
    never passed."""

    def __init__(self, prices: PriceSpec | None, limit_usd: float | None, spent_usd: float) -> None:
        self._prices, self._limit_usd = prices, limit_usd
        self.spent_usd, self._reserved_usd, self._open = spent_usd, 0.0, 0
        self.is_spent = False
        # Of rows that an earlier process asked, until they are asked here.
        self._held_usd = 0.0
        self._expect_until = 0.0  # time.monotonic
        self._changed = asyncio.Condition()
        self._line = asyncio.Lock()  # one waits for dollars; thousands wait for their turn

    def hold(self, usd: float) -> None:
        """Set aside what rows may cost that are under way already."""
        if self._prices is not None and usd:
            self._held_usd += usd
            self._expect_until = time.monotonic() + EXPECT_S

    async def take_over(self, usd: float) -> Reservation:
        """What was held for one of them is its reservation now."""
        if self._prices is None:
            return Reservation(0.0, 1)
        async with self._changed:
            self._held_usd = max(0.0, self._held_usd - usd)
            self._expect_until = time.monotonic() + EXPECT_S
            self._reserved_usd += usd
            self._open += 1
        return Reservation(usd, 1)

    async def reserve(self, prompt: Any, max_tokens: int, tries: int = 1) -> Reservation | None:
        """Dollars set aside for one request, each of whose tries may be charged; None where the
        budget does not hold one of them, now that all others are settled. Near its end it holds
        fewer tries than wanted."""
        if self._prices is None:
            return Reservation(0.0, tries)
        most = cost_usd(self._prices, _most_tokens(prompt), max_tokens)
        async with self._line, self._changed:
            await self._wait_for(most * tries)
            while tries and not self._allows(most * tries):
                tries -= 1
            if not tries:
                self.is_spent = True
                return None
            self._reserved_usd += most * tries
            self._open += 1
        return Reservation(most, tries)

    def _allows(self, usd: float) -> bool:
        if self._limit_usd is None:
            return True
        return self.spent_usd + self._reserved_usd + self._held_usd + usd <= self._limit_usd

    async def _wait_for(self, usd: float) -> None:
        """Until the budget holds it, or nobody is left to give some back. Rows that are under way
        are expected to be asked; but perhaps nobody wants them now."""
        while not self._allows(usd):
            if self._open:
                await self._changed.wait()
            elif self._held_usd and time.monotonic() < self._expect_until:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), 1.0)
            else:
                return

    async def settle(
        self, reserved: Reservation, tokens_in: int, tokens_out: int, lost_usd: float = 0.0
    ) -> None:
        """What the request did cost, and what tries without an answer may have, in place of what
        was set aside."""
        if self._prices is not None:
            async with self._changed:
                self._open -= 1
                left = self._reserved_usd - reserved.most_usd * reserved.tries
                self._reserved_usd = left if self._open else 0.0  # floats do not cancel to it
                self.spent_usd += cost_usd(self._prices, tokens_in, tokens_out) + lost_usd
                self._changed.notify_all()


def cost_usd(prices: PriceSpec | None, tokens_in: int, tokens_out: int) -> float:
    """Price of so many tokens; prices are per million."""
    return (tokens_in * prices.input + tokens_out * prices.output) / 1e6 if prices else 0.0


def _most_tokens(prompt: Any) -> int:
    """Tokens of token ids, or of a conversation at the most: no tokenizer makes more than one of a
    byte."""
    if not isinstance(prompt, Conversation):
        return len(prompt)
    most = 0
    if prompt.tools:
        most += _TOOLS_TOKENS + _spelled_bytes(prompt.tools)
    for message in prompt.messages:
        most += len(message["content"].encode()) + _OVERHEAD_TOKENS
        most += _spelled_bytes(message.get("tool_calls", []))
    return most


def _spelled_bytes(of_tools: list[Any]) -> int:
    """Bytes as JSON in the longest form that templates write it."""
    if not of_tools:
        return 0
    return len(json.dumps(of_tools, indent=4))
