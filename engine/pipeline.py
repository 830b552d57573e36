"""The architecture on one screen: the stages in order, and the loop that skips what is finished and
runs the rest.

    prompts -> generate -> curate -> train -> evaluate -> (serve) -> loadtest -> report
"""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath
from typing import Any

from engine.backends.lm_eval_data import files_read
from engine.errors import InputError, SpecError, StageError, remedy_of
from engine.job.spec import EngineSpec, JobSpec
from engine.rows.records import Messages
from engine.run.context import Context
from engine.run.facts import GenerateInfo
from engine.run.lock import run_lock
from engine.run.manifests import (
    QUARANTINE,
    Finished,
    Manifest,
    load_manifest,
    publish,
    stage_folder,
)
from engine.run.progress import Progress
from engine.run.stage import (
    Stage,
    StagePlan,
    choose_stages,
    on_ray,
    plan_stages,
    superseded_by,
)
from engine.store.files import write_atomic
from engine.store.hub import fetch_data, missing_data
from engine.store.paths import Folder, StorePath, run_folder


def _served(job: JobSpec) -> dict[str, Any]:
    """What a load test measures: on what and how the models are served, not where a client finds
    them."""
    where = {"host", "port", "start_timeout_s", "drain_s", "wait_s", "header_timeout_s", "insecure"}
    where |= {"api_key_env", "api_keys", "api_keys_file", "open_health", "cors_origins", "tls_key"}
    placed = {"device": job.device, "serve": job.serve.model_dump(mode="json", exclude=where)}
    if "teacher" in job.loadtest.models:
        engine = set(EngineSpec.model_fields) - {"replicas"}  # as many as serve says
        placed["teacher"] = job.generate.teachers[0].model_dump(mode="json", include=engine)
    return placed


def _prompt_files(folder: Path) -> list[Path]:
    from engine.rows.sources.readers import data_files

    return data_files(folder)[0]


def _errors_of(manifest: Manifest) -> int:
    assert isinstance(manifest.info, GenerateInfo)
    return manifest.info.status.get("error", 0)


def _is_a_pilot(job: JobSpec, manifest: Manifest) -> bool:
    """Whether fewer prompts were asked than the job wants now."""
    assert isinstance(manifest.info, GenerateInfo)
    asked = manifest.info.limit
    wanted = job.generate.limit
    return asked is not None and (wanted is None or wanted > asked)


def _generate_block(job: JobSpec, done: Mapping[str, Finished], ctx: Context) -> dict[str, Any]:
    return {"generate": job.generate}


def _verify_block(job: JobSpec, done: Mapping[str, Finished], ctx: Context) -> dict[str, Any]:
    return {"verify": job.curate.verify}


def _live_endpoint(job: JobSpec, done: Mapping[str, Finished], ctx: Context) -> dict[str, Any]:
    return {"endpoint": partial(endpoint_of, job, done.get("train"), ctx)}


def _for_evaluate(job: JobSpec, done: Mapping[str, Finished], ctx: Context) -> dict[str, Any]:
    """Its endpoint runs the models as `evaluate` says, which decides all its scores."""
    inside = job.model_copy(update={"serve": job.serve.inside(job.evaluate)})
    live = _live_endpoint(inside, done, ctx)
    return {"generate": job.generate, "verify": job.curate.verify, **live}


STAGES = (
    Stage(
        1, "prompts", reads=lambda job: job.prompts.sources(), files_of=_prompt_files, store=True
    ),
    Stage(
        2,
        "generate",
        needs=("prompts",),
        reads=lambda job: [teacher.model for teacher in job.generate.teachers],
        gives=_verify_block,
        cluster=on_ray,
        store=True,
        failed_rows=_errors_of,
        wants_more=_is_a_pilot,
    ),
    Stage(
        3,
        "curate",
        needs=("prompts", "generate"),
        reads=lambda job: job.curate.sources(),
        files_of=_prompt_files,
        cluster=lambda job: job.curate.judge is not None,
        spreads=True,
        store=True,
    ),
    Stage(
        4,
        "train",
        needs=("curate",),
        blocks=("generate",),
        reads=lambda job: job.train.models(),
        gives=_generate_block,
        cluster=on_ray,
    ),
    Stage(
        5,
        "evaluate",
        needs=("prompts", "generate", "train"),
        blocks=("generate", "curate"),
        reads=lambda job: [*job.evaluate.sources(), *files_read(job.evaluate.lm_eval)],
        gives=_for_evaluate,
        cluster=on_ray,
    ),
    # 6 is serve: alive while loadtest or `distill serve` needs it, never a file (stages/serve.py)
    Stage(
        7,
        "loadtest",
        needs=("prompts", "train"),
        blocks=("generate", "serve"),
        reads=lambda job: job.loadtest.sources(),
        placed=_served,
        gives=_live_endpoint,
        cluster=on_ray,
    ),
    Stage(
        8,
        "report",
        needs=("prompts", "generate", "curate", "train", "evaluate", "loadtest"),
        copied_to_root=True,
    ),
)
NAMES = tuple(stage.name for stage in STAGES)


