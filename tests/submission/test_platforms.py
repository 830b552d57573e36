"""kubectl, sbatch and sky as scripts: what they are asked, and what the command ends with."""

import json

import pytest
import yaml
from conftest import REPOSITORY
from doubles.tools import SAY

from engine import submission
from engine.errors import CapacityError, SpecError, StageError
from engine.machines.running_cluster import LAST_WORDS
from engine.submission import follow as following
from engine.submission import ledger

CLUSTERS = REPOSITORY / "clusters"
RAYJOB = CLUSTERS / "kuberay-rayjob.yaml"
# bash: `get` and `logs` say their next reply, `apply` keeps what it is given
KUBECTL = (
    SAY
    + """
case " $* " in
  *" get "*) say get ;;
  *" logs "*) say logs ;;
  *" apply "*) cat > "$HERE/applied" ;;
esac
"""
)
SBATCH = 'echo "4711;lab"'


def rayjob(word, status=None):
    return json.dumps(
        {
            "status": {
                "jobDeploymentStatus": word,
                "jobStatus": status,
                "rayClusterName": "distill-abc",
            }
        }
    )


def stamped(*lines, first=0):
    """Lines as `kubectl logs --timestamps` gives them, one a second."""
    return "".join(f"2026-11-27T10:00:{n:02}.5Z {line}\n" for n, line in enumerate(lines, first))


@pytest.fixture
def ready(tools, request_for):
    """A request for the quickstart, and what was said."""
    return request_for("quickstart"), []


def submitted(ready, cluster, **options):
    request, said = ready
    submission.submit(request, cluster, on_log=said.append, **options)
    return "".join(said)


def test_a_rayjob_is_applied_and_followed_through_its_attempts(tools, ready):
    tools.put("kubectl", KUBECTL)
    tools.replies(
        "get",
        "",
        rayjob("Initializing"),
        rayjob("Running", "RUNNING"),
        rayjob("Running", "RUNNING"),
        rayjob("Complete", "SUCCEEDED"),
    )
    tools.replies(
        "logs", "FAIL no pod yet", stamped("a"), stamped("a", "b"), stamped("b", "c", first=1)
    )
    said = submitted(ready, RAYJOB)
    name = ready[0].id
    assert said == f"submitted RayJob {name}\n{name}: Initializing\na\nb\nc\n"
    applied = {
        each["kind"]: each for each in yaml.safe_load_all((tools.folder / "applied").read_text())
    }
    assert applied["RayJob"]["metadata"]["name"] == name
    logs = [call for call in tools.calls if " logs " in call]
    assert "--since-time" not in logs[0]
    assert all("--since-time=2026-11-27T10:00" in call for call in logs[2:]), "the tail only"
    assert "ray.io/cluster=distill-abc" in logs[0]


@pytest.mark.parametrize(
    ("ended", "log", "error"),
    [
        (rayjob("Failed", "FAILED"), "", StageError),
        (rayjob("Complete", "SUCCEEDED"), f"why\n{LAST_WORDS} 2", SpecError),
        (rayjob("Complete", "SUCCEEDED"), f"why\n{LAST_WORDS} 1", StageError),
        (rayjob("Complete", "STOPPED"), "", StageError),
    ],
)
def test_a_rayjob_that_failed_ends_the_command_with_the_drivers_code(
    tools, ready, ended, log, error
):
    """An error with a name ends the driver with 0, so that KubeRay starts no second cluster."""
    tools.put("kubectl", KUBECTL)
    tools.replies("get", "", ended)
    tools.replies("logs", stamped(*log.splitlines()))
    with pytest.raises(error, match="ended with exit code"):
        submitted(ready, RAYJOB)


