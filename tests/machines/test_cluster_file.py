from pathlib import Path

import pytest

from engine.errors import SpecError
from engine.machines.cluster_file import NodeKind, machines_of, nodes_at_most, prices_of
from engine.machines.layout import Layout, shortfall
from engine.machines.native_file import read_native_file

POD = "{spec: {containers: [{resources: {limits: {cpu: '64', memory: 1Ti, nvidia.com/gpu: 8}}}]}}"
HEAD = "{spec: {containers: [{resources: {limits: {cpu: '8', memory: 64Gi}}}]}}"
RAY_CLUSTER = f"""
  enableInTreeAutoscaling: true
  headGroupSpec: {{rayStartParams: {{num-cpus: '0'}}, template: {HEAD}}}
  workerGroupSpecs:
    - groupName: wide
      minReplicas: 1
      maxReplicas: 3
      resources: {{'accelerator_type:H100': '1'}}
      template: {POD}
"""
LAUNCHER = """
cluster_name: c
provider: {type: aws}
max_workers: 2
head_node_type: head
available_node_types:
  wide: {min_workers: 1, max_workers: 4, resources: {CPU: 96, GPU: 8, 'accelerator_type:B200': 1}}
  head: {resources: {CPU: 0}}
"""
SLURM = (
    "#!/bin/bash\n#SBATCH --nodes=2-4\n#SBATCH --gpus-per-node=h200:8\n#SBATCH --mem=512G\ntrue\n"
)


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "file"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "platform", "expected"),
    [
        (
            f"apiVersion: ray.io/v1\nkind: RayCluster\nspec:{RAY_CLUSTER}",
            "raycluster",
            [
                NodeKind("head", (1, 1), None, 0, None, 0, 64 * 2**30 / 1e9),
                NodeKind("wide", (1, 3), "H100", 8, 80, 64, 2**40 / 1e9),
            ],
        ),
        (
            LAUNCHER,
            "launcher",
            [
                NodeKind("head", (1, 1), None, 0, None, 0, None),
                NodeKind("wide", (1, 2), "B200", 8, 180, 96, None),
            ],
        ),
        (SLURM, "slurm", [NodeKind("node", (2, 4), "H200", 8, 141, None, 512)]),
        (
            "resources: {accelerators: {A100-80GB: 8}, cpus: 96+}\nnum_nodes: 2\nrun: x\n",
            "sky",
            [NodeKind("node", (2, 2), "A100", 8, 80, 96, None)],
        ),
        ("name: c\naddress: http://10.0.0.1:8265\n", "running", []),
    ],
    ids=["kuberay", "launcher", "slurm", "sky", "running"],
)
def test_a_files_own_fields_say_what_it_is_and_what_it_starts(tmp_path, text, platform, expected):
    path = written(tmp_path, text)
    assert read_native_file(path).platform == platform
    assert list(machines_of(read_native_file(path))) == expected


def test_groups_that_nothing_scales_have_their_replicas(tmp_path):
    fixed = RAY_CLUSTER.replace("enableInTreeAutoscaling: true", "rayVersion: 2.60.0")
    fixed = fixed.replace("maxReplicas: 3", "maxReplicas: 3\n      replicas: 2")
    path = written(tmp_path, f"apiVersion: ray.io/v1\nkind: RayCluster\nspec:{fixed}")
    assert machines_of(read_native_file(path))[1].count == (2, 2)


