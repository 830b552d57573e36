"""The block `loadtest`: which load, for how long, and what is asked of it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import model_validator

from engine.job.spec.base import Block, identity, placement

DEFAULT_CONCURRENCY = (1, 4, 16)


class SloSpec(Block):
    """Bounds that a request keeps to count as good; at least one."""

    ttft_ms: float | None = identity(None, gt=0)
    """Time to the first token."""
    tpot_ms: float | None = identity(None, gt=0)
    """Time per output token after the first."""
    e2e_ms: float | None = identity(None, gt=0)
    """Time to the end of the answer."""
    percentile: float = identity(99.0, gt=0, le=100)
    """Per cent of the requests that keep all bounds together."""

    @model_validator(mode="after")
    def _has_a_bound(self) -> SloSpec:
        if self.ttft_ms is None and self.tpot_ms is None and self.e2e_ms is None:
            raise ValueError("slo needs a bound: ttft_ms, tpot_ms or e2e_ms, in milliseconds")
        return self


class DistributionSpec(Block):
    """Lengths or pauses by their mean and spread."""

    kind: Literal["fixed", "uniform", "normal", "lognormal", "exponential"] = identity("fixed")
    """Shape."""
    mean: float = identity(1.0, ge=0)
    """Mean, in words, tokens, turns or seconds."""
    cv: float = identity(0.0, ge=0)
    """Standard deviation to mean; an exponential has 1."""
    low: float | None = identity(None, ge=0)
    """Draws below are moved there."""
    high: float | None = identity(None, ge=0)
    """Draws above are moved there."""


class SessionsSpec(Block):
    """Users who talk: the next turn goes out when the answer was read and thought about."""

    users: list[int] = identity(min_length=1)
    """Levels: so many users at once."""
    turns: DistributionSpec = identity(DistributionSpec(mean=4.0))
    """Turns of a conversation."""
    think_s: DistributionSpec = identity(DistributionSpec(kind="exponential", mean=2.0))
    """Seconds between an answer and the next turn."""


class TraceSpec(Block):
    """A recorded load, sent again."""

    path: str = placement()
    """CSV or JSONL with `timestamp`, and `input_tokens` and `output_tokens` or the text itself.
    Identity is its content."""
    speed: float = identity(1.0, gt=0)
    """How many times as fast as it came."""


class LoadtestSpec(Block):
    """Endpoint -> request samples, curves, verdicts and failures."""

    models: list[Literal["student", "teacher", "baseline"]] = identity(["student"])
    """Models to load, all served side by side, one after the other; empty: no load test."""
    concurrency: list[int] = identity([])
    """Closed-loop levels: this many requests are always in flight. [1, 4, 16] where no other load
    is given."""
    rates: list[float] = identity([])
    """Open-loop levels: requests per second, drawn once from the seeded generator."""
    arrivals: Literal["poisson", "gamma", "constant", "ramp"] = identity("poisson")
    """Gaps between requests at a given rate: independent; in bursts, by `burstiness`; equal; ever
    shorter, from no request to the rate."""
    burstiness: float = identity(0.25, gt=0)
    """Shape of gamma's gaps: 1 is poisson, smaller has more bursts."""
    sessions: SessionsSpec | None = identity(None)
    """Levels of users with conversations of several turns."""
    trace: TraceSpec | None = identity(None)
    """A level that replays a recorded load."""
    slo: SloSpec | None = identity(None)
    """What an answer must keep to count as good."""
    search: Literal["concurrency", "rate"] | None = identity(None)
    """Find the largest load within the SLO, too: requests in flight, or requests per second."""
    seconds: float = identity(30, gt=0)
    """Length of one level."""
    warmup_seconds: float = identity(5, ge=0)
    """Load before each level that is sent but not measured."""
    max_tokens: int = identity(128, ge=1)
    """Longest answer."""
    output_tokens: DistributionSpec | None = identity(None)
    """Longest answer, drawn for each request, in place of max_tokens."""
    input_words: DistributionSpec | None = identity(None)
    """Words of the last message, drawn for each request: prompts are cut or repeated."""
    temperature: float = identity(0.0, ge=0, le=2)
    """Sampling temperature of the requests."""
    body: dict[str, Any] = identity({})
    """Further fields of each request, as {ignore_eos: true}."""
    timeout_s: float = identity(120, gt=0)
    """Deadline of one request; past it the request failed."""
    price_per_hour: float | None = identity(None, ge=0)
    """What the machines behind the endpoint cost, in dollars, for the cost per million tokens."""
    processes: int = placement(1, ge=1)
    """Processes that make the load: more where the verdict is `client limited`."""

    @model_validator(mode="after")
    def _levels_make_sense(self) -> LoadtestSpec:
        users = self.sessions.users if self.sessions else []
        levels = {"concurrency": self.concurrency, "rates": self.rates, "sessions.users": users}
        for name, values in levels.items():
            if any(value <= 0 for value in values):
                raise ValueError(f"{name} must be greater than 0: {values}")
            if len({f"{value:g}" for value in values}) < len(values):
                raise ValueError(f"{name} names a level twice: {values}")
        if len(set(self.models)) < len(self.models):
            raise ValueError(f"models names one twice: {self.models}")
        if self.search and self.slo is None:
            raise ValueError("search needs bounds to search by: give slo: {ttft_ms: 500}")
        return self

    @property
    def closed_levels(self) -> list[int]:
        """Requests in flight of each closed-loop level."""
        others = self.rates or self.sessions or self.trace or self.search
        if self.concurrency or others:
            return self.concurrency
        return list(DEFAULT_CONCURRENCY)

    def sources(self) -> list[str]:
        """The files that are read."""
        return [self.trace.path] if self.trace else []
