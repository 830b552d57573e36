"""Every YAML in jobs/ and clusters/ parses and plans."""

from pathlib import Path

import pytest
import yaml

from engine.clusterfile import load_cluster
from engine.jobfile import dump_job, load_job
from engine.planner import plan

ROOT = Path(__file__).parents[1]
JOBS = sorted((ROOT / "jobs").glob("*.yaml"))
CLUSTERS = sorted((ROOT / "clusters").glob("*.yaml"))
KUBERAY = [path for path in CLUSTERS if "apiVersion" in path.read_text()]


def name_of(path):
    return path.name


@pytest.mark.parametrize("path", JOBS, ids=name_of)
def test_job_parses_plans_and_survives_a_dump(path, tmp_path):
    job = load_job(path)
    assert job.name == path.stem
    assert plan(job).devices > 0
    (tmp_path / "job.yaml").write_text(dump_job(job))
    assert load_job(tmp_path / "job.yaml") == job


def test_the_customer_support_job_is_the_one_that_was_asked_for():
    job = load_job(ROOT / "jobs" / "deepseek-v3-to-phi-4-mini.yaml")
    teacher = job.generate.teachers[0]
    assert (teacher.model, teacher.tensor_parallel) == ("deepseek-ai/DeepSeek-V3", 8)
    assert (job.task, job.prompts.limit, job.generate.sampling.temperature) == ("conversation", 50_000, 0.7)
    assert (job.train.student, job.train.learning_rate, job.train.batch_size, job.train.epochs) == (
        "microsoft/Phi-4-mini-instruct", 2e-5, 2, 3)


@pytest.mark.parametrize("path", [path for path in CLUSTERS if path not in KUBERAY], ids=name_of)
def test_cluster_parses(path):
    assert load_cluster(path).name == path.stem


def test_the_local_cluster_is_on_loopback_and_shares_the_disk():
    cluster = load_cluster(ROOT / "clusters" / "local.yaml")
    assert (cluster.address, cluster.working_dir, cluster.ray_address) == ("http://127.0.0.1:8265", None, "auto")
    assert cluster.python == str(ROOT / ".venv" / "bin" / "python")


@pytest.mark.parametrize("path", KUBERAY, ids=name_of)
def test_kuberay_manifest_runs_distill_on_nodes_of_eight_gpus(path):
    job = next(document for document in yaml.safe_load_all(path.read_text()) if document["kind"] == "RayJob")
    words = job["spec"]["entrypoint"].split()
    assert words[:2] == ["distill", "run"]
    named = [ROOT / word.removeprefix("/opt/distill-engine/") for word in words if word.endswith(".yaml")]
    assert all(file.exists() for file in named)
    workers = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    gpus = [group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] for group in workers]
    assert gpus == [8]
    nodes = sum(group["replicas"] for group in workers)
    sets = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
    assert plan(load_job(named[0], sets)).devices <= 8 * nodes
