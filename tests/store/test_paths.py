"""Runs in an object store, against a local S3-compatible server."""

import hashlib
import json
import os
import pickle
import subprocess
import sys
import uuid
from pathlib import PurePosixPath

import boto3
import pytest
from conftest import statuses
from moto.server import ThreadedMotoServer
from run.test_verify import commit

from engine import pipeline
from engine.errors import SpecError, StageError
from engine.job.jobfile import dump_job
from engine.rows.tables import read_tables
from engine.run import parts
from engine.run.gc import gc
from engine.run.manifests import load_manifest
from engine.run.verify import verify
from engine.store.files import file_sha256
from engine.store.paths import StorePath, file_sizes, files_in, run_folder

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "for-tests",
    "AWS_SECRET_ACCESS_KEY": "for-tests",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@pytest.fixture(scope="module")
def endpoint():
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield "{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def store(endpoint, monkeypatch):
    """A new bucket's `runs` folder as its URL."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    bucket = f"b-{uuid.uuid4().hex[:8]}"
    boto3.client("s3", endpoint_url=f"http://{endpoint}").create_bucket(Bucket=bucket)
    return f"s3://{bucket}/some runs?endpoint_override={endpoint}&scheme=http".replace(" ", "%20")


def tree(folder):
    """Every object below a folder with its bytes."""
    found = {}
    for path in folder.iterdir():
        found |= tree(path) if path.is_dir() else {path: path.read_bytes()}
    return found


def test_a_store_path_behaves_like_a_path(store):
    folder = run_folder(store)
    assert str(folder) == store
    path = folder / "job" / "data/x.tar.gz"
    assert (path.name, path.stem, path.suffix, path.parent.name) == (
        "x.tar.gz",
        "x.tar",
        ".gz",
        "data",
    )
    assert path.relative_to(folder) == PurePosixPath("job/data/x.tar.gz")
    assert run_folder(str(path)) == path == pickle.loads(pickle.dumps(path))
    assert sorted([path.with_name("b"), path.with_name("a")])[0].name == "a"
    assert not path.exists()
    assert not path.parent.exists()
    assert (list(path.parent.iterdir()), path.parent.glob("*"), files_in(path.parent)) == (
        [],
        [],
        {},
    )
    path.unlink(missing_ok=True)
    for missing in (path.read_text, path.unlink, path.stat):
        with pytest.raises(FileNotFoundError):
            missing()
    path.write_text("hällo")
    (path.parent / "deeper/y").write_bytes(b"")
    assert (path.read_text(), path.stat().st_size, path.is_file(), path.parent.is_dir()) == (
        "hällo",
        6,
        True,
        True,
    )
    assert {each.name for each in path.parent.iterdir()} == {"x.tar.gz", "deeper"}
    assert path.parent.glob("*.gz") == [path]
    assert {name: stat.st_size for name, stat in files_in(path.parent).items()} == {"x.tar.gz": 6}
    assert file_sizes(folder, ["job/data/x.tar.gz", "job/data/deeper/y", "job/none"]) == {
        "job/data/x.tar.gz": 6,
        "job/data/deeper/y": 0,
    }
    path.unlink()
    assert not path.exists()


def test_an_object_appears_whole_or_not_at_all(store):
    path = run_folder(store) / "x"

    def cut_short():
        with path.open("wb") as file:
            file.write(b"half")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        cut_short()
    assert not path.exists()
    with path.open("wb") as file:
        file.write(b"who")
        assert not path.exists()
        file.write(b"le")
    assert path.read_bytes() == b"whole"
    assert file_sha256(path) == hashlib.sha256(b"whole").hexdigest()


def test_prompts_generate_and_curate_live_in_a_store_and_go_on_on_a_disk(
    fake_job, answer_here, store, tmp_path
):
    calls = tmp_path / "calls"
    teacher = {"name": "t", "kind": "fake", "model": "fake", "fake": {"calls": str(calls)}}
    job = fake_job(generate={"teachers": [teacher], "part_rows": 8})
    folder = answer_here(job, store)
    assert isinstance(folder, StorePath)
    assert calls.read_text().count(" start") == 48
    run = pipeline.run(job, store, until="curate")
    assert run.reused == ("prompts", "generate")
    assert run.manifests["curate"].rows_out == 40
    assert (
        json.loads((folder.parent / run.folders["prompts"].name / "progress.json").read_text())[
            "stage"
        ]
        == "prompts"
    )
    report = verify(folder.parent)
    assert (report.problems, report.unnamed) == ([], [])

    before = tree(folder.parent)
    again = pipeline.run(job, store, until="curate")
    assert again.reused == ("prompts", "generate", "curate")
    assert {path: data for path, data in tree(folder.parent).items() if path.name != ".lock"} == {
        path: data for path, data in before.items() if path.name != ".lock"
    }

    for path, data in before.items():  # as `aws s3 cp --recursive` would
        local = tmp_path / "disk" / path.relative_to(run_folder(store))
        local.parent.mkdir(parents=True, exist_ok=True)
        local.write_bytes(data)
    on_disk = pipeline.run(job, tmp_path / "disk", until="curate")
    assert on_disk.reused == ("prompts", "generate", "curate")
    assert verify(tmp_path / "disk/fake").problems == []


def test_a_resume_in_a_store_asks_only_for_what_is_missing(fake_job, answer_here, store, tmp_path):
    calls = tmp_path / "calls"
    teacher = {"name": "t", "kind": "fake", "model": "fake", "fake": {"calls": str(calls)}}
    job = fake_job(generate={"teachers": [teacher], "part_rows": 8})
    folder = answer_here(job, store)
    lost = (folder / "commits").glob("record-*")[0]
    rows = len(json.loads(lost.read_text())["prompt_id"])
    lost.unlink()
    (folder / "manifest.json").unlink()
    answer_here(job, store)
    assert calls.read_text().count(" start") == 48 + rows
    assert verify(folder.parent).problems == []
    assert load_manifest(folder).rows_out == 48


def test_epochs_shut_out_a_late_writer_in_a_store(store):
    folder = run_folder(store) / "2-generate"
    old = parts.open_epoch(folder)
    commit(folder, old, 1)
    new = parts.open_epoch(folder)
    commit(folder, old, 2)
    commit(folder, new, 3)
    assert set(statuses(folder)) == {("t", 1, 0), ("t", 3, 0)}
    settled = parts.final_files(folder)
    assert sorted(
        i
        for table in read_tables([folder / name for name in settled.files])
        for i in table["prompt_id"].to_pylist()
    ) == [1, 3]
    with pytest.raises(StageError, match="two drivers opened epoch 2"):
        parts.claim_epoch(folder / "commits", new, [])


def test_gc_in_a_store_removes_only_unnamed_objects_of_older_epochs(fake_job, answer_here, store):
    folder = answer_here(fake_job(), store)
    parts.open_epoch(folder)
    old = folder / "data/part-00001-00000000000000000001-aaaaaaaa.parquet"
    new = folder / "data/part-00002-00000000000000000001-aaaaaaaa.parquet"
    for path in (old, new):
        path.write_bytes(b"12345")
    attempts = {*(folder / "attempts").iterdir(), *(folder / "receipts").iterdir()}
    before = set(tree(folder.parent))
    assert verify(folder.parent).unnamed == [old, new]
    assert {path for path, _ in gc(folder.parent, dry_run=True)} == {old, *attempts}
    assert old.exists()
    assert {path for path, _ in gc(folder.parent)} == {old, *attempts}
    assert before - set(tree(folder.parent)) == {old, *attempts}
    assert verify(folder.parent).problems == []


def test_a_flipped_byte_in_a_store_is_found(fake_job, answer_here, store):
    folder = answer_here(fake_job(), store)
    part = next(iter((folder / "data").glob("part-*")))
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(bytes(content))
    (problem,) = verify(folder.parent).problems
    assert problem.startswith(f"{part}: has another sha256; delete its record")


def test_a_bucket_that_does_not_exist_is_named_before_anything_runs(fake_job, store):
    nowhere = store.replace("s3://b-", "s3://no-such-")
    with pytest.raises(
        SpecError, match=r"NO_SUCH_BUCKET.*; correct the bucket, the endpoint or the credentials"
    ):
        pipeline.run(fake_job(), nowhere, until="prompts")


@pytest.mark.slow
def test_the_command_runs_up_to_curate_in_a_store_with_real_replicas(fake_job, store, tmp_path):
    (tmp_path / "job.yaml").write_text(dump_job(fake_job(generate={"part_rows": 8})))

    def distill(*arguments):
        command = [sys.executable, "-m", "engine.cli", *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, cwd=tmp_path, env=os.environ | CREDENTIALS
        )

    done = distill("run", "job.yaml", "--runs", store, "--until", "curate")
    assert done.returncode == 0, done.stderr
    assert "curate    done" in done.stdout
    run = str(run_folder(store) / "fake")
    verified = distill("verify", run)
    assert verified.returncode == 0, verified.stderr
    assert "48 rows" in verified.stdout
    assert "48 rows in" in distill("status", run).stdout
    assert "freed" in distill("gc", run).stdout
    assert distill("verify", run).returncode == 0
