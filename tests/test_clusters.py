"""The files of clusters/: each strictly valid for its platform, typos found, every job on every
file, and the Slurm script with stand-ins of Slurm and Ray.

KubeRay's schema stays outside the project: DISTILL_KUBERAY_SCHEMA names it, or it lies under
shared/ beside the repository.
"""

import copy
import functools
import json
import os
import random
import re
import shutil
import subprocess
from pathlib import Path

import jsonschema
import pytest
import yaml
from conftest import REPOSITORY
from doubles.tools import Tools

from engine import submission
from engine.errors import SpecError
from engine.job.jobfile import load_job
from engine.machines.cluster_file import machines_of
from engine.machines.holding import count_nodes, problems_on
from engine.machines.native_file import RAY_KINDS, read_native_file
from engine.machines.running_cluster import load_cluster
from engine.submission.request import build_request

CLUSTERS = REPOSITORY / "clusters"
FILES = sorted([*CLUSTERS.glob("*.yaml"), *CLUSTERS.glob("*.sh")])
JOBS = sorted((REPOSITORY / "jobs").glob("*.yaml"))
KUBERAY = [path for path in FILES if path.name.startswith("kuberay-")]
LAUNCHER = [path for path in FILES if path.name.startswith("launcher-")]
# Blocks whose keys are names of the user's or of devices, not fields.
FREE = {
    "labels", "annotations", "nodeSelector", "matchLabels", "limits", "requests", "rayStartParams",
    "resources", "file_mounts", "available_node_types", "data", "selector", "tags",
}  # fmt: skip
SEEDS = range(10)
# Of the two without a schema at hand what we know that they take: SkyPilot by its own schemas
# (sky/utils/schemas.py), sbatch by its manual.
SKY_FIELDS = {
    (): "name workdir num_nodes resources file_mounts setup run envs secrets volumes config service"
    " pool inputs outputs experimental priority",
    ("resources",): "cloud region zone infra cpus memory accelerators instance_type use_spot"
    " job_recovery volumes disk_size disk_tier network_tier local_disk ports labels"
    " accelerator_args image_id autostop priority any_of ordered",
    ("resources", "job_recovery"): "strategy max_restarts_on_errors recover_on_exit_codes",
}
SBATCH_OPTIONS = """
account array begin chdir clusters comment constraint contiguous cores-per-socket
cpu-freq cpus-per-gpu cpus-per-task deadline dependency distribution error exclude exclusive export
export-file extra-node-info get-user-env gid gpu-bind gpu-freq gpus gpus-per-node gpus-per-socket
gpus-per-task gres gres-flags hint hold ignore-pbs input job-name kill-on-invalid-dep licenses
mail-type mail-user mem mem-bind mem-per-cpu mem-per-gpu mincpus network nice no-kill no-requeue
nodefile nodelist nodes ntasks ntasks-per-core ntasks-per-gpu ntasks-per-node ntasks-per-socket
open-mode output overcommit oversubscribe parsable partition power prefer priority profile
propagate qos quiet reboot requeue reservation signal sockets-per-node spread-job switches
thread-spec threads-per-core time time-min tmp tres-per-task uid use-min-nodes verbose wait
wait-all-nodes wckey wrap
"""


def name_of(path):
    return path.name


def kuberay_schema():
    named = os.environ.get("DISTILL_KUBERAY_SCHEMA")
    beside = sorted(REPOSITORY.parent.glob("shared/schemas/kuberay-*.schema.json"))
    places = [Path(named)] if named else beside
    if not places:
        pytest.skip("no schema of KubeRay is at hand; DISTILL_KUBERAY_SCHEMA names one")
    return json.loads(places[-1].read_text())


def kuberay_problems(documents):
    """Every document of Ray's against the strict schema of its kind."""
    schema = kuberay_schema()
    problems = []
    for document in documents:
        if document["kind"] in RAY_KINDS:
            own = {"$defs": schema["$defs"]} | schema["kinds"][document["kind"]]
            problems += jsonschema.Draft202012Validator(own).iter_errors(document)
    return problems


def sky_problems(task):
    problems = []
    for place, names in SKY_FIELDS.items():
        block = task
        for step in place:
            block = block.get(step, {})
        problems += sorted(block.keys() - set(names.split()))
    return problems


