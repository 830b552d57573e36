"""What a part of this benchmark is given."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """How often, and how long each run is."""

    rounds: int = 5
    seconds: float = 4.0
