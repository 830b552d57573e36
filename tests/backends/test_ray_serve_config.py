"""The builders that Serve calls with the `args` of its config, alone and on Ray Serve; the file for
KubeRay is tested in test_jobs.py."""

import httpx
import pytest
from conftest import open_to_others
from doubles.clients import until
from ray import serve

from benchmarks.serving.stand_ins import free_port
from engine.backends.ray_serve_config import SECRET, engine_app, front_app
from engine.errors import SpecError
from engine.job.spec import ServeSpec

MODEL = {"name": "support", "model": "folder"}
CLOSED = {"host": "0.0.0.0", "tls_cert": "/tls/tls.crt", "tls_key": "/tls/tls.key"}


@pytest.fixture(autouse=True)
def pod(monkeypatch):
    """What each pod has in its environment."""
    monkeypatch.setenv(SECRET, "of this cluster")
    monkeypatch.setenv("KEY_OF_ANN", "ann's key")


def deployment(application):
    return application._bound_deployment


def test_a_model_becomes_what_a_job_would_serve():
    engine = {"tensor_parallel": 2, "max_model_len": 512, "replicas": [1, 3], "drain_s": 9}
    more = {"adapters": {"polite": "/adapter"}, "server_args": {"tool_call_parser": "hermes"}}
    limits = {"max_queued": 7, "max_queued_tokens": 900}
    block = engine | more | limits
    args = MODEL | {"generation": 4, "reasoning_parser": "qwen3", "serve": block}
    served, secret, generation, drain_s = deployment(engine_app(args)).init_args
    assert (secret, generation, drain_s) == ("of this cluster", 4, 9)
    assert (served.model.name, served.model.model, served.kind) == ("support", "folder", "vllm")
    assert served.compiled
    assert (served.model.engine.max_model_len, served.model.reasoning_parser) == (512, "qwen3")
    assert (dict(served.adapters), dict(served.server_args)) == tuple(more.values())
    assert (served.max_queued, served.max_queued_tokens) == tuple(limits.values())
    args |= {"initial_replicas": 2}
    scaled = deployment(engine_app(args))._deployment_config.autoscaling_config
    assert (scaled.min_replicas, scaled.initial_replicas, scaled.max_replicas) == (1, 2, 3)


def test_a_replica_over_several_nodes_is_said_outright():
    args = MODEL | {"spanning": True, "serve": {"tensor_parallel": 8, "pipeline_parallel": 2}}
    replica = deployment(engine_app(args))._replica_config
    assert replica.placement_group_bundles == [{"GPU": 1.0}] * 16


def test_fronts_get_keys_by_the_names_of_variables():
    block = CLOSED | {"port": 8080, "api_keys": {"ann": "KEY_OF_ANN"}, "fronts": 2}
    args = {"models": {"support": "app"}, "lazy": ["support"], "serve": block}
    front = deployment(front_app(args))
    settings, applications, lazy, _ = front.init_args
    assert (settings.host, settings.port, settings.tls_cert) == ("0.0.0.0", 8080, "/tls/tls.crt")
    assert settings.secret == "of this cluster"
    assert settings.keys.name_of(b"Bearer ann's key") == "ann"
    assert (applications, lazy, front.num_replicas) == ({"support": "app"}, ("support",), 2)


@pytest.mark.parametrize("value", [None, ""])
def test_without_the_secret_it_says_what_to_do(monkeypatch, value):
    monkeypatch.delenv(SECRET)
    if value is not None:
        monkeypatch.setenv(SECRET, value)
    with pytest.raises(SpecError, match=f"{SECRET} is not set in this pod; .*kubectl create"):
        engine_app(MODEL)
    with pytest.raises(SpecError, match=f"{SECRET} is not set in this pod"):
        front_app({"models": {"support": "app"}})


