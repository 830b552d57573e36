"""Looks at a server's /metrics each second while a level runs.

A look costs the generator as little as can be: a thread fetches the page and packs it, which needs
no interpreter; it is read when the level is over. A server that shows no metrics, or not to this
key, is no error: that is said once.
"""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from engine.loadgen.metrics_client import MetricsClient, NoMetricsError
from engine.loadgen.server_page import Page, Reader, read_page
from engine.loadgen.target import Target

EVERY_S = 1.0
TIMEOUT_S = 5.0  # of each read of a page
_FASTEST = 1  # of zlib


@dataclass(frozen=True)
class Observation:
    """What the server's own metrics said at a moment. Values by the names of server_page.py: gauges
    as they were, counts as they grew since the first observation; what is absent is unknown."""

    at_ms: float  # after the start of the level's window; before 0: warm-up
    values: Mapping[str, float]


@dataclass(frozen=True)
class Observed:
    """A level as its server saw it."""

    observations: list[Observation] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # why there is less than there could be
    url: str = ""
    looks: int = 0
    missed: int = 0  # looks that brought no page
    cpu_s: float = 0.0  # of this client, for looking
    slowest_ms: float = 0.0  # look


class Observer:
    """Looks for the length of a `with` block; `observed` reads what it saw."""

    def __init__(
        self, target: Target, every_s: float = EVERY_S, timeout_s: float = TIMEOUT_S
    ) -> None:
        self._model = target.model
        self._every_s = every_s
        self._timeout_s = timeout_s
        self._client = MetricsClient(target, timeout_s)
        self._pages: list[tuple[float, bytes]] = []  # Unix time, packed
        self._none: str = ""  # why there are none
        self._fault: str = ""  # of the last look that failed
        self._missed = 0
        self._cpu_s = 0.0
        self._slowest_s = 0.0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._look_on, name="observer", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._is_over.set()
        self._thread.join(2 * self._timeout_s)

    @property
    def is_looking(self) -> bool:
        """Whether its thread lives."""
        return self._thread.is_alive()

    def _look_on(self) -> None:
        # One reading of the wall clock: a jump of it in the middle does not move the looks.
        wall_s = time.time() - time.perf_counter()
        due = time.perf_counter()
        while not self._is_over.is_set() and not self._none:
            begun = time.perf_counter()
            self._look(wall_s)
            self._slowest_s = max(self._slowest_s, time.perf_counter() - begun)
            self._cpu_s = time.thread_time()
            due = max(due + self._every_s, time.perf_counter())
            self._is_over.wait(due - time.perf_counter())
        self._client.close()

    def _look(self, wall_s: float) -> None:
        begun = time.perf_counter()
        try:
            page = self._client.fetch()
        except NoMetricsError as error:
            self._none = str(error)
        except OSError as error:
            self._missed += 1
            self._fault = str(error)
        else:
            middle = (begun + time.perf_counter()) / 2
            self._pages.append((wall_s + middle, zlib.compress(page, _FASTEST)))

    def observed(self, started_s: float) -> Observed:
        """All that was seen; `started_s`: Unix time of the window's start."""
        reader = Reader()
        observations: list[Observation] = []
        notes: list[str] = []
        pages: list[Page] = []
        for at_s, packed in list(self._pages):
            text = zlib.decompress(packed).decode(errors="replace")
            try:
                page = read_page(text, self._model)
            except ValueError as error:
                notes = [f"{self._client.url} cannot be read: {error}"]
                continue
            pages.append(page)
            values = reader.read(page)
            if values:
                observations.append(Observation((at_s - started_s) * 1000, values))
        notes += self._doubts(observations, pages, reader)
        return Observed(
            observations,
            notes,
            url=self._client.url,
            looks=len(self._pages) + self._missed,
            missed=self._missed,
            cpu_s=self._cpu_s,
            slowest_ms=self._slowest_s * 1000,
        )

    def _doubts(
        self, observations: list[Observation], pages: list[Page], reader: Reader
    ) -> list[str]:
        url = self._client.url
        if self._none:
            return [self._none]
        notes = []
        if self._missed:
            looks = len(self._pages) + self._missed
            notes.append(f"{url}: {self._missed} of {looks} looks failed ({self._fault})")
        if pages and not observations:
            notes.append(_nothing_known(url, self._model, pages[-1]))
        if reader.falls:
            notes.append(
                f"{url}: counts fell on {reader.falls} of {reader.pages} pages: a server was"
                " started anew, or several answer at this address in turn; then its figures say"
                " nothing"
            )
        return notes


def _nothing_known(url: str, model: str, page: Page) -> str:
    if page.models:
        others = ", ".join(sorted(page.models))
        return f"{url} speaks of {others}, and not of '{model}': where its time goes is not known"
    return (
        f"{url} has none of the metrics that are known here (vLLM's, and those of `distill serve`):"
        " where the server's time goes is not known"
    )
