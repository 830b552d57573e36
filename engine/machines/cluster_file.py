"""A cluster file of any platform -> the machines that it may start, and what they cost.

Every platform says it in its own fields (native_file.py tells them apart). Prices may stand in a
comment, which all of them let pass:

    # usd per GPU-hour: H200=3.50, H100=2.10
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from engine.errors import SpecError
from engine.machines.layout import Node
from engine.machines.machine_figures import (
    accelerator_in,
    device_memory_gb,
    gigabytes,
    is_known,
    number,
)
from engine.machines.native_file import NativeFile, Platform

_PRICES = re.compile(r"^#+ *usd per gpu-hour: *(.+)$", re.IGNORECASE | re.MULTILINE)
_PRICE = re.compile(r"([\w-]+) *= *(\d+(?:\.\d+)?)")
_SBATCH = re.compile(r"^#SBATCH --([\w-]+)[= ](\S+)", re.MULTILINE)
_KIND = "accelerator_type:"  # Ray's resource of a kind of GPU starts so


@dataclass(frozen=True)
class NodeKind:
    """Machines of one kind: at least count[0], at most count[1] of them.

    `accelerator` is Ray's name of the GPU, None where the file does not tell; `devices` are GPUs of
    one machine. Memory is in GB of 1e9 bytes, of one GPU and of the machine; `cpus` are those that
    Ray may give away, so 0 on a head that only drives. None: the file does not tell.
    """

    name: str
    count: tuple[int, int]
    accelerator: str | None
    devices: int
    device_memory_gb: float | None
    cpus: float | None
    memory_gb: float | None


def machines_of(file: NativeFile) -> tuple[NodeKind, ...]:
    """The machines that the cluster file may start, the head first; empty for a running cluster,
    which only itself can tell. SpecError where it lacks what would say how many."""
    return tuple(_MACHINES[file.platform](file))


def prices_of(file: NativeFile) -> dict[str, float]:
    """US dollars per GPU-hour by accelerator, of the file's price comments."""
    found = {}
    for line in _PRICES.findall(file.text):
        for name, price in _PRICE.findall(line):
            found[name] = float(price)
    return found


def nodes_at_most(
    machines: Iterable[NodeKind], device: str = "gpu", kinds: Iterable[str] = ()
) -> list[Node]:
    """All machines as layouts count them, idle. One whose accelerator the file does not tell passes
    for any of `kinds`, those that a job asks for: Ray finds out on the machine."""
    asked = frozenset(kinds)
    nodes = []
    for machine in machines:
        devices = machine.devices
        if device == "cpu":
            devices = int(machine.cpus or 0)
        known = asked
        if machine.accelerator:
            known = frozenset({machine.accelerator})
        nodes += [Node(devices, devices, known)] * machine.count[1]
    return nodes


def _kuberay(file: NativeFile) -> Iterator[NodeKind]:
    cluster = file.ray_cluster()
    head = file.inside(cluster, "headGroupSpec")
    yield _pod_kind(file, head, "head", (1, 1))
    for group in cluster.get("workerGroupSpecs") or []:
        name = file.inside(group, "groupName")
        hosts = group.get("numOfHosts", 1)
        fixed = group.get("replicas", 1)
        fewest, most = fixed, fixed
        if cluster.get("enableInTreeAutoscaling"):  # else nothing would start more of them
            fewest = group.get("minReplicas", fixed)
            most = group.get("maxReplicas", fixed)
        yield _pod_kind(file, group, name, (int(fewest) * hosts, int(most) * hosts))


def _pod_kind(
    file: NativeFile, group: Mapping[str, Any], name: str, count: tuple[int, int]
) -> NodeKind:
    pod = file.inside(group, "template", "spec")
    asked = file.inside(pod, "containers", 0).get("resources") or {}
    limits = (asked.get("requests") or {}) | (asked.get("limits") or {})
    gpus = [value for resource, value in limits.items() if resource.endswith(".com/gpu")]
    selector = _selected(pod.get("nodeSelector") or {})
    named = _named(group.get("resources") or {})
    started = group.get("rayStartParams") or {}
    devices = int(gpus[0]) if gpus else 0
    cpus = started.get("num-cpus", limits.get("cpu"))
    return _kind(name, count, devices, named or selector, cpus, limits.get("memory"), selector)