def sbatch_problems(text):
    asked = re.findall(r"^#SBATCH --([\w-]+)", text, re.MULTILINE)
    return sorted(set(asked) - set(SBATCH_OPTIONS.split()))


def ray_folder():
    import ray.autoscaler

    return Path(ray.autoscaler.__file__).parent


def launcher_problems(config):
    """Ray's own schema, and what the clouds' SDKs that are here know of a machine."""
    schema = json.loads((ray_folder() / "ray-schema.json").read_text())
    problems = list(jsonschema.Draft7Validator(schema).iter_errors(config))
    known = schema["properties"]["provider"]["properties"]
    problems += sorted(config.get("provider", {}).keys() - known.keys())
    kind = config.get("provider", {}).get("type")
    for node in config.get("available_node_types", {}).values():
        given = node.get("node_config", {})
        if kind == "aws":
            problems += aws_problems(given)
        if kind == "azure":
            problems += azure_problems(given)
    return problems


@functools.cache
def aws_machine():
    """Amazon's own shape of a request for a machine; a second to read."""
    import botocore.session

    model = botocore.session.get_session().get_service_model("ec2")
    return model.operation_model("RunInstances").input_shape


def aws_problems(given):
    from botocore.validate import ParamValidator

    report = ParamValidator().validate({"MinCount": 1, "MaxCount": 1} | given, aws_machine())
    return [report.generate_report()] if report.has_errors() else []


def azure_problems(given):
    template = ray_folder() / "_private" / "_azure" / "azure-vm-template.json"
    known = json.loads(template.read_text())["parameters"]
    other = sorted(given.keys() - {"azure_arm_parameters"})
    return other + sorted(given.get("azure_arm_parameters", {}).keys() - known.keys())


def keys_of(block, path=()):
    """Places of all fields of a document, by the keys and numbers that lead there."""
    items = block.items() if isinstance(block, dict) else enumerate(block)
    for key, value in items:
        is_field = isinstance(block, dict) and not (path and path[-1] in FREE)
        if is_field:
            yield (*path, key)
        if isinstance(value, dict | list):
            yield from keys_of(value, (*path, key))


def with_typo(document, seed, kept=lambda path: True):
    """The document with one letter of one field's name missing, and what was changed."""
    rng = random.Random(seed)
    document = copy.deepcopy(document)
    places = [path for path in keys_of(document) if len(str(path[-1])) > 3 and kept(path)]
    *parents, key = rng.choice(places)
    block = document
    for step in parents:
        block = block[step]
    place = rng.randrange(1, len(key))
    block[key[:place] + key[place + 1 :]] = block.pop(key)
    return document, (*parents, key)


@pytest.mark.parametrize("path", KUBERAY, ids=name_of)
def test_a_kuberay_file_is_valid_by_its_strict_schema(path):
    assert kuberay_problems(yaml.safe_load_all(path.read_text())) == []


@pytest.mark.parametrize("path", KUBERAY, ids=name_of)
def test_typos_in_a_kuberay_file_are_found(path):
    own = read_native_file(path).main
    missed = []
    for seed in SEEDS:
        typo, place = with_typo(own, seed, kept=lambda path: "kind" not in path[:1])
        if not kuberay_problems([typo]):
            missed.append(place)
    assert missed == []


@pytest.mark.parametrize("path", LAUNCHER, ids=name_of)
def test_a_launcher_file_is_valid_by_rays_schema_and_the_clouds(path):
    assert launcher_problems(yaml.safe_load(path.read_text())) == []


@pytest.mark.parametrize("path", LAUNCHER, ids=name_of)
def test_typos_in_a_launcher_file_are_found(path):
    """Google's own fields of a machine are known to its SDK alone, which is not here."""
    config = yaml.safe_load(path.read_text())

    def kept(place):
        return config["provider"]["type"] != "gcp" or "node_config" not in place[:-1]

    missed = []
    for seed in SEEDS:
        typo, place = with_typo(config, seed, kept)
        if not launcher_problems(typo):
            missed.append(place)
    assert missed == []


