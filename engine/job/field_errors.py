"""What pydantic found wrong, as sentences: which field, what was given, what is allowed, and the
nearest spelling; where a block has variants, which kind a field belongs to."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from engine.job.field_texts import field_texts

FieldPath = tuple[str | int, ...]
_FOR_TESTS = ("fake",)  # kinds that no user is pointed to


def dotted(path: FieldPath) -> str:
    """("generate", "teachers", 0) -> generate.teachers.0"""
    return ".".join(map(str, path))


def nearest(given: str, allowed: list[str]) -> str:
    """`; did you mean x?`, or nothing when no spelling is near."""
    spelling = given.lower()
    close = difflib.get_close_matches(spelling, allowed, n=1)
    if not close:
        return ""
    return f"; did you mean {close[0]}?"


def field_errors(
    error: ValidationError, block: type[BaseModel], data: Any
) -> Iterator[tuple[FieldPath, str]]:
    """pydantic's errors as (path, text): one per field, the branches of a union joined by `or`."""
    by_path: dict[FieldPath, list[Any]] = {}
    for item in error.errors(include_url=False):
        path = _given_path(item, data)
        of_path = by_path.setdefault(path, [])
        of_path.append(item)
    for path, items in by_path.items():
        # A wrong list item also fails the union's other branches, which pydantic reports for the
        # list as a whole.
        others = by_path.keys() - {path}
        if any(other[: len(path)] == path for other in others):
            continue
        texts = dict.fromkeys(_text(item, path, block, data) for item in items)
        text, *branches = texts
        for branch in branches:
            _, _, allowed = branch.rpartition("should be ")
            text += f" or {allowed}"
        if path:
            yield path, f"{dotted(path)}: {text}"
        else:
            # Where fields disagree, the message starts with the one to look at:
            # `train.loss=... needs ...`
            first_word = re.split(r"[^\w.]", text)[0]
            yield tuple(first_word.split(".")), text


def _given_path(item: Any, data: Any) -> FieldPath:
    """pydantic's `loc` without the names of union branches, which are not in the data."""
    path: FieldPath = ()
    kind = None  # the branch's name comes once, after the path of a block that has variants
    location = item["loc"]
    for part in location:
        if part == kind:
            kind = None
        elif _holds(data, part):
            path = (*path, part)
            data = data[part]
            kind = None
            if isinstance(data, dict):
                kind = data.get("kind")
    problem = item["type"]
    if problem == "missing":
        return (*path, location[-1])
    if problem.startswith("union_tag") and isinstance(data, dict):
        return (*path, "kind")
    return path


def _holds(data: Any, part: str | int) -> bool:
    if isinstance(data, dict):
        return part in data
    if isinstance(data, list) and isinstance(part, int):
        return part < len(data)
    return False


def _text(item: Any, path: FieldPath, block: type[BaseModel], data: Any) -> str:
    kind = item["type"]
    given = item["input"]
    around = path[:-1]
    if kind == "value_error":
        return str(item["ctx"]["error"])
    if kind == "extra_forbidden":
        variants = _variants_at(block, around, data)
        name = str(path[-1])
        return _unknown_field(name, variants, _data_at(around, data))
    if kind == "missing":
        here, *_ = _variants_at(block, around, data)
        name = str(path[-1])
        return f"missing; give it: {field_texts(here)[name]}"
    if kind in ("model_type", "model_attributes_type"):
        here, *_ = _variants_at(block, path, data)
        fields = ", ".join(here.model_fields)
        return f"given {shown(given)}; should be a block with {fields}"
    if kind == "union_tag_not_found":
        variants = _variants_at(block, around, data)
        kinds = ", ".join(map(_kind_of, variants))
        return f"missing; give one of {kinds}"
    if kind == "union_tag_invalid":
        kinds = _quoted_in(item["ctx"]["expected_tags"])
        tag = str(item["ctx"]["tag"])
        hint = nearest(tag, kinds)
        return f"given {shown(tag)}; should be {_any_of(kinds)}{hint}"
    hint = ""
    if kind == "literal_error":
        allowed = _quoted_in(item["ctx"]["expected"])
        hint = nearest(str(given), allowed)
    elif kind == "string_type" and isinstance(given, int | float):
        hint = "; put it in quotes"
    rule = item["msg"].removeprefix("Input ")
    rule = rule[0].lower() + rule[1:]
    return f"given {shown(given)}; {rule}{hint}"


