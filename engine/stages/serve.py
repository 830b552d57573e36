"""Stage 6: models behind an OpenAI-compatible endpoint, for as long as somebody needs it.

The one stage that is alive and leaves no file: a context manager around the load test or `distill
serve`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from engine.backends import bearer_guard, ray_serve
from engine.errors import SpecError
from engine.job.spec import ServeSpec, TeacherSpec
from engine.run.context import Context
from engine.run.manifests import trained_model


class Endpoint(NamedTuple):
    """Where the models answer: `base_url` ends in /v1; `api_key` is None when the endpoint is
    open."""

    base_url: str
    api_key: str | None


def models_of(
    spec: ServeSpec, teacher: TeacherSpec, train: Path, names: Sequence[str]
) -> dict[str, TeacherSpec]:
    """The models to serve by name; student and baseline come from the training folder."""
    own = {
        field: getattr(spec, field)
        for field in ("tensor_parallel", "max_num_seqs", "max_model_len", "kv_cache_gib", "dtype")
    }
    return {
        name: teacher
        if name == "teacher"
        else TeacherSpec(name=name, **trained_model(train, name), **own)
        for name in names
    }


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
def endpoint(spec: ServeSpec, models: dict[str, TeacherSpec], ctx: Context) -> Iterator[Endpoint]:
    """Serve `models` for the length of the block; every route wants the key if `api_key_env` names
    one."""
    key = _key(spec)
    with ray_serve.deployed(
        models,
        device=ctx.device,
        replicas=spec.replicas,
        host=spec.host,
        port=spec.port,
        key=key,
        start_timeout_s=spec.start_timeout_s,
        on_wait=lambda note: ctx.progress.update(note=note),
    ):
        host = f"[{spec.host}]" if ":" in spec.host else spec.host
        yield Endpoint(f"http://{host}:{spec.port}/v1", key)
