"""What needs many real engines: kills of the real quickstart, and its continuation under another
placement (`make proof`)."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import REPOSITORY, statuses

from engine.rows.tables import read_tables
from engine.run.manifests import MANIFEST, finished, load_manifest

pytestmark = pytest.mark.proof
JOB = REPOSITORY / "jobs/quickstart.yaml"


def command(runs: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "engine.cli", "run", str(JOB), "--runs", str(runs), *more]


def kill_when(arguments: list[str], ready, timeout_s: float = 600) -> None:
    """Start the command and `kill -9` it as soon as `ready()`."""
    driver = subprocess.Popen(arguments)
    deadline = time.monotonic() + timeout_s
    while not ready():
        assert time.monotonic() < deadline, "it never got that far"
        assert driver.poll() is None, "it ended before it could be killed"
        time.sleep(0.2)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    time.sleep(10)  # its engines notice and leave


def only(pattern: str, runs: Path) -> Path | None:
    return next(iter((runs / "quickstart").glob(pattern)), None)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("proof")


def test_a_killed_generate_resumes_with_other_replicas_and_repeats_nothing(runs):
    def some_parts() -> bool:
        folder = only("2-generate-*", runs)
        return bool(folder) and len(list((folder / "commits").glob("record-*"))) >= 3

    kill_when(
        command(runs, "--until", "generate", "--set", "generate.teachers.0.replicas=1"), some_parts
    )
    folder = only("2-generate-*", runs)
    assert folder is not None
    assert not (folder / MANIFEST).exists()
    committed = statuses(folder)
    kept = {name: (folder / "data" / name).read_bytes() for name in os.listdir(folder / "data")}
    assert 0 < len(committed) < 5500

    subprocess.run(command(runs, "--until", "generate"), check=True)  # the job's two
    manifest = load_manifest(folder)
    assert manifest is not None
    assert manifest.info.answered_this_run == 5500 - len(committed)
    ids = [
        i for table in read_tables(finished(folder).files()) for i in table["prompt_id"].to_pylist()
    ]
    assert len(ids) == len(set(ids)) == 5500
    assert all((folder / "data" / name).read_bytes() == content for name, content in kept.items())


def test_a_killed_training_resumes_with_one_worker_and_another_zero_stage(runs):
    often = ("--set", "train.checkpoint_steps=50", "--set", "train.validate_steps=50")

    def two_checkpoints() -> bool:
        folder = only("4-train-*", runs)
        return bool(folder) and len(list((folder / "checkpoints").glob("*/complete.json"))) >= 2

    kill_when(command(runs, "--until", "train", *often), two_checkpoints)
    folder = only("4-train-*", runs)
    assert folder is not None
    assert not (folder / MANIFEST).exists()
    subprocess.run(
        command(
            runs,
            "--until",
            "train",
            *often,
            "--set",
            "train.workers=1",
            "--set",
            "train.zero_stage=3",
        ),
        check=True,
    )
    manifest = load_manifest(folder)
    assert manifest is not None
    assert manifest.info.global_batch == 8
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if "loss" in line]
    assert steps == list(range(1, manifest.info.steps + 1))


def test_the_interrupted_run_ends_as_well_as_any(runs):
    subprocess.run(command(runs), check=True)
    report = json.loads((runs / "quickstart/report.json").read_text())
    assert set(report["serving"]) == {"teacher", "student"}
    for model in report["serving"].values():
        assert all(level["requests"] > level["failed"] == 0 for level in model["levels"])
    quality = report["quality"]
    assert quality["teacher"] >= 0.9
    assert quality["baseline"] <= 0.1
    assert quality["student"] >= 0.8
    assert quality["retention"] >= 0.85
