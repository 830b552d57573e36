"""The house rules that can be read from imports and names."""

import ast
import itertools
import subprocess
import sys
from pathlib import Path

import pytest

from engine import pipeline
from engine.job.spec import JobSpec

ROOT = Path(__file__).parents[1] / "engine"
MODULES = sorted(ROOT.rglob("*.py"))
CLUSTER_LIBRARIES = {"ray", "vllm", "deepspeed"}
EVERYONE = {
    "spec", "records", "codec", "rundir", "errors", "interrupts", "progress", "parts", "answers", "metrics", "models", "layout", "routing",
    "storage",
}
MAY_IMPORT = {
    "cli": {"pipeline", "jobfile", "clusterfile", "preflight", "planner", "stages", "backends", "verify"},
    "pipeline": {"preflight", "jobfile", "stages", "backends"},
    "preflight": {"stages"},
    "planner": set(), "verify": {"jobfile"}, "jobfile": {"yamlfile"}, "clusterfile": {"yamlfile"}, "yamlfile": set(),
    "stages": {"backends", "stages"},
    "backends": {"backends", "clusterfile"},
    "__init__": {"pipeline"},
}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def layer(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path):
    allowed = MAY_IMPORT.get(layer(path), set()) | EVERYONE
    for name in imports(path):
        if name.startswith("engine."):
            assert name.split(".")[1] in allowed, f"{path.name} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_ray_vllm_and_deepspeed_stay_in_their_backend_files(path):
    owners = {"ray": "ray_", "vllm": "vllm_engine.py", "deepspeed": "deepspeed_engine.py"}
    for name in imports(path):
        library = name.split(".")[0]
        if library in CLUSTER_LIBRARIES:
            assert path.parent.name == "backends", f"{path} imports {name}"
            assert path.name.startswith(owners[library]), f"{path} imports {name}"


def test_stages_never_import_each_other():
    for path in (ROOT / "stages").rglob("*.py"):
        own = path.relative_to(ROOT / "stages").parts[0].removesuffix(".py")
        for name in imports(path):
            if name.startswith("engine.stages."):
                assert name.split(".")[2] == own, f"{path} imports {name}"


def test_backends_know_no_stage():
    for path in (ROOT / "backends").glob("*.py"):
        assert not any(name.startswith("engine.stages") for name in imports(path)), path


def test_one_name_per_concept():
    blocks = set(JobSpec.model_fields)
    for stage in pipeline.STAGES:
        assert stage.name in blocks
        assert (ROOT / "stages" / stage.name).is_dir() or (ROOT / "stages" / f"{stage.name}.py").is_file()


def test_no_drawer_modules():
    names = {path.stem for path in MODULES}
    assert not names & {"utils", "helpers", "common", "misc", "manager"}


def test_the_pipeline_reads_no_heavy_library():
    code = "import sys, engine, engine.cli; print(sorted(set(sys.modules) & {'torch', 'ray', 'vllm', 'transformers', 'deepspeed'}))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_stage_orders_rise_and_needs_come_first():
    assert all(a.order < b.order for a, b in itertools.pairwise(pipeline.STAGES))
    for position, stage in enumerate(pipeline.STAGES):
        assert set(stage.needs) <= {earlier.name for earlier in pipeline.STAGES[:position]}
