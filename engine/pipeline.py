"""The architecture on one screen: the stages in order, and the loop that skips what is finished and
runs the rest.

prompts -> generate -> curate -> train -> evaluate -> (serve) -> loadtest -> report
"""

from __future__ import annotations

import importlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import InputError, SpecError, StageError, remedy_of
from engine.job.spec import JobSpec
from engine.rows.ids import canonical_json
from engine.run.context import Context
from engine.run.identity import content_identity
from engine.run.lock import run_lock
from engine.run.manifests import (
    STAGE_FOLDER,
    Manifest,
    load_manifest,
    manifest_sha256,
    publish,
    stage_folder,
)
from engine.run.progress import Progress
from engine.store.files import write_atomic
from engine.store.paths import Folder, StorePath, run_folder


@dataclass(frozen=True)
class Stage:
    """A stage is engine/stages/<name>: run(its block, folders of the stages it needs, its folder,
    context, **more)."""

    order: int
    name: str
    needs: tuple[str, ...] = ()
    reads: Callable[[JobSpec], list[str]] = (
        lambda job: []
    )  # files and models whose content is part of the identity
    files_of: Callable[[Path], list[Path]] | None = (
        None  # which files of a folder that it reads; none: those of a model
    )
    also: tuple[str, ...] = ()  # further blocks of the job that it is given by name
    cluster: bool = False
    store: bool = False  # works in an object store too
    placed: Callable[[JobSpec], dict[str, Any]] | None = (
        None  # placement that is its result, and so part of its identity
    )


def _served(job: JobSpec) -> dict[str, Any]:
    """What a load test measures: on what and how the models are served, not where a client finds
    them."""
    found: dict[str, Any] = {"device": job.device}
    found["serve"] = job.serve.model_dump(
        mode="json", exclude={"host", "port", "api_key_env", "start_timeout_s"}
    )
    if "teacher" in job.loadtest.models:
        found["teacher"] = job.generate.teachers[0].model_dump(mode="json", include=_ENGINE_FIELDS)
    return found


_ENGINE_FIELDS = {
    "tensor_parallel",
    "pipeline_parallel",
    "data_parallel",
    "expert_parallel",
    "accelerator_type",
    "max_num_seqs",
    "max_model_len",
    "kv_cache_gib",
    "engine_args",
}


def _prompt_files(folder: Path) -> list[Path]:
    from engine.stages.prompts.readers import data_files

    return data_files(folder)[0]


STAGES = (
    Stage(
        1, "prompts", reads=lambda job: job.prompts.sources(), files_of=_prompt_files, store=True
    ),
    Stage(
        2,
        "generate",
        needs=("prompts",),
        reads=lambda job: [t.model for t in job.generate.teachers],
        cluster=True,
        store=True,
    ),
    Stage(3, "curate", needs=("prompts", "generate"), store=True),
    Stage(
        4,
        "train",
        needs=("curate",),
        reads=lambda job: job.train.models(),
        also=("generate",),
        cluster=True,
    ),
    Stage(5, "evaluate", needs=("prompts", "generate", "train"), also=("generate",), cluster=True),
    # 6 is serve: alive while loadtest or `distill serve` needs it, never a file (stages/serve.py)
    Stage(
        7,
        "loadtest",
        needs=("prompts", "train"),
        also=("generate", "serve"),
        cluster=True,
        placed=_served,
    ),
    Stage(8, "report", needs=("prompts", "generate", "curate", "train", "evaluate", "loadtest")),
)
NAMES = tuple(stage.name for stage in STAGES)


@dataclass(frozen=True)
class Run:
    """A finished (part of a) run: its folder, and folder and manifest of each stage that is
    done."""

    root: Folder
    folders: dict[str, Folder]
    manifests: dict[str, Manifest]
    reused: tuple[str, ...]


