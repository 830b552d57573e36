"""What Serve is asked for, and the check of a port, without a cluster; live endpoints are tested in
test_ray_serving.py and test_end_to_end.py."""

import socket

import pytest

from engine.backends import ray_endpoint, ray_serve
from engine.backends.ray_serve import Scaling
from engine.errors import CapacityError, SpecError
from engine.job.spec import EngineSpec, Model, ServeSpec
from engine.machines.layout import SPANNING
from engine.run.context import Context
from engine.serving.autoscale import desired_replicas
from engine.serving.replica import ServedModel
from engine.serving.settings import front_settings
from engine.stages import serve


def asked(device="gpu", *, spanning=False, scaling=None, **engine):
    """The one deployment of a model's application."""
    served = ServedModel(Model("m", "folder", None, EngineSpec(**engine)), device)
    application = ray_serve.engine_application(
        served, scaling or Scaling(), "secret", 3, spanning=spanning
    )
    return application._bound_deployment


def resources(deployment):
    """What its actor holds of a node, without what it holds nothing of."""
    options = deployment.ray_actor_options
    held = {name: options[name] for name in ("num_cpus", "num_gpus") if options.get(name)}
    return held | options.get("resources", {})


def bundles(deployment):
    return deployment._replica_config.placement_group_bundles


@pytest.mark.parametrize(
    ("device", "split", "held"),
    [
        ("gpu", {}, {"num_gpus": 1}),
        ("gpu", {"tensor_parallel": 8}, {"num_gpus": 8}),
        ("gpu", {"tensor_parallel": 2, "data_parallel": 4}, {"num_gpus": 8}),
        (
            "gpu",
            {"tensor_parallel": 4, "accelerator_type": "H100"},
            {"num_gpus": 4, "accelerator_type:H100": 0.001},
        ),
        ("cpu", {"tensor_parallel": 2}, {"num_cpus": 2}),
        ("cpu", {"accelerator_type": "H100"}, {"num_cpus": 1}),
    ],
)
def test_an_engine_on_one_node_is_one_actor_that_holds_its_devices(device, split, held):
    deployment = asked(device, **split)
    assert resources(deployment) == held
    assert bundles(deployment) is None
    assert SPANNING not in deployment.ray_actor_options["runtime_env"]["env_vars"]


def test_an_engine_over_several_nodes_asks_for_bundles_of_one_gpu():
    kind = {"accelerator_type:H100": 0.001}
    split = {"tensor_parallel": 8, "pipeline_parallel": 2, "accelerator_type": "H100"}
    deployment = asked(spanning=True, **split)
    assert bundles(deployment) == [{"GPU": 1.0} | kind] * 16
    assert deployment._replica_config.placement_group_strategy == "PACK"
    assert resources(deployment) == {}, "vLLM's Ray executor takes them, not its own actor"
    assert deployment.ray_actor_options["runtime_env"]["env_vars"] == {SPANNING: "1"}


def test_a_replica_that_leaves_has_its_time_and_a_broken_one_is_said_soon():
    config = asked(scaling=Scaling(drain_s=50))._deployment_config
    assert config.graceful_shutdown_timeout_s == 80
    assert config.max_constructor_retry_count == 1


def test_a_fixed_number_of_replicas_is_not_scaled():
    config = asked(scaling=Scaling((3, 3)))._deployment_config
    assert (config.num_replicas, config.autoscaling_config) == (3, None)


def test_a_range_of_replicas_follows_what_they_have_open():
    scaling = Scaling((0, 4), target_open=6, up_s=2, down_s=60)
    config = asked(scaling=scaling)._deployment_config.autoscaling_config
    assert (config.min_replicas, config.initial_replicas, config.max_replicas) == (0, None, 4)
    assert config.target_ongoing_requests == 6
    assert (config.upscale_delay_s, config.downscale_delay_s) == (2, 60)
    assert config.look_back_period_s > config.metrics_interval_s == 1
    assert config.policy.get_policy().__name__ == desired_replicas.__name__


def test_a_front_holds_no_device_and_leaves_when_what_is_open_is_answered():
    settings = front_settings(ServeSpec(port=8123), {})
    application = ray_serve.front_application(settings, {"m": "app-m"}, fronts=2, drain_s=7)
    deployment = application._bound_deployment
    assert resources(deployment) == {}
    assert deployment.num_replicas == 2
    assert deployment._deployment_config.graceful_shutdown_timeout_s == 37


def test_a_port_in_use_is_named_with_the_way_out():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(
            CapacityError, match=f"port {port} on 127.0.0.1 cannot be used.*--set serve.port"
        ):
            ray_endpoint.require_free_port("127.0.0.1", port)


def test_a_key_that_is_not_set_is_named_before_anything_starts(monkeypatch):
    monkeypatch.delenv("DISTILL_NO_KEY", raising=False)
    with (
        pytest.raises(SpecError, match="DISTILL_NO_KEY, which is not set"),
        serve.endpoint(ServeSpec(api_key_env="DISTILL_NO_KEY"), {}, Context("j", "math", 0)),
    ):
        pass