@pytest.mark.parametrize(
    ("selector", "kind", "size_gb"),
    [
        ("NVIDIA-H100-80GB-HBM3", "H100", 80),
        ("nvidia-h200-141gb", "H200", 141),
        ("NVIDIA-A100-SXM4-40GB", "A100", 40),
        ("NVIDIA-L40S", "L40S", 48),
        ("NVIDIA-GB200", "GB200", 186),
        ("Some-New-Card", "Some-New-Card", None),
    ],
)
def test_a_node_selector_names_the_gpu_and_its_memory(tmp_path, selector, kind, size_gb):
    pod = POD.replace(
        "{spec: {", f"{{spec: {{nodeSelector: {{zone: us-east-1a, gpu.product: {selector}}}, "
    )
    text = RAY_CLUSTER.replace(POD, pod).replace("{'accelerator_type:H100': '1'}", "{}")
    path = written(tmp_path, f"apiVersion: ray.io/v1\nkind: RayCluster\nspec:{text}")
    (worker,) = machines_of(read_native_file(path))[1:]
    assert (worker.accelerator, worker.device_memory_gb) == (kind, size_gb)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: x\n", "of no platform that is known; a cluster file is a KubeRay manifest"),
        ("#!/bin/bash\necho\n", "a script without #SBATCH lines"),
        (LAUNCHER + "run: x\n", r"a file of two kinds \(.*Ray's launcher; run: SkyPilot\); keep"),
        (
            f"apiVersion: ray.io/v1\nkind: RayCluster\nspec:{RAY_CLUSTER}---\nkind: RayJob\n",
            r"a file of two kinds \(RayCluster and RayJob\)",
        ),
        ("apiVersion: v1\nkind: Pod\n", "kind: Pod is no cluster; give kind: RayJob"),
        ("apiVersion: ray.io/v1\nkind: RayJob\nspec: {}\n", "spec.rayClusterSpec is missing"),
        ("a: [\n", r"file:2: not valid YAML"),
        ("[1]\n", "it must hold fields"),
        (SLURM.replace("--nodes", "--nods"), "no line `#SBATCH --nodes=N`"),
        (SLURM.replace("h200:8", "h200"), "--gpus-per-node=h200:8`, so its GPUs are not known"),
        ("resources: {accelerators: 'H200:x'}\nrun: x\n", "H200:x is no kind and number of GPUs"),
        ("resources: {}\nrun: x\n", "accelerators is missing"),
    ],
)
def test_a_file_that_says_too_little_or_two_things_is_refused(tmp_path, text, message):
    path = written(tmp_path, text)
    with pytest.raises(SpecError, match=message):
        machines_of(read_native_file(path))


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(SpecError, match=r"nowhere\.yaml: cannot be read: No such file"):
        machines_of(read_native_file(tmp_path / "nowhere.yaml"))


def test_prices_stand_in_comments(tmp_path):
    comment = "# usd per GPU-hour: H200=3.50, H100=2\n"
    for text in (comment + LAUNCHER, SLURM + comment):
        file = read_native_file(written(tmp_path, text))
        assert prices_of(file) == {"H200": 3.5, "H100": 2}
    assert prices_of(read_native_file(written(tmp_path, SLURM))) == {}


def test_machines_meet_layouts(tmp_path):
    nodes = nodes_at_most(machines_of(read_native_file(written(tmp_path, SLURM))))
    assert [node.devices for node in nodes] == [8] * 4
    wide = Layout(8, 8, replicas=(5, 5), accelerator_type="H200")
    assert "Set replicas: 4" in str(shortfall([wide], nodes))
    other = Layout(8, 8, accelerator_type="H100")
    assert "Set accelerator_type: H200" in str(shortfall([other], nodes))


def test_a_file_that_does_not_name_its_gpus_holds_any_kind(tmp_path):
    machines = machines_of(read_native_file(written(tmp_path, SLURM.replace("h200:8", "8"))))
    layout = Layout(8, 8, accelerator_type="H100")
    assert shortfall([layout], nodes_at_most(machines, kinds=["H100"])) is None
    launched = machines_of(read_native_file(written(tmp_path, LAUNCHER)))
    assert nodes_at_most(launched, "cpu")[-1].devices == 96


@pytest.mark.parametrize(
    ("selector", "kind"),
    [("node.type: p5en.48xlarge", None), ("pool: h200-spot", "H200"), ("zone: eu-1", None)],
)
def test_labels_that_are_about_no_gpu_say_nothing(tmp_path, selector, kind):
    pod = POD.replace("{spec: {", f"{{spec: {{nodeSelector: {{{selector}}}, ")
    text = RAY_CLUSTER.replace(POD, pod).replace("{'accelerator_type:H100': '1'}", "{}")
    path = written(tmp_path, f"apiVersion: ray.io/v1\nkind: RayCluster\nspec:{text}")
    assert machines_of(read_native_file(path))[1].accelerator == kind
