"""Every job in jobs/ parses and plans; every job's teacher answers, with a stand-in
for its engine."""

import importlib
import json
from pathlib import Path

import pytest
import yaml

from engine import pipeline
from engine.backends import fake, proxy_guard
from engine.job.jobfile import dump_job, load_job
from engine.machines.architectures import facts
from engine.machines.cluster_file import machines_of
from engine.machines.estimate import estimate
from engine.machines.ground import Ground
from engine.machines.native_file import read_native_file
from engine.machines.planner import plan_devices
from engine.machines.running_cluster import load_cluster
from engine.machines.work import Seen, work_of
from engine.rehearsal import api_server
from engine.run.context import Context
from engine.stages import generate

ROOT = Path(__file__).parents[1]
JOBS = sorted((ROOT / "jobs").glob("*.yaml"))
SERVICE = ROOT / "clusters/kuberay-rayservice.yaml"

SPLITS = ("tensor_parallel", "pipeline_parallel", "data_parallel", "replicas")


def name_of(path):
    return path.name


def small(path, folder, **teacher):
    """The job at `path` with a handful of prompts, short answers, and other values in its
    teacher."""
    prompts = folder / "prompts.jsonl"
    prompts.write_text(
        "".join(
            json.dumps({"prompt": f"What is {n} plus 1?", "reference": str(n + 1)}) + "\n"
            for n in range(12)
        )
    )
    values = {f"generate.teachers.0.{name}": value for name, value in teacher.items()} | {
        "prompts.train": str(prompts),
        "prompts.validation": None,
        "prompts.limit": None,
        "generate.sampling.max_tokens": 8,
    }
    return load_job(path, [f"{name}={json.dumps(value)}" for name, value in values.items()])


@pytest.mark.parametrize("path", JOBS, ids=name_of)
def test_job_parses_plans_and_survives_a_dump(path, tmp_path):
    job = load_job(path)
    assert job.name == path.stem
    assert plan_devices(job).devices > 0
    (tmp_path / "job.yaml").write_text(dump_job(job))
    assert load_job(tmp_path / "job.yaml") == job


@pytest.mark.parametrize("path", JOBS, ids=name_of)
def test_the_plan_knows_no_better_layout_than_the_jobs_own(path):
    job = load_job(path)
    found = estimate(job, work_of(job, Seen()), Ground())
    better = [change for stage in found.stages for change in stage.better]
    assert better == []
    assert [warning for stage in found.stages for warning in stage.warnings] == []


def test_the_customer_support_job_is_the_one_that_was_asked_for():
    job = load_job(ROOT / "jobs" / "deepseek-v3-to-phi-4-mini.yaml")
    teacher = job.generate.teachers[0]
    assert (teacher.model, teacher.devices) == ("deepseek-ai/DeepSeek-V3", 8)
    assert (teacher.data_parallel, teacher.expert_parallel) == (8, True)
    assert (job.task, job.prompts.limit, job.generate.sampling.temperature) == (
        "conversation",
        50_000,
        0.7,
    )
    assert (job.train.student, job.train.learning_rate, job.train.batch_size, job.train.epochs) == (
        "microsoft/Phi-4-mini-instruct",
        2e-5,
        2,
        3,
    )


def test_the_jobs_cover_the_students_of_the_mission_with_known_shapes_and_lengths_that_they_hold():
    trained = {
        job.train.student: job.train for job in map(load_job, JOBS) if job.name != "quickstart"
    }
    assert set(trained) == {
        "microsoft/Phi-4-mini-instruct",
        "microsoft/Phi-3-mini-4k-instruct",
        "microsoft/Phi-3-mini-128k-instruct",
        "microsoft/Phi-3.5-mini-instruct",
        "meta-llama/Llama-3.1-8B-Instruct",
    }
    assert all(
        train.block_tokens <= facts(student).max_context for student, train in trained.items()
    )


def test_long_rope_students_are_trained_with_the_factors_that_vllm_evaluates_them_with():
    for job in map(load_job, JOBS):
        shape = facts(job.train.student)
        if (
            shape.short_context
        ):  # evaluate's engine takes the model's whole context, so it rotates by the long factors
            assert job.train.block_tokens > shape.short_context, job.name
            assert (job.serve.max_model_len or shape.max_context) > shape.short_context, job.name


@pytest.mark.slow
def test_the_teacher_answers_as_a_tiny_model_of_its_architecture(
    tiny_deepseek, tmp_path, ray_cluster
):
    """Latent attention and experts; whole jobs, of every teacher: test_proof_rehearse.py."""
    one = dict.fromkeys(SPLITS, 1) | {
        "accelerator_type": None,
        "max_model_len": 512,
        "kv_cache_gib": 0.25,
    }
    path = ROOT / "jobs/deepseek-v3-to-phi-4-mini.yaml"
    job = small(path, tmp_path, model=str(tiny_deepseek), **one)
    run = pipeline.run(
        job.model_copy(update={"device": "cpu"}), tmp_path / "runs", until="generate"
    )
    manifest = run.manifests["generate"]
    assert manifest.rows_out == 12
    assert manifest.info.top_k == job.generate.capture.top_k
    assert set(manifest.info.status) <= {"ok", "truncated", "empty", "loop"}


@pytest.fixture
def api(monkeypatch):
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.setenv(name, api_server.KEY)
    with api_server.answering() as url:
        yield url


