"""The commands as a user types them."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY, distill
from doubles import misbehaving_api

from engine.job.jobfile import load_job


def test_check_prints_the_plan_of_the_quickstart():
    result = distill("check", REPOSITORY / "jobs/quickstart.yaml", "--runs", "/nonexistent")
    assert result.returncode == 0, result.stderr
    assert "GPUs wanted: 0" in result.stdout
    for stage in ("prompts", "generate", "curate", "train", "evaluate", "loadtest", "report"):
        assert stage in result.stdout


def test_check_is_quick_and_imports_nothing_heavy():
    code = (
        "import sys\nfrom engine import cli\ntry: cli.main(sys.argv[1:])\nexcept SystemExit as e:"
        " code = e.code\n"
        "print(sorted(set(sys.modules) & {'torch', 'ray', 'vllm', 'transformers', 'deepspeed'}),"
        " code)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, "check", str(REPOSITORY / "jobs/quickstart.yaml")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip().splitlines()[-1] == "[] 0"


def test_check_ends_with_the_plan_also_where_data_are_missing():
    job = REPOSITORY / "jobs/deepseek-v3-to-phi-4-mini.yaml"
    result = distill("check", job)
    assert result.returncode == 2
    assert "does not exist" in result.stderr
    assert "plan of deepseek-v3-to-phi-4-mini: 50,000 prompts" in result.stdout
    assert "bound by" in result.stdout


def test_plan_takes_prices_and_figures_and_names_what_is_unknown():
    job = REPOSITORY / "jobs/deepseek-v3-to-phi-4-mini.yaml"
    result = distill("plan", job, "--price", "H200=3.25", "--answer-tokens", "500")
    assert result.returncode == 0, result.stderr
    assert "H200: $3.25 (given) a GPU-hour" in result.stdout
    assert "before it runs, mend:" in result.stdout
    result = distill("plan", job, "--gpu", "H2OO")
    assert result.returncode == 2
    assert "did you mean H20 or H200?" in result.stderr


def test_a_bad_job_exits_2_with_place_and_remedy(job_file):
    path = job_file()
    path.write_text(path.read_text().replace("learning_rate:", "lerning_rate:"))
    result = distill("run", path)
    assert result.returncode == 2
    assert "lerning_rate" in result.stderr
    assert "learning_rate" in result.stderr.replace("lerning_rate", "")
    assert str(path) in result.stderr


def test_bad_lines_warn_and_strict_exits_1(job_file, tmp_path):
    path = job_file()
    with (tmp_path / "train.jsonl").open("ab") as file:
        file.write(
            b'{"prompt": "cut\n' + b'{"prompt": "\xff\xfe"}\n' + b'{"question": "no such field"}\n'
        )
    relaxed = distill("run", path, "--until", "prompts", "--runs", tmp_path / "runs")
    assert relaxed.returncode == 0, relaxed.stderr
    assert "quarantine" in relaxed.stdout
    strict = distill("run", path, "--until", "prompts", "--runs", tmp_path / "strict", "--strict")
    assert strict.returncode == 1
    assert "quarantine" in strict.stderr


def test_noise_goes_to_a_log_whose_path_is_shown(job_file, tmp_path):
    result = distill("run", job_file(), "--until", "prompts", "--runs", tmp_path / "runs")
    (log,) = (tmp_path / "runs/fake/logs").glob("*-run.log")
    assert str(log) in result.stdout


def test_status_reads_files_alone(job_file, tmp_path):
    path = job_file()
    distill("run", path, "--until", "prompts", "--runs", tmp_path / "runs")
    result = distill("status", path, "--runs", tmp_path / "runs")
    assert result.returncode == 0, result.stderr
    assert "done" in result.stdout
    assert "not started" in result.stdout


def test_status_verify_and_gc_take_the_run_folder(job_file, tmp_path):
    distill("run", job_file(), "--until", "prompts", "--runs", tmp_path / "runs")
    run = tmp_path / "runs/fake"
    (folder,) = run.glob("1-prompts-*")
    (folder / "data/left.parquet").write_text("over")
    assert "done" in distill("status", run).stdout
    verified = distill("verify", run)
    assert verified.returncode == 0, verified.stderr
    assert f"{folder.name}: 48 rows in 2 files, 0 commit records: ok" in verified.stdout
    assert "1 files are unnamed" in verified.stdout
    assert "would free 4 bytes in 1 files" in distill("gc", run, "--dry-run").stdout
    assert (folder / "data/left.parquet").exists()
    assert "freed 4 bytes in 1 files" in distill("gc", run).stdout
    assert not (folder / "data/left.parquet").exists()
    (folder / "data/train-00000.parquet").write_bytes(b"x")
    damaged = distill("verify", run)
    assert damaged.returncode == 1
    assert "train-00000.parquet: has 1 bytes instead of" in damaged.stderr
    assert "--only prompts --force" in damaged.stderr


def test_a_finished_stage_wants_no_key_any_more(job_file, answer_here, tmp_path, monkeypatch):
    """The teacher's key is wanted where generate will run, and nowhere else; so is the
    endpoint's."""
    monkeypatch.delenv("CANARY_KEY", raising=False)
    monkeypatch.delenv("GUARD_KEY", raising=False)
    with misbehaving_api.serve() as api:
        teacher = {
            "name": "t",
            "kind": "openai",
            "model": "m",
            "base_url": f"{api.url}/v1",
            "api_key_env": "CANARY_KEY",
        }
        job = job_file(10, generate={"teachers": [teacher]}, serve={"api_key_env": "GUARD_KEY"})
        runs = ("--runs", tmp_path / "runs")
        refused = distill("run", job, *runs, "--until", "generate")
        assert refused.returncode == 2
        assert (
            "generate.teachers.0.api_key_env: the environment variable CANARY_KEY is not set"
            in refused.stderr
        )
        assert "GUARD_KEY" not in refused.stderr
        assert distill("run", job, *runs, "--only", "prompts").returncode == 0
        with monkeypatch.context() as inside:
            inside.setenv("CANARY_KEY", misbehaving_api.KEY)
            answer_here(load_job(job), tmp_path / "runs")
        asked = len(api.calls)
        curated = distill("run", job, *runs, "--until", "curate")
        assert curated.returncode == 0, curated.stderr
        assert len(api.calls) == asked
    for again in ("--force", "--retry"):
        more = [again] if again == "--force" else [again, "failed"]
        assert (
            "CANARY_KEY is not set"
            in distill("run", job, *runs, "--only", "generate", *more).stderr
        )
    assert "GUARD_KEY is not set" in distill("check", job, *runs).stderr
    assert "CANARY_KEY" not in distill("check", job, *runs).stderr


