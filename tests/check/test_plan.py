"""The plan of a job with all that can be known: no data, some data, an earlier run, a cluster
file."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from engine.check.measured_run import measured_run
from engine.check.plan import Asked, plan_lines, tail_lines
from engine.check.seen_data import seen_data
from engine.errors import SpecError
from engine.job.jobfile import dump_job, load_job
from engine.machines.native_file import read_native_file
from engine.machines.replica import Split
from engine.machines.work import Seen
from engine.run.facts import CurateInfo, GenerateInfo, PromptsInfo, TrainInfo
from engine.run.identity import identity_hash
from engine.run.manifests import Counts, publish

ROOT = Path(__file__).parents[2]
V3_JOB = ROOT / "jobs/deepseek-v3-to-phi-4-mini.yaml"
NODES = """\
#!/bin/bash
#SBATCH --nodes=4
#SBATCH --gpus-per-node={kind}:8
# usd per GPU-hour: H200=3.25
srun true
"""


@pytest.fixture
def job(tmp_path):
    """A job whose data, 40 prompts of 100 characters, are there."""
    rows = [{"prompt": f"{n:03}".ljust(100, "x"), "reference": str(n)} for n in range(40)]
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    sets = [f"prompts.train={path}", "prompts.validation=null", "prompts.limit=null"]
    return load_job(V3_JOB, sets)


def test_a_plan_is_printed_without_data_and_says_what_is_missing():
    lines = list(plan_lines(load_job(V3_JOB), Asked()))
    assert lines[0].startswith("plan of deepseek-v3-to-phi-4-mini: 50,000 prompts, 600 tokens")
    assert any(line.startswith("whole") for line in lines)
    problems = lines[lines.index("before it runs, mend:") + 1 :]
    assert any("train.jsonl does not exist" in problem for problem in problems)


def test_rows_and_lengths_come_from_the_data(job):
    assert seen_data(job) == Seen(38, 2, 25.0)
    lines = list(plan_lines(job, Asked()))
    assert lines[0].endswith("38 prompts, 25 tokens each, answers of 250 (assumed)")


def test_what_the_user_says_goes_before_the_data(job):
    asked = Asked(Seen(rows=1000, answer_tokens=77.0))
    (first, *_) = plan_lines(job, asked)
    assert first.endswith("1,000 prompts, 25 tokens each, answers of 77")


@pytest.mark.parametrize(("limit", "rows"), [(None, 40), (7, 7)])
def test_a_limit_bounds_the_rows_of_each_file(job, limit, rows):
    prompts = job.prompts.model_copy(update={"limit": limit, "validation_fraction": 0.0})
    assert seen_data(job.model_copy(update={"prompts": prompts})).rows == rows


def test_machines_and_prices_come_from_the_cluster_file(tmp_path):
    cluster = tmp_path / "slurm.sh"
    cluster.write_text(NODES.format(kind="h200"))
    file = read_native_file(cluster)
    lines = list(plan_lines(load_job(V3_JOB), Asked(cluster=file)))
    assert lines[1] == "H200: $3.25 (given) a GPU-hour"
    lines = list(plan_lines(load_job(V3_JOB), Asked(cluster=file, prices={"H200": 9.0})))
    assert lines[1] == "H200: $9 (given) a GPU-hour"


def test_what_the_machines_cannot_hold_is_said_with_what_they_can(tmp_path):
    cluster = tmp_path / "slurm.sh"
    cluster.write_text(NODES.format(kind="h100"))
    lines = list(plan_lines(load_job(V3_JOB), Asked(cluster=read_native_file(cluster))))
    problems = lines[lines.index("before it runs, mend:") + 1 :]
    assert len(problems) == 1, "what is not on this machine's disk may be on theirs"
    assert "generate.teachers.0" in problems[0]
    assert "H100" in problems[0]


def test_a_running_cluster_is_not_asked():
    asked = Asked(cluster=read_native_file(ROOT / "clusters/local.yaml"))
    assert any("is a running cluster" in line for line in plan_lines(load_job(V3_JOB), asked))


def test_an_unknown_accelerator_ends_a_plan_and_not_a_check():
    job = load_job(V3_JOB, ["generate.teachers.0.accelerator_type=H2OO"])
    with pytest.raises(SpecError, match="H2OO has no figures here"):
        list(plan_lines(job, Asked()))
    (line,) = tail_lines(job)
    assert line.startswith("no plan: accelerator H2OO has no figures here")


def finished_run(job, runs, replicas=2.0):
    """A run folder of `job` as its stages would have left it: 500 rows in 120 s, of which 20 s were
    start-up."""
    root = runs / job.name
    stages = {
        "prompts": (PromptsInfo(train=480, validation=20), 1.0),
        "generate": (
            GenerateInfo(
                prompts=500,
                completions=500,
                tokens_in=500 * 250,
                tokens_out=500 * 400,
                tokens_per_second=2000.0,
                status={"ok": 500},
                answered_this_run=500,
                replicas=replicas,
            ),
            120.0,
        ),
        "curate": (CurateInfo(funnel=[("completions", 480), ("dedup", 360)]), 1.0),
        "train": (
            TrainInfo(
                steps=10,
                tokens=144_000,
                tokens_per_second=4800.0,
                final_loss=1.0,
                validation_loss=1.0,
                zero_stage=2,
                workers=8,
            ),
            90.0,
        ),
        "evaluate": (None, 60.0),
    }
    root.mkdir(parents=True)
    (root / "job.yaml").write_text(dump_job(job))
    for order, (stage, (info, seconds)) in enumerate(stages.items(), 1):
        if info is None:
            continue
        identity = {"stage": stage}
        folder = root / f"{order}-{stage}-{identity_hash(identity)}"
        folder.mkdir()
        publish(folder, stage, identity, Counts(0, 0, {}, info=info), seconds)
    return root


def test_a_finished_run_tells_speeds_lengths_and_what_is_kept(job, tmp_path):
    assert job.generate.teachers[0].replicas == [1, 4]
    measured, seen = measured_run(finished_run(job, tmp_path / "runs"))
    (answered,) = measured.answered
    assert (answered.accelerator, answered.split) == ("H200", Split(1, 1, 8))
    assert (answered.tokens_per_s, answered.start_s, answered.load.rows) == (1000.0, 20.0, 250)
    assert (seen.prompt_tokens, seen.answer_tokens, seen.kept) == (250, 400, 0.75)
    assert measured.trained.tokens_per_s == 600.0
    assert measured.trained.start_s == 60.0
    lines = list(plan_lines(job, Asked(from_run=str(tmp_path / "runs" / job.name))))
    assert lines[0].endswith("38 prompts, 250 tokens each, answers of 400")
    assert any(f"measured by {job.name}: generate, train" in line for line in lines)


def test_a_run_that_does_not_know_its_replicas_tells_lengths_but_no_speed(job, tmp_path):
    measured, seen = measured_run(finished_run(job, tmp_path / "runs", None))
    assert measured.answered == ()
    assert seen.answer_tokens == 400


def test_a_run_of_another_layout_is_said_to_say_nothing(job, tmp_path):
    teacher = job.generate.teachers[0].model_copy(update={"replicas": 2, "tensor_parallel": 16})
    generate = job.generate.model_copy(update={"teachers": [teacher]})
    other = job.model_copy(update={"generate": generate, "device": "gpu"})
    train = other.train.model_copy(update={"student": "microsoft/Phi-3.5-mini-instruct"})
    root = finished_run(other.model_copy(update={"train": train}), tmp_path / "runs")
    lines = list(plan_lines(job, Asked(from_run=str(root))))
    assert any("says nothing of their speed" in line for line in lines)


@pytest.mark.parametrize("what", ["nothing", "no job"])
def test_a_folder_that_is_no_finished_run_is_refused(job, tmp_path, what):
    folder = tmp_path / "runs" / job.name
    folder.mkdir(parents=True)
    if what == "nothing":
        (folder / "job.yaml").write_text(dump_job(job))
    with pytest.raises(SpecError, match=r"generate is not finished|is no run folder"):
        list(plan_lines(job, Asked(from_run=str(folder))))


def test_planning_imports_no_heavy_library():
    code = """
    import sys
    from engine import cli
    try:
        cli.main(sys.argv[1:])
    except SystemExit as end:
        heavy = {"torch", "ray", "vllm", "transformers", "deepspeed", "scipy"}
        heavy |= {"pyarrow.compute", "sacrebleu", "rich", "engine.rows.final_answer"}
        print(sorted(heavy & sys.modules.keys()), end.code)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), "plan", str(V3_JOB)]
    found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert found.stdout.strip().splitlines()[-1] == "[] 0"
