"""Names that a library knows, read from its source without importing it: an import takes vLLM
twenty seconds."""

from __future__ import annotations

import ast
import difflib
import functools
from pathlib import Path


def literal_values(file: Path, name: str) -> list[str]:
    """The strings of `name = Literal[...]` in a source file."""
    for node in syntax_tree(file).body:
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and node.targets[0].id == name
        ):
            return [item.value for item in ast.walk(node.value) if isinstance(item, ast.Constant)]
    raise LookupError(f"{file} has no {name}; is this vLLM 0.31?")


def fields_of(file: Path, *classes: str) -> list[str]:
    """The annotated fields of classes in a source file."""
    bodies = [
        node.body
        for node in syntax_tree(file).body
        if isinstance(node, ast.ClassDef) and node.name in classes
    ]
    return [
        item.target.id
        for body in bodies
        for item in body
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
    ]


@functools.cache
def syntax_tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def nearest_names(given: str, allowed: list[str]) -> str:
    near = difflib.get_close_matches(given, allowed, 1)
    return f"did you mean {near[0]}?" if near else f"it has {', '.join(sorted(allowed))}"
