"""What a cluster file's machines cannot hold of a job, and the nearest layout that they can.

Counted are devices, their kinds, and the memory that weights and training state take, as far as the
model's facts are known. How fast it would be is the planner's business.
"""

from __future__ import annotations

import difflib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from engine.errors import SpecError
from engine.job.spec import EngineSpec, FakeTeacherSpec, JobSpec, VllmTeacherSpec
from engine.machines.accelerators import ACCELERATORS
from engine.machines.architectures import Architecture, facts
from engine.machines.cluster_file import NodeKind, machines_of, nodes_at_most
from engine.machines.layout import SPLITS, Layout, Node, count_that_fits, fits
from engine.machines.machine_figures import is_known
from engine.machines.native_file import NativeFile
from engine.machines.planner import state_gb

STAGES_OF_A_PIPELINE = (1, 2, 4, 8)  # as many as an advice goes to
WORKSPACE = 0.9  # share of a GPU's memory that training may plan with; the rest is activations'


@dataclass(frozen=True)
class Ask:
    """Equal replicas that one stage wants at a time: the block of the job that says so, and the
    model that they hold (None: not known, or nothing)."""

    block: str
    layout: Layout
    shape: Architecture | None = None
    share: float = WORKSPACE


def asks_of(job: JobSpec) -> dict[str, list[Ask]]:
    """What each stage asks of a cluster at once, by stage; each teacher has the cluster alone, and
    the judge too."""
    asks: dict[str, list[Ask]] = {}
    for block, teacher in job.asked().items():
        if isinstance(teacher, VllmTeacherSpec):
            asks[block] = [_ask(block, teacher, job, teacher.model)]
        elif isinstance(teacher, FakeTeacherSpec) and job.device == "gpu":
            asks[block] = [Ask(block, Layout.of(teacher, job.device))]
    workers = Layout(replicas=job.train.worker_range, device=job.device, counted="workers")
    asks["train"] = [Ask("train", workers)]
    asks["evaluate"] = [_ask("evaluate", job.evaluate, job, job.train.student)]
    if job.loadtest.models:
        asks["loadtest"] = list(_served(job))
    return asks


def require_machines(job: JobSpec, file: NativeFile) -> tuple[NodeKind, ...]:
    """The file's machines. SpecError where they cannot hold the job, with the nearest layouts that
    they can."""
    machines = machines_of(file)
    if problems := problems_on(job, machines):
        raise SpecError("\n".join(f"{file.path}: {problem}" for problem in problems))
    return machines


def problems_on(job: JobSpec, machines: Sequence[NodeKind]) -> list[str]:
    """Why the machines cannot hold the job, a sentence each with the nearest change that fits; none
    where they can, or where there is nothing to go by (a running cluster)."""
    if not machines or (job.device == "cpu" and any(kind.cpus is None for kind in machines)):
        return []
    problems = []
    asked = asks_of(job)
    nodes = _nodes(job, asked, machines)
    for asks in asked.values():
        layouts = [ask.layout for ask in asks]
        too_big = [ask for ask in asks if not _has_memory(ask, machines)]
        if too_big or not fits(layouts, nodes):
            problems.append(_problem(asks, too_big, machines, nodes))
    problems += _training_problems(job, machines)
    return problems


def count_nodes(job: JobSpec, machines: Sequence[NodeKind]) -> int:
    """The fewest machines of each kind with which every stage gets as many replicas as it would on
    all of them; at least 1."""
    asked = asks_of(job)
    nodes = _nodes(job, asked, machines)
    wanted = []
    for asks in asked.values():
        grown = []
        for ask in asks:
            most = count_that_fits(ask.layout, ask.layout.replicas[1], nodes, whole=False)
            grown.append(replace(ask.layout, replicas=(most, most)))
        wanted.append(grown)
    largest = max((kind.count[1] for kind in machines if kind.devices), default=1)
    for count in range(1, largest):
        fewer = [replace(kind, count=(0, min(count, kind.count[1]))) for kind in machines]
        nodes = _nodes(job, asked, fewer)
        if all(fits(layouts, nodes) for layouts in wanted):
            return count
    return largest