@pytest.mark.parametrize(
    ("name", "suffix"), [("gpt-4-to-phi-3.5-mini", "/v1"), ("claude-to-phi-3.5-mini", "")]
)
def test_the_teacher_answers_through_a_local_server_of_its_protocol(name, suffix, api, tmp_path):
    job = small(ROOT / "jobs" / f"{name}.yaml", tmp_path, base_url=api + suffix)
    prompts = pipeline.run(job, tmp_path / "runs", until="prompts").stages["prompts"]
    (tmp_path / "out" / "data").mkdir(parents=True)
    counts = generate.run(
        job.generate,
        {"prompts": prompts},
        tmp_path / "out",
        Context("job", job.task, 0),
        stream=fake.stream,
    )
    assert counts.info.status == {"ok": 12}
    assert counts.info.tokens_out == 12 * len(["You", "say:", "What", "is", "1", "plus", "1?"])


def test_the_local_cluster_is_on_loopback_and_shares_the_disk():
    cluster = load_cluster(ROOT / "clusters" / "local.yaml")
    assert (cluster.address, cluster.working_dir, cluster.ray_address) == (
        "http://127.0.0.1:8265",
        None,
        "127.0.0.1:6379",
    )
    assert cluster.python == str(ROOT / ".venv" / "bin" / "python")


@pytest.fixture(scope="module")
def service():
    """{kind: document} of the file for a KubeRay RayService."""
    return {document["kind"]: document for document in yaml.safe_load_all(SERVICE.read_text())}


@pytest.fixture(scope="module")
def deployed(service):
    """Its config as Serve reads it."""
    from ray.serve.schema import ServeDeploySchema

    config = yaml.safe_load(service["RayService"]["spec"]["serveConfigV2"])
    return ServeDeploySchema.model_validate(config)


@pytest.fixture
def built(deployed, monkeypatch):
    """{application: deployment} as its builders make them with the Secret's variables."""
    for name in secret_variables():
        monkeypatch.setenv(name, "of the Secret")
    made = {}
    for application in deployed.applications:
        module, builder = application.import_path.split(":")
        build = getattr(importlib.import_module(module), builder)
        made[application.name] = build(application.args)._bound_deployment
    return made


def secret_variables():
    """Variables that the file's first lines put into the Secret distill-serve."""
    (line,) = [line for line in SERVICE.read_text().splitlines() if "secret generic" in line]
    return [word.partition("=")[2].partition("=")[0] for word in line.split() if "literal" in word]


def groups(service):
    """Pod templates of the head and of the workers."""
    cluster = service["RayService"]["spec"]["rayClusterConfig"]
    return [group["template"] for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]]


def test_kubernetes_serves_what_a_job_serves(service, deployed, built):
    spec = service["RayService"]["spec"]
    assert service["RayService"]["apiVersion"] == "ray.io/v1"
    front, model = built["front"].init_args[0], built["support.1"].init_args[0]
    assert front.secret == built["support.1"].init_args[1] == "of the Secret"
    assert front.keys
    assert front.tls_cert
    assert not front.open_health
    assert model.model.name in built["front"].init_args[1]
    most = built["support.1"]._deployment_config.autoscaling_config.max_replicas
    fronts, more = spec["rayClusterConfig"]["workerGroupSpecs"]
    gpus = sum(kind.count[1] * kind.devices for kind in machines_of(read_native_file(SERVICE)))
    assert (most + 2) * model.model.engine.devices <= gpus, "an update starts beside it"
    assert built["front"].num_replicas == fronts["replicas"], "one front on each of these nodes"
    (application,) = [each for each in deployed.applications if each.name == "front"]
    asked = application.deployments[0].ray_actor_options.resources
    assert asked
    assert asked.keys() <= fronts["resources"].keys(), "and nowhere else"
    assert not asked.keys() & more["resources"].keys()
    assert spec["rayClusterDeletionDelaySeconds"] > built["front"].init_args[3]


def test_fronts_find_applications_by_prefix_and_generation(deployed, built):
    prefixes = built["front"].init_args[1]
    models = [each for each in deployed.applications if each.name != "front"]
    for application in models:
        prefix, _, generation = application.name.rpartition(".")
        assert prefixes[application.args["name"]] == prefix
        assert application.args["generation"] == int(generation)
        assert application.route_prefix is None
    assert {each.args["name"] for each in models} == prefixes.keys()


def test_kuberay_asks_proxies_that_say_nothing_else(service, deployed):
    from engine.backends.ray_cluster import JOB_ENVIRONMENT

    assert deployed.proxy_location == "EveryNode"
    assert deployed.http_options.port == 8000  # where KubeRay asks unless a port is named
    assert [each.name for each in deployed.applications if each.route_prefix] == ["front"]
    for template in groups(service):
        (container,) = template["spec"]["containers"]
        environment = {each["name"]: each["value"] for each in container["env"]}
        assert environment.items() >= (JOB_ENVIRONMENT | proxy_guard.HOOK).items()
        assert container["envFrom"] == [{"secretRef": {"name": "distill-serve"}}]


def test_kubernetes_sends_clients_to_the_fronts_and_lets_nobody_else_in(service, built):
    port = built["front"].init_args[0].port
    (sent,) = service["Service"]["spec"]["ports"]
    assert sent["targetPort"] == port
    head, workers, more = groups(service)
    assert not service["Service"]["spec"]["selector"].items() <= more["metadata"]["labels"].items()
    labels = workers["metadata"]["labels"]
    assert service["Service"]["spec"]["selector"].items() <= labels.items()
    assert not service["Service"]["spec"]["selector"].items() <= head["metadata"]["labels"].items()
    (container,) = workers["spec"]["containers"]
    assert container["readinessProbe"]["tcpSocket"]["port"] == port
    policy = service["NetworkPolicy"]["spec"]
    for template in (head, workers):
        chosen = policy["podSelector"]["matchLabels"]
        assert chosen.items() <= template["metadata"]["labels"].items()
    open_to_all = [rule["ports"] for rule in policy["ingress"] if "from" not in rule]
    assert open_to_all == [[{"port": port}]]