def _quoted_in(text: str) -> list[str]:
    """What stands in quotes in a text of pydantic's: the allowed values."""
    return re.findall(r"'([^']*)'", text)


def _unknown_field(given: str, here: list[type[BaseModel]], data: Any) -> str:
    """What is said of a field that the first of `here` does not have; the others are its variants,
    and `data` what was given of the block."""
    mine, *others = here
    if owners := _kinds_with(given, others):
        theirs = " or ".join(owners)
        return (
            f"is a field of kind {theirs}, not of kind {_kind_of(mine)}; take it out,"
            " or change the kind"
        )
    if inner := _of_an_inner_block(given, mine, data):
        return inner
    if close := nearest(given, list(mine.model_fields)):
        return f"unknown field{close}"
    names: set[str] = set()
    for other in others:
        if _kind_of(other) not in _FOR_TESTS:
            names.update(other.model_fields)
    spelling = given.lower()
    if close := difflib.get_close_matches(spelling, sorted(names), n=1):
        owners = _kinds_with(close[0], others)
        theirs = " or ".join(owners)
        return f"unknown field; did you mean {close[0]}, a field of kind {theirs}?"
    fields = ", ".join(mine.model_fields)
    return f"unknown field; the fields here are {fields}"


def _of_an_inner_block(given: str, block: type[BaseModel], data: Any) -> str | None:
    """What is said of a field that a variant of an inner block has, such as `skew` beside `loss`;
    also under a longer name, `jsd_beta` for `beta`."""
    for name, field in block.model_fields.items():
        variants = _blocks_in(field.annotation)
        if len(variants) < 2:
            continue
        _, _, rest = given.partition("_")
        for spelling in (given, rest):
            if owners := _kinds_with(spelling, variants):
                owner = owners[0]
                chosen = _kind_in(data.get(name))
                if chosen in owners:
                    owner = chosen
                theirs = " or ".join(owners)
                return (
                    f"is a field of {name}, kind {theirs}; write"
                    f" {name}: {{kind: {owner}, {spelling}: ...}}, or take it out"
                )
    return None


def _kinds_with(field_name: str, variants: list[type[BaseModel]]) -> list[str]:
    """Kinds of the variants that have the field, those for tests left out."""
    kinds: list[str] = []
    for variant in variants:
        kind = _kind_of(variant)
        if field_name in variant.model_fields and kind not in _FOR_TESTS:
            kinds.append(kind)
    return kinds


def _kind_of(variant: type[BaseModel]) -> str:
    field = variant.model_fields.get("kind")
    if field is None:
        return ""
    return str(field.default)


def _any_of(names: list[str]) -> str:
    *first, last = [f"'{name}'" for name in names]
    listed = ", ".join(first)
    return f"{listed} or {last}"


def shown(value: Any) -> str:
    """A value as the file has it, cut to one line."""
    if value is None:
        return "nothing"
    text = json.dumps(value, ensure_ascii=False, default=str)
    if len(text) > 60:
        text = text[:57] + "..."
    return text


def _variants_at(block: type[BaseModel], path: FieldPath, data: Any) -> list[type[BaseModel]]:
    """The blocks that may stand at `path`, that of the data's own kind first; items of lists
    too."""
    variants = [block]
    for part in path:
        data = _data_at((part,), data)
        if isinstance(part, str):
            field = variants[0].model_fields[part]
            variants = _blocks_in(field.annotation)
        kind = _kind_in(data)
        # The order is kept beside it: the first variant is the one that a missing kind means.
        variants.sort(key=lambda one: _kind_of(one) != kind)
    return variants


def _data_at(path: FieldPath, data: Any) -> Any:
    for part in path:
        if not _holds(data, part):
            return None
        data = data[part]
    return data


def _kind_in(data: Any) -> Any:
    """The kind that a block of the file names; a text alone is short for it."""
    if isinstance(data, dict):
        return data.get("kind")
    return data


def _blocks_in(annotation: Any) -> list[type[BaseModel]]:
    """Every block that a field's type names, in order."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    blocks: list[type[BaseModel]] = []
    for inner in get_args(annotation):
        blocks += _blocks_in(inner)
    return blocks
