"""How much of the device a step uses: memory, and floating-point operations against its peak."""

from __future__ import annotations

import resource
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from engine.job.spec import TrainSpec

# Dense bf16 multiply-adds, FLOP/s, by a part of the device's name: the vendors' data sheets,
# without sparsity.
PEAK_FLOPS = {
    "B200": 2.25e15,
    "GH200": 9.894e14,
    "H200": 9.894e14,
    "H100 PCIe": 7.56e14,
    "H100 NVL": 8.35e14,
    "H100": 9.894e14,
    "A100": 3.12e14,
    "L40S": 3.62e14,
    "L4": 1.21e14,
    "A10G": 7.0e13,
}


def memory_gib(device: str) -> float:
    """The most memory that this process has held: its tensors on the GPU, else its resident set."""
    if device == "gpu":
        return torch.cuda.max_memory_allocated() / 2**30
    # Linux counts in KiB, from what the starter of a process had held: here a small raylet.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def peak_flops(spec: TrainSpec, device: str) -> float | None:
    """FLOP/s of this process's GPU, if its name is in PEAK_FLOPS and the job multiplies in bf16
    weights that can be counted."""
    if device != "gpu" or spec.precision != "bf16":
        return None
    if spec.lora and spec.lora.quantize != "none":
        return None
    name = torch.cuda.get_device_name()
    for part, peak in PEAK_FLOPS.items():
        if part in name:
            return peak
    return None


@dataclass(frozen=True)
class Workload:
    """What one token costs a dense model."""

    body: int  # parameters but for embeddings and output head
    head: int  # parameters of the output head
    layers: int
    width: int  # heads * their dimension
    frozen: bool

    @classmethod
    def of(cls, model: Any) -> Workload:
        """Of a causal model of transformers, with or without adapters."""
        config = model.config.get_text_config()
        head = model.get_output_embeddings().weight
        embeddings = model.get_input_embeddings().weight
        outside = head.numel()
        if embeddings is not head:  # they are not tied
            outside += embeddings.numel()
        head_dim = (
            getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        )
        parameters = sum(param.numel() for param in model.parameters())
        return cls(
            body=parameters - outside,
            head=head.numel(),
            layers=config.num_hidden_layers,
            width=config.num_attention_heads * head_dim,
            frozen=not head.requires_grad,
        )

    def flops(self, lengths: np.ndarray, targets: int) -> float:
        """Of the forward and backward passes over examples of these lengths: 6N per token and 12 L
        H Q T for attention to T tokens.

        PaLM (Chowdhery et al. 2022, arXiv:2204.02311), appendix B; L layers, H heads of dimension
        Q. As attention never leaves an example, T is its length; as the head runs on targets only,
        its parameters count there. Frozen weights (LoRA) have no gradient of their own: 4N.
        Recomputed activations and a teacher's pass are no work of the model and are not counted.
        """
        each = 4 if self.frozen else 6
        squares = float(np.square(lengths, dtype=np.float64).sum())
        attention = 12 * self.layers * self.width * squares
        weights = self.body * float(lengths.sum()) + self.head * targets
        return each * weights + attention
