"""lm-eval against served models for real, beside the harness with a model of its own (`make proof`
where lm-eval is installed)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY
from doubles.task_files import needs_lm_eval, write_with_rows

from engine import pipeline
from engine.stages.report.table import MODELS

pytestmark = [pytest.mark.proof, needs_lm_eval]
ROWS = 40


@pytest.fixture(scope="module")
def task_files(tmp_path_factory):
    """A generation task, and a group of two choices, of the quickstart's validation prompts."""
    lines = (REPOSITORY / "jobs/quickstart/data/validation.jsonl").read_text().splitlines()
    sums = []
    choices = []
    for number, line in enumerate(lines[:ROWS]):
        row = json.loads(line)
        sums.append({"question": row["prompt"], "answer": row["reference"]})
        wrong = str(int(row["reference"]) + 7)
        options = [row["reference"], wrong] if number % 2 else [wrong, row["reference"]]
        choice = {"question": row["prompt"], "choices": [f"#### {each}" for each in options]}
        choices.append(choice | {"label": int(number % 2 == 0)})
    return write_with_rows(tmp_path_factory.mktemp("tasks"), sums, choices, num_fewshot=2)


@pytest.fixture(scope="module")
def run(quickstart_job, quickstart_run, task_files):
    """The quickstart, scored by these files too."""
    evaluate = quickstart_job.evaluate.model_copy(update={"lm_eval": task_files})
    job = quickstart_job.model_copy(update={"evaluate": evaluate})
    return pipeline.run(job, Path(quickstart_run.root).parent)


def samples_of(run, model, task):
    lines = (run.folders["evaluate"] / f"lm_eval/{model}.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return [row["resps"] for row in rows if row["task"] == task]


def test_teacher_baseline_and_student_have_figures_in_the_report(run, record_property):
    report = json.loads((Path(run.root) / "report.json").read_text())
    found = report["lm_eval"]
    assert found["scores"].keys() == set(MODELS)
    assert found["unknown"] == {}
    by_model = {}
    for model in MODELS:
        figures = {(s["task"], s["metric"], s["filter"]): s for s in found["scores"][model]}
        assert figures.keys() == {
            ("sums", "exact_match", "last_number"),
            ("choice", "acc", "none"),
            ("other", "acc", "none"),
            ("both", "acc", "none"),
        }
        by_model[model] = figures["sums", "exact_match", "last_number"]["value"]
    assert by_model["teacher"] >= 0.8
    assert by_model["baseline"] <= 0.1
    record_property("lm_eval", found["scores"])
    text = (Path(run.root) / "report.md").read_text()
    assert "## lm-eval" in text
    assert f"lm-eval {found['version']}, offline" in text


def test_figures_are_those_of_the_harness_with_a_model_of_its_own(run, task_files, tmp_path):
    teacher = str(REPOSITORY / "jobs/quickstart/teacher")
    driver = str(REPOSITORY / "tests/drivers/lm_eval_by_itself.py")
    out = tmp_path / "own.json"
    folder = str(Path(task_files[0]).parent)
    command = [sys.executable, driver, teacher, str(out), folder, "sums", "both"]
    subprocess.run(command, check=True)
    own = json.loads(out.read_text())
    report = json.loads((Path(run.root) / "report.json").read_text())
    for score in report["lm_eval"]["scores"]["teacher"]:
        figures = own[score["task"]]["figures"]
        key = f"{score['metric']},{score['filter']}"
        assert score["value"] == pytest.approx(figures[key], abs=1e-9)
        stderr = figures[f"{score['metric']}_stderr,{score['filter']}"]
        assert score["stderr"] == pytest.approx(stderr, abs=1e-9)
    for task in ("choice", "other"):
        ours = samples_of(run, "teacher", task)
        theirs = own[task]["resps"]
        assert len(ours) == len(theirs) == ROWS
        for mine, other in zip(ours, theirs, strict=True):
            for (one,), (two,) in zip(mine, other, strict=True):
                assert float(one[0]) == pytest.approx(float(two[0]), abs=2e-3)
    assert samples_of(run, "teacher", "sums") == own["sums"]["resps"]


def test_nothing_is_left_running_and_the_same_run_is_reused(run, quickstart_job, task_files):
    evaluate = quickstart_job.evaluate.model_copy(update={"lm_eval": task_files})
    job = quickstart_job.model_copy(update={"evaluate": evaluate})
    again = pipeline.run(job, Path(run.root).parent)
    assert "evaluate" in again.reused
    own = os.getpid()
    told = subprocess.run(["ps", "-ww", "-o", "args=", "--ppid", str(own)], capture_output=True)
    assert b"lm_eval_worker" not in told.stdout
