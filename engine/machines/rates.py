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
    time and what limits them; shares of its time by term."""

    tokens_per_s: float
    sequences: int
    limit: str
    terms: Mapping[str, float] = field(default_factory=dict)

    @property
    def bound(self) -> str:
        """The term that takes most of the time."""
        return max(self.terms, key=self.terms.__getitem__, default="memory")


def rate(replica: Replica, load: Load) -> Rate:
    """How fast one replica answers all its rows; 0 where the weights do not fit."""
    if replica.free_gb <= 0:
        return Rate(0.0, 0, "the weights do not fit")
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
    return Rate(load.output_tokens / total, int(sequences), limit, shares)


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
    """Seconds of one decoding step of all sequences, by term."""
    model, split = replica.model, replica.split
    known = replica.efficiencies
    tried = sequences * (1 + replica.numbers.drafted)
    weights, arithmetic = _multiplied(replica, tried)
    cache, attention = _attended(replica, load, sequences, tried)
    links = link_seconds(replica, tried)
    links["all-reduce"] += hop_seconds(replica)
    launches_us = model.layers * known.layer_us + model.routed_layers * known.routed_layer_us
    return {
        "weights": weights,
        "arithmetic": arithmetic,
        "KV cache": cache,
        "attention": attention,
        **links,
        "launches": launches_us * replica.widest_stage * split.pipeline * 1e-6,
        "host": sequences / split.data * known.sequence_us * 1e-6,
    }


def _multiplied(replica: Replica, tried: float) -> tuple[float, float]:
    """Seconds of a step's multiplications by weights, and of reading these beyond that: both
    overlap, so the slower counts.

    With pipeline stages each of as many micro-batches passes all stages, so a device reads its
    weights once for each of them. The output head is on the last stage, in 16 bits.
    """
    model, split, numbers = replica.model, replica.split, replica.numbers
    known = replica.efficiencies
    of_rank = tried / split.data
    read_gb_s = replica.accelerator.bandwidth_tb_s * 1e3 * known.bandwidth
    passes = split.pipeline / split.tensor
    stage = replica.widest_stage
    touched_b = model.experts_b / split.data * _touched(model, tried / split.pipeline)
    half_flops = replica.accelerator.bf16_tflops * 1e12 * known.arithmetic
    parts = (
        (
            stage * model.blocks_b * numbers.rest_bytes * passes / read_gb_s,
            2e9 * stage * model.blocks_b * of_rank / split.tensor / _flops(replica),
        ),
        (
            stage * touched_b * numbers.weight_bytes * passes / read_gb_s,
            _routed_flops(replica, tried) / _routed_peak(replica),
        ),
        (
            model.head_b * 2 * passes / read_gb_s,
            2e9 * model.head_b * of_rank / split.tensor / half_flops,
        ),
    )
    multiplied = sum(seconds for _, seconds in parts)
    surplus = sum(max(0.0, read - seconds) for read, seconds in parts)
    return surplus, multiplied


def _attended(replica: Replica, load: Load, sequences: float, tried: float) -> tuple[float, float]:
    """Seconds of a step's attention, and of reading the caches beyond that; sequences are half
    answered on average."""
    model, split, known = replica.model, replica.split, replica.efficiencies
    context = load.input_tokens + load.output_tokens / 2
    positions = model.cached_positions(context) * replica.widest_stage
    bandwidth = replica.accelerator.bandwidth_tb_s * 1e12 * known.bandwidth
    read = sequences / split.data * replica.cache_bytes * positions / bandwidth
    flops = tried / split.data * model.decode_flops() * positions / split.tensor
    attention = flops / (replica.accelerator.bf16_tflops * 1e12 * known.attention)
    return max(0.0, read - attention), attention


def _prompt_token(replica: Replica, load: Load) -> float:
    """Seconds of the busiest device for one prompt token; the weights are read once per chunk."""
    model, split, numbers = replica.model, replica.split, replica.numbers
    known = replica.efficiencies
    stage = replica.widest_stage
    rank = split.tensor * split.data
    multiplied = 2e9 * stage * model.blocks_b / rank / _flops(replica)
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


def _flops(replica: Replica) -> float:
    """Reached FLOP/s of one device on weights outside the experts."""
    return _peak(replica, replica.numbers.rest_bytes) * replica.efficiencies.arithmetic


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