def run(
    job: JobSpec,
    runs: str | Folder = "runs",
    *,
    only: str | None = None,
    from_: str | None = None,
    until: str | None = None,
    force: bool = False,
    retry: str | None = None,
    strict: bool = False,
    cluster: str | None = None,
    progress: Progress | None = None,
    log: Path | None = None,
) -> Run:
    """Run what is not finished of the chosen stages; `force` makes the chosen ones again in new
    folders.

    `retry="failed"` asks again for the rows that ended in `error` and publishes a further manifest
    beside the first. `cluster` is a Ray address (none: this process's connection, RAY_ADDRESS, or a
    local cluster). Relative paths in `job` start in the current directory. Raises EngineError;
    whatever was finished before stays, and the same call resumes.
    """
    from engine.check.job import check_job
    from engine.job.jobfile import check_owner, dump_job, with_absolute_paths

    job, chosen = with_absolute_paths(job), choose(only, from_, until)
    root = run_folder(runs) / job.name
    _require_disk(
        root, [stage.name for stage in STAGES if stage.name in chosen and not stage.store]
    )
    keyless = any(not os.environ.get(name) for name in job.key_variables().values())
    check_job(
        job,
        running=unfinished(job, runs).intersection(chosen)
        if keyless and not (force or retry)
        else chosen,
    )
    ctx = Context(
        job.name, job.task, job.seed, job.device, strict, cluster, log, progress or Progress()
    )
    folders: dict[str, Folder] = {}
    manifests: dict[str, Manifest] = {}
    reused: list[str] = []
    connected = False
    with run_lock(root), ExitStack() as stack:
        check_owner(root, job.name)
        with _told("the run folder"):
            write_atomic(root / "job.yaml", dump_job(job))
        for stage in STAGES:
            if missing := set(stage.needs) - folders.keys():
                if stage.name in chosen:
                    raise StageError(
                        f"{stage.name} needs {sorted(missing)}, which is not finished; run the job"
                        " without --only and --from"
                    )
                continue
            identity = identity_of(stage, job, folders, root)
            folder = stage_folder(
                root, stage.order, stage.name, identity, force=force and stage.name in chosen
            )
            manifest = load_manifest(folder)
            failed = (
                retry == "failed"
                and stage.name in chosen
                and bool(manifest and manifest.info.get("status", {}).get("error"))
            )
            if manifest is not None and stage.name in chosen and not failed:
                bad = "data/quarantine.parquet"
                if strict and bad in manifest.files:
                    raise InputError(
                        f"--strict: {manifest.files[bad].rows} lines are in quarantine:"
                        f" {folder / bad}; mend the sources"
                    )
                reused.append(stage.name)
                ctx.progress.say(f"{stage.name:<9} reused  {folder.name}")
            if (manifest is None or failed) and stage.name in chosen:
                if stage.cluster and not connected:
                    _connect(stack, job, ctx, root)
                    connected = True
                manifest = _run_stage(stage, job, folders, folder, identity, ctx, manifest)
            if manifest is not None:
                folders[stage.name], manifests[stage.name] = folder, manifest
        for name in manifests["report"].files if "report" in manifests else ():
            shutil.copyfile(folders["report"] / name, root / Path(name).name)
    return Run(root, folders, manifests, tuple(reused))


def _require_disk(root: Folder, stages: list[str]) -> None:
    if stages and isinstance(root, StorePath):
        raise SpecError(
            f"--runs {root.parent}: {', '.join(stages)} cannot work in an object store. Run --until"
            f" curate there, copy {root} to a"
            " folder that every node shares, and go on with --runs there: the finished stages are"
            " reused"
        )


