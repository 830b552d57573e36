"""Inside Ray: what engine/backends/ray_*.py and proxy_guard.py lean on beyond its public API."""

from __future__ import annotations

import inspect
import mmap

import pytest

from engine.backends import proxy_guard
from engine.backends.library_names import package_folder
from upstream.source_text import fields, parameters, text

TORCH = "ray/train/torch/config.py"
KV = "ray/experimental/internal_kv.py"
SERVE = "ray/serve/_private"
REPLICA = f"{SERVE}/replica.py"

# Core


def test_free_resources_are_told_by_node():
    assert parameters("ray/_private/state.py", "available_resources_per_node") == []
    inside = text("ray/_private/state.py", "GlobalState.available_resources_per_node")
    assert "binary_to_hex(message.node_id)" in inside, "its keys are no node ids any more"


def test_nodes_that_are_about_to_go_are_told():
    assert text("ray/_private/state.py", "state") == "state = GlobalState()"
    assert parameters("ray/_private/state.py", "GlobalState.get_draining_nodes") == ["self"]


def test_a_session_folder_is_known_to_each_process():
    inside = text("ray/_private/worker.py", "Worker.__init__")
    assert "self.node = None" in inside
    assert "worker.node = node" in text("ray/_private/worker.py", "connect")
    assert text("ray/_private/worker.py", "global_worker").startswith("global_worker = Worker()")
    assert parameters("ray/_private/node.py", "Node.get_session_dir_path") == ["self"]
    assert "self.address_info" in text("ray/_private/worker.py", "RayContext.__init__")
    assert "'session_dir'" in text("ray/_private/node.py", "Node.address_info")


def test_a_cluster_of_one_machine_is_a_switch_that_the_address_reads():
    inside = text("ray/_private/services.py", "get_node_ip_address")
    assert "if not ray_constants.ENABLE_RAY_CLUSTER" in inside
    switch = text("ray/_private/ray_constants.py", "ENABLE_RAY_CLUSTER")
    assert "env_bool(ENABLE_RAY_CLUSTERS_ENV_VAR" in switch


def test_the_clusters_own_processes_start_by_the_class_that_is_replaced():
    assert "process = ConsolePopen(" in text("ray/_private/services.py", "start_ray_process")


def test_a_group_of_a_job_ends_with_its_id_and_has_the_states_that_are_read():
    state = text("ray/_private/state.py", "GlobalState._gen_placement_group_info")
    for name in ("CREATED", "RESCHEDULING", "REMOVED"):
        assert f"return '{name}'" in state
    from ray import JobID, PlacementGroupID

    job = JobID.from_int(7)
    assert PlacementGroupID.of(job).hex().endswith(job.hex())


# Keys


def test_the_heads_store_is_called_as_ray_calls_it():
    from ray._raylet import InnerGcsClient  # to which GcsClient hands all calls on

    calls = text(KV)
    assert "global_gcs_client.internal_kv_get(key, namespace)" in calls
    assert "global_gcs_client.internal_kv_put(key, value, overwrite, namespace)" in calls
    assert "global_gcs_client.internal_kv_del(key, del_by_prefix, namespace)" in calls
    assert "global_gcs_client.internal_kv_keys(prefix, namespace)" in calls
    for name in ("get", "put", "del", "keys"):
        assert hasattr(InnerGcsClient, f"internal_kv_{name}")
    assert parameters(KV, "_internal_kv_get") == ["key", "*", "namespace"]


def test_the_heads_list_of_jobs_says_which_ended_and_what_they_run_with():
    from ray._raylet import InnerGcsClient  # to which GcsClient hands all calls on

    assert hasattr(InnerGcsClient, "get_all_job_info")
    reading = text("ray/dashboard/modules/job/utils.py")
    assert "job_table_entry.is_dead" in reading
    assert "job_table_entry.config.runtime_env_info.serialized_runtime_env" in reading


def test_an_address_is_resolved_and_a_token_is_asked_for_as_rays_client_does():
    address = "canonicalize_bootstrap_address_or_die"
    assert parameters("ray/_private/services.py", address)[0] == "addr"
    token = "ray/_private/authentication/authentication_utils.py"
    assert parameters(token, "is_token_auth_enabled") == []


def test_a_package_is_put_over_http_and_stays_in_the_heads_memory():
    request = parameters("ray/dashboard/modules/dashboard_sdk.py", "SubmissionClient._do_request")
    assert request[:5] == ["self", "method", "endpoint", "*", "data"]
    routes = text("ray/dashboard/modules/job/job_head.py")
    assert "@routes.put('/api/packages/{protocol}/{package_name}')" in routes
    stored = text("ray/_private/runtime_env/packaging.py", "_store_package_in_gcs")
    assert "_internal_kv_put(pkg_uri, data)" in stored


def test_ray_repeats_of_a_package_less_than_comes_before_the_first_key():
    from engine.backends import ray_secrets

    stored = text("ray/_private/runtime_env/packaging.py", "_store_package_in_gcs")
    assert stored.count("data[:15]") == 1
    assert b"A" not in ray_secrets._packed({"A_KEY": "sk-1"})[:15]


