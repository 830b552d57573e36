"""The levels of a load test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from engine.job.spec import LoadtestSpec


@dataclass(frozen=True)
class Load:
    """One load: `concurrency` requests always in flight (closed loop), or `rate` requests per
    second (open loop)."""

    concurrency: int | None = None
    rate: float | None = None

    def __str__(self) -> str:
        if self.concurrency:
            return f"concurrency={self.concurrency}"
        return f"rate={self.rate:g}"

    def fields(self) -> dict[str, Any]:
        """The one key of report.json that tells this level from the others."""
        if self.concurrency:
            return {"concurrency": self.concurrency}
        return {"rate": self.rate}


def levels_of(spec: LoadtestSpec) -> list[Load]:
    """Every level of a job, closed loop first."""
    closed = [Load(concurrency=in_flight) for in_flight in spec.concurrency]
    opened = [Load(rate=rate_rps) for rate_rps in spec.rates]
    return closed + opened
