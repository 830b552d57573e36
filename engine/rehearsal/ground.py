"""What a small job stands on: rows, models, an address; and how long anything may be in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.rehearsal.little_models import LittleModels  # torch and transformers take seconds

KEY_VARIABLE = "DISTILL_REHEARSAL_KEY"
ANSWER = 16  # tokens
PATIENCE_S = 900.0  # for what starts on a busy laptop


@dataclass(frozen=True)
class Ground:
    """What the small job stands on."""

    train: list[str]
    validation: list[str] | None
    models: LittleModels
    shrink: int  # of positions
    api: str = ""  # address of the local server

    def shorter(self, tokens: int | None) -> int | None:
        """A length of the job in small; None stays the model's own."""
        return None if tokens is None else max(16, tokens // self.shrink)


def changed(block: Any, changes: Mapping[str, Any]) -> Any:
    """The block with other values in these fields."""
    return block.model_copy(update=changes)