# Train


def test_workers_meet_where_the_backend_tells_them():
    group = parameters(TORCH, "_setup_torch_process_group")
    assert group == ["backend", "world_rank", "world_size", "init_method", "timeout_s"]
    assert parameters(TORCH, "_set_torch_distributed_env_vars") == []
    assert parameters(TORCH, "_TorchBackend.on_start") == ["self", "worker_group", "backend_config"]
    assert parameters(TORCH, "TorchConfig.backend_cls") == ["self"]
    assert {"backend", "timeout_s"} <= set(fields(TORCH, "TorchConfig"))
    workers = "ray/train/v2/_internal/execution/worker_group/execution_group.py"
    arguments = ["fn", "*fn_args", "**fn_kwargs"]
    assert parameters(workers, "ExecutionGroup.execute") == ["self", *arguments]
    single = parameters(workers, "ExecutionGroup.execute_single_async")
    assert single == ["self", "rank", *arguments]


def test_a_meeting_in_a_file_is_still_no_choice_of_rays_own():
    assert "Must be either 'env' or 'tcp'" in text(TORCH, "_TorchBackend.on_start"), (
        "ray_rendezvous.py may be needless now"
    )


def test_ctrl_c_is_taken_by_one_method_of_the_trainer():
    trainer = "ray/train/v2/api/data_parallel_trainer.py"
    handler = "DataParallelTrainer._register_sigint_handler"
    assert parameters(trainer, handler) == ["self", "controller"]
    assert "self._register_sigint_handler(controller)" in text(trainer, "DataParallelTrainer")
    assert "sys.exit(0)" in text(trainer, handler), "our own Trainer may be needless now"
    chosen = text("ray/train/torch/__init__.py")
    assert "if is_v2_enabled():" in chosen
    assert "from ray.train.v2.torch.torch_trainer import TorchTrainer" in chosen


def test_a_worker_is_told_of_its_nodes_end():
    context = "ray/train/v2/_internal/execution/context.py"
    assert parameters(context, "get_train_context") == []
    assert "preemption_context" in fields(context, "TrainContext")
    told = fields("ray/train/v2/_internal/execution/preemption.py", "PreemptionContext")
    assert told == ["preemption_info"]


def test_failures_of_workers_are_told_by_rank():
    exceptions = "ray/train/v2/api/exceptions.py"
    error = text(exceptions, "WorkerGroupError.__init__")
    assert "self.worker_failures = worker_failures" in error
    for name in ("WorkerGroupError", "PreemptionError"):
        assert f"class {name}(TrainingFailedError)" in text(exceptions, name)
    wrapper = "UserExceptionWithTraceback.__init__"
    assert "self._base_exc = exc" in text("ray/train/v2/_internal/exceptions.py", wrapper)


def test_what_cleans_up_after_a_lost_controller_is_one_callback_of_the_trainer():
    trainer = "ray/train/v2/api/data_parallel_trainer.py"
    callbacks = text(trainer, "DataParallelTrainer._create_default_callbacks")
    assert callbacks.count("PlacementGroupCleanerCallback()") == 1
    assert "callbacks=self._create_default_callbacks()" in text(trainer, "DataParallelTrainer.fit")
    made = text("ray/train/v2/_internal/callbacks/placement_group_callback.py")
    assert "class PlacementGroupCleanerCallback(ControllerCallback, WorkerGroupCallback)" in made
    assert "ray.remote(num_cpus=0)(PlacementGroupCleaner)" in made, "it costs no process any more"


# Data


def test_ray_data_asks_for_an_actors_arguments_before_it_starts_one():
    pool = "ray/data/_internal/execution/operators/actor_pool_map_operator.py"
    merged = text(pool, "ActorPoolMapOperator._merge_ray_remote_args")
    assert "remote_args.update(self._ray_remote_args_fn())" in merged
    takes = parameters("ray/data/dataset.py", "Dataset.map_batches")
    assert {"ray_remote_args_fn", "**ray_remote_args", "zero_copy_batch"} <= set(takes)
    assert "max_concurrency" not in takes, "it has a name now: no warning has to be hidden"


def test_ray_datas_context_has_the_switches_that_are_set():
    switches = {"enable_progress_bars", "execution_options", "max_errored_blocks"}
    switches |= {"issue_detectors_config", "execution_no_progress_timeout_s"}
    assert switches <= set(fields("ray/data/context.py", "DataContext"))
    detectors = "ray/data/_internal/issue_detection/issue_detector_configuration.py"
    assert "detectors" in fields(detectors, "IssueDetectorsConfiguration")


# Serve


def test_every_replica_is_asked_at_once():
    handle = "ray/serve/handle.py"
    asked = parameters(handle, "DeploymentHandle.broadcast")
    assert asked == ["self", "method_name", "*args", "**kwargs"]
    for collected in ("results", "results_async"):
        takes = parameters(handle, f"DeploymentBroadcastResponse.{collected}")
        assert takes == ["self", "*", "timeout_s", "return_exceptions"]


