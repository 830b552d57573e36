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

from engine.job.spec import TeacherSpec

# set in the environment of an actor whose bundles lie on several nodes
SPANNING = "DISTILL_REPLICA_SPANS_NODES"
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
    def of(cls, teacher: TeacherSpec, device: str) -> Layout:
        """The layout that a teacher's fields ask for; only engines of ours take devices (the fake
        one takes GPUs alone)."""
        holds = teacher.kind == "vllm" or (teacher.kind == "fake" and device == "gpu")
        if not holds:
            return cls(0, replicas=teacher.replica_range, device=device)
        kind = teacher.accelerator_type if device == "gpu" else None
        split = (teacher.tensor_parallel, teacher.pipeline_parallel, teacher.data_parallel)
        return cls(teacher.devices, *split, teacher.replica_range, kind, device)

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
        kind = (
            {f"accelerator_type:{self.accelerator_type}": KIND_SHARE}
            if self.accelerator_type
            else {}
        )
        return (
            [{self.resource: 1.0} | kind] * self.devices
            if spanning
            else [{self.resource: float(self.devices)} | kind]
        )

    def __str__(self) -> str:
        splits = {
            "tensor_parallel": self.tensor_parallel,
            "pipeline_parallel": self.pipeline_parallel,
            "data_parallel": self.data_parallel,
        }
        shown = [
            f"{name}={n}"
            for name, n in splits.items()
            if n > 1 or (name == "tensor_parallel" and self.counted == "replicas")
        ]
        return " x ".join([f"{self.counted}={self.replicas[0]}", *shown])


def fits(layouts: Sequence[Layout], nodes: Sequence[Node], *, whole: bool = False) -> bool:
    """Whether the fewest replicas of all layouts find free devices at once; `whole`: each replica
    on one node."""
    room = [node.free for node in nodes]
    widest_first = sorted(layouts, key=lambda layout: -layout.devices)
    return all(
        _take(layout, nodes, room, whole)
        for layout in widest_first
        for _ in range(layout.replicas[0])
    )


def spans(layout: Layout, nodes: Sequence[Node]) -> bool:
    """Whether the replicas need the Ray executor: split they fit the nodes, whole they do not (busy
    devices count as free)."""
    idle = _idle(nodes)
    return layout.may_span and not fits([layout], idle, whole=True) and fits([layout], idle)


def shortfall(layouts: Sequence[Layout], nodes: Sequence[Node]) -> str | None:
    """None if all layouts fit at once, else what they want, what there is, and the nearest change
    that fits.

    GPUs that something else holds count as missing; pass nodes with free=devices to ask about the
    cluster as such.
    """
    if fits(layouts, nodes):
        return None
    kinds = {layout.accelerator_type for layout in layouts} - {None}
    known = {kind for node in nodes for kind in node.accelerators}
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


def _take(layout: Layout, nodes: Sequence[Node], room: list[int], whole: bool) -> bool:
    """Take one replica's devices out of `room`, the narrowest node that holds them first; False if
    it finds no place."""
    usable = [
        i for i, node in enumerate(nodes) if layout.accelerator_type in (None, *node.accelerators)
    ]
    if wide := [i for i in usable if room[i] >= layout.devices]:
        room[min(wide, key=room.__getitem__)] -= layout.devices
        return True
    stages, width = layout.pipeline_parallel, layout.tensor_parallel
    if whole or not layout.may_span or sum(room[i] // width for i in usable) < stages:
        return False
    for i in sorted(usable, key=room.__getitem__, reverse=True):
        here = min(stages, room[i] // width)  # a tensor-parallel group stays on one node
        room[i] -= here * width
        stages -= here
    return True


def _idle(nodes: Sequence[Node]) -> list[Node]:
    return [replace(node, free=node.devices) for node in nodes]


def _wanted(layouts: Sequence[Layout]) -> str:
    count = sum(layout.replicas[0] * layout.devices for layout in layouts)
    kinds = {layout.accelerator_type for layout in layouts}
    kind = f"{kinds.pop()} " if len(kinds) == 1 and kinds != {None} else ""
    return f"wants {count} {kind}{layouts[0].resource}s ({' + '.join(map(str, layouts))})"


def _held(layouts: Sequence[Layout], nodes: Sequence[Node]) -> str:
    total, free = sum(node.devices for node in nodes), sum(node.free for node in nodes)
    text = str(total)
    if (
        sum(layout.replicas[0] * layout.devices for layout in layouts) <= total
    ):  # it is not their number, so it is how they lie
        sizes = Counter(node.devices for node in nodes if node.devices)
        text += (
            " ("
            + ", ".join(
                f"{n} node{'s' * (n > 1)} of {size}"
                for size, n in sorted(sizes.items(), reverse=True)
            )
            + ")"
        )
    return text if free == total else f"{text}, {free} of them free"


def _advice(layouts: Sequence[Layout], nodes: Sequence[Node]) -> str:
    """The nearest change that fits: fewer replicas, or the same devices in narrower tensor-parallel
    groups."""
    most = max(layout.replicas[0] for layout in layouts)
    for splits in _splits(layouts):
        for count in range(most, 0, -1):
            if fits(
                [
                    replace(layout, replicas=(min(count, layout.replicas[0]),) * 2)
                    for layout in splits
                ],
                nodes,
            ):
                changes = [f"{layouts[0].counted}: {count}"] if count < most else []
                for before, after in zip(layouts, splits, strict=True):
                    names = ("tensor_parallel", "pipeline_parallel")
                    changes += [
                        f"{name}: {getattr(after, name)}"
                        for name in names
                        if getattr(after, name) != getattr(before, name)
                    ]
                return f"Set {', '.join(changes)} or use a larger --cluster."
    engines = layouts[0].device == "gpu" and not any(node.devices for node in nodes)
    return "Use a larger --cluster" + (
        "; with device: cpu the engines run on CPUs." if engines else "."
    )


def _splits(layouts: Sequence[Layout]) -> Iterator[Sequence[Layout]]:
    """The layouts as they are, then (for a single one) ever narrower tensor-parallel groups in more
    pipeline stages."""
    yield layouts
    if len(layouts) == 1 and layouts[0].device == "gpu" and layouts[0].data_parallel == 1:
        width, stages = layouts[0].tensor_parallel, layouts[0].pipeline_parallel
        for parts in range(2, width + 1):
            if width % parts == 0:
                yield [
                    replace(
                        layouts[0], tensor_parallel=width // parts, pipeline_parallel=stages * parts
                    )
                ]
