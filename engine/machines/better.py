"""Which layout of a model would be better: all splits that an engine can run, tried by their rate.

Only placement is tried: nothing that changes an answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from engine.machines.links import NODE
from engine.machines.rates import Rate, rate
from engine.machines.replica import Load, Replica, Split
from engine.machines.shape import Architecture

SLOW_START = 0.4  # share of a stage from which on starting engines is worth a word
FEW_SEQUENCES = 32  # by memory: below, weights are read for little and one long row stalls it


@dataclass(frozen=True)
class Option:
    """So many replicas of a split, and what they do with their share of the rows."""

    split: Split
    replicas: int
    rate: Rate
    hours: float

    @property
    def devices(self) -> int:
        """Of all replicas."""
        return self.replicas * self.split.devices


def splits(model: Architecture, devices: int, node: int = NODE) -> Iterator[Split]:
    """All ways to spread one replica over so many devices: tensors inside a node, layers over
    nodes, and copies of attention inside a node where experts are spread over them."""
    for tensor in range(1, min(devices, node) + 1):
        if devices % tensor or not splits_heads(model, tensor):
            continue
        rest = devices // tensor
        if rest <= model.layers:
            yield Split(tensor, rest, 1)
        if rest > 1 and model.experts >= devices and devices <= node:
            yield Split(tensor, 1, rest)


def splits_heads(model: Architecture, tensor: int) -> bool:
    """vLLM wants whole heads per device; fewer KV heads than devices are copied evenly, a latent
    cache always."""
    if model.heads % tensor:
        return False
    kv_heads = model.kv_heads
    return bool(model.mla_rank) or kv_heads % tensor == 0 or tensor % kv_heads == 0


def nearest_fit(replica: Replica, node: int = NODE, most: int = 64) -> Split | None:
    """The fewest devices that hold the model and FEW_SEQUENCES tokens-worth of room besides; the
    fastest split of those. None where not even `most` do."""
    load = Load(1000, 500)
    devices = 1
    while devices <= most:
        found = []
        for split in splits(replica.model, devices, node):
            tried = replace(replica, split=split)
            if tried.free_gb > 0 and tried.by_memory(load) >= FEW_SEQUENCES:
                found.append((rate(tried, load).tokens_per_s, split))
        if found:
            return max(found, key=lambda pair: pair[0])[1]
        devices *= 2
    return None


def options(
    replica: Replica, load: Load, devices: int, start_s: float, node: int = NODE
) -> list[Option]:
    """Every way to use so many devices or all but a remainder of them for the rows of `load`,
    fastest first; those where fewer than FEW_SEQUENCES fit only if nothing else does. A replica
    leaves its node only where it must: one node that fails would take the others' work along."""
    found = []
    width = 1
    while width <= devices and (width <= node or not found):
        for split in splits(replica.model, width, node):
            tried = replace(replica, split=split)
            if tried.free_gb > 0:
                found.append(laid_out(tried, load, devices // width, start_s))
        width *= 2
    roomy = [one for one in found if one.rate.limit != "memory" or is_roomy(one.rate)]
    return sorted(roomy or found, key=lambda one: one.hours)


def laid_out(
    replica: Replica, load: Load, replicas: int, start_s: float, factor: float = 1.0
) -> Option:
    """The rows of `load` over so many replicas, `factor` times as fast as predicted; hours with
    `start_s` of start-up."""
    share = replace(load, rows=max(1.0, load.rows / replicas))
    found = rate(replica, share)
    hours = float("inf")
    if found.tokens_per_s:
        seconds = share.rows * load.output_tokens / found.tokens_per_s / factor
        hours = (seconds + start_s) / 3600
    return Option(replica.split, replicas, found, hours)


def fewer_replicas(replica: Replica, load: Load, now: Option, start_s: float) -> Option | None:
    """Half the replicas or fewer, as long as starting them takes SLOW_START of the time; None where
    it does not."""
    best = None
    tried = now
    while tried.replicas > 1 and start_s / 3600 > SLOW_START * tried.hours:
        tried = laid_out(replica, load, tried.replicas // 2, start_s)
        best = tried
    return best


def is_roomy(found: Rate) -> bool:
    """Whether enough sequences fit at a time."""
    return found.sequences >= FEW_SEQUENCES