@dataclass(frozen=True)
class Run:
    """A finished (part of a) run: its folder, and each stage that is done."""

    root: Folder
    stages: dict[str, Finished]
    reused: tuple[str, ...]

    @property
    def folders(self) -> dict[str, Folder]:
        """Stage -> its folder."""
        return {name: stage.folder for name, stage in self.stages.items()}

    @property
    def manifests(self) -> dict[str, Manifest]:
        """Stage -> its newest manifest."""
        return {name: stage.manifest for name, stage in self.stages.items()}


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
    from engine.job.jobfile import check_owner, dump_job, with_absolute_paths

    job = with_absolute_paths(job)
    for source in missing_data(job.prompts.sources()):
        fetch_data(source)
    chosen = choose_stages(NAMES, only, from_, until)
    root = run_folder(runs) / job.name
    require_disk(root, [stage.name for stage in STAGES if stage.name in chosen and not stage.store])
    _check(job, runs, chosen, again=force or retry is not None)
    shown = progress or Progress()
    ctx = Context(job.name, job.task, job.seed, job.device, strict, cluster, log, shown)
    done: dict[str, Finished] = {}
    reused: list[str] = []
    connected = False
    with run_lock(root), ExitStack() as stack:
        check_owner(root, job.name)
        with _told("the run folder"):
            write_atomic(root / "job.yaml", dump_job(job))
        for stage in STAGES:
            wanted = stage.name in chosen
            if not _has_its_needs(stage, done, wanted):
                continue
            identity = stage.identity(job, done, _content_cache(root))
            new = force and wanted
            folder = stage_folder(root, stage.order, stage.name, identity, force=new)
            manifest = load_manifest(folder)
            again = retry == "failed" and manifest is not None and stage.failed_rows(manifest) > 0
            again |= manifest is not None and stage.wants_more(job, manifest)
            if wanted and manifest is not None and not again:
                _require_sound(Finished(folder, manifest), strict)
                reused.append(stage.name)
                ctx.progress.say(f"{stage.name:<9} reused  {folder.name}")
            elif wanted:
                if not connected and _wants_ray(stage, job, ctx):
                    connect(stack, job.key_variables().values(), ctx, root)
                    connected = True
                manifest = _run_stage(stage, job, done, folder, identity, ctx, manifest)
            if manifest is not None:
                done[stage.name] = Finished(folder, manifest)
                if stage.copied_to_root:
                    _copy(manifest.files, folder, root)
    return Run(root, done, tuple(reused))


def _wants_ray(stage: Stage, job: JobSpec, ctx: Context) -> bool:
    """Where the work could be done here as well, a cluster is joined that was named, and none is
    started."""
    is_named = bool(ctx.cluster or os.environ.get("RAY_ADDRESS"))
    return stage.cluster(job) or (stage.spreads and is_named)


def _copy(names: Iterable[str], folder: Folder, root: Folder) -> None:
    for name in names:
        (root / PurePath(name).name).write_bytes((folder / name).read_bytes())


def _check(
    job: JobSpec,
    runs: str | Folder,
    chosen: tuple[str, ...],
    *,
    again: bool,
) -> None:
    """SpecError for what can be known to fail. A key, or lm-eval, is wanted only where a stage that
    asks with it will work, which takes a look at what is finished."""
    from engine.check.job import check_job

    running = set(chosen)
    keyless = any(not os.environ.get(name) for name in job.key_variables().values())
    if (keyless or job.evaluate.lm_eval) and not again:
        running &= unfinished(job, runs)
    check_job(job, running=running)


