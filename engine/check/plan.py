"""What a job takes before it runs, with all that can be known: the user's figures, the first rows
of its sources, an earlier run, and the machines of a cluster file.

Whatever is missing is assumed and said to be; nothing here fails because data are not there yet.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from engine.check.job import problems_of
from engine.check.measured_run import measured_run
from engine.check.models import NotHere
from engine.check.seen_data import seen_data
from engine.errors import SpecError
from engine.job.spec import JobSpec
from engine.machines.accelerators import accelerator_named
from engine.machines.cluster_file import NodeKind, machines_of, prices_of
from engine.machines.estimate import estimate
from engine.machines.estimate_lines import estimate_lines
from engine.machines.ground import Ground
from engine.machines.holding import problems_on
from engine.machines.native_file import NativeFile, read_native_file
from engine.machines.work import Seen, work_of
from engine.store.paths import run_folder


@dataclass(frozen=True)
class Asked:
    """What the user says beside the job."""

    seen: Seen = field(default_factory=Seen)
    cluster: NativeFile | None = None
    gpu: str | None = None
    prices: Mapping[str, float] = field(default_factory=dict)
    from_run: str | None = None


def plan_lines(job: JobSpec, asked: Asked) -> Iterator[str]:
    """The plan as text, then what is to mend before it runs: what the cluster file's machines
    cannot hold, and what `distill check` finds. SpecError where something that is named is not
    known."""
    yield from estimated_lines(job, asked)
    machines = machines_of(asked.cluster) if asked.cluster else ()
    if asked.cluster and not machines:
        yield f"{asked.cluster.path.name} is a running cluster: what it has, `distill run` asks it"
    problems = problems_on(job, machines) + problems_of(job)
    if machines:  # this machine's disk is not theirs
        problems = [problem for problem in problems if not isinstance(problem, NotHere)]
    if problems:
        yield "before it runs, mend:"
        yield from (f"  {problem}" for problem in problems)


def estimated_lines(job: JobSpec, asked: Asked) -> Iterator[str]:
    """The plan alone."""
    machines: Sequence[NodeKind] = ()
    prices: dict[str, float] = {}
    if asked.cluster:
        machines = machines_of(asked.cluster)
        prices = prices_of(asked.cluster)
    gpu = accelerator_named(asked.gpu) if asked.gpu else None
    measured = None
    seen = asked.seen
    if asked.from_run:
        measured, of_run = measured_run(run_folder(asked.from_run))
        seen = seen.or_else(of_run)
    ground = Ground(gpu, _kinds(machines), prices | dict(asked.prices), measured)
    yield from estimate_lines(estimate(job, work_of(job, seen.or_else(seen_data(job))), ground))


def tail_lines(job: JobSpec, cluster: Path | None = None) -> list[str]:
    """The plan with nothing said beside the job and its machines, as the end of `distill check`;
    where it cannot be made, why."""
    try:
        file = read_native_file(cluster) if cluster else None
        return list(estimated_lines(job, Asked(cluster=file)))
    except SpecError as error:
        return [f"no plan: {error}"]


def _kinds(machines: Sequence[NodeKind]) -> dict[str, int]:
    """Accelerators with the GPUs of one machine, that with most GPUs first."""
    ordered = sorted(machines, key=lambda one: -one.devices * one.count[1])
    kinds: dict[str, int] = {}
    for one in ordered:
        if one.accelerator and one.devices:
            kinds[one.accelerator] = max(one.devices, kinds.get(one.accelerator, 0))
    return kinds
