import shlex
from dataclasses import replace

import pytest
import yaml
from conftest import REPOSITORY

from engine.errors import SpecError
from engine.machines.native_file import read_native_file
from engine.submission import fitted, hand_over
from engine.submission.rayjob import rayjob

CLUSTERS = REPOSITORY / "clusters"
V3 = "deepseek-v3-to-phi-4-mini"


def edited(tmp_path, name, *changes):
    text = (CLUSTERS / name).read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = tmp_path / name
    path.write_text(text)
    return read_native_file(path)


def manifests(text):
    return {each["kind"]: each for each in yaml.safe_load_all(text)}


def test_a_rayjob_gets_the_name_the_job_its_options_and_the_nodes(request_for):
    file = read_native_file(CLUSTERS / "kuberay-rayjob.yaml")
    request = fitted(request_for(V3, "generate.teachers.0.replicas=3", until="train"), file)
    handed = rayjob(file, request)
    assert handed.command == ("kubectl", "apply", "--validate=strict", "-f", "-")
    made = manifests(handed.text)
    assert made["ConfigMap"]["data"] == {"job.yaml": request.text}
    assert {each["metadata"]["name"] for each in made.values()} == {request.id}
    spec = made["RayJob"]["spec"]
    assert spec["entrypoint"] == (
        "distill run /shared/jobs/job.yaml --runs /shared/runs --cluster"
        " /opt/distill-engine/clusters/local.yaml --fetch --no-second-start --until train"
    )
    (group,) = spec["rayClusterSpec"]["workerGroupSpecs"]
    assert (group["replicas"], group["minReplicas"], group["maxReplicas"]) == (0, 0, 3)
    pod = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    assert {"name": "job", "configMap": {"name": request.id}} in pod["volumes"]


def test_all_else_of_a_rayjob_stays_as_it_was(request_for):
    file = read_native_file(CLUSTERS / "kuberay-rayjob.yaml")
    made = manifests(rayjob(file, fitted(request_for(V3), file)).text)["RayJob"]
    own = file.main
    made["metadata"]["name"] = own["metadata"]["name"]
    made["spec"]["entrypoint"] = own["spec"]["entrypoint"]
    cluster = made["spec"]["rayClusterSpec"]
    cluster["headGroupSpec"]["template"]["spec"]["volumes"][1]["configMap"]["name"] = "distill-job"
    assert made == own, "four nodes are what the file has"


def test_nodes_stay_within_what_the_file_allows(request_for, tmp_path):
    file = edited(tmp_path, "kuberay-rayjob.yaml", ("minReplicas: 0", "minReplicas: 2"))
    request = replace(request_for("gpt-4-to-phi-3.5-mini"), nodes=1)
    group = manifests(rayjob(file, request).text)["RayJob"]["spec"]["rayClusterSpec"]
    assert group["workerGroupSpecs"][0]["maxReplicas"] == 2
    group = manifests(rayjob(file, replace(request, nodes=9)).text)["RayJob"]["spec"]
    assert group["rayClusterSpec"]["workerGroupSpecs"][0]["maxReplicas"] == 4


def test_a_namespace_of_the_file_is_kept_everywhere(request_for, tmp_path):
    file = edited(
        tmp_path, "kuberay-rayjob.yaml", ("  name: distill\n", "  name: distill\n  namespace: ml\n")
    )
    handed = rayjob(file, request_for("quickstart"))
    assert handed.command[:3] == ("kubectl", "--namespace", "ml")
    assert {each["metadata"]["namespace"] for each in manifests(handed.text).values()} == {"ml"}


def test_keys_are_named_and_their_values_nowhere(request_for, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary")
    request = request_for("gpt-4-to-phi-3.5-mini")
    for name, fill in (("kuberay-rayjob.yaml", rayjob), ("sky.yaml", hand_over.sky)):
        shown = fill(read_native_file(CLUSTERS / name), request).shown
        assert "OPENAI_API_KEY" in shown
        assert "sk-canary" not in shown
    assert (
        "must be in the Secret distill-secrets"
        in rayjob(read_native_file(CLUSTERS / "kuberay-rayjob.yaml"), request).shown
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ("groupName: h200", "groupName: H200_nodes"),
            r"groupName: 'H200_nodes' is .* write h200-nodes",
        ),
        (("name: ray-worker", "name: ray.worker"), r"name: 'ray\.worker' .* write ray-worker"),
        (
            ("groupName: h200", f"groupName: {'g' * 62}_h"),
            rf"groupName: '{'g' * 62}_h' .* write {'g' * 62}$",
        ),
        (("metadata:\n  name: distill\n", ""), "metadata is missing; compare it with the file of"),
        (("  name: distill\n", f"  name: {'d' * 50}\n"), "has 50 characters; KubeRay takes 47"),
        (("{name: job, configMap", "{name: jobs, configMap"), "no volume named job"),
    ],
)
def test_a_name_that_kubernetes_refuses_is_named_with_one_that_it_takes(
    request_for, tmp_path, change, message
):
    file = edited(tmp_path, "kuberay-rayjob.yaml", change)
    with pytest.raises(SpecError, match=message):
        rayjob(file, request_for("quickstart"))


def test_slurm_gets_the_script_as_it_is_behind_the_options(request_for):
    file = read_native_file(CLUSTERS / "slurm.sh")
    request = replace(request_for("quickstart", "train.epochs=1", until="train"), nodes=2)
    handed = hand_over.slurm(file, request)
    assert handed.command == (
        "sbatch", "--parsable", f"--job-name={request.id}", "--nodes=2", str(file.path),
        str(request.job), "--set", "train.epochs=1", "--until", "train",
    )  # fmt: skip
    assert shlex.split(handed.shown) == list(handed.command)


def test_a_task_of_skypilot_carries_the_job_in_a_variable(request_for):
    file = read_native_file(CLUSTERS / "sky.yaml")
    request = replace(request_for("gpt-4-to-phi-3.5-mini", until="curate"), nodes=2)
    handed = hand_over.sky(file, request)
    task = yaml.safe_load(handed.text)
    assert (task["name"], task["num_nodes"]) == (request.id, 2)
    assert task["envs"]["JOB"] == request.text
    assert task["envs"]["OPTIONS"] == "--until curate"
    assert task["run"] == file.main["run"]
    assert handed.command[-4:] == ("--secret", "HF_TOKEN", "--secret", "OPENAI_API_KEY")


def test_a_task_without_the_variable_is_refused(request_for, tmp_path):
    file = edited(tmp_path, "sky.yaml", ("  JOB:", "  JOBB:"))
    with pytest.raises(SpecError, match=r"envs\.JOB is missing"):
        hand_over.sky(file, request_for("quickstart"))


def test_what_is_shown_is_what_the_platform_reads(request_for):
    file = read_native_file(CLUSTERS / "kuberay-rayjob.yaml")
    handed = rayjob(file, request_for("quickstart"))
    assert list(yaml.safe_load_all(handed.shown)) == list(yaml.safe_load_all(handed.text))


@pytest.mark.parametrize("text", ["1e5", "-2.5E-3", "0o14", "y", "N", "5", "yes", "null"])
def test_text_that_some_reader_takes_for_something_else_keeps_its_quotes(text):
    written = hand_over.as_yaml({"value": text})
    assert written.strip().partition(": ")[2].strip("'\"") == text
    assert written.strip()[-1] in "'\""
