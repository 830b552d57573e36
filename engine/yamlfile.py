"""Strict YAML -> a typed block. Each error names file, line, field, what was given, what is allowed and the nearest spelling.

Scalars follow YAML 1.2's core schema (`1e-5` is a float, `no` is a word); duplicate keys, anchors, aliases and tags are
errors. It knows lines and fields, not what a job or a cluster is.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from engine.errors import SpecError

B = TypeVar("B", bound=BaseModel)
FieldPath = tuple[str | int, ...]

_TAG = "tag:yaml.org,2002:"
_CORE_SCHEMA = (
    ("null", r"(~|null|Null|NULL|)$", "~nN", lambda text: None),
    ("bool", r"(true|True|TRUE|false|False|FALSE)$", "tTfF", lambda text: text.lower() == "true"),
    ("int", r"[-+]?[0-9]+$", "-+0123456789", int),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$", "-+.0123456789", float),
)
_SCALARS: dict[str, Callable[[str], Any]] = {_TAG + name: value for name, _, _, value in _CORE_SCHEMA} | {_TAG + "str": str}


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012

    def compose_node(self, parent: Any, index: Any) -> yaml.Node:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or event.anchor or event.tag:
            raise yaml.MarkedYAMLError(problem="anchors, aliases and tags (& * !) are not supported; write the value out",
                                       problem_mark=event.start_mark)
        return super().compose_node(parent, index)


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _name, _pattern, _first, _ in _CORE_SCHEMA:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_TAG + _name, re.compile(_pattern), [*_first, ""] if _name == "null" else list(_first))


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
    """Plain data, where each field was written (`file:line`, or the --set that gave it), and the problems found so far."""

    file: Path
    data: dict[str, Any] = field(default_factory=dict)
    places: dict[FieldPath, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def place(self, path: FieldPath) -> str:
        """Where the field, or the nearest block around it, was written."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, str(self.file))

    def complain(self, path: FieldPath, text: str) -> None:
        """Note one problem of the field at `path`."""
        about = "" if text.startswith(dotted(path)) else f"{dotted(path)}: "
        self.problems.append(f"{self.place(path)}: {about}{text}")

    def read_value(self, text: str, path: FieldPath, place: Callable[[int], str]) -> Any:
        """Parse YAML text as the value of `path`; `place` turns a line number into a place. SpecError if it is no YAML."""
        try:
            node = yaml.compose(text, Loader=_Loader)
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise SpecError(f"{place(line)}: not valid YAML: {' '.join(filter(None, [error.context, error.problem]))}") from None
        except yaml.YAMLError as error:
            raise SpecError(f"{place(1)}: not valid YAML: {error}") from None
        self.places[path] = place(1)
        return None if node is None else self._plain(node, path, place)

    def _plain(self, node: yaml.Node, path: FieldPath, place: Callable[[int], str]) -> Any:
        self.places.setdefault(path, place(node.start_mark.line + 1))
        if isinstance(node, yaml.ScalarNode):
            return _SCALARS[node.tag](node.value)
        if isinstance(node, yaml.SequenceNode):
            return [self._plain(item, (*path, number), place) for number, item in enumerate(node.value)]
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise SpecError(f"{place(key_node.start_mark.line + 1)}: a field's name must be plain text")
            key, here = key_node.value, place(key_node.start_mark.line + 1)
            if key in result:
                self.problems.append(f"{here}: {dotted((*path, key))}: given twice, first at {self.places[*path, key]}; keep one")
                continue
            self.places[*path, key] = here
            result[key] = self._plain(value_node, (*path, key), place)
        return result

    def build(self, block: type[B]) -> B:
        """The validated block, or one SpecError with every problem, one per line, in the order of the file."""
        made = None
        try:
            made = block.model_validate(self.data)
        except ValidationError as error:
            for path, text in _field_errors(error, block, self.data):
                self.complain(path, text)
        if self.problems or made is None:
            raise SpecError("\n".join(sorted(self.problems, key=_natural_order)))
        return made


def _natural_order(text: str) -> list[str | int]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", text.split(": ", 1)[0])]