@pytest.mark.parametrize("command", ["run", "serve", "loadtest"])
def test_a_folder_where_nobody_may_write_is_an_error_with_a_remedy(command, job_file):
    """/sys takes no folder from anybody, root included: as a folder of another user's."""
    done = distill(command, job_file(), "--runs", "/sys")
    assert done.returncode == 1
    assert re.search(
        r"^\[Errno \d+\] .*: '/sys/fake.*; give a folder that is yours to write", done.stderr
    )
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "stage",
    ["before the start", "prompts", "curate", pytest.param("generate", marks=pytest.mark.slow)],
)
def test_a_full_disk_is_said_with_a_remedy_and_the_same_command_goes_on(
    stage, job_file, small_disk, answer_here, request
):
    disk, fill = small_disk
    job, runs = job_file(), ("--runs", disk / "runs")
    environment = None
    if stage == "generate":
        assert distill("run", job, *runs, "--until", "prompts").returncode == 0
        environment = request.getfixturevalue("session_cluster")
    elif stage == "curate":
        answer_here(load_job(job), disk / "runs")
    elif stage == "prompts":  # the folder and its job.yaml are there
        assert (
            distill("run", job, *runs, "--set", "prompts.limit=3", "--until", "prompts").returncode
            == 0
        )
    fill()
    until = "prompts" if stage == "before the start" else stage
    failed = distill("run", job, *runs, "--until", until, env=environment)
    assert failed.returncode == 1
    assert "No space left on device" in failed.stderr
    assert "make room there, and the same command goes on" in failed.stderr
    assert "Traceback" not in failed.stderr
    (disk / "filler").unlink()
    assert distill("run", job, *runs, "--until", until, env=environment).returncode == 0


def test_gc_lists_the_stages_of_former_settings_and_removes_them_when_told_to(job_file, tmp_path):
    path, run = job_file(), tmp_path / "runs/fake"
    for limit in (10, 20):
        distill(
            "run",
            path,
            "--until",
            "prompts",
            "--runs",
            tmp_path / "runs",
            "--set",
            f"prompts.limit={limit}",
        )
    old, new = sorted(run.glob("1-prompts-*"), key=lambda folder: folder.stat().st_mtime)
    (run / "1-prompts-00000000").symlink_to(new)
    listed = distill("gc", run)
    assert "freed 0 bytes in 0 files\n" in listed.stdout
    assert (
        "bytes more belong to settings that job.yaml no longer has; --superseded removes them:"
        in listed.stdout
    )
    assert old.name in listed.stdout
    assert new.name not in listed.stdout
    size = sum(file.stat().st_size for file in old.rglob("*") if file.is_file())
    assert (
        f"would free {size:,} bytes in 1 files and folders"
        in distill("gc", run, "--superseded", "--dry-run").stdout
    )
    assert old.exists()
    assert (
        f"freed {size:,} bytes in 1 files and folders" in distill("gc", run, "--superseded").stdout
    )
    assert not old.exists()
    assert "done" in distill("status", run).stdout
    assert (run / "1-prompts-00000000").is_symlink()
    assert "freed 0 bytes" in distill("gc", run, "--superseded").stdout


