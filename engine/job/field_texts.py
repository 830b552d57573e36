"""The string under each field of a block, which is its help.

It is read from the source when somebody asks. pydantic would read that of every block at import
(`use_attribute_docstrings`), which is a tenth of a short command.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import textwrap

from pydantic import BaseModel


def field_texts(block: type[BaseModel]) -> dict[str, str]:
    """By field, those of its bases too; nothing of a field without a text."""
    texts = {}
    for kind in reversed(block.__mro__):
        if issubclass(kind, BaseModel) and kind.model_fields:
            texts |= _own_texts(kind)
    return texts


def _own_texts(kind: type[BaseModel]) -> dict[str, str]:
    source = textwrap.dedent(inspect.getsource(kind))
    (definition,) = ast.parse(source).body
    assert isinstance(definition, ast.ClassDef)
    texts = {}
    for field, below in itertools.pairwise(definition.body):
        match field, below:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                texts[name] = inspect.cleandoc(text)
    return texts
