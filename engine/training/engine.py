"""What the training loop wants of an engine that moves the weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from torch import Tensor

from engine.training.blocks import Batch


class Engine(Protocol):
    """What the loop needs of DeepSpeed, and of the doubles in tests."""

    def step(
        self, batches: Iterable[Batch], tokens: int, learning_rate: float
    ) -> tuple[float, float, float]:
        """One optimizer step over `tokens` targets of all ranks: mean loss, token accuracy, and the
        gradients' norm before clipping."""

    def validate(self, batches: Iterable[Batch], tokens: int) -> float:
        """Mean loss over `tokens` of all ranks, without a gradient."""

    def save(self) -> dict[str, Tensor]:
        """This rank's share of weight/…, exp_avg/… and exp_avg_sq/…, by parameter name: whole fp32
        tensors, copied to the CPU, because they are written while training goes on."""

    def load(self, tensors: Mapping[str, Tensor], step: int) -> None:
        """Go on from these tensors as after `step` steps."""

    def export(self) -> dict[str, Tensor] | None:
        """What was trained, by the Student's parameter names in their compute type, on rank 0; None
        elsewhere."""
