"""A load as it is wanted, before anybody knows who sends it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from engine.errors import SpecError
from engine.loadgen.distributions import Distribution
from engine.loadgen.traces import Trace


@dataclass(frozen=True)
class Closed:
    """So many requests in flight at any time."""

    concurrency: int

    @property
    def kind(self) -> str:
        """As a level is called."""
        return "closed"

    @property
    def size(self) -> tuple[str, float]:
        """What must be more than 0."""
        return "concurrency", self.concurrency


@dataclass(frozen=True)
class Open:
    """Requests that wait for nobody: a row of arrivals.ARRIVALS with its options."""

    rate_rps: float
    arrivals: str = "poisson"
    options: Mapping[str, float] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """As a level is called."""
        return self.arrivals

    @property
    def size(self) -> tuple[str, float]:
        """What must be more than 0."""
        return "rate", self.rate_rps


@dataclass(frozen=True)
class Replay:
    """The requests of a trace, `speed` times as fast as they came. One that knows lengths only gets
    prompts of so many words, by `tokens_per_word` of the model."""

    trace: Trace
    speed: float = 1.0
    tokens_per_word: float = 1.3

    @property
    def kind(self) -> str:
        """As a level is called."""
        return "trace"

    @property
    def size(self) -> tuple[str, float]:
        """What must be more than 0."""
        return "speed", self.speed


@dataclass(frozen=True)
class Sessions:
    """A closed population of users. Each sends a prompt, and after its answer and some thinking the
    next one with all that was said so far; after so many turns it begins anew."""

    users: int
    turns: Distribution = field(default_factory=lambda: Distribution(mean=4))
    think_s: Distribution = field(default_factory=lambda: Distribution("exponential", mean=2))

    @property
    def kind(self) -> str:
        """As a level is called."""
        return "sessions"

    @property
    def size(self) -> tuple[str, float]:
        """What must be more than 0."""
        return "users", self.users


Load = Closed | Open | Replay | Sessions


@dataclass(frozen=True)
class Plan:
    """One load for `seconds`, after `warmup_s` of the same that nobody counts. The seed decides all
    that is drawn: times, the prompts' order, lengths. SpecError for one that makes no sense."""

    load: Load
    seconds: float
    warmup_s: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not (0 < self.seconds < math.inf and 0 <= self.warmup_s < math.inf):
            raise SpecError(
                f"a level of {self.seconds:g} s after {self.warmup_s:g} s of warm-up: give more"
                " than 0, and 0 or more"
            )
        name, value = self.load.size
        if not 0 < value < math.inf:
            raise SpecError(f"{name} {value:g}: must be greater than 0")

    @property
    def concurrency(self) -> int | None:
        """Requests in flight, or users."""
        if isinstance(self.load, Closed):
            return self.load.concurrency
        if isinstance(self.load, Sessions):
            return self.load.users
        return None

    @property
    def rate(self) -> float | None:
        """Requests per second that are asked for, of an open loop; of a trace: its own."""
        if isinstance(self.load, Open):
            return self.load.rate_rps
        if isinstance(self.load, Replay):
            lasts_s = float(self.load.trace.times_s[-1]) / self.load.speed
            return len(self.load.trace.times_s) / max(lasts_s, 1e-9)
        return None