@pytest.mark.parametrize("path", LAUNCHER, ids=name_of)
def test_ray_takes_a_launcher_file_with_its_own_defaults(path):
    from ray.autoscaler._private.util import fillout_defaults, validate_config

    config = fillout_defaults(yaml.safe_load(path.read_text()))
    validate_config(config)
    assert config["available_node_types"]["h200"]["max_workers"] == 4


def test_a_task_of_skypilot_has_fields_that_it_knows_and_typos_are_found():
    task = yaml.safe_load((CLUSTERS / "sky.yaml").read_text())
    assert sky_problems(task) == []
    free = {"envs", "secrets", "volumes"}
    for seed in SEEDS:
        typo, place = with_typo(task, seed, kept=lambda path: path[0] not in free)
        assert sky_problems(typo), place


def test_the_slurm_script_has_options_that_sbatch_knows_and_typos_are_found():
    text = (CLUSTERS / "slurm.sh").read_text()
    assert sbatch_problems(text) == []
    options = re.findall(r"^#SBATCH --([\w-]+)", text, re.MULTILINE)
    assert len(options) >= len(SEEDS)
    for seed, option in zip(SEEDS, options, strict=False):
        place = random.Random(seed).randrange(1, len(option))
        typo = option[:place] + option[place + 1 :]
        changed = text.replace(f"#SBATCH --{option}", f"#SBATCH --{typo}", 1)
        assert sbatch_problems(changed) == [typo]


def test_a_file_holds_machines_and_never_a_job():
    jobs = [path.stem for path in JOBS]
    for path in FILES:
        code = "\n".join(line.partition("#")[0] for line in path.read_text().splitlines())
        assert [job for job in jobs if job in code] == [], path


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_file_fits_a_screen_and_says_how_it_is_used(path):
    lines = path.read_text().splitlines()
    assert len(lines) <= 150 if "rayservice" in path.name else len(lines) <= 85
    assert max(map(len, lines)) <= 140
    assert lines[0].startswith("#")


def test_what_was_wrong_with_a_rayjob_is_mended():
    spec = read_native_file(CLUSTERS / "kuberay-rayjob.yaml").main["spec"]
    cluster = spec["rayClusterSpec"]
    assert spec["submissionMode"] == "SidecarMode", "a lost head is seen"
    assert "submitterPodTemplate" not in spec, "KubeRay refuses it in this mode"
    assert spec["activeDeadlineSeconds"]
    assert spec["preRunningDeadlineSeconds"]
    assert "--no-second-start" in spec["entrypoint"]
    assert "--fetch" in spec["entrypoint"]
    assert cluster["authOptions"]["mode"] == "token"
    assert cluster["enableInTreeAutoscaling"]
    assert cluster["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0", "num-gpus": "0"}
    (workers,) = cluster["workerGroupSpecs"]
    assert (workers["replicas"], workers["minReplicas"]) == (0, 0), "nothing idles"
    assert workers["resources"] == {"accelerator_type:H200": "1"}
    assert not workers["rayStartParams"], "KubeRay takes one of the two"
    pod = workers["template"]["spec"]
    assert pod["tolerations"]
    assert pod["nodeSelector"]
    (container,) = pod["containers"]
    assert container["securityContext"]["capabilities"]["add"] == ["IPC_LOCK"]
    assert container["resources"]["limits"]["rdma/ib"]


def test_every_file_says_which_machines_it_starts():
    told = {path.name: machines_of(read_native_file(path)) for path in FILES}
    assert told.pop("local.yaml") == ()
    for name, machines in told.items():
        gpus = [(kind.accelerator, kind.devices) for kind in machines if kind.devices]
        assert set(gpus) == {("H200", 8)}, name
        assert sum(kind.count[1] for kind in machines if kind.devices) == 4, name


