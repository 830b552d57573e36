"""A training engine without a model: one number moves by the tokens that it sees, and faults come
when told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass
class FakeEngine:
    """`weight` is the running sum of learning rate x labels, so any lost or repeated batch shows in
    it.

    die_at_step: raise RuntimeError in that call of `step`. wrong_at_step: report this loss and
    gradient norm at that step.
    validation_losses: what `validate` gives after so many steps, in place of the mean label.
    """

    die_at_step: int | None = None
    wrong_at_step: tuple[int, float, float] | None = None
    validation_losses: Mapping[int, float] | None = None
    weight: float = 0.0
    steps: int = 0
    learning_rates: list[float] = field(default_factory=list)

    def step(
        self, batches: Iterable[Any], tokens: int, learning_rate: float
    ) -> tuple[float, float, float]:
        """Loss: mean label; accuracy: 0; gradient norm: 1."""
        if self.steps + 1 == self.die_at_step:
            raise RuntimeError(f"fake engine died at step {self.die_at_step}")
        total = sum(float(batch.labels_N.sum()) for batch in batches)
        self.steps += 1
        self.weight += learning_rate * total
        self.learning_rates.append(learning_rate)
        if self.wrong_at_step and self.steps == self.wrong_at_step[0]:
            return self.wrong_at_step[1], 0.0, self.wrong_at_step[2]
        return total / tokens, 0.0, 1.0

    def validate(self, batches: Iterable[Any], tokens: int) -> float:
        """Mean label, or what was told."""
        mean = sum(float(batch.labels_N.sum()) for batch in batches) / tokens
        return self.validation_losses[self.steps] if self.validation_losses else mean

    def save(self) -> dict[str, torch.Tensor]:
        """The one number."""
        return {"weight/number": torch.tensor([self.weight], dtype=torch.float64)}

    def load(self, tensors: Mapping[str, torch.Tensor], step: int) -> None:
        """Go on from it."""
        self.weight, self.steps = float(tensors["weight/number"]), step

    def export(self) -> dict[str, torch.Tensor] | None:
        """Nothing to export: no model."""
        return None