def test_a_replicas_own_figures_reach_the_policy():
    given = text(REPLICA, "UserCallableWrapper")
    assert "getattr(self._callable, 'record_autoscaling_stats', None)" in given
    state = text(f"{SERVE}/autoscaling_state.py")
    assert "aggregated_metrics=self._get_aggregated_custom_metrics" in state
    assert "self._policy_state = self._policy(autoscaling_context)" in state
    known = set(parameters("ray/serve/config.py", "AutoscalingContext.__init__"))
    assert {"config", "aggregated_metrics", "total_num_requests"} <= known
    assert {"current_num_replicas", "target_num_replicas"} <= known
    assert {"capacity_adjusted_min_replicas", "capacity_adjusted_max_replicas"} <= known


def test_how_often_replicas_tell_their_figures_is_a_deprecated_field():
    assert "metrics_interval_s" in fields("ray/serve/config.py", "AutoscalingConfig")
    for file in (REPLICA, f"{SERVE}/router.py"):
        pushed = text(file)
        assert "autoscaling_config.metrics_interval_s" in pushed
        assert "AUTOSCALING_METRIC_PUSH_INTERVAL_S" not in pushed, (
            "set that variable in place of the field"
        )


def test_a_replicas_destructor_is_awaited():
    destroyed = text(REPLICA, "UserCallableWrapper.call_destructor")
    assert "hasattr(self._callable, '__del__')" in destroyed
    assert "await self._call_func_or_gen(self._callable.__del__" in destroyed
    assert "await self._user_callable_wrapper.call_destructor()" in text(REPLICA)


def test_without_proxies_nothing_listens_for_serve():
    assert "proxy_location" in parameters("ray/serve/api.py", "start")
    assert "Disabled = 'Disabled'" in text("ray/serve/config.py", "ProxyLocation")
    nodes = text(f"{SERVE}/proxy_state.py", "ProxyStateManager._get_target_nodes")
    assert "if location == ProxyLocation.Disabled:\n        return []" in nodes


def test_a_proxy_takes_its_layers_from_the_callback_that_a_variable_names():
    (variable,) = proxy_guard.HOOK
    assert f"'{variable}'" in text(f"{SERVE}/constants.py", variable)
    layers = text(f"{SERVE}/http_util.py", "configure_http_middlewares")
    assert f"call_function_from_import_path({variable})" in layers


def test_a_proxy_is_healthy_only_where_some_application_has_a_route():
    ready = text(f"{SERVE}/proxy_router.py", "ProxyRouter.ready_for_traffic")
    assert "if not self._route_table_populated:\n        return (False" in ready
    updated = text(f"{SERVE}/proxy_router.py", "ProxyRouter.update_routes")
    assert "if endpoints:\n        self._route_table_populated = True" in updated


def test_a_replica_listens_by_the_method_that_is_replaced():
    from grpc.aio._server import Server

    assert list(inspect.signature(Server.add_insecure_port).parameters) == ["self", "address"]
    replica = text("ray/serve/_private/replica.py")
    assert "add_port_to_grpc_server(self._server, '[::]:0')" in replica, (
        "ray_loopback._narrow may be needless now"
    )
    added = text("ray/_common/tls_utils.py", "add_port_to_grpc_server")
    assert "server.add_insecure_port(address)" in added


# Variables that Ray's documentation does not name, or names in passing


@pytest.mark.parametrize(
    ("variable", "file"),
    [
        ("RAY_SERVE_LOG_TO_STDERR", "ray/serve/_private/constants.py"),
        ("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "ray/_private/accelerators/accelerator.py"),
        ("RAY_JOB_CONFIG_JSON_ENV_VAR", "ray/_private/runtime_env/constants.py"),
        ("RAY_JOB_STOP_WAIT_TIME_S", "ray/dashboard/modules/job/job_supervisor.py"),
        ("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "ray/train/v2/_internal/constants.py"),
        ("RAY_TRAIN_V2_ENABLED", "ray/train/v2/_internal/constants.py"),
        ("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "ray/train/v2/_internal/constants.py"),
        ("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "ray/train/v2/_internal/constants.py"),
        ("RAY_USAGE_STATS_ENABLED", "ray/_common/usage/usage_constants.py"),
    ],
)
def test_a_variable_is_still_read(variable, file):
    assert f"'{variable}'" in text(file)


def test_the_raylet_knows_by_which_variable_workers_get_their_priority():
    known = text("ray/_private/ray_constants.py", "RAY_WORKER_NICENESS")
    assert known == "RAY_WORKER_NICENESS = 'RAY_worker_niceness'"
    raylet = package_folder("ray") / "core/src/ray/raylet/raylet"
    with raylet.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as code:
        assert code.find(b"worker_niceness") >= 0  # it puts RAY_ before its settings' names


def test_serves_controller_reads_how_often_it_looks():
    looks = text("ray/serve/_private/constants.py", "CONTROL_LOOP_INTERVAL_S")
    assert "'RAY_SERVE_CONTROL_LOOP_INTERVAL_S'" in looks
    loop = text("ray/serve/_private/controller.py", "ServeController.run_control_loop")
    assert "asyncio.sleep(CONTROL_LOOP_INTERVAL_S)" in loop
