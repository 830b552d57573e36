"""How fast one replica answers, from first principles and nine efficiencies: pure arithmetic.

A step of decoding reads the weights and the caches of its sequences, multiplies, and talks to the
other devices; a prompt is read once. Each term is seconds of the busiest device. Formulas: serving
sizing B6.1 to B6.7; the efficiencies and what they were fitted to: benchmarks/planner.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from engine.machines.links import hop_seconds, link_seconds
from engine.machines.replica import Load, Replica
from engine.machines.shape import Architecture


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


def rate(replica: Replica, load: Load) -> Rate:
    """How fast one replica answers all its rows; 0 where the weights do not fit."""
    if replica.free_gb <= 0:
        return Rate(0.0, 0, "the weights do not fit", replica.weights_gb)
    limits = {
        "memory": replica.by_memory(load),
        "max_num_seqs": float(replica.numbers.max_num_seqs * replica.split.data),
        "rows": load.rows,
    }
    limit = min(limits, key=limits.__getitem__)
    sequences = max(1.0, limits[limit])
    seconds = _seconds_of_a_row(replica, load, sequences)
    total = sum(seconds.values())
    shares = {name: part / total for name, part in seconds.items()}
    return Rate(load.output_tokens / total, int(sequences), limit, replica.weights_gb, shares)


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
    stage = replica.widest_stage
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
    links = link_seconds(replica, tried)
    links["all-reduce"] += hop_seconds(replica)
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
    stage = replica.widest_stage
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
    return max(multiplied + routed, read) + attention + sum(link_seconds(replica, 1.0).values())


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
    return 2e9 * replica.widest_stage * replica.model.active_experts_b * tokens / spread
