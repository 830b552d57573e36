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
OWN_FILES = {"ray", "vllm", "deepspeed", "lm_eval"}
# Each room imports only what stands to the right of it; rooms between bars know nothing of each
# other.
ORDER = (
    "cli -> live | rehearsal -> submission | pipeline | server_test -> check -> stages ->"
    " backends -> asking | training | serving | loadgen | curation ->"
    " run | machines -> rows | job -> store -> errors"
)
FLOORS = [[room.strip() for room in floor.split("|")] for floor in ORDER.split("->")]
FLOOR_OF = {room: number for number, floor in enumerate(FLOORS) for room in floor}


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


@pytest.mark.parametrize("room", FLOOR_OF)
def test_imports_point_one_way(room):
    modules = [path for path in MODULES if layer(path) == room]
    assert modules, f"engine/ has no {room}"
    for path in modules:
        for name in imports(path):
            other = name.split(".")[1] if name.startswith("engine.") else room
            assert other == room or FLOOR_OF[other] > FLOOR_OF[room], (
                f"{path.relative_to(ROOT)} imports {name}"
            )


def test_the_root_holds_a_few_files_and_the_wings():
    here = {
        path.stem if path.suffix else path.name
        for path in ROOT.iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert here - {"__init__"} == FLOOR_OF.keys()
    for wing in here - {
        "__init__",
        "cli",
        "live",
        "submission",
        "pipeline",
        "server_test",
        "errors",
    }:
        assert "?" in ast.get_docstring(ast.parse((ROOT / wing / "__init__.py").read_text())), (
            f"engine/{wing} asks no question"
        )


def test_no_module_imports_itself_in_a_circle():
    """Also within a wing, and of imports inside functions too."""
    names = {
        ".".join(("engine", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(
            ".__init__"
        ): path
        for path in MODULES
    }
    reached: dict[str, set[str]] = {}
    for module, path in names.items():
        mentioned = {part for name in imports(path) for part in (name, name.rpartition(".")[0])}
        reached[module] = mentioned & names.keys() - {module}
    left = dict(reached)
    while free := [module for module, others in left.items() if not others & left.keys()]:
        for module in free:
            del left[module]
    assert not left, f"these import each other: {sorted(left)}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_ray_vllm_deepspeed_and_lm_eval_stay_in_their_backend_files(path):
    for name in imports(path):
        library = name.split(".")[0]
        if library in OWN_FILES:
            assert path.parent.name == "backends", f"{path} imports {name}"
            assert path.name.startswith(f"{library}_"), f"{path} imports {name}"


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
        assert (ROOT / "stages" / stage.name).is_dir() or (
            ROOT / "stages" / f"{stage.name}.py"
        ).is_file()


def test_no_drawer_modules():
    names = {path.stem for path in MODULES}
    assert not names & {"utils", "helpers", "common", "misc", "manager"}


@pytest.mark.parametrize(
    "module",
    [
        "engine",
        "engine.cli",
        "engine.backends.proxy_guard",  # in each of Ray Serve's proxies
        "engine.stages.prompts",
    ],
)
def test_what_starts_first_reads_no_heavy_library(module):
    heavy = {"torch", "ray", "vllm", "transformers", "deepspeed"}
    if module == "engine.stages.prompts":
        heavy |= {"scipy"}
    code = f"import sys, {module}; print(sorted(set(sys.modules) & {heavy}))"
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_stage_orders_rise_and_needs_come_first():
    assert all(a.order < b.order for a, b in itertools.pairwise(pipeline.STAGES))
    for position, stage in enumerate(pipeline.STAGES):
        assert set(stage.needs) <= {earlier.name for earlier in pipeline.STAGES[:position]}
