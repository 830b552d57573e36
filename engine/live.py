"""The endpoint of a finished job, or of models without one, for as long as somebody wants it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.errors import StageError
from engine.job.jobfile import ServeOnly
from engine.job.spec import JobSpec
from engine.pipeline import connect, endpoint_of, plan, require_disk
from engine.run.context import Context
from engine.run.manifests import Finished
from engine.run.progress import Progress
from engine.store.paths import Folder, run_folder


@contextmanager
def serving(
    job: JobSpec,
    models: list[str],
    runs: str | Folder = "runs",
    *,
    cluster: str | None = None,
    progress: Progress | None = None,
) -> Generator[Any]:
    """The endpoint of a finished job for the length of the block; yields its base URL and key."""
    job, root, train, ctx = _to_serve(job, models, runs, cluster, progress)
    from engine.stages import serve

    with ExitStack() as stack:
        connect(stack, job.key_variables().values(), ctx, root)
        with ctx.progress.waiting(f"starting {', '.join(models)}"):
            endpoint = stack.enter_context(endpoint_of(job, train, ctx, models, compiled=True))
        stack.enter_context(serve.announced(root, endpoint))
        yield endpoint


@contextmanager
def serving_folders(
    only: ServeOnly,
    folders: list[Path],
    *,
    cluster: str | None = None,
    progress: Progress | None = None,
) -> Generator[Any]:
    """The endpoint of local models without a job."""
    from engine.stages import serve

    served = serve.models_in(folders, only.serve, only.device)
    shown = progress or Progress()
    ctx = Context("serve", "conversation", 0, only.device, cluster=cluster, progress=shown)
    with ExitStack() as stack:
        connect(stack, only.serve.key_variables().values(), ctx, folders[0])
        with ctx.progress.waiting(f"starting {', '.join(served)}"):
            endpoint = stack.enter_context(serve.endpoint(only.serve, served, ctx, compiled=True))
        yield endpoint


def update_served(
    job: JobSpec,
    model: str,
    runs: str | Folder = "runs",
    *,
    progress: Progress | None = None,
) -> None:
    """Roll the newest weights of one model into the endpoint that `distill serve` keeps alive."""
    from engine.stages import serve

    job, root, train, ctx = _to_serve(job, [model], runs, None, progress)
    told = serve.announcement(root)
    with ExitStack() as stack:
        connect(stack, (), replace(ctx, cluster=told["ray_address"]), root)
        teacher = job.generate.teachers[0]
        (served,) = serve.models_of(job.serve, teacher, train, [model], job.device).values()
        with ctx.progress.waiting(f"starting the new {model}"):
            serve.update(told["application"], job.serve, served, ctx)


def _to_serve(
    job: JobSpec,
    models: list[str],
    runs: str | Folder,
    cluster: str | None,
    progress: Progress | None,
) -> tuple[JobSpec, Path, Finished | None, Context]:
    """The job with absolute paths, its folder, its finished training, and a context."""
    from engine.job.jobfile import with_absolute_paths

    job = with_absolute_paths(job)
    root = run_folder(runs) / job.name
    require_disk(root, ["serve"])
    assert isinstance(root, Path)
    train = {state.stage: state.finished for state in plan(job, runs)}["train"]
    if train is None and set(models) != {"teacher"}:
        raise StageError(
            f"job '{job.name}' has no finished student in {root}; make it first: distill run JOB"
            " --until train"
        )
    shown = progress or Progress()
    ctx = Context(job.name, job.task, job.seed, job.device, cluster=cluster, progress=shown)
    return job, root, train, ctx
