"""A training engine of plain torch, and a launcher that stays in this process: the reference for
DeepSpeed on Ray's workers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from engine.job.spec import GenerateSpec, TrainSpec
from engine.training.blocks import Batch
from engine.training.student import Student

GENERATE = GenerateSpec(
    teachers=[{"name": "t", "model": "no-such-teacher"}]
)  # whose answers the curated examples of tests are
_MOMENTS = ("exp_avg", "exp_avg_sq")


class TorchEngine:
    """fp32 AdamW on one device; see loop.Engine for the methods."""

    def __init__(self, spec: TrainSpec, student: Student, *, device: str) -> None:
        assert spec.precision == "fp32", (
            f"train.precision={spec.precision}; plain torch trains in fp32 only"
        )
        self._device = "cuda" if device == "gpu" else "cpu"
        self._student = student.to(self._device)
        self._named = {
            name: param for name, param in student.named_parameters() if param.requires_grad
        }
        self._clip = spec.max_grad_norm
        self._optimizer = torch.optim.AdamW(
            self._named.values(),
            betas=(0.9, spec.adam_beta2),
            weight_decay=spec.weight_decay,
            fused=True,
        )

    def step(
        self, batches: Iterable[Batch], tokens: int, learning_rate: float
    ) -> tuple[float, float, float]:
        self._optimizer.param_groups[0]["lr"] = learning_rate
        sums = torch.zeros(2, device=self._device)
        for batch in batches:
            loss, correct = self._student(batch.to(self._device))
            (loss / tokens).backward()
            sums += torch.stack([loss.detach(), correct])
        norm = torch.nn.utils.clip_grad_norm_(self._named.values(), self._clip)
        self._optimizer.step()
        self._optimizer.zero_grad()
        loss, accuracy = (sums / tokens).tolist()
        return loss, accuracy, float(norm)

    def validate(self, batches: Iterable[Batch], tokens: int) -> float:
        self._student.eval()
        with torch.inference_mode():
            total = sum(float(self._student(batch.to(self._device))[0]) for batch in batches)
        self._student.train()
        return total / tokens

    def save(self) -> dict[str, torch.Tensor]:
        state = self._optimizer.state
        weights = {f"weight/{name}": param.detach() for name, param in self._named.items()}
        weights |= {
            f"{key}/{name}": state[param][key]
            for name, param in self._named.items()
            for key in _MOMENTS
        }
        return {name: tensor.to("cpu", copy=True) for name, tensor in weights.items()}

    def load(self, tensors: Mapping[str, torch.Tensor], step: int) -> None:
        for name, param in self._named.items():
            param.data.copy_(tensors[f"weight/{name}"])
            moments = {key: tensors[f"{key}/{name}"].to(param.device) for key in _MOMENTS}
            self._optimizer.state[param] = {
                "step": torch.tensor(float(step), device=param.device),
                **moments,
            }

    def export(self) -> dict[str, torch.Tensor]:
        return {name: param.detach().cpu() for name, param in self._named.items()}


def run_in_process(work: Callable[..., dict[str, Any]], **placement: object) -> dict[str, Any]:
    """One worker, in this process, whatever the placement asks for; no node of it ever goes
    away."""
    return work(0, 1, lambda: False)
