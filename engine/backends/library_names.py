"""Names that a library knows, read from its source without importing it: an import takes vLLM
twenty seconds."""

from __future__ import annotations

import ast
import difflib
import functools
import importlib.util
from collections.abc import Sequence
from pathlib import Path


def package_folder(name: str) -> Path | None:
    """Where an installed package lies; None where it is not installed. Imports nothing."""
    package = importlib.util.find_spec(name)
    if package is None:
        return None
    folders = package.submodule_search_locations
    if not folders:
        return None
    return Path(folders[0])


def literal_values(file: Path, name: str) -> list[str]:
    """The strings of `name = Literal[...]` in a source file."""
    for node in syntax_tree(file).body:
        if isinstance(node, ast.Assign):
            target = node.targets[0]
            if _is_name(target, name):
                return _strings(node.value)
    raise LookupError(f"{file} has no {name}; is this vLLM 0.31?")


def mapping_keys(file: Path, name: str) -> list[str]:
    """The keys of `name = {...}` in a source file."""
    for node in syntax_tree(file).body:
        if not isinstance(node, ast.Assign) or not _is_name(node.targets[0], name):
            continue
        if isinstance(node.value, ast.Dict):
            keys = [key for key in node.value.keys if key is not None]
            return [text for key in keys for text in _strings(key)]
    raise LookupError(f"{file} has no {name}; is this vLLM 0.31?")


def fields_of(file: Path, *classes: str) -> list[str]:
    """The annotated fields of classes in a source file."""
    names = []
    for node in syntax_tree(file).body:
        if isinstance(node, ast.ClassDef) and node.name in classes:
            names += _annotated(node.body)
    return names


@functools.cache
def keyword_strings(file: Path, keyword: str) -> tuple[str, ...]:
    """The strings that calls in a source file give to a keyword, such as `alias="..."`."""
    values = []
    for node in ast.walk(syntax_tree(file)):
        if isinstance(node, ast.keyword) and node.arg == keyword:
            values += _strings(node.value)
    return tuple(values)


@functools.cache
def argument_strings(file: Path, function: str) -> tuple[str, ...]:
    """The strings that calls of a function in a source file are given by position, such as
    `@register("...")`."""
    values = []
    for node in ast.walk(syntax_tree(file)):
        if isinstance(node, ast.Call) and _is_name(node.func, function):
            for argument in node.args:
                values += _strings(argument)
    return tuple(values)


@functools.cache
def attributes_made_by(file: Path, classes: tuple[str, ...]) -> tuple[str, ...]:
    """Names of `self.NAME = nn.Linear(...)` and the like in a source file, for these classes."""
    names = []
    for node in ast.walk(syntax_tree(file)):
        if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Call):
            continue
        target, made = node.targets[0], node.value.func
        if not isinstance(target, ast.Attribute) or not isinstance(made, ast.Attribute):
            continue
        if made.attr in classes:
            names.append(target.attr)
    return tuple(names)


@functools.cache
def syntax_tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def _is_name(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _strings(node: ast.expr) -> list[str]:
    strings = []
    for item in ast.walk(node):
        if isinstance(item, ast.Constant):
            value = item.value
            if isinstance(value, str):
                strings.append(value)
    return strings


def _annotated(body: list[ast.stmt]) -> list[str]:
    names = []
    for item in body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            names.append(item.target.id)
    return names


def nearest_names(given: str, allowed: Sequence[str]) -> str:
    near = difflib.get_close_matches(given, allowed, 1)
    if near:
        return f"did you mean {near[0]}?"
    known = ", ".join(sorted(allowed))
    return f"it has {known}"