def _nodes(
    job: JobSpec, asked: Mapping[str, Sequence[Ask]], machines: Sequence[NodeKind]
) -> list[Node]:
    kinds = []
    for asks in asked.values():
        for ask in asks:
            if ask.layout.accelerator_type:
                kinds.append(ask.layout.accelerator_type)
    return nodes_at_most(machines, job.device, kinds)


def _ask(block: str, engine: EngineSpec, job: JobSpec, model: str) -> Ask:
    layout = Layout.of(engine, job.device)
    return Ask(block, layout, facts(model), engine.gpu_memory_utilization)


def _served(job: JobSpec) -> Iterator[Ask]:
    """The models of a load test, which are served at once."""
    fewest = max(1, job.serve.replica_range[0])
    teacher = job.generate.teachers[0]
    for model in dict.fromkeys(job.loadtest.models):
        ask = _ask("serve", job.serve, job, job.train.student)
        if model == "teacher" and isinstance(teacher, VllmTeacherSpec):
            ask = _ask("generate.teachers.0", teacher, job, teacher.model)
        yield replace(ask, layout=replace(ask.layout, replicas=(fewest, fewest)))


def _has_memory(ask: Ask, machines: Sequence[NodeKind]) -> bool:
    """Whether some GPU that the layout may get holds its share of the weights."""
    largest_gb = _largest_gb(machines, ask.layout.accelerator_type)
    if ask.shape is None or ask.layout.device == "cpu" or largest_gb is None:
        return True
    return _weights_gb(ask) <= ask.share * largest_gb


def _largest_gb(machines: Sequence[NodeKind], accelerator: str | None = None) -> float | None:
    """Memory of the largest GPU that may be such an accelerator; None where there is none, or where
    the file does not tell of each how large it is."""
    largest_gb = None
    for kind in machines:
        is_usable = accelerator in (None, kind.accelerator) or kind.accelerator is None
        if kind.devices and is_usable:
            if kind.device_memory_gb is None:
                return None
            largest_gb = max(kind.device_memory_gb, largest_gb or 0)
    return largest_gb


def _weights_gb(ask: Ask) -> float:
    layout = ask.layout
    if ask.shape is None:
        return 0.0
    return ask.shape.weights_gb_per_device(
        layout.tensor_parallel, layout.pipeline_parallel, layout.data_parallel
    )


def _problem(
    asks: Sequence[Ask], too_big: Sequence[Ask], machines: Sequence[NodeKind], nodes: Sequence[Node]
) -> str:
    """One stage's: what it wants, what there is, and what to set."""
    blocks = " + ".join(dict.fromkeys(ask.block for ask in asks))
    wants = " + ".join(_wanted(ask.layout) for ask in asks)
    text = f"{blocks} wants {wants}"
    for ask in too_big:
        text += f", {_weights_gb(ask):,.0f} GB of weights on each"
    changes = []
    if len(asks) == 1:
        changes = _nearest(asks[0], machines, nodes)
    advice = "no layout of it fits there; give a cluster file of more or larger machines"
    if changes:
        advice = f"the nearest that fits: set {', '.join(changes)}"
    return f"{text}; the machines are {_described(machines)}: {advice}"


def _wanted(layout: Layout) -> str:
    kind = f"{layout.accelerator_type} " if layout.accelerator_type else ""
    count = layout.replicas[0] * layout.devices
    return f"{count} {kind}{layout.resource}s ({layout})"


def _described(machines: Sequence[NodeKind]) -> str:
    told = []
    for kind in machines:
        if kind.devices:
            size = f" of {kind.device_memory_gb:g} GB" if kind.device_memory_gb else ""
            name = kind.accelerator or "GPUs"
            told.append(f"{kind.count[1]} x {kind.devices} {name}{size}{_doubt(kind)}")
        elif kind.cpus:
            told.append(f"{kind.count[1]} x {kind.cpus:g} CPUs")
    return ", ".join(told) or "without GPUs"


def _doubt(kind: NodeKind) -> str:
    """What is worth saying of an accelerator that nobody knows: a new one, or a slip."""
    if not kind.accelerator or is_known(kind.accelerator):
        return ""
    near = difflib.get_close_matches(kind.accelerator, ACCELERATORS, 1, 0.5)
    meant = f"; did you mean {near[0]}?" if near else ""
    return f" (no accelerator that is known{meant})"


