"""A share while it is sent: each request leaves a row."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.loadgen.connections import Connections, Exchange
from engine.loadgen.reader import Reading, read_in_turns
from engine.loadgen.requests import Requests
from engine.loadgen.samples import Sample
from engine.loadgen.shares import Share
from engine.loadgen.timer import Timer

FIELDS = [each.name for each in dataclasses.fields(Sample)]  # of a row, in this order


@dataclass(frozen=True)
class Progress:
    """How far a share is: seconds after the window's start, requests sent, ended, failed."""

    at_s: float
    sent: int
    ended: int
    failed: int


class Sender:
    """One share in one event loop."""

    def __init__(self, share: Share, timer: Timer) -> None:
        self.share = share
        self.timer = timer
        self.connections = Connections(share.target, share.shape.timeout_s, timer)
        self.requests = Requests(share.target, share.shape, share.prompts)
        self.rng = np.random.default_rng([share.seed, share.process])
        self.rows: list[tuple[Any, ...]] = []
        self._sent = 0
        self._failed = 0

    def open_window(self, zero: float) -> None:
        """It begins at `zero` of time.perf_counter(), and the warm-up before it."""
        self.zero = zero
        self.begin = zero - self.share.warmup_s
        self.end = zero + self.share.seconds

    def progress(self) -> Progress:
        """Now."""
        at_s = time.perf_counter() - self.zero
        return Progress(at_s, self._sent, len(self.rows), self._failed)

    def lengths(self, rng: np.random.Generator) -> tuple[int | None, int | None]:
        """(tokens of the answer, words of the prompt) of one request, where they are drawn."""
        shape = self.share.shape
        tokens = words = None
        if shape.output_tokens:
            tokens = int(shape.output_tokens.counts(rng, 1)[0])
        if shape.input_words:
            words = int(shape.input_words.counts(rng, 1)[0])
        return tokens, words

    def send(
        self,
        intended: float,
        request: bytes,
        prompt: int,
        session: int | None = None,
        turn: int = 0,
    ) -> Coroutine[Any, Any, Reading]:
        """One request, which was meant to leave at `intended`, leaves; what is returned waits for
        its answer and leaves its row."""
        self._sent += 1
        asked = self.connections.ask(request)
        return self._heard(asked, intended, prompt, session, turn)

    async def _heard(
        self,
        asked: Coroutine[Any, Any, Exchange],
        intended: float,
        prompt: int,
        session: int | None,
        turn: int,
    ) -> Reading:
        exchange = await asked
        reading = await read_in_turns(exchange.answer)
        if reading.status != "ok":
            self._failed += 1
        self.rows.append(self._row(intended, exchange, reading, prompt, session, turn))
        return reading

    def _row(
        self,
        intended: float,
        exchange: Exchange,
        reading: Reading,
        prompt: int,
        session: int | None,
        turn: int,
    ) -> tuple[Any, ...]:
        """In the order of FIELDS."""
        oddities, error = reading.oddities, reading.error
        if exchange.is_second:
            oddities = f"{oddities},reconnected:1".removeprefix(",")
        if error is not None:
            error = self.share.target.masked(error)
        return (
            1000 * (intended - self.zero),
            1000 * (exchange.sent - self.zero),
            reading.status,
            _ms(reading.first_byte, intended),
            _ms(reading.first, intended),
            _ms(reading.last, intended),
            _ms(reading.end, intended),
            reading.events,
            reading.prompt_tokens,
            reading.output_tokens,
            len(reading.text),
            reading.finish_reason,
            oddities,
            error,
            prompt,
            session,
            turn,
            self.share.process,
        )


def _ms(moment: float | None, intended: float) -> float | None:
    return None if moment is None else 1000 * (moment - intended)
