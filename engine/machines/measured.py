"""What a finished run says of speed: plain figures, and whether they speak for another job.

A factor between measured and predicted holds for the same model, accelerator and layout where the
lengths are alike; beyond, it makes a plan no better (benchmarks/planner/README.md). Which files it
is read from is not its business.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.machines.replica import Load, Split

NEAR = 4.0  # lengths within this factor are alike


@dataclass(frozen=True)
class Answered:
    """How one model answered: tokens per second of one replica, start-up excluded, and the seconds
    of start-up. `accelerator` None: not named, as on CPUs."""

    model: str
    accelerator: str | None
    split: Split
    load: Load
    tokens_per_s: float
    start_s: float

    def speaks_for(self, model: str, accelerator: str | None, split: Split, load: Load) -> bool:
        """Whether it is the same model, accelerator and layout, at lengths within a factor of
        four."""
        if (self.model, self.accelerator, self.split) != (model, accelerator, split):
            return False
        lengths = (
            (self.load.input_tokens, load.input_tokens),
            (self.load.output_tokens, load.output_tokens),
        )
        return all(max(pair) <= NEAR * min(pair) for pair in lengths)


@dataclass(frozen=True)
class Trained:
    """How a student trained: target tokens per second of one worker, and the seconds of all that
    was no step."""

    student: str
    accelerator: str | None
    workers: int
    tokens_per_s: float
    start_s: float


@dataclass(frozen=True)
class Measured:
    """A finished run: where it lies, and what its stages tell."""

    run: str
    answered: tuple[Answered, ...] = ()
    trained: Trained | None = None
    evaluate_s: float | None = None
    evaluated_rows: int = 0