def read_document(path: Path) -> Document:
    """A YAML file whose top level is fields. SpecError: no such file, not UTF-8, not YAML, empty, not fields."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        others = [other.name for other in path.parent.glob("*.yaml")]
        raise SpecError(f"{path}: no such file{nearest(path.name, others)}") from None
    except UnicodeDecodeError as error:
        raise SpecError(f"{path}: not UTF-8 at byte {error.start}; save the file as UTF-8") from None
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror}") from None
    document = Document(path)
    data = document.read_value(text, (), lambda line: f"{path}:{line}")
    if not isinstance(data, dict):
        given = "the file is empty" if data is None else f"given {_shown(data)} at the top level"
        raise SpecError(f"{path}:1: {given}; it must hold fields such as `name: ...`")
    document.data = data
    return document


def _field_errors(error: ValidationError, block: type[BaseModel], data: Any) -> Iterator[tuple[FieldPath, str]]:
    """pydantic's errors as (path, text): one per field, the branches of a union joined by `or`."""
    by_path: dict[FieldPath, list[Any]] = {}
    for item in error.errors(include_url=False):
        by_path.setdefault(_given_path(item, data), []).append(item)
    for path, items in by_path.items():
        # A wrong list item also fails the union's other branches, which pydantic reports for the list as a whole.
        if path and any(other[: len(path)] == path for other in by_path.keys() - {path}):
            continue
        first, *branches = dict.fromkeys(_text(item, path, block) for item in items)
        yield _about(path, items[0]), " or ".join([first, *(branch.rpartition("should be ")[2] for branch in branches)])


def _given_path(item: Any, data: Any) -> FieldPath:
    """pydantic's `loc` without the names of union branches, which are not in the data."""
    path: FieldPath = ()
    for part in item["loc"]:
        inside = part in data if isinstance(data, dict) else isinstance(data, list) and isinstance(part, int) and part < len(data)
        if inside:
            path, data = (*path, part), data[part]
    return (*path, item["loc"][-1]) if item["type"] == "missing" else path


def _about(path: FieldPath, item: Any) -> FieldPath:
    """Where fields disagree, the message starts with the one to look at: `train.loss=... needs ...`."""
    named = re.match(r"Value error, ([a-z_]+(?:\.[a-z_]+)+)", item["msg"]) if item["type"] == "value_error" and not path else None
    return tuple(named[1].split(".")) if named else path


def _text(item: Any, path: FieldPath, block: type[BaseModel]) -> str:
    kind, given, context = item["type"], item["input"], item.get("ctx", {})
    if kind == "value_error":
        return str(context["error"])
    if kind == "extra_forbidden":
        around = _block_at(block, path[:-1])
        fields = list(around.model_fields) if around else []
        elsewhere = [dotted(other) for other in _all_fields(block) if other[-1] == path[-1]]
        hint = nearest(str(path[-1]), fields) or (f"; did you mean {elsewhere[0]}?" if elsewhere else "")
        return "unknown field" + (hint or f"; the fields here are {', '.join(fields)}")
    if kind == "missing":
        owner = _block_at(block, path[:-1])
        description = owner.model_fields[path[-1]].description if owner else None
        return f"missing; give it: {description or path[-1]}"
    if kind == "model_type":
        return f"given {_shown(given)}; should be a block with {', '.join(_block_at(block, path).model_fields)}"
    hint = ""
    if kind == "literal_error":
        hint = nearest(str(given), re.findall(r"'([^']*)'", context["expected"]))
    elif kind == "string_type" and isinstance(given, int | float):
        hint = "; put it in quotes"
    elif kind == "bool_type" and str(given).lower() in ("yes", "no", "on", "off"):
        hint = "; write true or false"
    rule = item["msg"].removeprefix("Input ")
    return f"given {_shown(given)}; {rule[0].lower()}{rule[1:]}{hint}"


def _shown(value: Any) -> str:
    text = "nothing" if value is None else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def _block_at(block: type[BaseModel] | None, path: FieldPath) -> type[BaseModel] | None:
    for part in path:
        if block and isinstance(part, str):
            block = _block_in(block.model_fields[part].annotation) if part in block.model_fields else None
    return block


def _block_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and not isinstance(annotation, UnionType) and hasattr(annotation, "model_fields"):
        return annotation
    return next((found for inner in get_args(annotation) if (found := _block_in(inner))), None)


def _all_fields(block: type[BaseModel], path: FieldPath = ()) -> Iterator[FieldPath]:
    for name, info in block.model_fields.items():
        yield (*path, name)
        if inner := _block_in(info.annotation):
            yield from _all_fields(inner, (*path, name))
