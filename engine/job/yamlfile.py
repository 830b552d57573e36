"""Strict YAML -> a typed block. Each error names file and line; field_errors.py says the rest.

Scalars are PyYAML's, and `1e-5` is a float too; duplicate keys are errors. It knows lines and
fields, not what a job or a cluster is.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from engine.errors import SpecError
from engine.job.field_errors import FieldPath, dotted, field_errors, shown
from engine.store.paths import Folder

B = TypeVar("B", bound=BaseModel)


class _Loader(yaml.SafeLoader):
    """Reads `1e-5` as a float; PyYAML alone wants a dot in it."""


class _Dumper(yaml.SafeDumper):
    """Puts the text `1e-5` in quotes."""


for _class in (_Loader, _Dumper):
    _exponent = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")
    _class.add_implicit_resolver("tag:yaml.org,2002:float", _exponent, list("-+.0123456789"))


def dump_yaml(value: Any) -> str:
    """Plain data as YAML that `read_document` reads back unchanged."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


@dataclass
class Document:
    """Plain data, where each field was written (`file:line`, or the --set that gave it), and the
    problems found so far."""

    file: Folder
    data: dict[str, Any] = field(default_factory=dict)
    places: dict[FieldPath, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def place(self, path: FieldPath) -> str:
        """Where the field, or the nearest block around it, was written."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, str(self.file))

    def read_value(self, text: str, path: FieldPath, place: Callable[[int], str]) -> Any:
        """Parse YAML text as the value of `path`; `place` turns a line number into a place.
        SpecError if it is no YAML."""
        self.places[path] = place(1)
        try:
            loader = _Loader(text)
            node = loader.get_single_node()
            return None if node is None else self._plain(loader, node, path, place)
        except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that no calendar has
            mark = getattr(error, "problem_mark", None)
            line = mark.line + 1 if mark else 1
            raise SpecError(
                f"{place(line)}: not valid YAML: {getattr(error, 'problem', error)}"
            ) from None

    def _plain(
        self, loader: _Loader, node: yaml.Node, path: FieldPath, place: Callable[[int], str]
    ) -> Any:
        self.places.setdefault(path, place(node.start_mark.line + 1))
        if isinstance(node, yaml.SequenceNode):
            return [
                self._plain(loader, item, (*path, number), place)
                for number, item in enumerate(node.value)
            ]
        if not isinstance(node, yaml.MappingNode):
            return loader.construct_object(node)
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value
            here = place(key_node.start_mark.line + 1)
            if not isinstance(key, str):
                raise SpecError(f"{here}: a field's name must be plain text")
            if key in result:
                self.problems.append(
                    f"{here}: {dotted((*path, key))}: given twice, first at"
                    f" {self.places[*path, key]}; keep one"
                )
                continue
            self.places[*path, key] = here
            result[key] = self._plain(loader, value_node, (*path, key), place)
        return result

    def build(self, block: type[B]) -> B:
        """The validated block, or one SpecError with every problem, one per line, in the order of
        the file."""
        try:
            made = block.model_validate(self.data)
            if not self.problems:
                return made
        except ValidationError as error:
            for path, text in field_errors(error, block, self.data):
                place = self.place(path)
                self.problems.append(f"{place}: {text}")
        ordered = sorted(self.problems, key=_natural_order)
        raise SpecError("\n".join(ordered))


def _natural_order(text: str) -> list[str | int]:
    place, *_ = text.split(": ", 1)
    order: list[str | int] = []
    for part in re.split(r"(\d+)", place):
        order.append(int(part) if part.isdigit() else part)
    return order


def read_document(path: Folder) -> Document:
    """A YAML file whose top level is fields. SpecError: no such file, not UTF-8, not YAML, empty,
    not fields."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise SpecError(
            f"{path}: not UTF-8 at byte {error.start}; save the file as UTF-8"
        ) from None
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror}") from None
    document = Document(path)
    data = document.read_value(text, (), lambda line: f"{path}:{line}")
    if not isinstance(data, dict):
        given = "the file is empty" if data is None else f"given {shown(data)} at the top level"
        raise SpecError(f"{path}:1: {given}; it must hold fields such as `name: ...`")
    document.data = data
    return document