def _selected(selector: Mapping[str, Any]) -> str:
    """What a node selector says of the GPU: the value of a label that is about it, or any value
    that names one that is known. A zone or a machine type does not."""
    for label, value in selector.items():
        is_about_gpus = any(word in label for word in ("gpu", "accelerator"))
        if is_about_gpus or is_known(str(value)):
            return str(value)
    return ""


def _launcher(file: NativeFile) -> Iterator[NodeKind]:
    head = file.inside(file.main, "head_node_type")
    types = file.inside(file.main, "available_node_types")
    file.inside(file.main, "available_node_types", head)
    limit = file.main.get("max_workers", 2)  # Ray's default
    for name in sorted(types, key=lambda name: name != head):
        resources = file.inside(types[name], "resources")
        fewest = types[name].get("min_workers", 0)
        most = min(limit, types[name].get("max_workers", limit))
        count = (1, 1) if name == head else (fewest, most)
        devices = int(resources.get("GPU", 0))
        memory = resources.get("memory")
        yield _kind(name, count, devices, _named(resources), resources.get("CPU"), memory)


def _slurm(file: NativeFile) -> Iterator[NodeKind]:
    asked = dict(_SBATCH.findall(file.text))
    nodes = re.fullmatch(r"(\d+)(?:-(\d+))?", asked.get("nodes", ""))
    if nodes is None:
        raise SpecError(f"{file.path}: no line `#SBATCH --nodes=N`, so its size is not known")
    fewest, most = nodes.groups()
    gpus = asked.get("gpus-per-node") or asked.get("gres", "").removeprefix("gpu:")
    kind, _, devices = gpus.rpartition(":")
    if not devices.isdigit():
        raise SpecError(
            f"{file.path}: no line such as `#SBATCH --gpus-per-node=h200:8`, so its GPUs are not"
            " known"
        )
    memory = asked.get("mem", "0")  # 0: all that the node has
    if memory[-1].isdigit():
        memory += "M"  # Slurm's unit where none is given
    count = (int(fewest), int(most or fewest))
    yield _kind("node", count, int(devices), kind, asked.get("cpus-per-task"), memory)


def _sky(file: NativeFile) -> Iterator[NodeKind]:
    resources = file.inside(file.main, "resources")
    asked = file.inside(resources, "accelerators")
    if isinstance(asked, dict):
        asked = next((f"{name}:{count}" for name, count in asked.items()), "")
    kind, _, devices = str(asked).partition(":")
    if not kind or not (devices or "1").isdigit():
        raise SpecError(
            f"{file.path}: resources.accelerators: {asked} is no kind and number of GPUs; give one"
            " such as H200:8"
        )
    nodes = int(file.main.get("num_nodes", 1))
    memory = resources.get("memory")
    if memory is not None:
        memory = f"{str(memory).rstrip('+')}G"
    yield _kind("node", (nodes, nodes), int(devices or 1), kind, resources.get("cpus"), memory)


def _running(file: NativeFile) -> Iterable[NodeKind]:
    return ()


def _named(resources: Iterable[str]) -> str:
    """The kinds among Ray's resources, such as `accelerator_type:H200`."""
    return " ".join(name.removeprefix(_KIND) for name in resources if name.startswith(_KIND))


def _kind(
    name: str,
    count: tuple[int, int],
    devices: int,
    accelerator: str,
    cpus: Any,
    memory: Any,
    more_words: str = "",
) -> NodeKind:
    """`accelerator` names the GPU in any words; those and `more_words` may tell its memory."""
    kind = size_gb = None
    if devices:
        kind = accelerator_in(accelerator)
        size_gb = device_memory_gb(kind, f"{accelerator} {more_words}")
    return NodeKind(name, count, kind, devices, size_gb, number(cpus), gigabytes(memory))


_MACHINES: dict[Platform, Callable[[NativeFile], Iterable[NodeKind]]] = {
    "rayjob": _kuberay,
    "raycluster": _kuberay,
    "rayservice": _kuberay,
    "launcher": _launcher,
    "slurm": _slurm,
    "sky": _sky,
    "running": _running,
}
