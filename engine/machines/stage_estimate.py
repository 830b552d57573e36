"""One row of a plan: what a stage takes, and what is worth knowing of it."""

from __future__ import annotations

from dataclasses import dataclass

# Factors either way that hold for about nine of ten (benchmarks/planner/README.md).
MEASURED = 1.25
PREDICTED = 1.5
UNSURE = 2.0
AS_MEASURED = "as measured"
CPUS_UNKNOWN = "not known on CPUs before a run: try some rows, then --from-run"


@dataclass(frozen=True)
class StageEstimate:
    """Devices of one kind for some hours; `hours` None: cannot be told, and `bound` says why. US
    dollars (of GPUs, or what an API is paid) None: no price is known. `size_gb` is what it writes.

    `better` are changes of placement that are worth it, `warnings` what may go wrong, and
    `is_measured` says that an earlier run speaks for it.
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
    is_measured: bool = False

    @classmethod
    def unknown(
        cls,
        stage: str,
        bound: str,
        size_gb: float,
        *,
        devices: int = 0,
        accelerator: str | None = None,
        better: tuple[str, ...] = (),
    ) -> StageEstimate:
        """One whose time cannot be told; `bound` says why."""
        return cls(stage, devices, accelerator, None, 1.0, None, size_gb, bound, better=better)

    @classmethod
    def unsized(
        cls, stage: str, model: str, size_gb: float, *, devices: int, accelerator: str
    ) -> StageEstimate:
        """One of a model whose size is not known yet."""
        bound = f"{model}: its size is not known before it is here as a folder"
        return cls.unknown(stage, bound, size_gb, devices=devices, accelerator=accelerator)

    @classmethod
    def on_cpus(cls, stage: str, seconds: float | None, size_gb: float) -> StageEstimate:
        """On CPUs of whatever kind, by what a run on them measured; None where none did."""
        if seconds is None:
            return cls.unknown(stage, CPUS_UNKNOWN, size_gb)
        hours = seconds / 3600
        told = (stage, 0, None, hours, MEASURED, None, size_gb, AS_MEASURED)
        return cls(*told, is_measured=True)

    @property
    def interval(self) -> tuple[float, float] | None:
        """Fewest and most hours, nine times of ten."""
        if self.hours is None:
            return None
        return self.hours / self.spread, self.hours * self.spread
