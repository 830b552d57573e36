"""The commands around a submission, in this process."""

import signal

import pytest
from click.testing import CliRunner
from conftest import REPOSITORY
from doubles.tools import SAY

from engine.cli import main
from engine.cli.options import errors
from engine.errors import (
    CapacityError,
    InputError,
    Preempted,
    SpecError,
    StageError,
    Stopped,
)
from engine.machines.running_cluster import LAST_WORDS

CLUSTERS = REPOSITORY / "clusters"
JOBS = REPOSITORY / "jobs"


@pytest.fixture
def distill():
    """A command here; its exit code, and what it printed on both streams."""
    before = signal.getsignal(signal.SIGTERM)

    def run(*arguments):
        done = CliRunner().invoke(main, list(map(str, arguments)))
        return done.exit_code, done.output

    yield run
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("error", [SpecError, InputError, CapacityError, StageError])
def test_an_error_that_has_a_name_starts_no_second_cluster(error, capsys):
    with pytest.raises(SystemExit) as plain, errors():
        raise error("why")
    with pytest.raises(SystemExit) as final, errors(second_start=False):
        raise error("why")
    assert (plain.value.code, final.value.code) == (error.exit_code, 0)
    assert capsys.readouterr().err.endswith(f"why\n{LAST_WORDS} {error.exit_code}\n")


@pytest.mark.parametrize("error", [Preempted, Stopped])
def test_what_is_nobodys_mistake_is_worth_another_cluster(error, capsys):
    with pytest.raises(SystemExit) as ended, errors(second_start=False):
        raise error("saved")
    assert ended.value.code == 1
    assert LAST_WORDS not in capsys.readouterr().err


def test_a_bug_is_worth_another_cluster():
    with pytest.raises(ZeroDivisionError), errors(second_start=False):
        _ = 1 / 0


def test_a_wrong_job_ends_a_run_once(distill, tmp_path):
    job = tmp_path / "job.yaml"
    job.write_text((JOBS / "quickstart.yaml").read_text().replace("epochs:", "epoch:"))
    assert distill("run", job)[0] == 2
    code, said = distill("run", job, "--no-second-start")
    assert code == 0
    assert f"{LAST_WORDS} 2" in said


def test_check_and_submit_refuse_what_the_machines_cannot_hold(distill, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"id": "a", "prompt": "1 + 1?"}\n')
    sets = ["--set", f"prompts.train={rows}", "--set", "prompts.validation=null"]
    job = JOBS / "llama-3.1-405b-to-llama-3.1-8b.yaml"
    for command in (["check"], ["submit", "--dry-run"]):
        code, said = distill(*command, job, "--cluster", CLUSTERS / "slurm.sh", *sets)
        assert code == 2, command
        assert "the nearest that fits: set accelerator_type: H200" in said
        fixed = [*sets, "--set", "generate.teachers.0.accelerator_type=H200"]
        code, said = distill(*command, job, "--cluster", CLUSTERS / "slurm.sh", *fixed)
        assert code == 0, said


def test_a_file_of_two_kinds_is_named_before_anything_starts(distill, tmp_path):
    path = tmp_path / "both.yaml"
    path.write_text((CLUSTERS / "sky.yaml").read_text() + "address: http://10.0.0.1:8265\n")
    code, said = distill("submit", JOBS / "quickstart.yaml", "--cluster", path)
    assert code == 2
    assert "a file of two kinds" in said


def test_what_was_detached_is_followed_and_stopped_by_the_jobs_name(distill, tools):
    tools.put("squeue", "true")
    tools.put("sbatch", "echo 4711")
    tools.put("scancel", "true")
    tools.put(
        "scontrol",
        f'echo "JobState=FAILED ExitCode=2:0 StdOut={tools.folder}/x.log"\n'
        'echo hello > "$HERE/x.log"',
    )
    runs = ("--runs", tools.folder / "runs")
    job = JOBS / "quickstart.yaml"
    code, said = distill("submit", job, "--cluster", CLUSTERS / "slurm.sh", "--detach", *runs)
    assert code == 0, said
    assert f"distill logs {job} follows it" in said
    code, said = distill("logs", job, *runs)
    assert code == 2
    assert said.startswith("hello\n")
    assert distill("stop", job, *runs)[0] == 0
    assert "scancel --signal=TERM --full 4711" in tools.calls


def test_ctrl_c_leaves_the_job_running(distill, tools):
    tools.put("squeue", "true")
    tools.put("sbatch", "echo 4711")
    tools.put("scontrol", SAY + "kill -INT $PPID; sleep 1; echo JobState=RUNNING")
    runs = ("--runs", tools.folder / "runs")
    job = JOBS / "quickstart.yaml"
    code, said = distill("submit", job, "--cluster", CLUSTERS / "slurm.sh", *runs)
    assert code == 1
    assert "no longer followed; the job goes on there" in said
    assert not [call for call in tools.calls if call.startswith("scancel")]


def test_fetch_names_what_the_hub_does_not_give(distill, monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    code, said = distill("fetch", JOBS / "gpt-4-to-phi-3.5-mini.yaml")
    assert code == 1
    assert "microsoft/Phi-3.5-mini-instruct: the hub does not answer from here" in said


def test_a_job_of_local_models_has_nothing_to_fetch(distill):
    assert distill("fetch", JOBS / "quickstart.yaml") == (0, "")


def test_check_asks_for_no_data_that_only_the_cluster_sees(distill, tmp_path):
    job = tmp_path / "deepseek-v3-to-phi-4-mini.yaml"
    job.write_text((JOBS / job.name).read_text())
    code, said = distill("check", job, "--cluster", CLUSTERS / "kuberay-rayjob.yaml")
    assert code == 0, said
    code, said = distill("check", job, "--cluster", CLUSTERS / "slurm.sh")
    assert code == 2
    assert "train.jsonl does not exist" in said


def test_a_run_here_takes_no_file_of_machines_elsewhere(distill, tmp_path):
    cluster = CLUSTERS / "sky.yaml"
    runs = ("--runs", tmp_path, "--until", "prompts")
    code, said = distill("run", JOBS / "quickstart.yaml", "--cluster", cluster, *runs)
    assert code == 2
    assert "hand the job over: distill submit JOB" in said
