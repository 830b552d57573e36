"""Seconds that the devices of a replica spend talking to each other."""

from __future__ import annotations

import math

from engine.machines.replica import Replica

NODE = 8  # devices that fast links join


def link_seconds(replica: Replica, tokens: float) -> dict[str, float]:
    """Seconds of one device on links for so many tokens of the whole replica: two all-reduces a
    layer (and one hop between stages), and what routed tokens send (in 8 bits) and get (in 16)."""
    model, split = replica.model, replica.split
    stage = replica.widest_stage
    of_rank = tokens / split.data
    inner = _bandwidth(replica, split.tensor * split.data)
    reduced = 2 * model.layers * stage * of_rank * model.hidden * 2
    share = 2 * (split.tensor - 1) / split.tensor
    seconds = reduced * share / inner
    if split.pipeline > 1:
        seconds += of_rank * model.hidden * 2 / _bandwidth(replica, split.devices)
    return {"all-reduce": seconds, "expert traffic": _routed_seconds(replica, tokens)}


def _routed_seconds(replica: Replica, tokens: float) -> float:
    """Each token goes to the devices of its experts; to another node once, however many of its
    experts lie there (DeepEP)."""
    model, split = replica.model, replica.split
    if not model.experts or split.data == 1:
        return 0.0
    spread = split.tensor * split.data
    copies = min(max(1, model.top_k), spread) * (1 - 1 / spread)
    of_copy = model.routed_layers * replica.widest_stage * tokens / spread * model.hidden * 3
    if not _spans_nodes(replica, spread):
        return copies * of_copy / _bandwidth(replica, spread)
    nodes = math.ceil(spread / NODE)
    away = (nodes - 1) * (1 - (1 - 1 / nodes) ** max(1, model.top_k))
    over_network = away * of_copy / _bandwidth(replica, spread)
    return max(over_network, copies * of_copy / _bandwidth(replica, NODE))


def hop_seconds(replica: Replica) -> float:
    """Seconds of latency of a step's all-reduces, where they leave the node."""
    if not _spans_nodes(replica, replica.split.tensor):
        return 0.0
    return 2 * replica.model.layers * replica.efficiencies.hop_us * 1e-6


def _spans_nodes(replica: Replica, devices: int) -> bool:
    """Whether so many devices are joined by the network, which is slower than the links."""
    accelerator = replica.accelerator
    return devices > NODE and accelerator.network_gb_s < accelerator.link_gb_s


def _bandwidth(replica: Replica, devices: int) -> float:
    """Reached bytes per second between so many devices."""
    accelerator = replica.accelerator
    reached = accelerator.link_gb_s
    if _spans_nodes(replica, devices):
        reached = accelerator.network_gb_s
    return reached * 1e9 * replica.efficiencies.link
