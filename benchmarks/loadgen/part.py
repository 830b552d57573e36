"""What a part of this benchmark is given, and gives back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Result = tuple[dict[str, dict[str, Any]], dict[str, Any]]  # ratios with their bounds, raw figures


@dataclass(frozen=True)
class Settings:
    """How often, and how long each run is."""

    rounds: int = 5
    seconds: float = 4.0
