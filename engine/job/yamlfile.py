"""Strict YAML -> a typed block. Each error names file, line, field, what was given, what is allowed
and the nearest spelling.

Scalars are PyYAML's, and `1e-5` is a float too; duplicate keys are errors. It knows lines and
fields, not what a job or a cluster is.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from engine.errors import SpecError

B = TypeVar("B", bound=BaseModel)
FieldPath = tuple[str | int, ...]


class _Loader(yaml.SafeLoader):
    """Reads `1e-5` as a float; PyYAML alone wants a dot in it."""


class _Dumper(yaml.SafeDumper):
    """Puts the text `1e-5` in quotes."""


for _class in (_Loader, _Dumper):
    _exponent = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")
    _class.add_implicit_resolver("tag:yaml.org,2002:float", _exponent, list("-+.0123456789"))


def dotted(path: FieldPath) -> str:
    """("generate", "teachers", 0) -> generate.teachers.0"""
    return ".".join(map(str, path))


def nearest(given: str, allowed: list[str]) -> str:
    """`; did you mean x?`, or nothing when no spelling is near."""
    close = difflib.get_close_matches(given.lower(), allowed, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def dump_yaml(value: Any) -> str:
    """Plain data as YAML that `read_document` reads back unchanged."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


@dataclass
class Document:
    """Plain data, where each field was written (`file:line`, or the --set that gave it), and the
    problems found so far."""

    file: Path
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
            key, here = key_node.value, place(key_node.start_mark.line + 1)
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
            self.problems += [
                f"{self.place(path)}: {text}"
                for path, text in _field_errors(error, block, self.data)
            ]
        raise SpecError("\n".join(sorted(self.problems, key=_natural_order)))


def _natural_order(text: str) -> list[str | int]:
    return [
        int(part) if part.isdigit() else part for part in re.split(r"(\d+)", text.split(": ", 1)[0])
    ]


def read_document(path: Path) -> Document:
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
        given = "the file is empty" if data is None else f"given {_shown(data)} at the top level"
        raise SpecError(f"{path}:1: {given}; it must hold fields such as `name: ...`")
    document.data = data
    return document


def _field_errors(
    error: ValidationError, block: type[BaseModel], data: Any
) -> Iterator[tuple[FieldPath, str]]:
    """pydantic's errors as (path, text): one per field, the branches of a union joined by `or`."""
    by_path: dict[FieldPath, list[Any]] = {}
    for item in error.errors(include_url=False):
        by_path.setdefault(_given_path(item, data), []).append(item)
    for path, items in by_path.items():
        # A wrong list item also fails the union's other branches, which pydantic reports for the
        # list as a whole.
        if any(other[: len(path)] == path for other in by_path.keys() - {path}):
            continue
        first, *branches = dict.fromkeys(_text(item, path, block) for item in items)
        text = " or ".join([first, *(branch.rpartition("should be ")[2] for branch in branches)])
        if path:
            yield path, f"{dotted(path)}: {text}"
        # where fields disagree, the message starts with the one to look at: `train.loss=... needs
        # ...`
        else:
            yield tuple(re.split(r"[^\w.]", text)[0].split(".")), text


def _given_path(item: Any, data: Any) -> FieldPath:
    """pydantic's `loc` without the names of union branches, which are not in the data."""
    path: FieldPath = ()
    for part in item["loc"]:
        inside = (
            part in data
            if isinstance(data, dict)
            else isinstance(data, list) and isinstance(part, int) and part < len(data)
        )
        if inside:
            path, data = (*path, part), data[part]
    return (*path, item["loc"][-1]) if item["type"] == "missing" else path


def _text(item: Any, path: FieldPath, block: type[BaseModel]) -> str:
    kind, given = item["type"], item["input"]
    if kind == "value_error":
        return str(item["ctx"]["error"])
    if kind == "extra_forbidden":
        fields = list(_block_at(block, path[:-1]).model_fields)
        return "unknown field" + (
            nearest(str(path[-1]), fields) or f"; the fields here are {', '.join(fields)}"
        )
    if kind == "missing":
        return (
            "missing; give it:"
            f" {_block_at(block, path[:-1]).model_fields[str(path[-1])].description}"
        )
    if kind == "model_type":
        return (
            f"given {_shown(given)}; should be a block with"
            f" {', '.join(_block_at(block, path).model_fields)}"
        )
    hint = ""
    if kind == "literal_error":
        hint = nearest(str(given), re.findall(r"'([^']*)'", item["ctx"]["expected"]))
    elif kind == "string_type" and isinstance(given, int | float):
        hint = "; put it in quotes"
    rule = item["msg"].removeprefix("Input ")
    return f"given {_shown(given)}; {rule[0].lower()}{rule[1:]}{hint}"


def _shown(value: Any) -> str:
    text = "nothing" if value is None else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def _block_at(block: type[BaseModel], path: FieldPath) -> type[BaseModel]:
    """The block that pydantic found at `path`, perhaps as an item of a list."""
    for part in path:
        if isinstance(part, str):
            annotation = block.model_fields[part].annotation
            block = next(
                inner
                for inner in (annotation, *get_args(annotation))
                if hasattr(inner, "model_fields")
            )
    return block