def _run_stage(
    stage: Stage,
    job: JobSpec,
    folders: dict[str, Folder],
    folder: Folder,
    identity: dict[str, Any],
    ctx: Context,
    before: Manifest | None,
) -> Manifest:
    """`before` is the manifest that this run's supersedes, if any row changed."""
    function = importlib.import_module(f"engine.stages.{stage.name}").run
    more: dict[str, Any] = {name: getattr(job, name) for name in stage.also}
    if stage.name == "loadtest":
        more["endpoint"] = lambda models: _endpoint(job, folders["train"], models, ctx)
    (folder / "data").mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with _told(stage.name), ctx.progress.stage(stage.name, folder):
        counts = function(
            getattr(job, stage.name),
            {name: folders[name] for name in stage.needs},
            folder,
            ctx,
            **more,
        )
        if before and counts.files == {name: entry.rows for name, entry in before.files.items()}:
            ctx.progress.say(
                f"{stage.name:<9} retried {folder.name}  nothing gained; the manifest stays"
            )
            return before
        manifest = publish(
            folder,
            stage.name,
            identity,
            counts,
            time.monotonic() - started,
            supersede=before is not None,
        )
    ctx.progress.say(
        f"{stage.name:<9} done    {folder.name}  {manifest.rows_out:,} rows in"
        f" {manifest.seconds:,.0f} s"
    )
    return manifest


@contextmanager
def _told(stage: str) -> Iterator[None]:
    """A full disk is an error with a remedy, not a traceback."""
    try:
        yield
    except OSError as error:
        if not (remedy := remedy_of(error)):
            raise
        raise StageError(f"{stage}: {error}{remedy}") from error


def _connect(stack: ExitStack, job: JobSpec, ctx: Context, root: Folder) -> None:
    """Ray until `stack` ends, with a sign of what takes so long, and which cluster was joined where
    one was."""
    with ctx.progress.waiting(
        "connecting to Ray" if ctx.cluster or os.environ.get("RAY_ADDRESS") else "starting Ray here"
    ):
        from engine.backends import ray_cluster

        connected = ray_cluster.connected(
            ctx.cluster, shared=root, environment=_guard(job), keys=job.key_variables().values()
        )
        joined = stack.enter_context(connected)
    if joined:
        ctx.progress.say(joined)


def _guard(job: JobSpec) -> dict[str, str]:
    """Serve's processes learn at their start which key they guard; a run that serves nothing needs
    none."""
    if not os.environ.get(job.serve.api_key_env or ""):
        return {}
    from engine.stages import serve

    return serve.guard_environment(job.serve)


def _endpoint(job: JobSpec, train: Path, models: list[str], ctx: Context) -> Any:
    from engine.stages import serve

    return serve.endpoint(
        job.serve, serve.models_of(job.serve, job.generate.teachers[0], train, models), ctx
    )


@contextmanager
def serving(
    job: JobSpec,
    models: list[str],
    runs: str | Folder = "runs",
    *,
    cluster: str | None = None,
    progress: Progress | None = None,
) -> Iterator[Any]:
    """The endpoint of a finished job for the length of the block; yields its base URL and key."""
    from engine.job.jobfile import with_absolute_paths

    job = with_absolute_paths(job)
    root = run_folder(runs) / job.name
    _require_disk(root, ["serve"])
    train = next(
        (
            state.folder
            for state in plan(job, runs)
            if state.stage == "train" and state.state == "reuse"
        ),
        None,
    )
    if train is None and set(models) != {"teacher"}:
        raise StageError(
            f"job '{job.name}' has no finished student in {root}; make it first: distill run JOB"
            " --until train"
        )
    ctx = Context(
        job.name, job.task, job.seed, job.device, cluster=cluster, progress=progress or Progress()
    )
    with ExitStack() as stack:
        _connect(stack, job, ctx, root)
        with ctx.progress.waiting(f"starting {', '.join(models)}"):
            endpoint = stack.enter_context(_endpoint(job, train or root, models, ctx))
        yield endpoint


