import shlex

import pytest
import yaml
from conftest import REPOSITORY

from engine import submission
from engine.errors import CapacityError
from engine.machines.native_file import read_native_file
from engine.submission import running
from engine.submission.running import RayJobs, sees_our_disk

CLUSTERS = REPOSITORY / "clusters"


def cluster(tmp_path, **fields):
    path = tmp_path / "lab.yaml"
    path.write_text(yaml.safe_dump({"name": "lab", "address": "http://10.0.0.5:8265"} | fields))
    return read_native_file(path)


def test_a_cluster_on_our_disk_runs_the_file_where_it_is(request_for, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary")
    file = cluster(tmp_path, secret_env=["MORE"], env={"A": "b"})
    assert sees_our_disk(file)
    request = request_for("gpt-4-to-phi-3.5-mini", "train.epochs=1", until="curate")
    sent = yaml.safe_load(RayJobs(file).shown(request))
    entrypoint = sent.pop("entrypoint")
    assert sent == {
        "address": "http://10.0.0.5:8265",
        "submission_id": request.id,
        "env": {"A": "b"},
        "keys": ["OPENAI_API_KEY"],
        "keys_to_be_set_there": ["MORE"],
    }
    assert entrypoint.startswith(f"cd {tmp_path} && python -m engine.cli run {request.job} ")
    assert shlex.split(entrypoint)[-4:] == ["--set", "train.epochs=1", "--until", "curate"]


def test_a_cluster_that_is_sent_a_folder_runs_the_file_in_it(request_for, tmp_path):
    file = cluster(tmp_path, working_dir=str(tmp_path), runs="/shared/runs")
    assert not sees_our_disk(file)
    request = request_for("quickstart")
    sent = yaml.safe_load(RayJobs(file).shown(request))
    assert sent["working_dir"] == str(tmp_path)
    assert "--runs /shared/runs" in sent["entrypoint"]
    assert not sent["entrypoint"].startswith("cd")


@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("launcher-aws.yaml", "ray dashboard .*launcher-aws.yaml"),
        ("kuberay-raycluster.yaml", "kubectl port-forward service/distill-head-svc 8265"),
    ],
)
def test_behind_a_door_the_job_travels_and_a_closed_door_is_said(
    request_for, monkeypatch, tmp_path, name, way
):
    file = read_native_file(CLUSTERS / name)
    request = request_for("quickstart", until="curate")
    sent = yaml.safe_load(RayJobs(file).shown(request))
    assert sent["files"] == {"job.yaml": request.text}
    there = f"/shared/jobs/{request.id}.yaml"
    assert sent["entrypoint"] == (
        f"mkdir -p /shared/jobs && cp job.yaml {there} && distill run {there} --runs /shared/runs"
        " --fetch --until curate"
    )
    monkeypatch.setattr(running, "DOOR", "http://127.0.0.1:1")
    monkeypatch.setattr(running, "DOOR_WAIT_S", 1e-6)
    closed = f"Is the door open\\? In another shell: {way}"
    with pytest.raises(CapacityError, match=closed):
        submission.submit(request, CLUSTERS / name, on_log=print)
    with pytest.raises(CapacityError, match=closed):
        RayJobs(file).follow(request.id, print)
    with pytest.raises(CapacityError, match=closed):
        RayJobs(file).stop(request.id)
