"""Deploy models behind one OpenAI-compatible endpoint: Ray Serve LLM under our own FastAPI ingress,
and remove it again.

The ingress is Serve LLM's public builder with one layer more: a bearer key on every route
(bearer_guard.py).
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from ray import serve

# Private names, as in Ray's own documentation of `ingress`.
from ray.llm._internal.serve.core.configs.openai_api_models import to_model_metadata
from ray.llm._internal.serve.core.ingress.ingress import init as llm_fastapi_app
from ray.serve.config import HTTPOptions
from ray.serve.llm import LLMConfig, build_llm_deployment
from ray.serve.llm.ingress import OpenAiIngress, make_fastapi_ingress
from ray.serve.schema import ApplicationStatus

from engine.backends.bearer_guard import KEY_VARIABLE, BearerGuard, key_environment
from engine.backends.ray_cluster import require
from engine.backends.vllm_settings import engine_arguments, engine_environment
from engine.errors import CapacityError, StageError
from engine.job.spec import Model
from engine.machines.layout import Layout

APPLICATION = "distill"


def llm_config(name: str, model: Model, device: str, replicas: int) -> LLMConfig:
    """One served model: its engine arguments, its devices, and Serve settings that do not hide
    latency."""
    arguments = engine_arguments(model, device)
    # Serve LLM's own choice: ray on GPUs, processes on a CPU.
    arguments.pop("distributed_executor_backend", None)
    layout = Layout.of(model.engine, device)
    placement_group = {
        # vLLM's Ray executor takes bundles of one GPU only.
        "bundles": layout.bundles(spanning=device == "gpu"),
        "strategy": "STRICT_PACK",
    }
    if layout.may_span:
        placement_group["strategy"] = "PACK"
    return LLMConfig(
        model_loading_config={"model_id": name, "model_source": arguments.pop("model")},
        deployment_config={
            "num_replicas": replicas,
            "max_ongoing_requests": 1024,
            "max_constructor_retry_count": 1,  # an engine that cannot start says so within minutes
            "ray_actor_options": {"num_cpus": 0},
            # The ingress has its line of the same request.
            "logging_config": {"enable_access_log": False},
        },
        engine_kwargs=arguments,
        placement_group_config=placement_group,
        runtime_env={"env_vars": engine_environment(model.engine.devices, device)},
        # The default batches streamed tokens for 50 ms: a constant added to every time to first
        # token.
        experimental_configs={"stream_batching_interval_ms": 0},
        log_engine_metrics=False,
    )


def application(configs: list[LLMConfig], key_sha256: str | None) -> serve.Application:
    """All models in one application, behind one ingress."""
    app = llm_fastapi_app()
    if key_sha256:
        app.add_middleware(BearerGuard, key_sha256=key_sha256)  # added last, so it runs first
    options: dict[str, Any] = OpenAiIngress.get_deployment_options([*configs])
    options["ray_actor_options"] = {"num_cpus": 0}
    ingress = serve.deployment(**options)(make_fastapi_ingress(OpenAiIngress, app=app))
    deployments = {}
    cards = {}
    for config in configs:
        deployments[config.model_id] = build_llm_deployment(config)
        cards[config.model_id] = to_model_metadata(config.model_id, config)
    return ingress.bind(llm_deployments=deployments, model_cards=cards)


@contextmanager
def deployed(
    models: Mapping[str, Model],
    *,
    device: str,
    replicas: int,
    host: str,
    port: int,
    key: str | None,
    start_timeout_s: float,
    on_wait: Callable[[str], None],
) -> Generator[None]:
    """Serve `models` at http://host:port/v1 for the length of the block.

    CapacityError if the devices or the port are not free, StageError with the engine's own words if
    it cannot start.
    """
    layouts = [
        replace(Layout.of(model.engine, device), replicas=(replicas, replicas))
        for model in models.values()
    ]
    require(f"serve ({' + '.join(models)})", *layouts)
    require_free_port(host, port)
    configs = [llm_config(name, model, device, replicas) for name, model in models.items()]
    shared = bool(serve.status().applications)
    serve.start(http_options=HTTPOptions(host=host, port=port))
    try:
        app = application(configs, key_environment(key).get(KEY_VARIABLE))
        serve.run_many(
            [serve.RunTarget(app, name=APPLICATION, route_prefix="/")],
            wait_for_applications_running=False,
        )
        _wait_until_running(start_timeout_s, on_wait)
        yield
    finally:
        if shared:  # somebody else's applications stay
            serve.delete(APPLICATION)
        else:
            serve.shutdown()


def require_free_port(host: str, port: int) -> None:
    """CapacityError if something listens on the port already."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise CapacityError(
                f"serve: port {port} on {host} cannot be used ({error.strerror}); choose another"
                " with --set serve.port=N"
            ) from error


def _wait_until_running(timeout_s: float, on_wait: Callable[[str], None]) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        state: Any = serve.status().applications.get(APPLICATION)
        if state and state.status == ApplicationStatus.RUNNING:
            return
        if state and state.status in (ApplicationStatus.DEPLOY_FAILED, ApplicationStatus.UNHEALTHY):
            raise StageError(f"serve: an engine could not start: {_reasons(state)}")
        if time.monotonic() > deadline:
            raise StageError(
                f"serve: not ready after {timeout_s:g} s; raise serve.start_timeout_s, or look at"
                " `serve status`"
            )
        waiting = []
        for name, deployment in (state.deployments if state else {}).items():
            if deployment.status != "HEALTHY":
                waiting.append(name)
        on_wait(f"waiting for {', '.join(waiting) or 'Serve'}")
        time.sleep(1)


def _reasons(state: Any) -> str:
    """The last lines of what an application and its deployments say, each line once."""
    messages = [state.message, *(deployment.message for deployment in state.deployments.values())]
    lines: dict[str, None] = {}
    for message in filter(None, messages):
        lines |= dict.fromkeys(message.strip().splitlines()[-4:])
    return "\n".join(lines)
