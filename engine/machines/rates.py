"""How fast one replica answers, from first principles and nine efficiencies: pure arithmetic.

A step of decoding reads the weights and the caches of its sequences, multiplies, and talks to the
other devices; a prompt is read once. Each term is seconds of the busiest device. Formulas: serving
sizing B6.1 to B6.7; the efficiencies and what they were fitted to: benchmarks/planner.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from engine.machines.accelerators import Accelerator
from engine.machines.shape import Architecture

NODE = 8  # devices that NVLink joins


@dataclass(frozen=True)
class Efficiencies:
    """Shares of a peak that engines reach, and what they lose by the way. The first nine are fitted,
    the others stated by sources or assumed."""

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
    routed_network: float = 0.25  # of `link`, where experts lie on several nodes (SGLang, DeepSeek)
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
class Rate:
    """Answer tokens per second of one replica over all its rows; how many sequences it decodes at a
    time and what limits them; shares of its time by term; weights of one device in GB."""

    tokens_per_s: float
    sequences: int
    limit: str
    weights_gb: float
    terms: Mapping[str, float] = field(default_factory=dict)

    @property
    def bound(self) -> str:
        """The term that takes most of the time."""
        return max(self.terms, key=self.terms.__getitem__, default="memory")


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
    def free_gb(self) -> float:
        """Room for caches on one device in GB; not above 0 where the weights do not fit."""
        known = self.efficiencies
        room = self.accelerator.memory_gb * self.numbers.memory - known.engine_gb - self.weights_gb
        if self.numbers.cache_gb is not None:
            return min(room, self.numbers.cache_gb)
        return room

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

    def rate(self, load: Load) -> Rate:
        """Answer tokens per second; 0 where the weights do not fit."""
        if self.free_gb <= 0:
            return Rate(0.0, 0, "the weights do not fit", self.weights_gb)
        limits = {
            "memory": self.by_memory(load),
            "max_num_seqs": float(self.numbers.max_num_seqs * self.split.data),
            "rows": load.rows,
        }
        limit = min(limits, key=limits.__getitem__)
        sequences = max(1.0, limits[limit])
        seconds = _seconds_of_a_row(self, load, sequences)
        total = sum(seconds.values())
        shares = {name: part / total for name, part in seconds.items()}
        return Rate(load.output_tokens / total, int(sequences), limit, self.weights_gb, shares)


def _seconds_of_a_row(replica: Replica, load: Load, sequences: float) -> dict[str, float]:
    """Seconds of the replica that one row takes, by term. At the end of all rows the batch drains:
    half an answer's steps that are not full."""
    step = _step(replica, load, sequences)
    gained = 1 + replica.numbers.accepted
    steps = load.output_tokens / gained / sequences
    row = {name: seconds * steps for name, seconds in step.items()}
    row["prefill"] = load.input_tokens * (1 - load.cached) * _prompt_token(replica, load)
    if load.rows > sequences and math.isfinite(load.rows):
        row["tail"] = 0.5 * load.output_tokens / gained * sum(step.values()) / load.rows
    return row


def _step(replica: Replica, load: Load, sequences: float) -> dict[str, float]:
    """Seconds of one decoding step of all sequences, by term.

    With pipeline stages each of as many micro-batches passes all stages, so a device reads its
    weights once for each of them. What is read and what is multiplied overlaps: the slower counts,
    and the surplus of reading is the term `weights`.
    """
    model, split, numbers = replica.model, replica.split, replica.numbers
    known = replica.efficiencies
    bandwidth = replica.accelerator.bandwidth_tb_s * 1e12 * known.bandwidth
    stage = _widest_stage(replica)
    tried = sequences * (1 + numbers.drafted)
    of_rank = tried / split.data
    touched = _touched(model, tried / split.pipeline)
    read = split.pipeline / split.tensor / bandwidth
    blocks = stage * model.blocks_b * 1e9 * numbers.rest_bytes * read
    experts_b = model.experts_b / split.data * touched
    experts = stage * experts_b * 1e9 * numbers.weight_bytes * read
    head = model.head_b * 2e9 * read  # on the last stage
    dense_flops = 2e9 * stage * model.blocks_b * of_rank / split.tensor
    multiplied = dense_flops / _flops(replica, numbers.rest_bytes)
    routed = _routed_flops(replica, tried) / _routed_peak(replica)
    head_flops = 2e9 * model.head_b * of_rank / split.tensor
    scored = head_flops / (replica.accelerator.bf16_tflops * 1e12 * known.arithmetic)
    surplus = max(0.0, blocks - multiplied) + max(0.0, experts - routed) + max(0.0, head - scored)
    context = load.input_tokens + load.output_tokens / 2
    positions = model.cached_positions(context) * stage
    cache = sequences / split.data * replica.cache_bytes * positions / bandwidth
    attended = of_rank * model.decode_flops() * positions / split.tensor
    attention = attended / (replica.accelerator.bf16_tflops * 1e12 * known.attention)
    launches = model.layers * known.layer_us + model.routed_layers * known.routed_layer_us
    links = _links(replica, tried)
    links["all-reduce"] += _hops(replica)
    return {
        "weights": surplus,
        "arithmetic": multiplied + routed + scored,
        "KV cache": max(0.0, cache - attention),
        "attention": attention,
        **links,
        "launches": launches * stage * split.pipeline * 1e-6,
        "host": sequences / split.data * known.sequence_us * 1e-6,
    }


