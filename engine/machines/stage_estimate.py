"""One row of a plan: what a stage takes, and what is worth knowing of it."""

from __future__ import annotations

from dataclasses import dataclass

# Factors either way that hold for about nine of ten (benchmarks/planner/README.md).
MEASURED = 1.25
PREDICTED = 1.5
UNSURE = 2.0


@dataclass(frozen=True)
class StageEstimate:
    """Devices of one kind for some hours; `hours` None: cannot be told, and `bound` says why. US
    dollars (of GPUs, or what an API is paid) None: no price is known. `size_gb` is what it writes.

    `better` are changes of placement that are worth it, `warnings` what may go wrong.
    """

    stage: str
    devices: int
    accelerator: str | None
    hours: float | None
    spread: float
    usd: float | None
    size_gb: float
    bound: str
    notes: tuple[str, ...] = ()
    better: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def interval(self) -> tuple[float, float] | None:
        """Fewest and most hours, nine times of ten."""
        if self.hours is None:
            return None
        return self.hours / self.spread, self.hours * self.spread