def load_url(
    job: JobSpec,
    url: str,
    model: str,
    runs: str | Folder = "runs",
    *,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Load-test any OpenAI-compatible server with the job's validation prompts: {model: {"levels":
    [...]}}."""
    from engine.stages import loadtest

    if not (job.loadtest.concurrency or job.loadtest.rates):
        raise SpecError(
            "loadtest has no levels; give --set 'loadtest.concurrency=[1, 4]' or --set"
            " 'loadtest.rates=[1.0]'"
        )
    prompts = loadtest.load_prompts(
        run(job, runs, until="prompts", progress=progress).folders["prompts"]
    )
    key = os.environ.get(job.serve.api_key_env or "")
    return {
        model: {"levels": loadtest.measure_url(url, model, job.loadtest, prompts, job.seed, key)}
    }


@dataclass(frozen=True)
class StagePlan:
    """What a run would do with one stage: reuse it, resume it, run it, or (its folder is not known
    yet) run it later."""

    stage: str
    state: str
    folder: Folder | None


def plan(job: JobSpec, runs: str | Folder = "runs") -> list[StagePlan]:
    """What `run` would do, from files alone."""
    root = run_folder(runs) / job.name
    folders: dict[str, Folder] = {}
    plans = []
    for stage in STAGES:
        if set(stage.needs) - folders.keys():
            plans.append(StagePlan(stage.name, "run", None))
            continue
        folder = stage_folder(root, stage.order, stage.name, identity_of(stage, job, folders, root))
        if load_manifest(folder) is not None:
            folders[stage.name] = folder
            plans.append(StagePlan(stage.name, "reuse", folder))
        else:
            plans.append(StagePlan(stage.name, "resume" if folder.exists() else "run", folder))
    return plans


def is_superseded(job: JobSpec, runs: str | Folder = "runs") -> Callable[[Folder], bool]:
    """Whether a stage folder of the job's run is of other settings than the job has, or older than
    a finished one of the same.

    What cannot be told is not: a stage behind an unfinished one, or whose sources are not there
    just now, may be needed again.
    """
    plans = {state.stage: state for state in plan(job, runs)}
    blocks = {stage.name: canonical_json(_blocks_of(stage, job)) for stage in STAGES}

    def decide(folder: Folder) -> bool:
        stage = STAGE_FOLDER.fullmatch(folder.name)[2]
        now = plans.get(stage)
        if now is None or folder == now.folder:
            return False
        if now.state == "reuse":
            return True
        manifest = load_manifest(folder)
        return manifest is not None and canonical_json(manifest.identity["blocks"]) != blocks[stage]

    return decide


def unfinished(job: JobSpec, runs: str | Folder = "runs") -> set[str]:
    """Names of the stages that a run of the whole job would work on."""
    return {stage.stage for stage in plan(job, runs) if stage.state != "reuse"}


def identity_of(
    stage: Stage, job: JobSpec, folders: dict[str, Folder], root: Folder
) -> dict[str, Any]:
    """All that decides a stage's result: its identity fields, the seed, upstream manifests and the
    content it reads."""
    cache = root.parent / ".cache" / "content.json"
    placed = {"placed": stage.placed(job)} if stage.placed else {}
    return placed | {
        "stage": stage.name,
        "task": job.task,
        "seed": job.seed,
        "blocks": _blocks_of(stage, job),
        "upstream": {name: manifest_sha256(folders[name]) for name in stage.needs},
        "content": [
            content_identity(source, cache, stage.files_of) for source in stage.reads(job) if source
        ],
    }


def _blocks_of(stage: Stage, job: JobSpec) -> dict[str, Any]:
    return {name: getattr(job, name).identity_fields() for name in (stage.name, *stage.also)}


def choose(only: str | None, from_: str | None, until: str | None) -> tuple[str, ...]:
    """Names of the stages to run. SpecError for an unknown name or an empty choice."""
    for option, name in (("--only", only), ("--from", from_), ("--until", until)):
        if name is not None and name not in NAMES:
            raise SpecError(f"{option} {name}: no such stage; choose one of {', '.join(NAMES)}")
    if only and (from_ or until):
        raise SpecError("--only names the one stage to run; take it, or --from and --until")
    if only:
        return (only,)
    first, last = NAMES.index(from_ or NAMES[0]), NAMES.index(until or NAMES[-1])
    if first > last:
        raise SpecError(
            f"--from {from_} comes after --until {until}; the order is {', '.join(NAMES)}"
        )
    return NAMES[first : last + 1]
