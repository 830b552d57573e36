"""The block `loadtest`: which load, and for how long."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from engine.job.spec.base import Block, identity


class LoadtestSpec(Block):
    """Endpoint -> request samples, curves and failures."""

    models: list[Literal["student", "teacher", "baseline"]] = identity(["student"])
    """Models to load, all in one Serve application, one after the other; empty: no load test."""
    arrivals: Literal["poisson", "constant"] = identity("poisson")
    """Gaps between requests at a given rate."""
    concurrency: list[int] = identity([])
    """Closed-loop levels: this many requests are always in flight."""
    rates: list[float] = identity([])
    """Open-loop levels: requests per second, drawn once from the seeded generator."""
    seconds: float = identity(30, gt=0)
    """Length of one level."""
    warmup_seconds: float = identity(5, ge=0)
    """Load before each level that is sent but not measured."""
    max_tokens: int = identity(128, ge=1)
    """Longest answer."""
    temperature: float = identity(0.0, ge=0, le=2)
    """Sampling temperature of the requests."""
    timeout_s: float = identity(120, gt=0)
    """Deadline of one request; past it the request failed."""

    @model_validator(mode="after")
    def _levels_are_positive(self) -> LoadtestSpec:
        if any(level <= 0 for level in [*self.concurrency, *self.rates]):
            raise ValueError("concurrency and rates must be greater than 0")
        for name, levels in (("concurrency", self.concurrency), ("rates", self.rates)):
            if len({f"{level:g}" for level in levels}) < len(levels):
                raise ValueError(f"{name} names a level twice: {levels}")
        if len(set(self.models)) < len(self.models):
            raise ValueError(f"models names one twice: {self.models}")
        if self.models and not (self.concurrency or self.rates):
            raise ValueError(
                "a load test needs levels: give concurrency: [1, 4], or rates: [1.0], or models: []"
            )
        return self