@pytest.mark.parametrize(
    "what",
    [
        "an unfinished force",
        "sources that changed",
        "sources that are away",
        "an upstream that is not there",
    ],
)
def test_gc_takes_nothing_for_superseded_that_may_be_needed_again(job_file, tmp_path, what):
    path, run = job_file(), tmp_path / "runs/fake"
    distill("run", path, "--until", "prompts", "--runs", tmp_path / "runs")
    (finished,) = run.glob("1-prompts-*")
    if what == "an unfinished force":
        (run / f"{finished.name}-2/data").mkdir(parents=True)
    elif what == "sources that changed":
        with (tmp_path / "train.jsonl").open("a") as file:
            file.write('{"prompt": "one more", "reference": "1"}\n')
    elif what == "sources that are away":
        (tmp_path / "train.jsonl").rename(tmp_path / "elsewhere.jsonl")
    else:
        shutil.copytree(finished, run / "2-generate-01234567")
        (run / "2-generate-01234567/manifest.json").unlink()
    assert "superseded" not in distill("gc", run).stdout
    assert distill("gc", run, "--superseded").returncode == 0
    assert (finished / "manifest.json").exists()


@pytest.mark.parametrize("command", ["status", "verify", "gc"])
def test_a_folder_that_is_no_run_says_so(tmp_path, command):
    result = distill(command, tmp_path)
    assert result.returncode == 2
    assert "is no run folder: it has no job.yaml" in result.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_name_the_command(shell):
    assert "distill" in distill("completion", shell).stdout


def test_a_stage_that_needs_a_disk_refuses_an_object_store_with_the_way_out(job_file):
    result = distill("run", job_file(), "--runs", "s3://bucket/runs?region=us-east-1")
    assert result.returncode == 2
    assert (
        "train, evaluate, loadtest, report cannot work in an object store. Run --until curate"
        " there, copy s3://" in result.stderr
    )


@pytest.mark.parametrize(
    ("runs", "problem"),
    [
        ("s3://key:secret@bucket/runs", "holds a password"),
        ("s4://bucket/runs", "give a folder, or s3://bucket/folder"),
        ("s3://bucket/runs?no_such=1", "no_such"),
    ],
)
def test_a_store_that_cannot_be_meant_is_named_without_its_secret(job_file, runs, problem):
    result = distill("run", job_file(), "--runs", runs, "--until", "prompts")
    assert result.returncode == 2
    assert problem in result.stderr
    assert "secret" not in result.stderr + result.stdout


def test_the_log_of_a_refused_command_tells_what_was_asked_and_why_not(job_file, tmp_path):
    refused = distill(
        "run", job_file(), "--until", "prompts", "--runs", tmp_path / "runs", "--only", "prompts"
    )
    assert refused.returncode == 2
    (log,) = (tmp_path / "runs").rglob("*.log")
    assert re.search(r"distill-engine \S+: .* run \S+job.yaml --until prompts", log.read_text())
    assert "SpecError: --only names the one stage to run" in log.read_text()


@pytest.mark.slow
def test_a_local_run_leaves_no_session_of_ray_and_its_log_stays(job_file, tmp_path):
    def sessions():
        return {path.name for path in Path("/tmp/ray").glob("session_2*")}

    before = sessions()
    assert (
        distill("run", job_file(), "--until", "generate", "--runs", tmp_path / "runs").returncode
        == 0
    )
    assert sessions() <= before
    (log,) = (tmp_path / "runs").rglob("*.log")
    assert log.stat().st_size


def test_a_cluster_that_does_not_answer_is_named(job_file, tmp_path):
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text("name: gone\naddress: http://127.0.0.1:1\nray_address: 127.0.0.1:1\n")
    result = distill(
        "run", job_file(), "--until", "generate", "--runs", tmp_path / "runs", "--cluster", cluster
    )
    assert result.returncode == 1
    assert "no Ray cluster answers at 127.0.0.1:1" in result.stderr
    assert "ray start --head" in result.stderr


def test_a_set_on_the_command_line_reaches_the_job(job_file, tmp_path):
    distill(
        "run",
        job_file(),
        "--until",
        "prompts",
        "--runs",
        tmp_path / "runs",
        "--set",
        "train.learning_rate=3e-5",
    )
    assert "learning_rate: 3.0e-05" in (tmp_path / "runs/fake/job.yaml").read_text()


def test_a_load_test_of_an_untrained_job_trains_nothing(tmp_path):
    result = distill("loadtest", REPOSITORY / "jobs/quickstart.yaml", "--runs", tmp_path)
    assert result.returncode == 1
    assert "loadtest needs" in result.stderr
    assert [
        path.name for path in (tmp_path / "quickstart").iterdir() if path.name[0].isdigit()
    ] == []