def test_a_rayjob_that_is_there_is_joined_and_one_that_ended_made_anew(tools, ready):
    tools.put("kubectl", KUBECTL)
    tools.replies("logs", "")
    tools.replies("get", rayjob("Running"), rayjob("Complete", "SUCCEEDED"))
    assert "joined RayJob" in submitted(ready, RAYJOB)
    assert not [call for call in tools.calls if " apply " in call or " delete " in call]
    tools.replies("get", rayjob("Failed"), rayjob("Complete", "SUCCEEDED"))
    assert "submitted RayJob" in submitted(ready, RAYJOB)
    verbs = [call.split()[1] for call in tools.calls if call.split()[1] in ("delete", "apply")]
    assert verbs == ["delete", "apply"]


def test_kubernetes_may_be_away_for_a_while(tools, ready, monkeypatch):
    tools.put("kubectl", KUBECTL)
    tools.replies("logs", "")
    away = "FAIL the connection to the server was refused"
    tools.replies("get", "", away, away, rayjob("Running"), away, rayjob("Complete", "SUCCEEDED"))
    said = submitted(ready, RAYJOB)
    assert said.count("goes on there, and it is asked again") == 2
    monkeypatch.setattr(following, "PATIENCE_S", 0.05)
    tools.replies("get", "", away)
    with pytest.raises(
        CapacityError, match=r"no answer for 0\.05 s: .*refused.* distill logs follows"
    ):
        submitted(ready, RAYJOB)


def test_a_rayjob_that_somebody_took_away_is_said(tools, ready):
    tools.put("kubectl", KUBECTL)
    tools.replies("logs", "")
    tools.replies("get", "", rayjob("Running"), "")
    with pytest.raises(CapacityError, match="is not known there any more; submit it again"):
        submitted(ready, RAYJOB)


def test_what_was_detached_is_found_again_and_stopped(tools, ready):
    tools.put("kubectl", KUBECTL)
    tools.replies("get", "")
    said = submitted(ready, RAYJOB, detach=True)
    request = ready[0]
    assert f"distill logs {request.job} follows it" in said
    tools.replies("get", rayjob("Complete", "SUCCEEDED"))
    tools.replies("logs", stamped("later"))
    heard = []
    submission.read_log("quickstart", request.runs, heard.append)
    assert heard == ["later\n"]
    submission.stop("quickstart", request.runs, heard.append)
    assert '--patch={"spec": {"suspend": true}}' in tools.calls[-1]
    assert ledger.read_submission(request.runs, "quickstart").handle == request.id


def test_what_was_never_submitted_is_not_found(tmp_path):
    with pytest.raises(SpecError, match="quickstart was not submitted from here"):
        submission.read_log("quickstart", str(tmp_path), print)


def test_a_tool_that_is_not_here_is_named(tools, ready, monkeypatch):
    monkeypatch.setenv("PATH", f"{tools.folder}/bin")
    with pytest.raises(CapacityError, match="squeue is not on PATH; give the command on a login"):
        submitted(ready, CLUSTERS / "slurm.sh")
    with pytest.raises(CapacityError, match="kubectl is not on PATH; install it, and point it at"):
        submitted(ready, RAYJOB)


def slurm_state(folder, word, code="0:0"):
    return f"JobId=4711 JobName=x JobState={word} ExitCode={code} StdOut={folder}/x.log\n"


def test_a_slurm_job_is_queued_once_and_its_file_followed(tools, ready):
    tools.put("squeue", SAY + "say squeue")
    tools.put("sbatch", SBATCH)
    tools.put(
        "scontrol",
        SAY + 'say scontrol; read -r n _ < "$HERE/scontrol-count"; echo "line $n" >> "$HERE/x.log"',
    )
    tools.replies("squeue", "")
    here = tools.folder
    states = [
        slurm_state(here, "PENDING"),
        slurm_state(here, "RUNNING"),
        slurm_state(here, "COMPLETED"),
    ]
    tools.replies("scontrol", *states)
    said = submitted(ready, CLUSTERS / "slurm.sh")
    assert said == "submitted Slurm job 4711\nline 1\nline 2\nline 3\n"
    (queued,) = [call for call in tools.calls if call.startswith("sbatch")]
    assert f"--job-name={ready[0].id}" in queued
    tools.replies("squeue", "4712\n")
    tools.replies("scontrol", slurm_state(here, "COMPLETED"))
    assert "joined Slurm job 4712" in submitted(ready, CLUSTERS / "slurm.sh")
    assert len([call for call in tools.calls if call.startswith("sbatch")]) == 1
    tools.put("scancel", "true")
    submission.stop("quickstart", ready[0].runs, print)
    assert tools.calls[-1] == "scancel --signal=TERM --full 4712"


