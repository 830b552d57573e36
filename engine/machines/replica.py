"""One model on the devices of one replica: what an engine is given, and what fits.

How fast that is, is told by rates.py; the efficiencies that it stands on are here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from engine.machines.accelerators import Accelerator
from engine.machines.shape import Architecture


@dataclass(frozen=True)
class Efficiencies:
    """Shares of a peak that engines reach, and what they lose by the way. The first nine are
    fitted, the others stated by sources or assumed."""

    bandwidth: float = 0.90
    arithmetic: float = 0.66
    experts: float = 0.20  # of the same peak: many small multiplications
    attention: float = 0.56
    fp4: float = 0.64  # of its peak, before `arithmetic`
    link: float = 0.64
    layer_us: float = 138.0  # launches and small kernels of one layer and step
    routed_layer_us: float = 177.0  # more of those where experts are routed to
    sequence_us: float = 5.1  # the host's work for one token of one sequence
    prompt_attention: float = 0.5  # assumed: FlashAttention on long prompts
    hop_us: float = 150.0  # of one all-reduce between nodes (TP16 at one request: 4.3 times slower)
    memory: float = 0.92  # of a device's memory, given to the engine
    engine_gb: float = 4.0  # of that: CUDA graphs, activations, libraries


EFFICIENCIES = Efficiencies()


@dataclass(frozen=True)
class Split:
    """The devices of one replica: tensors x layers x copies of attention (experts are spread over
    tensors and copies)."""

    tensor: int = 1
    pipeline: int = 1
    data: int = 1

    @property
    def devices(self) -> int:
        """All of them."""
        return self.tensor * self.pipeline * self.data


@dataclass(frozen=True)
class Numbers:
    """How an engine runs a model: bytes of a weight (of experts, and of the rest), of a cached
    number, most sequences of one data-parallel rank, most prompt tokens of one step, the share of
    memory it may take, and speculation: tokens tried beyond the sure one, and gained, per step."""

    weight_bytes: float
    rest_bytes: float
    kv_bytes: float = 2.0
    max_num_seqs: int = 2048
    chunk_tokens: int = 8192
    memory: float = EFFICIENCIES.memory
    cache_gb: float | None = None  # of one device, where it is given
    drafted: float = 0.0
    accepted: float = 0.0


@dataclass(frozen=True)
class Load:
    """What one replica is given: rows, and tokens of a prompt and an answer on average. `cached` is
    the share of prompt tokens that a prefix cache already holds."""

    input_tokens: float
    output_tokens: float
    rows: float = math.inf
    cached: float = 0.0


@dataclass(frozen=True)
class Replica:
    """One model on the devices of one replica."""

    model: Architecture
    accelerator: Accelerator
    split: Split
    numbers: Numbers
    efficiencies: Efficiencies = EFFICIENCIES

    @property
    def weights_gb(self) -> float:
        """Weights of one device in GB."""
        rest_gb = self.model.rest_b * self.numbers.rest_bytes
        experts_gb = self.model.experts_b * self.numbers.weight_bytes / self.split.data
        return (rest_gb + experts_gb) / (self.split.tensor * self.split.pipeline)

    @property
    def room_gb(self) -> float:
        """Room for weights and caches on one device in GB."""
        return self.accelerator.memory_gb * self.numbers.memory - self.efficiencies.engine_gb

    @property
    def free_gb(self) -> float:
        """Room for caches on one device in GB; not above 0 where the weights do not fit."""
        free = self.room_gb - self.weights_gb
        if self.numbers.cache_gb is not None:
            return min(free, self.numbers.cache_gb)
        return free

    @property
    def widest_stage(self) -> float:
        """Share of the layers on the pipeline stage that has most of them."""
        return math.ceil(self.model.layers / self.split.pipeline) / self.model.layers

    @property
    def cache_bytes(self) -> float:
        """Cache of one position of one layer on one device; a latent cache is whole on each."""
        whole = self.model.kv_width() * self.numbers.kv_bytes
        if self.model.mla_rank:
            return whole
        return whole / min(self.split.tensor, self.model.kv_heads)

    def by_memory(self, load: Load) -> float:
        """Sequences whose caches fit at a time, half answered on average."""
        context = load.input_tokens + load.output_tokens / 2
        positions = self.model.cached_positions(context)
        of_one = self.cache_bytes * positions / self.split.pipeline
        return self.split.data * self.free_gb * 1e9 / of_one