def _prompt_token(replica: Replica, load: Load) -> float:
    """Seconds of the busiest device for one prompt token; the weights are read once per chunk."""
    model, split, numbers = replica.model, replica.split, replica.numbers
    known = replica.efficiencies
    stage = _widest_stage(replica)
    rank = split.tensor * split.data
    multiplied = 2e9 * stage * model.blocks_b / rank / _flops(replica, numbers.rest_bytes)
    routed = _routed_flops(replica, 1.0) / _routed_peak(replica)
    positions = model.cached_positions(load.input_tokens / 2) * stage
    attended = model.prefill_flops() * positions / rank
    peak = replica.accelerator.bf16_tflops * 1e12
    attention = attended / (peak * known.prompt_attention)
    read_gb = replica.weights_gb * split.pipeline * stage
    bandwidth = replica.accelerator.bandwidth_tb_s * 1e3 * known.bandwidth
    read = read_gb / bandwidth / (numbers.chunk_tokens * split.data)
    return max(multiplied + routed, read) + attention + sum(_links(replica, 1.0).values())


def _widest_stage(replica: Replica) -> float:
    """Share of the layers on the pipeline stage that has most of them."""
    layers = replica.model.layers
    return math.ceil(layers / replica.split.pipeline) / layers


def _touched(model: Architecture, tokens: float) -> float:
    """Share of the experts that at least one of these tokens is routed to, evenly."""
    if not model.experts:
        return 0.0
    missed = 1 - min(1.0, max(1, model.top_k) / model.experts)
    return 1 - missed**tokens


def _flops(replica: Replica, bytes_per_weight: float) -> float:
    """Reached FLOP/s of one device on weights of this width."""
    known = replica.efficiencies
    return _peak(replica, bytes_per_weight) * known.arithmetic


def _peak(replica: Replica, bytes_per_weight: float) -> float:
    peak = replica.accelerator.tflops(bytes_per_weight) * 1e12
    if replica.accelerator.has_fp4(bytes_per_weight):
        return peak * replica.efficiencies.fp4
    return peak


def _routed_peak(replica: Replica) -> float:
    """Reached FLOP/s of one device on experts."""
    return _peak(replica, replica.numbers.weight_bytes) * replica.efficiencies.experts


def _routed_flops(replica: Replica, tokens: float) -> float:
    """Arithmetic of one device on the experts of so many tokens of the whole replica."""
    spread = replica.split.tensor * replica.split.data
    return 2e9 * _widest_stage(replica) * replica.model.active_experts_b * tokens / spread


def _spans_nodes(replica: Replica, devices: int) -> bool:
    """Whether so many devices are joined by the network, which is slower than the links."""
    accelerator = replica.accelerator
    return devices > NODE and accelerator.network_gb_s < accelerator.link_gb_s


def _links(replica: Replica, tokens: float) -> dict[str, float]:
    """Seconds of one device on links for so many tokens of the whole replica: two all-reduces a
    layer (and one hop between stages), and what routed tokens send (in 8 bits) and get (in 16)."""
    model, split, known = replica.model, replica.split, replica.efficiencies
    stage = _widest_stage(replica)
    of_rank = tokens / split.data
    inner = _bandwidth(replica, split.tensor * split.data)
    reduced = 2 * model.layers * stage * of_rank * model.hidden * 2
    share = 2 * (split.tensor - 1) / split.tensor
    seconds = reduced * share / inner
    if split.pipeline > 1:
        seconds += of_rank * model.hidden * 2 / _bandwidth(replica, split.devices)
    routed = 0.0
    if model.experts and split.data > 1:
        spread = split.tensor * split.data
        copies = min(max(1, model.top_k), spread) * (1 - 1 / spread)
        sent = model.routed_layers * stage * tokens / spread * copies * model.hidden * 3
        routed = sent / inner
        if _spans_nodes(replica, spread):
            routed /= known.routed_network
    return {"all-reduce": seconds, "expert traffic": routed}


def _bandwidth(replica: Replica, devices: int) -> float:
    """Reached bytes per second between so many devices."""
    accelerator = replica.accelerator
    reached = accelerator.link_gb_s
    if _spans_nodes(replica, devices):
        reached = accelerator.network_gb_s
    return reached * 1e9 * replica.efficiencies.link


def _hops(replica: Replica) -> float:
    """Seconds of latency of a step's all-reduces, where they leave the node."""
    if not _spans_nodes(replica, replica.split.tensor):
        return 0.0
    return 2 * replica.model.layers * replica.efficiencies.hop_us * 1e-6
