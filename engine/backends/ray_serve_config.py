"""Serving by Ray Serve's declarative config: what a KubeRay RayService is written in.

Serve calls one of the two builders below with the `args` of an application
(clusters/kuberay-rayservice.yaml): `engine_app` for a model, `front_app` for the fronts before all
models. What fronts and replicas tell each other by is a secret in each pod's environment. Who
changes the config deploys; nothing here starts, waits or removes.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from ray import serve

from engine.backends.ray_serve import Scaling, engine_application, front_application
from engine.errors import SpecError
from engine.job.spec import Block, EngineSpec, Model, Name, ServeSpec, placement
from engine.job.yamlfile import Document
from engine.serving.replica import ServedModel
from engine.serving.settings import front_settings, keys_of

SECRET = "DISTILL_SERVE_SECRET"
# Fields of `serve` that either builder reads; start_timeout_s nobody does: Serve itself waits.
OF_ENGINES = frozenset(EngineSpec.model_fields) | {
    "target_open",
    "upscale_delay_s",
    "downscale_delay_s",
    "drain_s",
    "max_queued",
    "max_queued_tokens",
    "adapters",
    "server_args",
}
OF_BOTH = {"drain_s", "max_queued"}
OF_FRONTS = frozenset(ServeSpec.model_fields) - OF_ENGINES - {"start_timeout_s"} | OF_BOTH


class EngineArgs(Block):
    """The `args` of a model's application, whose name must be `<prefix>.<generation>`."""

    name: Name = placement()
    """How clients ask for it."""
    model: str = placement()
    """A folder that every node sees, or a hub name."""
    revision: str | None = placement(None)
    """Commit of a hub's model."""
    generation: int = placement(1, ge=1)
    """Of the weights: fronts ask the highest one that answers."""
    kind: Literal["vllm", "fake"] = placement("vllm")
    """Its server; `fake` answers in tests."""
    device: Literal["gpu", "cpu"] = placement("gpu")
    """What the engine runs on."""
    spanning: bool = placement(False)
    """A replica's pipeline stages lie on several nodes."""
    trust_remote_code: bool = placement(False)
    """Run code that the checkpoint ships."""
    reasoning_parser: str | None = placement(None)
    """vLLM's name of the parser that tells reasoning from the answer."""
    initial_replicas: int | None = placement(None, ge=1)
    """How many replicas a range begins with (none: its fewest): new weights under load want as many
    as the old ones have now."""
    serve: ServeSpec = placement(ServeSpec())
    """The engine, its replicas, and how they leave."""


class FrontArgs(Block):
    """The `args` of the fronts' application."""

    models: dict[Name, Name] = placement(min_length=1)
    """Each model's name, and the prefix of its applications' names."""
    lazy: list[Name] = placement([])
    """Models that may have no replica: `replicas: [0, 4]`."""
    serve: ServeSpec = placement(ServeSpec())
    """Where the fronts listen, who may come, and how much they take."""


def engine_app(args: dict[str, Any]) -> serve.Application:
    """One model, in one generation of its weights."""
    given = Document(Path("args"), args).build(EngineArgs)
    spec = given.serve
    _refuse_others(spec, OF_ENGINES, "an engine")
    model = Model(
        given.name,
        given.model,
        given.revision,
        spec,
        trust_remote_code=given.trust_remote_code,
        reasoning_parser=given.reasoning_parser,
    )
    served = ServedModel(
        model,
        given.device,
        spec.adapters,
        spec.server_args,
        spec.max_queued,
        spec.max_queued_tokens,
        given.kind,
        compiled=True,
    )
    scaling = replace(Scaling.of(spec), initial=given.initial_replicas)
    fewest, most = scaling.replicas
    if not fewest <= (given.initial_replicas or fewest) <= most:
        raise SpecError(
            f"args: initial_replicas={given.initial_replicas} is not within serve.replicas="
            f"[{fewest}, {most}]; give one that is, or take it out"
        )
    return engine_application(served, scaling, _secret(), given.generation, spanning=given.spanning)


def front_app(args: dict[str, Any]) -> serve.Application:
    """The fronts before the applications of all models."""
    given = Document(Path("args"), args).build(FrontArgs)
    spec = given.serve
    _refuse_others(spec, OF_FRONTS, "a front")
    unknown = sorted(set(given.lazy) - given.models.keys())
    if unknown:
        raise SpecError(f"args: lazy: {', '.join(unknown)} is none of models; add it there")
    return front_application(
        replace(front_settings(spec, keys_of(spec)), secret=_secret(), shares_port=True),
        given.models,
        lazy=tuple(given.lazy),
        fronts=spec.fronts,
        drain_s=spec.drain_s,
    )


def _refuse_others(spec: ServeSpec, read: Collection[str], who: str) -> None:
    """A field that has no effect there is a mistake, and most likely of who expects one."""
    others = sorted(spec.model_fields_set - set(read))
    if others:
        raise SpecError(f"args: serve.{others[0]}: {who} has no such field; take it out")


def _secret() -> str:
    secret = os.environ.get(SECRET)
    if not secret:
        raise SpecError(
            f"{SECRET} is not set in this pod; give the same value to every pod by a Kubernetes"
            f" Secret: kubectl create secret generic distill-serve --from-literal={SECRET}=..."
            " --from-literal=DISTILL_API_KEY=..., and name it under envFrom"
        )
    return secret
