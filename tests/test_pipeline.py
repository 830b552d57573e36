"""The loop over the stages, with the fake teacher and without Ray where the stages allow it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from conftest import statuses
from doubles.clients import until
from doubles.task_files import write_task_files

from engine import pipeline
from engine.errors import InputError, SpecError, StageError
from engine.job.jobfile import dump_job
from engine.pipeline import STAGES
from engine.run.manifests import MANIFEST, Finished, finished, load_manifest, manifest_paths
from engine.run.stage import choose_stages
from engine.run.verify import verify


def run(job, tmp_path, **options):
    return pipeline.run(job, tmp_path / "runs", **options)


def test_a_finished_stage_is_reused_and_changes_no_byte(fake_job, tmp_path):
    first = run(fake_job(), tmp_path, until="prompts")
    before = {
        path: (path.stat().st_mtime_ns, path.read_bytes())
        for path in first.folders["prompts"].rglob("*")
        if path.is_file()
    }
    second = run(fake_job(), tmp_path, until="prompts")
    assert second.reused == ("prompts",)
    assert before == {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in before}


def test_force_opens_a_new_folder_and_keeps_the_old_one(fake_job, tmp_path):
    first = run(fake_job(), tmp_path, until="prompts").folders["prompts"]
    second = run(fake_job(), tmp_path, until="prompts", force=True).folders["prompts"]
    assert second.name == f"{first.name}-2"
    assert load_manifest(first) is not None
    assert run(fake_job(), tmp_path, until="prompts").folders["prompts"] == second


def test_a_stage_without_its_inputs_names_them(fake_job, tmp_path):
    with pytest.raises(StageError, match="generate needs \\['prompts'\\]"):
        run(fake_job(), tmp_path, only="generate")


def test_an_unknown_stage_names_the_choices():
    with pytest.raises(
        SpecError, match="--until generates: no such stage; choose one of prompts, generate"
    ):
        choose_stages(pipeline.NAMES, None, None, "generates")
    with pytest.raises(SpecError, match="comes after"):
        choose_stages(pipeline.NAMES, None, "train", "prompts")
    assert choose_stages(pipeline.NAMES, None, "curate", "train") == ("curate", "train")


def test_a_damaged_file_of_a_finished_stage_is_named(fake_job, tmp_path):
    folder = run(fake_job(), tmp_path, until="prompts").folders["prompts"]
    victim = finished(folder).files("train")[0]
    victim.write_bytes(victim.read_bytes()[:-10])
    with pytest.raises(StageError, match=f"{victim.name}.*--only prompts --force"):
        run(fake_job(), tmp_path, until="prompts")


def test_moving_the_sources_reuses_and_changing_them_does_not(fake_job, tmp_path):
    first = run(fake_job(), tmp_path, until="prompts").folders["prompts"]
    moved = (tmp_path / "train.jsonl").rename(tmp_path / "moved.jsonl")
    job = fake_job().model_copy(
        update={"prompts": fake_job().prompts.model_copy(update={"train": str(moved)})}
    )
    assert run(job, tmp_path, until="prompts").folders["prompts"] == first
    moved.write_text(
        moved.read_text() + json.dumps({"prompt": "one more", "reference": "1"}) + "\n"
    )
    assert run(job, tmp_path, until="prompts").folders["prompts"] != first


PLACEMENTS = {
    "generate": {
        "shard_rows": 7,
        "part_rows": 9,
        "part_seconds": 3.0,
        "request_timeout_s": 9.0,
        "max_attempts": 5,
        "max_failed_fraction": 0.5,
        "rows_in_flight": 20,
    },
    "train": {
        "batch_size": 9,
        "accumulation": 2,
        "workers": 3,
        "zero_stage": 3,
        "offload": "cpu",
        "gradient_checkpointing": True,
        "checkpoint_steps": 7,
        "keep_checkpoints": 9,
        "max_failures": 9,
    },
    "evaluate": {"replicas": 3, "tensor_parallel": 4, "max_num_seqs": 3, "kv_cache_gib": 9.0},
    "serve": {
        "port": 9999,
        "replicas": 4,
        "max_num_seqs": 7,
        "kv_cache_gib": 2.0,
        "tensor_parallel": 2,
        "max_model_len": 99,
    },
    "prompts": {"shard_rows": 3},
}


@pytest.mark.parametrize(
    ("block", "field", "value"),
    [(b, f, v) for b, fields in PLACEMENTS.items() for f, v in fields.items()],
)
def test_placement_never_changes_a_folder_but_that_of_a_load_test(
    fake_job, tmp_path, block, field, value
):
    """A load test is of what was served: there placement is the result."""
    job = fake_job()
    changed = job.model_copy(update={block: getattr(job, block).model_copy(update={field: value})})
    folders = dict.fromkeys(pipeline.NAMES, Finished(tmp_path, None))
    (tmp_path / MANIFEST).write_text("{}")
    for stage in STAGES:
        measured = stage.name == "loadtest" and block == "serve" and field != "port"
        assert (
            stage.identity(job, folders, tmp_path / "cache.json")
            != stage.identity(changed, folders, tmp_path / "cache.json")
        ) == measured


def test_a_load_test_is_of_a_device_and_of_the_teachers_layout_where_the_teacher_is_served(
    fake_job, tmp_path
):
    (tmp_path / MANIFEST).write_text("{}")
    folders = dict.fromkeys(pipeline.NAMES, Finished(tmp_path, None))

    def identities(device="cpu", **layout):
        teacher = {"name": "t", "model": "org/teacher"} | layout
        job = fake_job(
            loadtest={"models": ["student", "teacher"], "rates": [1.0]},
            generate={"teachers": [teacher]},
            device=device,
        )
        return {
            stage.name: stage.identity(job, folders, tmp_path / "cache.json") for stage in STAGES
        }

    plain = identities()
    for changes in ({"device": "gpu"}, {"tensor_parallel": 4}):
        other = identities(**changes)
        assert [name for name in other if other[name] != plain[name]] == ["loadtest"]


def test_a_teachers_replicas_are_placement_and_its_dtype_is_not(fake_job, tmp_path):
    (tmp_path / MANIFEST).write_text("{}")
    folders = dict.fromkeys(pipeline.NAMES, Finished(tmp_path, None))
    generate = next(stage for stage in STAGES if stage.name == "generate")

    def identity(**change):
        job = fake_job(
            generate={"teachers": [{"name": "t", "kind": "fake", "model": "fake"} | change]}
        )
        return generate.identity(job, folders, tmp_path / "cache.json")

    assert identity() == identity(replicas=4, tensor_parallel=2, max_num_seqs=3, kv_cache_gib=2.0)
    assert identity() != identity(dtype="float32")
    assert identity() != identity(model="another")


def test_the_content_of_a_rubric_is_part_of_evaluate_and_its_name_is_not(fake_job, tmp_path):
    (tmp_path / MANIFEST).write_text("{}")
    folders = dict.fromkeys(pipeline.NAMES, Finished(tmp_path, None))
    (tmp_path / "one.txt").write_text("Right is better.")
    (tmp_path / "same.txt").write_text("Right is better.")
    (tmp_path / "other.txt").write_text("Short is better.")

    def identities(name):
        teacher = {"name": "j", "kind": "fake", "model": "j"}
        judge = {"teacher": teacher, "rubric": str(tmp_path / name)}
        job = fake_job(evaluate={"judge": judge})
        return {
            stage.name: stage.identity(job, folders, tmp_path / "cache.json") for stage in STAGES
        }

    one = identities("one.txt")
    assert identities("same.txt") == one
    other = identities("other.txt")
    assert [name for name in other if other[name] != one[name]] == ["evaluate"]


def test_a_file_that_changes_its_split_changes_the_folder(fake_job, tmp_path):
    job = fake_job()
    train, validation = job.prompts.train, job.prompts.validation
    one = job.model_copy(
        update={
            "prompts": job.prompts.model_copy(
                update={"train": [train, validation], "validation": None}
            )
        }
    )
    prompts = STAGES[0]
    assert prompts.identity(job, {}, tmp_path / "cache.json") != prompts.identity(
        one, {}, tmp_path / "cache.json"
    )


def test_strict_refuses_reused_prompts_with_quarantined_lines(fake_job, tmp_path):
    job = fake_job()
    with Path(job.prompts.train).open("a") as file:
        file.write("{broken\n")
    assert run(job, tmp_path, until="prompts").manifests["prompts"].info.warnings
    with pytest.raises(InputError, match="1 lines are in quarantine"):
        run(job, tmp_path, until="prompts", strict=True)


def test_two_drivers_in_one_run_folder_exclude_each_other(fake_job, tmp_path):
    from engine.run.lock import run_lock

    with run_lock(tmp_path / "runs/fake"), pytest.raises(StageError, match="another process"):
        run(fake_job(), tmp_path, until="prompts")


def generate_command(tmp_path, job) -> list[str]:
    (tmp_path / "job.yaml").write_text(dump_job(job))
    return [
        sys.executable,
        "-m",
        "engine.cli",
        "run",
        str(tmp_path / "job.yaml"),
        "--runs",
        str(tmp_path / "runs"),
        "--until",
        "generate",
    ]


@pytest.mark.slow
def test_a_killed_driver_resumes_and_nothing_committed_is_answered_again(fake_job, tmp_path):
    calls = tmp_path / "calls"
    teacher = {
        "name": "t",
        "kind": "fake",
        "model": "fake",
        "fake": {"latency_s": 0.05, "calls": str(calls)},
        "concurrency": 4,
    }
    job = fake_job(400, generate={"teachers": [teacher], "part_rows": 10, "shard_rows": 40})
    command = generate_command(tmp_path, job)
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    folder, deadline = None, time.monotonic() + 120
    while time.monotonic() < deadline:
        folder = next((tmp_path / "runs/fake").glob("2-generate-*"), None)
        if folder and len(list((folder / "commits").glob("record-*"))) >= 4:
            break
        time.sleep(0.05)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    assert folder is not None
    assert not (folder / MANIFEST).exists()
    # The dead driver's replicas may still finish what they hold.
    replicas = {int(line.split()[1]) for line in calls.read_text().splitlines()}
    until(lambda: not any(psutil.pid_exists(pid) for pid in replicas))
    committed = statuses(folder)
    kept = {name: (folder / "data" / name).read_bytes() for name in os.listdir(folder / "data")}
    calls_before = calls.read_text().count(" start")

    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    manifest = load_manifest(folder)
    assert manifest.rows_in == manifest.rows_out == 408
    assert len(statuses(folder)) == 408
    assert sum(entry.rows for entry in manifest.files.values()) == 408
    assert calls.read_text().count(" start") - calls_before == 408 - len(committed)
    for name, content in kept.items():
        assert (folder / "data" / name).read_bytes() == content

    total = calls.read_text().count(" start")
    assert run(job, tmp_path, until="generate").reused == ("prompts", "generate")
    assert calls.read_text().count(" start") == total, (
        "a second run of a finished job calls no teacher"
    )


@pytest.mark.slow
def test_retry_failed_asks_only_for_failed_rows_and_the_new_manifest_counts(
    fake_job, tmp_path, ray_cluster
):
    calls = tmp_path / "calls"
    knobs = {"latency_s": 0.3, "error_fraction": 0.2, "calls": str(calls)}
    generate = {
        "teachers": [{"name": "t", "kind": "fake", "model": "fake", "fake": knobs}],
        "max_failed_fraction": 1.0,
    }

    def asked(**options):
        before = calls.read_text().count(" start") if calls.exists() else 0
        done = run(fake_job(generate=generate | options), tmp_path, until="curate", retry="failed")
        return done, calls.read_text().count(" start") - before

    first, count = asked(request_timeout_s=0.1)
    folder = first.folders["generate"]
    assert (first.manifests["generate"].info.status, count) == ({"error": 48}, 48)
    published = {path: path.read_bytes() for path in (folder / "data").iterdir()}

    second, count = asked()
    status = second.manifests["generate"].info.status
    assert count == 48
    assert (second.folders["generate"], status["ok"] + status["error"]) == (folder, 48)
    assert 0 < status["error"] < 24
    assert (folder / "manifest-0002.json").exists()
    assert second.folders["curate"] != first.folders["curate"]
    assert {path: path.read_bytes() for path in published} == published

    third, count = asked()
    assert count == status["error"], "only what failed is asked again"
    assert len(manifest_paths(folder)) == 2, "nothing was gained, so nothing behind it changes"
    assert third.folders["curate"] == second.folders["curate"]
    assert verify(tmp_path / "runs/fake").problems == []

    assert run(fake_job(generate=generate), tmp_path, until="generate").reused == (
        "prompts",
        "generate",
    )


def test_retry_failed_reuses_what_has_no_failed_row(fake_job, answer_here, tmp_path):
    folder = answer_here(fake_job(), tmp_path / "runs")
    assert "generate" in run(fake_job(), tmp_path, until="generate", retry="failed").reused
    assert len(manifest_paths(folder)) == 1


def test_a_finished_stage_copied_from_another_job_is_refused(fake_job, tmp_path):
    folder = run(fake_job(), tmp_path, until="prompts").folders["prompts"]
    other = run(fake_job(20, name="other"), tmp_path, until="prompts").folders["prompts"]
    (folder / MANIFEST).write_bytes((other / MANIFEST).read_bytes())
    with pytest.raises(
        StageError,
        match=r"is of another identity .* copied from another job .* move the folder away",
    ):
        run(fake_job(), tmp_path, until="prompts")


@pytest.mark.slow
def test_ctrl_c_exits_1_and_says_how_to_go_on(fake_job, tmp_path):
    teacher = {"name": "t", "kind": "fake", "model": "fake", "fake": {"latency_s": 2}}
    command = generate_command(tmp_path, fake_job(generate={"teachers": [teacher]}))
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while (
        not list((tmp_path / "runs/fake").glob("2-generate-*/attempts/*"))
        and time.monotonic() < deadline
    ):
        time.sleep(0.2)
    driver.send_signal(signal.SIGINT)
    _, said = driver.communicate(timeout=60)
    assert driver.returncode == 1
    assert "the same command resumes" in said


@pytest.mark.slow
def test_a_teacher_that_cannot_start_ends_the_job_with_its_own_words(
    fake_job, tmp_path, ray_cluster
):
    job = fake_job(
        generate={
            "teachers": [
                {"name": "t", "kind": "fake", "model": "fake", "fake": {"cannot_start": True}}
            ]
        }
    )
    with pytest.raises(StageError, match="the fake teacher was told not to start"):
        run(job, tmp_path, until="generate")


def test_every_stage_name_is_documented_in_the_module_docstring():
    flow = Path(pipeline.__file__).read_text().split('"""')[1]
    assert all(name in flow for name in pipeline.NAMES)


def test_what_lm_evals_task_files_read_belongs_to_the_identity_of_evaluate(fake_job, tmp_path):
    (stage,) = [stage for stage in STAGES if stage.name == "evaluate"]
    done = {name: SimpleNamespace(sha256=name) for name in stage.needs}
    files = write_task_files(tmp_path / "tasks")

    def identity(**evaluate):
        return stage.identity(fake_job(evaluate=evaluate), done, tmp_path / "content.json")

    without = identity()
    assert without["content"] == []
    first = identity(lm_eval=files)
    assert len(first["content"]) == 6
    assert first["blocks"] == without["blocks"]
    with (tmp_path / "tasks/data/choice.jsonl").open("a") as data:
        data.write('{"question": "?", "choices": ["1", "2"], "label": 0}\n')
    assert identity(lm_eval=files) != first
    assert identity(lm_eval=files[:1])["content"] == first["content"][:2]
