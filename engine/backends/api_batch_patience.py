"""Patience with a vendor's batch API: what is waited for however long it takes, what is tried
again, and that no batch is made twice.

Which rows are in a batch, and what becomes of them, is api_batch.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import httpx2

from engine.backends.api_batch_vendors import MAY_PASS, BatchApi, State
from engine.backends.api_gate import REFUSALS, retry_after_s
from engine.backends.api_teacher import ApiEngine
from engine.errors import EngineError, StageError
from engine.run.batches import NEVER_MADE, Batch, BatchLedger

_log = logging.getLogger(__name__)
T = TypeVar("T")

SETTLE_S = 60.0  # after which the vendor's list has every batch that was made
FIRST_LOOK_S = 1.0  # between looks at a batch; each time half as long again
LONGEST_LOOK_S = 60.0


class Patience:
    """Calls of one teacher's batch API, until they succeed, cannot, or are given up."""

    def __init__(
        self,
        api: BatchApi,
        live: ApiEngine,
        ledger: BatchLedger,
        attempts: int,
    ) -> None:
        self._api = api
        self._live = live
        self._ledger = ledger
        self._attempts = attempts
        self._is_given_up = asyncio.Event()
        self.ending: EngineError | None = None

    def give_up(self, error: EngineError) -> EngineError:
        """Wait for nothing more; of several reasons the first is told, and comes back."""
        self.ending = self.ending or error
        self._is_given_up.set()
        return self.ending

    async def make(self, batch: Batch, prepared: Any) -> str:
        """The vendor's id. Where nobody knows whether it was made, its list is looked at before it
        is asked for again."""
        refused = failed = 0
        pauses = pauses_s()
        while True:
            try:
                return await self._api.make(batch.name, prepared)
            except self._api.errors as error:
                is_busy = getattr(error, "status_code", None) == 429  # then it was not made
                is_last = is_final(error)
                if not is_last and not is_busy:
                    found = await self.found(batch, time.time())
                    if found:
                        return found
                refused += is_busy
                failed += not is_busy
                if is_last or refused > REFUSALS or failed >= self._attempts:
                    await self.note(replace(batch, ended=NEVER_MADE))
                    raise self._live.unasked(error) from None
                response = getattr(error, "response", None)
                headers = getattr(response, "headers", httpx2.Headers())
                asked_s = retry_after_s(headers)
                await self.pause(max(next(pauses), asked_s))

    async def found(self, batch: Batch, since: float) -> str | None:
        """The id of a batch whose making nobody heard of; None where it was not made, which is
        certain some time after it was last asked for (seconds since the epoch)."""
        batches = await asyncio.to_thread(self._ledger.load)
        known = {one.vendor_id for one in batches if one.vendor_id}
        pauses = pauses_s()
        while True:
            looked = time.time()
            find = partial(self._api.find, batch, known)
            found = await self.ask(find)
            if found.vendor_id:
                return found.vendor_id
            if not found.waits and looked >= since + SETTLE_S:
                return None
            await self.pause(next(pauses))

    async def ended(self, batch: Batch, see: Callable[[State], None]) -> State:
        """The state of a batch that has ended; `see` gets each one before it."""
        assert batch.vendor_id is not None
        look = partial(self._api.look, batch.vendor_id)
        pauses = pauses_s()
        while True:
            state = await self.ask(look, batch)
            see(state)
            if state.has_ended:
                return state
            await self.pause(next(pauses))

    async def note(self, batch: Batch) -> None:
        """Remember what is known of it."""
        await asyncio.to_thread(self._ledger.write, batch)

    async def ask(
        self,
        call: Callable[[], Awaitable[T]],
        batch: Batch | None = None,
    ) -> T:
        """What the vendor says, however long nobody can be reached: what waits there is paid for.
        StageError where waiting does not help."""
        told = ""
        pauses = pauses_s()
        while True:
            try:
                return await call()
            except self._api.errors as error:
                if is_final(error):
                    said = str(self._live.unasked(error))
                    raise StageError(said + self._if_it_is_gone(batch)) from None
                said = self._live.described(error)
                if said != told:
                    _log.warning("a batch's vendor: %s; it is asked until it answers", said)
                told = said
            await self.pause(next(pauses))

    def _if_it_is_gone(self, batch: Batch | None) -> str:
        if batch is None:
            return ""
        return (
            f". It was about batch {batch.vendor_id}: where the vendor has it no more, delete"
            f" {self._ledger.path(batch)}, and its rows are asked and paid again"
        )

    async def pause(self, seconds: float) -> None:
        """Sleep; raises what the rows are given up for."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._is_given_up.wait(), seconds)
        if self.ending:
            raise self.ending


def pauses_s() -> Iterator[float]:
    """Seconds between tries, without end."""
    pause_s = FIRST_LOOK_S
    while True:
        yield pause_s
        pause_s = min(1.5 * pause_s, LONGEST_LOOK_S)


def is_final(error: Exception) -> bool:
    """Whether asking again is of no use."""
    status = getattr(error, "status_code", None)
    if "insufficient_quota" in str(getattr(error, "body", None)):
        return True
    is_ours = status is not None and 400 <= status < 500
    return is_ours and status not in MAY_PASS