@pytest.mark.parametrize(
    ("word", "code", "error"),
    [
        ("FAILED", "2:0", SpecError),
        ("FAILED", "1:0", StageError),
        ("CANCELLED", "0:15", StageError),
        ("NODE_FAIL", "0:0", StageError),
    ],
)
def test_a_slurm_job_that_failed_ends_the_command_with_its_code(tools, ready, word, code, error):
    tools.put("squeue", "true")
    tools.put("sbatch", SBATCH)
    tools.put("scontrol", f'echo "{slurm_state(tools.folder, word, code).strip()}"')
    with pytest.raises(error, match="4711 ended with exit code"):
        submitted(ready, CLUSTERS / "slurm.sh")


def test_a_slurm_job_that_scontrol_has_forgotten_is_said(tools, ready):
    tools.put("squeue", "true")
    tools.put("sbatch", SBATCH)
    tools.put("scontrol", 'echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1')
    with pytest.raises(CapacityError, match="4711 is not known there any more"):
        submitted(ready, CLUSTERS / "slurm.sh")


SKY = (
    SAY
    + """
case "$2" in
  launch) cp "${@: -1}" "$HERE/task.yaml" ;;
  queue) say queue ;;
  logs) echo "a line"; code=$(say codes); exit "$code" ;;
esac
"""
)


def test_a_task_of_skypilot_is_launched_and_followed(tools, ready):
    tools.put("sky", SKY)
    tools.replies("queue", "ID NAME STATUS\n")
    tools.replies("codes", "101", "0")
    said = submitted(ready, CLUSTERS / "sky.yaml")
    assert said == f"submitted managed job {ready[0].id}\na line\na line\n"
    task = yaml.safe_load((tools.folder / "task.yaml").read_text())
    assert task["envs"]["JOB"] == ready[0].text
    tools.replies("queue", f"1 {ready[0].id} RUNNING\n")
    assert "joined managed job" in submitted(ready, CLUSTERS / "sky.yaml")
    tools.replies("codes", "100")
    with pytest.raises(StageError):
        submitted(ready, CLUSTERS / "sky.yaml")


@pytest.mark.parametrize("name", ["slurm.sh", "sky.yaml"])
def test_keys_that_come_from_this_shell_must_be_in_it(
    tools, request_for, monkeypatch, tmp_path, name
):
    for tool in ("squeue", "sky", "sbatch"):
        tools.put(tool, "true")
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "a", "reference": "b"}\n')
    sets = (f"prompts.train={rows}", "prompts.validation=null")
    ready = request_for("gpt-4-to-phi-3.5-mini", *sets), []
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(SpecError, match="OPENAI_API_KEY: not set in this shell"):
        submitted(ready, CLUSTERS / name, detach=True)
    assert not [call for call in tools.calls if call.startswith("sbatch") or "launch" in call]
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary")
    submitted(ready, CLUSTERS / name, detach=True)
    assert [call for call in tools.calls if call.startswith("sbatch") or "launch" in call]
    assert "sk-canary" not in "".join(tools.calls + ready[1])


def test_a_rayservice_takes_no_job(ready):
    with pytest.raises(SpecError, match="serves a model and takes no job"):
        submitted(ready, CLUSTERS / "kuberay-rayservice.yaml", dry_run=True)


def test_a_dry_run_touches_nothing(tools, ready):
    for name in ("kuberay-rayjob.yaml", "slurm.sh", "sky.yaml", "local.yaml", "launcher-aws.yaml"):
        assert ready[0].id in submitted(ready, CLUSTERS / name, dry_run=True)
    assert tools.calls == []
    assert not (tools.folder / "runs").exists()
