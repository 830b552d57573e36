"""Does the whole job go through, before it costs anything? The same job file from end to end on
this machine's CPU, in minutes: its stages, its rows, its settings, with small models.

What stands for what is in little_job.py. Nothing of it is a result: it has a folder of its own, and
no figure of it says anything about the real run.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from engine import pipeline
from engine.check.job import check_job
from engine.errors import EngineError, SpecError, StageError, Stopped
from engine.job.jobfile import with_absolute_paths
from engine.job.spec import JobSpec
from engine.job.yamlfile import Document
from engine.machines.holding import require_machines
from engine.machines.native_file import read_native_file
from engine.rehearsal import api_server
from engine.rehearsal.differences import differences
from engine.rehearsal.ground import KEY_VARIABLE, Ground
from engine.rehearsal.little_job import little_job
from engine.rehearsal.places import placed
from engine.rehearsal.preparation import asks_apis, not_tried, prepare
from engine.run.lock import run_lock
from engine.run.progress import Progress
from engine.store.paths import Folder, run_folder

FOLDER = ".rehearsals"  # beside the runs, and no run


@dataclass(frozen=True)
class Stage:
    """A stage that went through."""

    name: str
    seconds: float
    rows_in: int = 0
    rows_out: int = 0


@dataclass(frozen=True)
class Rehearsed:
    """A rehearsal that went through."""

    folder: Path
    job: JobSpec  # in small
    stages: list[Stage]
    changes: list[str]  # of fields that decide a result
    doubts: list[str] = field(default_factory=list)  # what was not tried


def folder_of(job: JobSpec, runs: str | Folder) -> Path:
    """Where the rehearsals of a job lie; runs in an object store rehearse here."""
    root = run_folder(runs)
    if not isinstance(root, Path):
        root = Path("runs").resolve()
    return root / FOLDER / job.name


def rehearse(
    job: JobSpec,
    runs: str | Folder = "runs",
    *,
    document: Document | None = None,
    cluster: Path | None = None,
    until: str | None = None,
    keep: bool = False,
    progress: Progress | None = None,
    log: Path | None = None,
) -> Rehearsed:
    """Run the job in small, up to the stage `until`, in a folder of its own, which is removed where
    all went well unless `keep`. `cluster` is a file whose machines must hold the job as it is.

    SpecError for what `check` finds, StageError with stage and field for what fails, both with the
    line of `document`.
    """
    shown = progress or Progress()
    job = with_absolute_paths(job)
    root = folder_of(job, runs)
    with run_lock(root), ExitStack() as stack:
        _empty(root)
        with _told("", shown, document):
            check_job(job, running=(), is_here=False)
            if cluster:
                require_machines(job, read_native_file(cluster))
        doubts = list(not_tried(job))
        for doubt in doubts:
            shown.say(f"not tried: {doubt}")
        stack.enter_context(_environment(root))
        began = time.monotonic()
        with shown.waiting("making small models"), _told("", shown, document):
            api = ""
            if asks_apis(job):
                api = stack.enter_context(api_server.answering())
            ground, said = prepare(job, root, api)
            doubts += said
            little = little_job(job, ground)
        stages = [Stage("models", time.monotonic() - began)]
        for sentence in (*said, *_told_models(ground)):
            shown.say(sentence)
        with _told(log or root, shown, document):
            done = pipeline.run(little, root / "run", until=until, progress=shown, log=log)
        for name, each in done.manifests.items():
            stages.append(Stage(name, each.seconds, each.rows_in, each.rows_out))
    if not keep:
        shutil.rmtree(root)
    changes = sorted(differences(job, little))
    return Rehearsed(root, little, stages, changes, doubts)


def _empty(root: Path) -> None:
    for name in ("rows", "models", "run"):
        shutil.rmtree(root / name, ignore_errors=True)


def _told_models(ground: Ground) -> list[str]:
    return [f"{model}: {what} stands for it" for model, what in ground.models.said.items()]


@contextmanager
def _environment(root: Path) -> Generator[None]:
    """A key of our own, no hub, no tracker that tells others, and no cluster but this machine."""
    own = {KEY_VARIABLE: api_server.KEY, "HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline"}
    own["MLFLOW_TRACKING_URI"] = f"file:{root / 'run' / 'mlruns'}"
    before = dict(os.environ)
    os.environ.update(own)
    os.environ.pop("RAY_ADDRESS", None)
    try:
        yield
    finally:
        for name in (*own, "RAY_ADDRESS"):
            os.environ.pop(name, None)
            if name in before:
                os.environ[name] = before[name]


@contextmanager
def _told(where: Path | str, shown: Progress, document: Document | None) -> Generator[None]:
    """Whatever ends the rehearsal is an error that names stage, field and line; `where` to read
    more."""
    try:
        yield
    except Stopped:
        raise
    except SpecError as error:
        said = str(error)
        if shown.name:
            raise SpecError(_failed(said, where, shown, document)) from None
        raise SpecError(placed(said, document)) from None
    except EngineError as error:
        raise StageError(_failed(str(error), where, shown, document)) from None
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
        raise StageError(_failed(said, where, shown, document)) from error


def _failed(said: str, where: Path | str, shown: Progress, document: Document | None) -> str:
    stage = shown.name or "the small models"
    more = f" (more in {where})" if where else ""
    return f"{stage} failed: {placed(said, document, shown.name)}{more}"
