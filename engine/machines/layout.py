"""Layouts: the devices of a replica, the bundles that Ray is asked for, and whether a cluster's
nodes hold them all.

Pure arithmetic. What a cluster has is read by backends/ray_cluster.py; the groups are made by
backends/ray_placement.py.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from engine.job.spec import EngineSpec

# set in the environment of an actor whose bundles lie on several nodes
SPANNING = "DISTILL_REPLICA_SPANS_NODES"
SPLITS = ("tensor_parallel", "pipeline_parallel", "data_parallel")
KIND_SHARE = 0.001  # Ray's way to ask for a kind of accelerator: a crumb of its resource


@dataclass(frozen=True)
class Node:
    """One machine of a cluster: its GPUs (or CPUs), how many of them are free, and their kinds as
    Ray names them."""

    devices: int
    free: int
    accelerators: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Layout:
    """Equal replicas over a cluster: `devices` each (0: an API's client), between replicas[0] and
    replicas[1] of them.

    One whose devices fit one node gets one bundle there (vLLM's processes, `mp`). Where no node is
    wide enough, pipeline stages go to several nodes: bundles of one GPU each, packed (vLLM's Ray
    executor takes no larger ones).
    """

    devices: int = 1
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    data_parallel: int = 1
    replicas: tuple[int, int] = (1, 1)
    accelerator_type: str | None = None
    device: str = "gpu"
    counted: str = "replicas"

    @classmethod
    def of(cls, engine: EngineSpec, device: str) -> Layout:
        """The layout that an engine's fields ask for."""
        kind = engine.accelerator_type if device == "gpu" else None
        return cls(
            devices=engine.devices,
            tensor_parallel=engine.tensor_parallel,
            pipeline_parallel=engine.pipeline_parallel,
            data_parallel=engine.data_parallel,
            replicas=engine.replica_range,
            accelerator_type=kind,
            device=device,
        )

    @property
    def resource(self) -> str:
        """Ray's name of the device."""
        return self.device.upper()

    @property
    def may_span(self) -> bool:
        """Whether a replica may lie on several nodes: by its pipeline stages, and vLLM's processes
        on CPUs never do."""
        return self.device == "gpu" and self.pipeline_parallel > 1 and self.data_parallel == 1

    def bundles(self, spanning: bool) -> list[dict[str, float]]:
        """The bundles of one replica's placement group."""
        kind = {}
        if self.accelerator_type:
            kind[f"accelerator_type:{self.accelerator_type}"] = KIND_SHARE
        if spanning:
            return [{self.resource: 1.0} | kind] * self.devices
        return [{self.resource: float(self.devices)} | kind]

    def node_bundles(self) -> list[dict[str, float]]:
        """What one replica takes of each node: whole, or a tensor-parallel group for each pipeline
        stage, since those may lie apart."""
        (whole,) = self.bundles(spanning=False)
        if not self.may_span:
            return [whole]
        return [whole | {self.resource: float(self.tensor_parallel)}] * self.pipeline_parallel

    def __str__(self) -> str:
        shown = [f"{self.counted}={self.replicas[0]}"]
        for name in SPLITS:
            count = getattr(self, name)
            is_always_shown = name == "tensor_parallel" and self.counted == "replicas"
            if count > 1 or is_always_shown:
                shown.append(f"{name}={count}")
        return " x ".join(shown)


def fits(
    layouts: Sequence[Layout],
    nodes: Sequence[Node],
    *,
    whole: bool = False,
) -> bool:
    """Whether the fewest replicas of all layouts find free devices at once; `whole`: each replica
    on one node."""
    room = [node.free for node in nodes]
    widest_first = sorted(layouts, key=lambda layout: -layout.devices)
    for layout in widest_first:
        for _ in range(layout.replicas[0]):
            if not _take(layout, nodes, room, whole):
                return False
    return True


def count_that_fits(layout: Layout, wanted: int, nodes: Sequence[Node], *, whole: bool) -> int:
    """As many of `wanted` replicas as find free devices at once; the layout's fewest where not even
    those do."""
    fewest = layout.replicas[0]
    for count in range(wanted, fewest, -1):
        if fits([replace(layout, replicas=(count, count))], nodes, whole=whole):
            return count
    return fewest


def spans(layout: Layout, nodes: Sequence[Node]) -> bool:
    """Whether the replicas need the Ray executor: split they fit the nodes, whole they do not (busy
    devices count as free)."""
    if not layout.may_span:
        return False
    idle = _idle(nodes)
    if fits([layout], idle, whole=True):
        return False
    return fits([layout], idle)


def shortfall(layouts: Sequence[Layout], nodes: Sequence[Node]) -> str | None:
    """None if all layouts fit at once, else what they want, what there is, and the nearest change
    that fits.

    GPUs that something else holds count as missing; pass nodes with free=devices to ask about the
    cluster as such.
    """
    if fits(layouts, nodes):
        return None
    kinds = _kinds(layouts)
    known: set[str] = set()
    for node in nodes:
        known |= node.accelerators
    if missing := sorted(kinds - known):
        near = difflib.get_close_matches(missing[0], known, 1, 0.0)
        instead = f"Set accelerator_type: {near[0]}" if near else "Leave accelerator_type out"
        kinds_there = ", ".join(sorted(known)) or "none that is named"
        return (
            f"{_wanted(layouts)}; the cluster has {kinds_there}. {instead} or use another"
            " --cluster."
        )
    usable = [node for node in nodes if not kinds or kinds & node.accelerators]
    return (
        f"{_wanted(layouts)}; the cluster has {_held(layouts, usable)}. {_advice(layouts, usable)}"
    )


def _take(
    layout: Layout,
    nodes: Sequence[Node],
    room: list[int],
    whole: bool,
) -> bool:
    """Take one replica's devices out of `room`, the narrowest node that holds them first; False if
    it finds no place."""
    usable = []
    for i, node in enumerate(nodes):
        if layout.accelerator_type in (None, *node.accelerators):
            usable.append(i)
    wide = [i for i in usable if room[i] >= layout.devices]
    if wide:
        narrowest = min(wide, key=room.__getitem__)
        room[narrowest] -= layout.devices
        return True
    stages = layout.pipeline_parallel
    width = layout.tensor_parallel
    may_split = layout.may_span and not whole
    if not may_split:
        return False
    most = sum(room[i] // width for i in usable)
    if most < stages:
        return False
    for i in sorted(usable, key=room.__getitem__, reverse=True):
        here = min(stages, room[i] // width)  # a tensor-parallel group stays on one node
        room[i] -= here * width
        stages -= here
    return True


def _kinds(layouts: Sequence[Layout]) -> set[str]:
    kinds = set()
    for layout in layouts:
        if layout.accelerator_type is not None:
            kinds.add(layout.accelerator_type)
    return kinds


def _idle(nodes: Sequence[Node]) -> list[Node]:
    return [replace(node, free=node.devices) for node in nodes]


def _count(layouts: Sequence[Layout]) -> int:
    """Devices of the fewest replicas of all layouts."""
    return sum(layout.replicas[0] * layout.devices for layout in layouts)


def _wanted(layouts: Sequence[Layout]) -> str:
    kinds = {layout.accelerator_type for layout in layouts}
    kind = f"{kinds.pop()} " if len(kinds) == 1 and kinds != {None} else ""
    shown = " + ".join(map(str, layouts))
    return f"wants {_count(layouts)} {kind}{layouts[0].resource}s ({shown})"


def _held(layouts: Sequence[Layout], nodes: Sequence[Node]) -> str:
    total = free = 0
    for node in nodes:
        total += node.devices
        free += node.free
    text = str(total)
    # Where it is not their number, it is how they lie.
    if _count(layouts) <= total:
        text += f" ({_widths(nodes)})"
    if free != total:
        text += f", {free} of them free"
    return text


def _widths(nodes: Sequence[Node]) -> str:
    widths = Counter(node.devices for node in nodes if node.devices)
    told = []
    for width, count in sorted(widths.items(), reverse=True):
        told.append(f"{count} node{'s' * (count > 1)} of {width}")
    return ", ".join(told)


def _advice(layouts: Sequence[Layout], nodes: Sequence[Node]) -> str:
    """The nearest change that fits: fewer replicas, or the same devices in narrower tensor-parallel
    groups."""
    most = max(layout.replicas[0] for layout in layouts)
    for narrower in _splits(layouts):
        for count in range(most, 0, -1):
            if fits(_at_most(count, narrower), nodes):
                changes = _changes(layouts, narrower)
                if count < most:
                    changes.insert(0, f"{layouts[0].counted}: {count}")
                return f"Set {', '.join(changes)} or use a larger --cluster."
    if layouts[0].device == "gpu" and not any(node.devices for node in nodes):
        return "Use a larger --cluster; with device: cpu the engines run on CPUs."
    return "Use a larger --cluster."


def _at_most(count: int, layouts: Sequence[Layout]) -> list[Layout]:
    fewer = []
    for layout in layouts:
        fewest = min(count, layout.replicas[0])
        fewer.append(replace(layout, replicas=(fewest, fewest)))
    return fewer


def _changes(layouts: Sequence[Layout], others: Sequence[Layout]) -> list[str]:
    changes = []
    for before, after in zip(layouts, others, strict=True):
        for name in SPLITS:
            count = getattr(after, name)
            if count != getattr(before, name):
                changes.append(f"{name}: {count}")
    return changes


def _splits(layouts: Sequence[Layout]) -> Iterator[Sequence[Layout]]:
    """The layouts as they are, then (for a single one) ever narrower tensor-parallel groups in more
    pipeline stages: those may lie apart, copies of attention may not."""
    yield layouts
    layout = layouts[0]
    if len(layouts) > 1 or layout.device != "gpu":
        return
    width = layout.tensor_parallel * layout.data_parallel
    for parts in range(2, width + 1):
        if width % parts == 0:
            stages = layout.pipeline_parallel * parts
            narrower = {"tensor_parallel": width // parts, "pipeline_parallel": stages}
            yield [replace(layout, **narrower, data_parallel=1)]
