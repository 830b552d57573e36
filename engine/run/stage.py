"""A stage as a value: what it needs, what decides its result, and the folder that this names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import SpecError
from engine.job.spec import JobSpec
from engine.rows.ids import canonical_json
from engine.run.context import Context
from engine.run.identity import content_identity
from engine.run.manifests import (
    STAGE_FOLDER,
    Finished,
    Manifest,
    load_manifest,
    stage_folder,
)
from engine.store.paths import Folder

Reads = Callable[[JobSpec], list[str]]
Gives = Callable[[JobSpec, Mapping[str, Finished], Context], dict[str, Any]]


def _nothing(job: JobSpec) -> Any:
    return []


def _never(job: JobSpec, manifest: Manifest) -> bool:
    return False


def _no_cluster(job: JobSpec) -> bool:
    return False


def on_ray(job: JobSpec) -> bool:
    """Of a stage that always works there."""
    return True


def _no_more(job: JobSpec, done: Mapping[str, Finished], ctx: Context) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Stage:
    """A stage is engine/stages/<name>: run(its block, the finished stages that it needs, its
    folder, context, **what `gives` gives)."""

    order: int
    name: str
    needs: tuple[str, ...] = ()
    blocks: tuple[str, ...] = ()  # further blocks of the job that decide its result
    reads: Reads = _nothing  # files and models whose content does
    files_of: Callable[[Path], list[Path]] | None = (
        None  # of a folder that it reads; none: a model's
    )
    placed: Callable[[JobSpec], dict[str, Any]] | None = None  # placement that does
    gives: Gives = _no_more
    cluster: Callable[[JobSpec], bool] = _no_cluster  # cannot work without Ray
    spreads: bool = False  # works on a cluster that is there, else on this machine
    store: bool = False  # works in an object store too
    failed_rows: Callable[[Manifest], int] = lambda manifest: 0  # that --retry failed asks again
    wants_more: Callable[[JobSpec, Manifest], bool] = _never  # than a finished pilot has
    copied_to_root: bool = False  # its files are what a user looks for

    def blocks_of(self, job: JobSpec) -> dict[str, Any]:
        """The identity fields that decide its result, by block."""
        return {name: getattr(job, name).identity_fields() for name in (self.name, *self.blocks)}

    def identity(
        self,
        job: JobSpec,
        done: Mapping[str, Finished],
        cache: Folder,
    ) -> dict[str, Any]:
        """All that decides its result: its identity fields, the seed, upstream manifests and the
        content it reads, whose hashes `cache` keeps."""
        content = []
        for source in self.reads(job):
            if source:
                content.append(content_identity(source, cache, self.files_of))
        placed = {"placed": self.placed(job)} if self.placed else {}
        return placed | {
            "stage": self.name,
            "task": job.task,
            "seed": job.seed,
            "blocks": self.blocks_of(job),
            "upstream": {name: done[name].sha256 for name in self.needs},
            "content": content,
        }


@dataclass(frozen=True)
class StagePlan:
    """What a run would do with one stage: reuse it, resume it, run it, or (its folder is not known
    yet) run it later."""

    stage: str
    state: str
    folder: Folder | None
    finished: Finished | None = None


def plan_stages(
    stages: Sequence[Stage], job: JobSpec, root: Folder, cache: Folder
) -> list[StagePlan]:
    """The plan of each stage, from files alone."""
    done: dict[str, Finished] = {}
    plans = []
    for stage in stages:
        if set(stage.needs) - done.keys():
            plans.append(StagePlan(stage.name, "run", None))
            continue
        identity = stage.identity(job, done, cache)
        folder = stage_folder(root, stage.order, stage.name, identity)
        manifest = load_manifest(folder)
        if manifest is not None and not stage.wants_more(job, manifest):
            done[stage.name] = Finished(folder, manifest)
            plans.append(StagePlan(stage.name, "reuse", folder, done[stage.name]))
        else:
            state = "resume" if folder.exists() else "run"
            plans.append(StagePlan(stage.name, state, folder))
    return plans


def superseded_by(
    stages: Sequence[Stage], job: JobSpec, plans: Sequence[StagePlan]
) -> Callable[[Folder], bool]:
    """Whether a stage folder is of other settings than the job has, or older than a finished one of
    the same.

    What cannot be told is not: a stage behind an unfinished one, or whose sources are not there
    just now, may be needed again.
    """
    planned = {state.stage: state for state in plans}
    blocks = {stage.name: canonical_json(stage.blocks_of(job)) for stage in stages}

    def decide(folder: Folder) -> bool:
        named = STAGE_FOLDER.fullmatch(folder.name)
        now = planned.get(named[2]) if named else None
        if named is None or now is None or folder == now.folder:
            return False
        if now.state == "reuse":
            return True
        manifest = load_manifest(folder)
        if manifest is None:
            return False
        return canonical_json(manifest.identity["blocks"]) != blocks[named[2]]

    return decide


def choose_stages(
    names: tuple[str, ...], only: str | None, from_: str | None, until: str | None
) -> tuple[str, ...]:
    """Names of the stages to run. SpecError for an unknown name or an empty choice."""
    for option, name in (("--only", only), ("--from", from_), ("--until", until)):
        if name is not None and name not in names:
            raise SpecError(f"{option} {name}: no such stage; choose one of {', '.join(names)}")
    if only and (from_ or until):
        raise SpecError("--only names the one stage to run; take it, or --from and --until")
    if only:
        return (only,)
    first, last = names.index(from_ or names[0]), names.index(until or names[-1])
    if first > last:
        raise SpecError(
            f"--from {from_} comes after --until {until}; the order is {', '.join(names)}"
        )
    return names[first : last + 1]
