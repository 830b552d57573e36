"""The one command for a GPU machine: its pack survives the journey, a part that fails costs only
itself, and the script still runs."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time

import pytest
import ray
from conftest import REPOSITORY, SHORT_QUICKSTART

from benchmarks.gpu import pack
from benchmarks.gpu import run as proof


@pytest.fixture
def packed(tmp_path, monkeypatch):
    """A pack of three wheels, of which the second is larger than a piece."""
    monkeypatch.setattr(pack, "PIECE_BYTES", 1000)
    folder = tmp_path / "pack"
    for name in ("wheels", *pack.FOLDERS):
        (folder / name).mkdir(parents=True)
        (folder / name / "note.txt").write_text(name)
    for number, size in enumerate((300, 2500, 700)):
        (folder / f"wheels/w{number}-1.0-py3-none-any.whl").write_bytes(os.urandom(size))
    pack.cut(folder)
    return folder


def digests(folder):
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in folder.glob("wheels/*.whl")
    }


def test_pieces_are_small_and_make_the_same_files_elsewhere(packed, tmp_path):
    there = tmp_path / "there"
    there.mkdir()
    listed = json.loads((packed / "list.json").read_text())
    assert len(listed["pieces"]) > 3
    assert all(size <= 1000 for size in listed["pieces"].values())
    for name in ("list.json", *listed["pieces"]):
        (shutil.copytree if (packed / name).is_dir() else shutil.copy)(packed / name, there / name)
    pack.join(there)
    assert digests(there) == digests(packed)
    assert (there / "runs/note.txt").read_text() == "runs"
    pack.join(there)  # nothing is left to do


@pytest.mark.parametrize("harm", ["missing", "changed"])
def test_a_piece_that_is_missing_or_changed_is_named(packed, harm):
    part = sorted((packed / "piece-02").iterdir())[0]
    wheel = part.name.rpartition(".")[0]
    (packed / "wheels" / wheel).unlink()
    if harm == "missing":
        part.unlink()
    else:
        part.write_bytes(part.read_bytes()[::-1])
    with pytest.raises(
        RuntimeError, match=rf"not whole: wheels/{wheel} .*carry those pieces again"
    ):
        pack.join(packed)
    assert not (packed / "wheels" / wheel).exists()


def test_a_part_that_fails_or_hangs_costs_only_its_own_time_limit(tmp_path):
    def part(name, code, **more):
        target = proof.result_file(tmp_path, name)
        return proof.Part(
            name, 1.5, [[sys.executable, "-c", code.replace("RESULT", repr(str(target)))]], **more
        )

    good = "import json; open(RESULT, 'w').write(json.dumps({'value': 3}))"
    hang = (
        "import subprocess, time; subprocess.Popen(['sleep', '600']); print('about to hang',"
        " flush=True); time.sleep(600)"
    )
    bounded = {"first": {"value": 3, "bound": ">= 1", "ok": True}}
    session = proof.Session(tmp_path / "result.json", tmp_path, time.monotonic() + 60, os.environ)
    began = time.monotonic()
    session.run(
        [
            part("first", good, judge=lambda result, results: bounded),
            part("raises", "raise SystemExit('planted')"),
            part("hangs", hang),
            part("says nothing", "pass"),
            part(
                "judged wrong",
                good,
                judge=lambda result, results: {"x": results["raises"]["result"]},
            ),
            part("of the failed", good, needs=["raises"]),
            part("last", good),
        ]
    )
    assert time.monotonic() - began < 20
    seen = json.loads((tmp_path / "result.json").read_text())
    assert {name: outcome["state"] for name, outcome in seen["parts"].items()} == {
        "first": "ok",
        "raises": "failed",
        "hangs": "out of time",
        "says nothing": "failed",
        "judged wrong": "failed",
        "of the failed": "left out",
        "last": "ok",
    }
    assert seen["parts"]["raises"]["last_lines"] == ["planted"]
    assert seen["parts"]["hangs"]["last_lines"] == ["about to hang"]
    assert 1.4 < seen["parts"]["hangs"]["seconds"] < 5
    assert seen["ratios"] == bounded
    assert session.status() == 1


def test_when_time_is_up_what_was_seen_is_there_and_the_rest_is_named(tmp_path):
    session = proof.Session(
        tmp_path / "result.json", tmp_path, time.monotonic() + 1, os.environ, ratios={}
    )
    session.run([proof.Part("late", 60, [["true"]])])
    assert json.loads((tmp_path / "result.json").read_text())["parts"] == {
        "late": {"state": "left out", "why": "no time is left"}
    }
    assert session.status() == 1


@pytest.mark.proof
def test_the_short_form_runs_here(quickstart_run, tmp_path):
    """On the real worker function, DeepSpeed and Ray Train; its pack is the first stages of the
    session's own run."""
    folder = tmp_path / "pack/runs/quickstart"
    for stage in ("prompts", "generate", "curate"):
        source = quickstart_run.folders[stage]
        shutil.copytree(source, folder / source.name)
    entry = {
        "job": "jobs/quickstart.yaml",
        "sets": [*SHORT_QUICKSTART, "train.workers=1", "train.epochs=1"],
    }
    wide = entry | {
        "sets": [
            *entry["sets"],
            "train.global_batch=4",
            "train.checkpoint_steps=8",
            "train.epochs=4",
        ]
    }
    jobs = {"quickstart": entry, "wide": wide}
    (tmp_path / "pack/jobs.json").write_text(json.dumps(jobs))
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "benchmarks.gpu.run",
            "--json",
            str(tmp_path / "result.json"),
            "--device",
            "cpu",
            "--short",
            "--no-install",
            "--pack",
            str(tmp_path / "pack"),
            "--work",
            str(tmp_path / "work"),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
        env=os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address},
    )
    seen = json.loads((tmp_path / "result.json").read_text())
    print({name: part.get("seconds") for name, part in seen["parts"].items()})  # noqa: T201
    assert done.returncode == 0, (
        done.stdout,
        {name: part for name, part in seen["parts"].items() if part["state"] != "ok"},
    )
    assert {part["state"] for part in seen["parts"].values()} == {"ok"}
    assert seen["ratios"]["resume fp32: resumed after step"]["value"] == 8
    assert seen["ratios"]["resume fp32: steps"]["value"] >= 20
    assert seen["versions"]["torch"]
