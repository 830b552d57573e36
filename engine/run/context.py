"""What a stage is told besides its own block."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from engine.run.progress import Progress


@dataclass(frozen=True)
class Context:
    """What a stage is told besides its own block: the job's facts and where to show progress."""

    job: str
    task: str
    seed: int
    device: str = "cpu"
    strict: bool = False
    cluster: str | None = None
    log: Path | None = None
    progress: Progress = field(default_factory=Progress)