def _content_cache(root: Folder) -> Folder:
    return root.parent / ".cache" / "content.json"


def _has_its_needs(stage: Stage, done: Mapping[str, Finished], wanted: bool) -> bool:
    """Whether the stages that it needs are done; StageError where they are not and it is wanted."""
    missing = sorted(set(stage.needs) - done.keys())
    if missing and wanted:
        raise StageError(
            f"{stage.name} needs {missing}, which is not finished; run the job without --only and"
            " --from"
        )
    return not missing


def _require_sound(stage: Finished, strict: bool) -> None:
    if strict and stage.quarantined:
        raise InputError(
            f"--strict: {stage.quarantined} lines are in quarantine: {stage.folder / QUARANTINE};"
            " mend the sources"
        )


def require_disk(root: Folder, stages: list[str]) -> None:
    """SpecError where these stages would work in an object store."""
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
    done: Mapping[str, Finished],
    folder: Folder,
    identity: dict[str, Any],
    ctx: Context,
    before: Manifest | None,
) -> Manifest:
    """`before` is the manifest that this run's supersedes, if any row changed."""
    function = importlib.import_module(f"engine.stages.{stage.name}").run
    needs = {name: done[name] for name in stage.needs}
    more = stage.gives(job, done, ctx)
    (folder / "data").mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with _told(stage.name), ctx.progress.stage(stage.name, folder):
        counts = function(getattr(job, stage.name), needs, folder, ctx, **more)
        seconds = time.monotonic() - started
        if before and counts.rows_of_files() == before.rows_of_files():
            ctx.progress.say(
                f"{stage.name:<9} retried {folder.name}  nothing gained; the manifest stays"
            )
            return before
        supersede = before is not None
        manifest = publish(folder, stage.name, identity, counts, seconds, supersede=supersede)
    ctx.progress.say(
        f"{stage.name:<9} done    {folder.name}  {manifest.rows_out:,} rows in"
        f" {manifest.seconds:,.0f} s"
    )
    return manifest


@contextmanager
def _told(stage: str) -> Generator[None]:
    """A full disk is an error with a remedy, not a traceback."""
    try:
        yield
    except OSError as error:
        if not (remedy := remedy_of(error)):
            raise
        raise StageError(f"{stage}: {error}{remedy}") from error


def connect(stack: ExitStack, keys: Iterable[str], ctx: Context, root: Folder) -> None:
    """Ray until `stack` ends, with a sign of what takes so long, and which cluster was joined where
    one was."""
    joins = ctx.cluster or os.environ.get("RAY_ADDRESS")
    with ctx.progress.waiting("connecting to Ray" if joins else "starting Ray here"):
        from engine.backends import ray_cluster

        connected = ray_cluster.connected(ctx.cluster, shared=root, keys=keys)
        joined = stack.enter_context(connected)
    if joined:
        ctx.progress.say(joined)


def endpoint_of(
    job: JobSpec,
    train: Finished | None,
    ctx: Context,
    models: list[str],
    *,
    compiled: bool = False,
) -> Any:
    """These models of a job, served for the length of a block."""
    from engine.stages import serve

    chosen = serve.models_of(job.serve, job.generate.teachers[0], train, models, job.device)
    return serve.endpoint(job.serve, chosen, ctx, compiled=compiled)


def validation_prompts(
    job: JobSpec, runs: str | Folder = "runs", *, progress: Progress | None = None
) -> list[Messages]:
    """The job's validation prompts; its first stage runs where it has not."""
    from engine.stages import loadtest

    done = run(job, runs, until="prompts", progress=progress)
    return loadtest.validation_prompts(done.stages["prompts"])


def plan(job: JobSpec, runs: str | Folder = "runs") -> list[StagePlan]:
    """What `run` would do, from files alone."""
    root = run_folder(runs) / job.name
    return plan_stages(STAGES, job, root, _content_cache(root))


def is_superseded(job: JobSpec, runs: str | Folder = "runs") -> Callable[[Folder], bool]:
    """Whether a stage folder of the job's run is of other settings than the job has, or older than
    a finished one of the same."""
    return superseded_by(STAGES, job, plan(job, runs))


def unfinished(job: JobSpec, runs: str | Folder = "runs") -> set[str]:
    """Names of the stages that a run of the whole job would work on."""
    return {stage.stage for stage in plan(job, runs) if stage.state != "reuse"}
