"""The key's guard and the port's check, without Serve; the live endpoint is tested in
test_end_to_end.py."""

import hashlib
import socket

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from engine.backends import bearer_guard, ray_serve
from engine.errors import CapacityError, SpecError
from engine.job.spec import ServeSpec, VllmTeacherSpec
from engine.run.context import Context
from engine.stages import serve


@pytest.fixture
def guarded():
    app = Starlette(routes=[Route("/", lambda request: PlainTextResponse("in"))])
    return TestClient(bearer_guard.BearerGuard(app, hashlib.sha256(b"right").hexdigest()))


@pytest.mark.parametrize(
    "header", [None, "", "right", "Bearer", "Bearer wrong", "Basic right", "Bearer right2"]
)
def test_anything_but_the_key_gets_401(guarded, header):
    reply = guarded.get("/", headers={"Authorization": header} if header is not None else {})
    assert reply.status_code == 401
    assert reply.json()["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize("header", ["Bearer right", "bearer right", "Bearer  right"])
def test_the_key_gets_in(guarded, header):
    assert guarded.get("/", headers={"Authorization": header}).text == "in"


def test_only_the_keys_hash_leaves_the_process():
    assert "secret" not in str(bearer_guard.key_environment("secret"))
    assert bearer_guard.key_environment(None) == {}


def test_the_proxy_hook_guards_only_where_a_key_is_set(monkeypatch):
    monkeypatch.delenv(bearer_guard.KEY_VARIABLE, raising=False)
    assert bearer_guard.proxy_middlewares() == []
    monkeypatch.setenv(bearer_guard.KEY_VARIABLE, "00")
    assert len(bearer_guard.proxy_middlewares()) == 1


def test_a_port_in_use_is_named_with_the_way_out():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(
            CapacityError, match=f"port {port} on 127.0.0.1 cannot be used.*--set serve.port"
        ):
            ray_serve.require_free_port("127.0.0.1", port)


def test_a_served_model_gets_its_replicas_and_no_token_batching():
    config = ray_serve.llm_config(
        "student",
        VllmTeacherSpec(name="student", model="m", tensor_parallel=4, max_model_len=512).to_model(),
        "gpu",
        2,
    )
    assert config.experimental_configs["stream_batching_interval_ms"] == 0
    assert config.deployment_config["num_replicas"] == 2
    assert "distributed_executor_backend" not in config.engine_kwargs


def test_a_key_that_is_not_set_is_named(monkeypatch):
    monkeypatch.delenv("DISTILL_NO_KEY", raising=False)
    with (
        pytest.raises(SpecError, match="DISTILL_NO_KEY, which is not set"),
        serve.endpoint(ServeSpec(api_key_env="DISTILL_NO_KEY"), {}, Context("j", "math", 0)),
    ):
        pass


@pytest.mark.parametrize(
    ("device", "split", "bundles", "strategy"),
    [
        (
            "gpu",
            {"tensor_parallel": 8},
            [{"GPU": 1.0}] * 8,
            "STRICT_PACK",
        ),  # vLLM's Ray executor refuses wider bundles
        ("gpu", {"tensor_parallel": 8, "pipeline_parallel": 2}, [{"GPU": 1.0}] * 16, "PACK"),
        ("cpu", {"tensor_parallel": 2}, [{"CPU": 2.0}], "STRICT_PACK"),
    ],
)
def test_a_served_engine_asks_for_the_bundles_that_vllm_takes(device, split, bundles, strategy):
    model = VllmTeacherSpec(name="t", model="m", max_model_len=64, **split).to_model()
    config = ray_serve.llm_config("t", model, device, 1)
    asked = [
        {key: value for key, value in bundle.items() if value}
        for bundle in config.placement_group_config["bundles"]
    ]
    assert (asked, config.placement_group_config["strategy"]) == (bundles, strategy)