@pytest.mark.parametrize("path", FILES, ids=name_of)
@pytest.mark.parametrize("job", JOBS, ids=name_of)
def test_every_job_on_every_file_is_handed_over_or_says_why_not(path, job, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"id": "a", "prompt": "1 + 1?", "reference": "2"}\n')
    sets = [f"prompts.train={rows}", "prompts.validation=null"]
    request = build_request(job, load_job(job, sets), sets=sets, runs=str(tmp_path), options={})
    said = []
    machines = machines_of(read_native_file(path))
    why = "takes no job"
    if "rayservice" not in path.name:
        why = "the nearest that fits: set" if problems_on(request.spec, machines) else None
    if why:
        with pytest.raises(SpecError, match=f"{re.escape(str(path))}: .*{why}"):
            submission.submit(request, path, dry_run=True, on_log=said.append)
        return
    submission.submit(request, path, dry_run=True, on_log=said.append)
    assert request.id in "".join(said)
    if machines:
        assert 1 <= count_nodes(request.spec, machines) <= 4


def test_the_advice_fits():
    """What a job is told to set makes it fit."""
    machines = machines_of(read_native_file(CLUSTERS / "slurm.sh"))
    tried = 0
    for path in JOBS:
        job = load_job(path)
        for problem in problems_on(job, machines):
            block = problem.split()[0]
            advice = problem.partition("the nearest that fits: set ")[2]
            sets = [f"{block}.{each.replace(': ', '=')}" for each in advice.split(", ")]
            assert problems_on(load_job(path, sets), machines) == [], sets
            tried += 1
    assert tried


def test_the_local_file_is_a_cluster():
    assert load_cluster(CLUSTERS / "local.yaml").name == "local"


def test_the_image_holds_what_is_copied_into_it():
    text = (CLUSTERS / "Dockerfile").read_text()
    copied = re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE)
    sources = " ".join(copied).split()
    assert {"requirements", "engine", "jobs", "clusters", "Makefile"} <= set(sources)
    assert [source for source in sources if not (REPOSITORY / source).exists()] == []
    assert "LOCK=gpu PYTHON=python3.12 make env" in text


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """The Slurm script on a cluster of two nodes whose Ray may not start."""
    tools = Tools(tmp_path)
    tools.put("scontrol", "echo node1; echo node2")
    tools.put(
        "srun",
        "while [[ $1 == --* ]]; do shift; done\n"
        'if [ "$1" = hostname ]; then echo "10.0.0.5 10.1.0.5"; else exec "$@"; fi',
    )
    tools.put(
        "ray",
        'echo "token of ${#RAY_AUTH_TOKEN}" >> "$HERE/calls"\n[ -n "${RAY_DEAD:-}" ] && exit 0\n'
        'while [ "$1" != -- ]; do shift; done\nshift\n"$@"',
    )
    tools.put("distill", 'exit "${CODE_OF_RUN:-0}"')
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    own = {
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "SLURM_JOB_ID": "123456",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_JOB_NUM_NODES": "2",
    }

    def run(*arguments, **variables):
        script = ["bash", str(CLUSTERS / "slurm.sh"), *arguments]
        environment = os.environ | own | variables
        return subprocess.run(script, env=environment, capture_output=True, text=True).returncode

    return run, tools


def test_the_slurm_script_ends_with_the_jobs_code(slurm):
    run, tools = slurm
    assert run("jobs/a b.yaml", "--set", "train.epochs=1") == 0
    assert run("x.yaml", CODE_OF_RUN="7") == 7
    assert run("x.yaml", CODE_OF_RUN="2") == 2
    assert os.listdir(tools.folder / "runs") == []
    ran = [call for call in tools.calls if call.startswith("distill run")]
    assert ran[0] == (
        f"distill run jobs/a b.yaml --runs {tools.folder}/runs --cluster"
        f" {tools.folder}/clusters/local.yaml --fetch --set train.epochs=1"
    )
    started = next(call for call in tools.calls if call.startswith("ray"))
    assert "symmetric-run --address 10.0.0.5:23456 --min-nodes 2" in started
    assert "token of 64" in tools.calls


def test_the_slurm_script_fails_where_ray_never_started(slurm):
    run, tools = slurm
    assert run("x.yaml", RAY_DEAD="1") == 1
    assert not [call for call in tools.calls if call.startswith("distill run")]


def test_the_slurm_script_wants_a_job(slurm):
    assert slurm[0]() == 1


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="no shellcheck here")
def test_the_slurm_script_is_clean_shell():
    done = subprocess.run(
        ["shellcheck", str(CLUSTERS / "slurm.sh")], capture_output=True, text=True
    )
    assert done.stdout == ""