def _nearest(ask: Ask, machines: Sequence[NodeKind], nodes: Sequence[Node]) -> list[str]:
    """The fields to set so that the layout fits, with as few changes (a split is one), as many
    replicas and as few pipeline stages as may be; empty where none does."""
    best: tuple[tuple[int, ...], list[str]] | None = None
    for layout in _variants(ask, machines):
        changed = replace(ask, layout=layout)
        one = replace(layout, replicas=(1, 1))
        if not _has_memory(changed, machines) or not fits([one], nodes):
            continue
        fewest = ask.layout.replicas[0]
        count = count_that_fits(one, fewest, nodes, whole=False)
        changes = _changes(ask.layout, replace(layout, replicas=(count, count)))
        splits = sum(getattr(layout, name) != getattr(ask.layout, name) for name in SPLITS)
        others = len(changes) - splits
        rank = (others + bool(splits), fewest - count, layout.pipeline_parallel, splits)
        if best is None or rank < best[0]:
            best = (rank, changes)
    return best[1] if best else []


def _variants(ask: Ask, machines: Sequence[NodeKind]) -> Iterator[Layout]:
    """The layout on each kind of GPU there is, in other widths and stages: those may span nodes,
    copies of attention may not."""
    kinds: list[str | None] = [ask.layout.accelerator_type]
    if ask.layout.accelerator_type:
        there = {kind.accelerator or "" for kind in machines}
        kinds += sorted(filter(is_known, there))
    widths = [ask.layout.tensor_parallel]
    stages = {ask.layout.data_parallel: [ask.layout.pipeline_parallel]}
    if ask.layout.counted == "replicas" and ask.layout.device == "gpu":
        widest = max((kind.devices for kind in machines), default=1)
        heads = ask.shape.heads if ask.shape else 0
        powers = [2**power for power in range(int(math.log2(max(1, widest))) + 1)]
        widths += [width for width in powers if heads % width == 0]
        stages[1] = [*stages.get(1, ()), *STAGES_OF_A_PIPELINE]
    for kind, copies, width in itertools.product(kinds, stages, widths):
        for count in stages[copies]:
            yield replace(
                ask.layout,
                accelerator_type=kind,
                tensor_parallel=width,
                pipeline_parallel=count,
                data_parallel=copies,
                devices=width * count * copies,
            )


def _changes(before: Layout, after: Layout) -> list[str]:
    changes = []
    for name in ("accelerator_type", *SPLITS):
        value = getattr(after, name)
        if value != getattr(before, name):
            changes.append(f"{name}: {value}")
    if after.replicas[0] != before.replicas[0]:
        changes.append(f"{before.counted}: {after.replicas[0]}")
    return changes


def _training_problems(job: JobSpec, machines: Sequence[NodeKind]) -> Iterator[str]:
    """Training state that no GPU there holds, with the first setting that makes it small enough."""
    shape = facts(job.train.student)
    largest_gb = _largest_gb(machines)
    if shape is None or job.device == "cpu" or largest_gb is None:
        return
    room_gb = WORKSPACE * largest_gb
    wanted_gb = state_gb(job.train, shape)
    if wanted_gb <= room_gb:
        return
    workers = job.train.worker_range[0]
    most = sum(kind.count[1] * kind.devices for kind in machines)
    advice = "take a smaller student, or LoRA"
    settings = ((2, workers, "none"), (3, workers, "none"), (3, most, "none"), (3, most, "cpu"))
    for stage, count, offload in settings:
        changed = job.train.model_copy(
            update={"zero_stage": stage, "workers": count, "offload": offload}
        )
        if state_gb(changed, shape) <= room_gb:
            advice = f"the nearest that fits: set zero_stage: {stage}, workers: {count}"
            if offload == "cpu":
                advice += ", offload: cpu"
            break
    yield (
        f"train wants {wanted_gb:,.0f} GB of model state on each of {workers} GPUs; the machines"
        f" are {_described(machines)}: {advice}"
    )
