"""engine/backends/README.md names each hook into a library's insides, and each row a test that is
there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
REGISTER = (ROOT / "engine/backends/README.md").read_text()
LOCK = ROOT / "requirements/cpu.txt"
MODULES = sorted((ROOT / "engine").rglob("*.py"))
PRIVATE = re.compile(r"_[a-z]\w*")
VARIABLE = re.compile(r"(RAY|RAYLLM|VLLM|DS)_\w+")
OURS = {"engine", "__future__", "_typeshed"}  # the last is of type checkers alone
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
PUBLIC = {"_exit", "_replace", "RAY_ADDRESS"}  # of os and of named tuples: documented


def private_names(tree: ast.Module) -> set[str]:
    """Names with a leading underscore that a module takes from elsewhere."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            path = (node.module or "").split(".")
            if path[0] not in OURS:
                names.update(path, (alias.name for alias in node.names))
        elif isinstance(node, ast.Attribute) and not is_own(node):
            names.add(node.attr)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "getattr":
            names.add(str(getattr(node.args[1], "value", "")))
    defined = {node.name for node in ast.walk(tree) if isinstance(node, DEFINITIONS)}
    return set(filter(PRIVATE.fullmatch, names)) - defined


def is_own(node: ast.Attribute) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")


def variables(tree: ast.Module) -> set[str]:
    strings = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return {text for text in strings if isinstance(text, str) and VARIABLE.fullmatch(text)}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_private_names_and_variables_of_a_library_are_registered(path):
    tree = ast.parse(path.read_text())
    used = private_names(tree) | variables(tree)
    missing = used - PUBLIC - set(re.findall(r"\w+", REGISTER))
    assert not missing, f"{path.relative_to(ROOT)}: {sorted(missing)} have no row and no test"


def test_each_test_that_a_row_names_is_there():
    sources = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    named = set(re.findall(r"`(test_\w+)`", REGISTER))
    assert len(named) > 40
    gone = {name for name in named if f"def {name}(" not in sources}
    assert not gone


def test_each_contract_test_has_a_row():
    for path in Path(__file__).parent.glob("test_*.py"):
        if path.name != Path(__file__).name:
            for name in re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE):
                assert f"`{name}`" in REGISTER, f"{path.name}: {name}"


def test_the_versions_are_those_of_the_lock():
    """A lock that moved wants a look at its section, and the new number there."""
    locked = dict(re.findall(r"^([\w-]+)==([\d.]+)", LOCK.read_text(), re.MULTILINE))
    headings = " ".join(re.findall(r"^### .*", REGISTER, re.MULTILINE))
    seen = re.findall(r"(\w+) (\d[\d.]*\d)", headings)
    assert len(seen) == 7
    for library, version in ((name.lower(), number) for name, number in seen):
        assert locked.get(library, locked.get(f"{library}-cpu")) == version, library
