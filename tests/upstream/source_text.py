"""What stands in an installed library's source, read without importing it: vLLM takes twenty
seconds, Ray and DeepSpeed some.

Text is that of the syntax tree: comments and the way lines are broken do not count.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable

from engine.backends.library_names import package_folder, syntax_tree


def definition(file: str, name: str = "") -> ast.AST:
    """The class, function or assigned name (`Class.method` too) of a file such as
    "ray/_private/state.py"; without a name, all of it."""
    library, _, path = file.partition("/")
    folder = package_folder(library)
    assert folder is not None, f"{library} is not installed"
    assert (folder / path).exists(), f"{file} is gone"
    node: ast.AST = syntax_tree(folder / path)
    for part in filter(None, name.split(".")):
        within = [child for child in ast.iter_child_nodes(node) if _defines(child, part)]
        assert within, f"{file} has no {name}"
        node = within[-1]  # overloads stand before
    return node


def _defines(node: ast.AST, name: str) -> bool:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return node.name == name
    targets: Iterable[ast.AST] = ()
    if isinstance(node, ast.Assign):
        targets = node.targets
    elif isinstance(node, ast.AnnAssign):
        targets = [node.target]
    return any(isinstance(target, ast.Name) and target.id == name for target in targets)


def parameters(file: str, name: str) -> list[str]:
    """What a function or method takes, `self` included, then `*`, and what goes by name only."""
    function = definition(file, name)
    assert isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef), f"{name} is no function"
    given = function.args
    names = [argument.arg for argument in [*given.posonlyargs, *given.args]]
    if given.vararg:
        names.append(f"*{given.vararg.arg}")
    elif given.kwonlyargs:
        names.append("*")
    names += [argument.arg for argument in given.kwonlyargs]
    if given.kwarg:
        names.append(f"**{given.kwarg.arg}")
    return names


def text(file: str, name: str = "") -> str:
    return ast.unparse(definition(file, name))


def fields(file: str, name: str) -> list[str]:
    """The annotated names of a class body."""
    body = definition(file, name)
    assert isinstance(body, ast.ClassDef), f"{name} is no class"
    names = []
    for item in body.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            names.append(item.target.id)
    return names
