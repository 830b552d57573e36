"""How an engine of ours runs a model, written once for all who have one: teachers, evaluate,
serve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import model_validator

from engine.job.spec.base import Block, identity, placement


class EngineSpec(Block):
    """How vLLM runs a model (identity), and how it is spread over devices (placement)."""

    least_replicas: ClassVar[int] = 1

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = identity("auto")
    """Type in which the engine computes."""
    quantization: str | None = identity(None)
    """vLLM's name of a quantisation method; none: what the checkpoint says."""
    kv_cache_dtype: str = identity("auto")
    """Type of the KV cache, e.g. fp8; auto: that of the model."""
    max_model_len: int | None = identity(None, ge=16)
    """Longest prompt plus answer in tokens; none: the model's own limit. Long-rope models rotate
    by it (training/rope.py)."""
    engine_args: dict[str, Any] = identity({})
    """Further engine arguments, handed to vLLM as they are; for what has no field here."""
    tensor_parallel: int = placement(1, ge=1)
    """Devices that one replica's tensors are split over."""
    pipeline_parallel: int = placement(1, ge=1)
    """Groups of such devices that one replica's layers are split over; may span nodes."""
    data_parallel: int = placement(1, ge=1)
    """Copies of the attention layers inside one replica, each with its own share of the batch
    (large MoE models)."""
    expert_parallel: bool = placement(False)
    """Spread whole experts over a replica's devices in place of slices of each (MoE models)."""
    replicas: int | list[int] = placement(1)
    """Copies of the engine that share the work: a number, or [fewest, most] that grow as the
    cluster has room."""
    accelerator_type: str | None = placement(None)
    """Ray's name of the GPU that replicas must get, e.g. H200."""
    max_num_seqs: int | None = placement(None, ge=1)
    """Sequences that one engine decodes at a time; none: 128 on a CPU, vLLM's own choice on a GPU
    (H100, H200: 1,024)."""
    kv_cache_gib: float | None = placement(None, gt=0)
    """KV cache of one replica in GiB; none: 1 GiB on a CPU, vLLM's own choice on a GPU."""
    gpu_memory_utilization: float = placement(0.9, gt=0, le=1)
    """Fraction of a GPU's memory that the engine may take."""

    @model_validator(mode="after")
    def _replicas_are_a_number_or_a_range(self) -> EngineSpec:
        numbers = self.replicas if isinstance(self.replicas, list) else [self.replicas]
        ordered = len(numbers) in (1, 2) and numbers == sorted(numbers)
        if not ordered or numbers[0] < self.least_replicas or numbers[-1] < 1:
            raise ValueError(
                f"replicas={self.replicas}; give a number from 1, or [fewest, most] such as [2, 8]"
            )
        return self

    @property
    def replica_range(self) -> tuple[int, int]:
        """Fewest and most replicas."""
        if isinstance(self.replicas, list):
            return self.replicas[0], self.replicas[-1]
        return self.replicas, self.replicas

    @property
    def devices(self) -> int:
        """Devices of one replica."""
        return self.tensor_parallel * self.pipeline_parallel * self.data_parallel


@dataclass(frozen=True)
class Model:
    """What an engine of ours is asked or serves: a teacher, the student, the baseline, a judge."""

    name: str
    model: str  # a folder or a hub name
    revision: str | None
    engine: EngineSpec
    trust_remote_code: bool = False
    reasoning_parser: str | None = None
    tool_parser: str | None = None
    kind: ClassVar[Literal["vllm"]] = "vllm"
