"""Stage 6: models behind an OpenAI-compatible endpoint, for as long as somebody needs it.

The one stage that is alive and leaves no file: a context manager around the load test or `distill
serve`.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine.backends import ray_cluster, ray_endpoint, ray_serve
from engine.errors import SpecError, StageError
from engine.job.spec import Model, ServeSpec, TeacherSpec, VllmTeacherSpec
from engine.run.context import Context
from engine.run.facts import TrainInfo
from engine.run.interrupts import asked_once
from engine.run.manifests import Finished
from engine.run.progress import Progress
from engine.serving.replica import ServedModel
from engine.serving.settings import front_settings, keys_of
from engine.store.files import write_atomic

ANNOUNCEMENT = "serve.json"
WATCH_S = 1.0


@dataclass(frozen=True)
class Endpoint:
    """Where the models answer: `base_url` ends in /v1; `api_key` is None when the endpoint is
    open; `deployed` is what runs behind it."""

    base_url: str
    api_key: str | None
    deployed: ray_endpoint.Deployed


def models_of(
    spec: ServeSpec, teacher: TeacherSpec, train: Finished | None, names: Sequence[str], device: str
) -> dict[str, ServedModel]:
    """The models to serve by name; student and baseline come from the finished training, and run as
    `spec` says. StageError without it, or for a teacher that is somebody else's server."""
    models = {}
    for name in names:
        adapters: Mapping[str, str] = {}
        server_args: Mapping[str, Any] = {}
        if name == "teacher":
            if not isinstance(teacher, VllmTeacherSpec):
                raise StageError(
                    f"teacher '{teacher.name}' of kind {teacher.kind} is not served here"
                )
            model = replace(teacher.to_model(), name=name)
        elif train is None:
            raise StageError(
                f"there is no {name}: finish training first: distill run JOB --until train"
            )
        else:
            assert isinstance(train.manifest.info, TrainInfo)
            weights, revision = train.manifest.info.weights_of(name, train.folder)
            model = Model(name, weights, revision, spec)
            server_args = spec.server_args
            if name == "baseline":
                adapters = spec.adapters
        models[name] = _served(model, spec, device, adapters, server_args)
    return models


def models_in(folders: Sequence[Path], spec: ServeSpec, device: str) -> dict[str, ServedModel]:
    """Local models by the names of their folders, by which they are asked. SpecError where one
    holds none, or two have one name."""
    models = {}
    for folder in folders:
        folder = folder.resolve()
        if not (folder / "config.json").is_file():
            raise SpecError(
                f"--model {folder}: no folder of a model (it has no config.json); give student,"
                " teacher or baseline of a job, or such a folder"
            )
        if folder.name in models:
            raise SpecError(f"--model {folder}: another folder has that name too; rename one")
        model = Model(folder.name, str(folder), None, spec)
        models[folder.name] = _served(model, spec, device, spec.adapters, spec.server_args)
    return models


def _served(
    model: Model,
    spec: ServeSpec,
    device: str,
    adapters: Mapping[str, str],
    server_args: Mapping[str, Any],
) -> ServedModel:
    return ServedModel(
        model, device, adapters, server_args, spec.max_queued, spec.max_queued_tokens
    )


@contextmanager
def endpoint(
    spec: ServeSpec, models: Mapping[str, ServedModel], ctx: Context, *, compiled: bool = False
) -> Generator[Endpoint]:
    """Serve `models` for the length of the block; every route wants a key if the spec names one.
    `compiled`: what is served for longer than compiling takes."""
    models = {name: replace(model, compiled=compiled) for name, model in models.items()}
    keys = keys_of(spec)
    settings = front_settings(spec, keys)
    with ray_endpoint.deployed(
        models,
        settings,
        ray_serve.Scaling.of(spec),
        fronts=spec.fronts,
        start_timeout_s=spec.start_timeout_s,
        on_wait=lambda note: ctx.progress.update(note=note),
    ) as deployed:
        key = next(iter(keys.values()), None)
        yield Endpoint(f"{address_of(spec)}/v1", key, deployed)


@contextmanager
def announced(root: Path, endpoint: Endpoint) -> Generator[None]:
    """While the block runs, `distill serve --update` finds the endpoint by a file in the run's
    folder."""
    path = root / ANNOUNCEMENT
    told = {"ray_address": ray_cluster.address(), "application": endpoint.deployed.name}
    write_atomic(path, json.dumps(told))
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def announcement(root: Path) -> dict[str, str]:
    """What runs there. StageError where nothing does."""
    path = root / ANNOUNCEMENT
    if not path.is_file():
        raise StageError(
            f"nothing serves this job (there is no {path}); start it: distill serve JOB"
        )
    return json.loads(path.read_text())


def update(application: str, spec: ServeSpec, served: ServedModel, ctx: Context) -> None:
    """Roll a model of new weights into a running endpoint without a lost request."""
    deployed = ray_endpoint.Deployed.running(application, ray_serve.Scaling.of(spec))
    deployed.update(
        replace(served, compiled=True),
        start_timeout_s=spec.start_timeout_s,
        on_wait=lambda note: ctx.progress.update(note=note),
    )


def watch(endpoint: Endpoint, progress: Progress) -> None:
    """Show how busy the endpoint is until Ctrl-C or SIGTERM; a second one ends at once."""
    done = threading.Event()
    with asked_once(done.set):
        _watch_until(done, endpoint, progress)


def _watch_until(done: threading.Event, endpoint: Endpoint, progress: Progress) -> None:
    answered, looked = 0, time.monotonic()
    while not done.wait(WATCH_S):
        fronts = endpoint.deployed.figures()
        if not fronts:
            continue
        total = sum(front["answered"] for front in fronts)
        now = time.monotonic()
        shown: dict[str, Any] = {"requests/s": (total - answered) / (now - looked)}
        answered, looked = total, now
        for name in fronts[0]["models"]:
            here = [front["models"][name] for front in fronts]
            open_now = sum(model["open"] for model in here)
            shown[name] = f"{open_now} open, {here[0]['replicas']} replicas"
        progress.update(done=total, **shown)


def address_of(spec: ServeSpec) -> str:
    """The endpoint's URL."""
    scheme = "https" if spec.tls_cert else "http"
    host = f"[{spec.host}]" if ":" in spec.host else spec.host
    return f"{scheme}://{host}:{spec.port}"