@pytest.mark.parametrize(
    ("builder", "args", "said"),
    [
        (engine_app, {"name": "m"}, "model"),
        (engine_app, MODEL | {"modle": "x"}, "modle.*did you mean model"),
        (engine_app, MODEL | {"serve": {"port": 1}}, r"serve\.port: an engine has no such field"),
        (engine_app, MODEL | {"serve": {"replicas": [3, 1]}}, "replicas"),
        (
            engine_app,
            MODEL | {"initial_replicas": 5, "serve": {"replicas": [1, 4]}},
            r"initial_replicas=5 is not within serve\.replicas=\[1, 4\]",
        ),
        (engine_app, MODEL | {"serve": {"tensor_paralel": 2}}, "did you mean tensor_parallel"),
        (front_app, {"models": {}}, "models"),
        (front_app, {"models": {"m": "m"}, "lazy": ["n"]}, "lazy: n is none of models"),
        (
            front_app,
            {"models": {"m": "m"}, "serve": {"replicas": 2}},
            r"serve\.replicas: a front has no such field",
        ),
        (front_app, {"models": {"m": "m"}, "serve": {"host": "0.0.0.0"}}, "api_key_env"),
        (
            front_app,
            {"models": {"m": "m"}, "serve": {"api_keys": {"bob": "DISTILL_NO_KEY"}}},
            "DISTILL_NO_KEY, which is not set",
        ),
    ],
)
def test_args_that_mean_nothing_are_refused_as_a_jobs_fields_are(builder, args, said):
    with pytest.raises(SpecError, match=said):
        builder(args)


@pytest.mark.parametrize("name", sorted(ServeSpec.model_fields))
def test_each_field_of_serve_is_read_by_a_builder(name):
    given = {name: getattr(ServeSpec(), name)}
    refusals = []
    for builder, args in ((engine_app, MODEL), (front_app, {"models": {"m": "m"}})):
        try:
            builder(args | {"serve": given})
        except SpecError as refused:
            refusals.append(str(refused))
    expected = {"drain_s": 0, "max_queued": 0, "start_timeout_s": 2}
    assert len(refusals) == expected.get(name, 1), refusals


FAKE = {"name": "support", "model": "fake", "kind": "fake", "device": "cpu"}
DRAIN = {"drain_s": 5}


@pytest.fixture
def proxies(ray_cluster):
    """Serve with its own proxies, as KubeRay wants it; gives their port."""
    port = free_port()
    serve.start(proxy_location="EveryNode", http_options={"host": "127.0.0.1", "port": port})
    yield port
    serve.shutdown()


def deploy(application, name, route_prefix=None):
    target = serve.RunTarget(application, name=name, route_prefix=route_prefix)
    serve.run_many([target], wait_for_applications_running=False)


@pytest.mark.slow
def test_deployed_by_config_it_answers_and_proxies_say_that_they_are_well_and_nothing_else(proxies):
    listens = {"port": free_port(), "api_keys": {"ann": "KEY_OF_ANN"}} | DRAIN
    deploy(engine_app(FAKE | {"serve": DRAIN}), "support.1")
    deploy(front_app({"models": {"support": "support"}, "serve": listens}), "front", "/")
    proxy, url = f"http://127.0.0.1:{proxies}", f"http://127.0.0.1:{listens['port']}"

    def ask(key="ann's key"):
        body = {"model": "support", "messages": [{"role": "user", "content": "x"}]}
        headers = {"Authorization": f"Bearer {key}"}
        return httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=60)

    def generation():
        figures = serve.get_app_handle("front").figures.remote().result(timeout_s=30)
        return figures["models"]["support"]["generation"]

    until(lambda: serve.status().applications["front"].status == "RUNNING")
    assert ask().status_code == 200
    assert ask("another").status_code == 401
    well = httpx.get(f"{proxy}/-/healthz")
    assert (well.status_code, well.text) == (200, "success")
    for method, path in (
        ("GET", "/-/routes"),
        ("GET", "/"),
        ("GET", "/v1/models"),
        ("GET", "/metrics"),
        ("POST", "/-/healthz"),
        ("POST", "/v1/chat/completions"),
    ):
        assert httpx.request(method, f"{proxy}{path}").status_code == 404
    assert open_to_others() == []
    deploy(engine_app(FAKE | {"generation": 2, "serve": DRAIN}), "support.2")
    until(lambda: generation() == 2)
    serve.delete("support.1")
    assert ask().status_code == 200
