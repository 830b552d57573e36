"""Stage 6: models behind an OpenAI-compatible endpoint, for as long as somebody needs it.

The one stage that is alive and leaves no file: a context manager around the load test or `distill
serve`.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from engine.backends import bearer_guard, ray_serve
from engine.errors import SpecError, StageError
from engine.job.spec import Model, ServeSpec, TeacherSpec, VllmTeacherSpec
from engine.run.context import Context
from engine.run.facts import TrainInfo
from engine.run.manifests import Finished


class Endpoint(NamedTuple):
    """Where the models answer: `base_url` ends in /v1; `api_key` is None when the endpoint is
    open."""

    base_url: str
    api_key: str | None


def models_of(
    spec: ServeSpec, teacher: TeacherSpec, train: Finished | None, names: Sequence[str]
) -> dict[str, Model]:
    """The models to serve by name; student and baseline come from the finished training, and run as
    `spec` says. StageError without it, or for a teacher that is somebody else's server."""
    models = {}
    for name in names:
        if name == "teacher":
            if not isinstance(teacher, VllmTeacherSpec):
                raise StageError(
                    f"teacher '{teacher.name}' of kind {teacher.kind} is not served here"
                )
            models[name] = teacher.to_model()
        elif train is None:
            raise StageError(
                f"there is no {name}: finish training first: distill run JOB --until train"
            )
        else:
            assert isinstance(train.manifest.info, TrainInfo)
            weights, revision = train.manifest.info.weights_of(name, train.folder)
            models[name] = Model(name, weights, revision, spec)
    return models


def guard_environment(spec: ServeSpec) -> dict[str, str]:
    """What Ray's processes must have in their environment before Serve starts."""
    return bearer_guard.key_environment(_key(spec))


def _key(spec: ServeSpec) -> str | None:
    key = os.environ.get(spec.api_key_env) if spec.api_key_env else None
    if spec.api_key_env and not key:
        raise SpecError(
            f"serve.api_key_env names {spec.api_key_env}, which is not set; export it, or take"
            " api_key_env out"
        )
    return key


@contextmanager
def endpoint(spec: ServeSpec, models: dict[str, Model], ctx: Context) -> Generator[Endpoint]:
    """Serve `models` for the length of the block; every route wants the key if `api_key_env` names
    one."""
    key = _key(spec)
    with ray_serve.deployed(
        models,
        device=ctx.device,
        replicas=spec.replica_range[0],
        host=spec.host,
        port=spec.port,
        key=key,
        start_timeout_s=spec.start_timeout_s,
        on_wait=lambda note: ctx.progress.update(note=note),
    ):
        host = f"[{spec.host}]" if ":" in spec.host else spec.host
        yield Endpoint(f"http://{host}:{spec.port}/v1", key)
