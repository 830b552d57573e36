"""jobs/FIELDS.md from the job's spec: python jobs/make_fields.py

Every field of a job file with its type in words, its default, what it decides, and the text under
it in engine/job/spec. Fields that several variants share (teachers, losses) and those of engines
stand once, in tables of their own. A test holds the file to the spec.
"""

from __future__ import annotations

import inspect
import json
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from engine.job.field_texts import field_texts
from engine.job.spec import Block, EngineSpec, JobSpec, LossSpec, TeacherSpec
from engine.job.spec.base import EnvironmentVariable, Name, role_of

TARGET = Path(__file__).with_name("FIELDS.md")
HEAD = """# Every field of a job file

Made from the docstrings of [engine/job/spec](../engine/job/spec) by `python jobs/make_fields.py`;
a test holds it to them. To change a text, change it there and make this file again.

- *identity*: the field changes the result, so it changes the folder of its stage.
- *placement*: it changes where, how fast or how patiently a stage works, never its result. A run
  goes on in the same folder with another value. A load test measures placement, so for it `device`
  and the engines of `serve` and of a served teacher count as identity.

A field without a default must be given. `null` is nothing at all.
"""
HEADER = "| field | type | default | decides | what it is |\n| --- | --- | --- | --- | --- |"
UNIONS = {"teacher": TeacherSpec, "loss": LossSpec}
WORDS = {str: "text", int: "whole number", float: "number", bool: "`true` or `false`"}


def document() -> str:
    """The whole file."""
    return "\n".join([HEAD, *_job()]).rstrip() + "\n"


def _job() -> Iterator[str]:
    shown: dict[type[Block], str] = {}  # block -> where its table is
    yield "## The job\n"
    yield _table(JobSpec, JobSpec.model_fields)
    for name, field in JobSpec.model_fields.items():
        for block in _blocks_in(field.annotation):
            yield f"## `{name}`\n"
            yield from _block(name, block, shown)
    yield "## Engines\n"
    yield from _block("engines", EngineSpec, shown)


def _block(path: str, kind: type[Block], shown: dict[type[Block], str]) -> Iterator[str]:
    """A block's text and table, then those of the blocks inside it."""
    if kind in shown:
        yield f"The same fields as `{shown[kind]}`.\n"
        return
    shown[kind] = path
    fields = fields_of(kind)
    yield _sentence(kind)
    yield _table(kind, fields)
    if _has_engine(kind):
        yield "Also the fields of [engines](#engines).\n"
    for name, field in fields.items():
        if _union_of(field.annotation) is None:
            for inner in _blocks_in(field.annotation):
                yield f"### `{path}.{name}`\n"
                yield from _block(f"{path}.{name}", inner, shown)
    for name, field in fields.items():
        union = _union_of(field.annotation)
        if union:
            yield f"### `{path}.{name}`\n"
            yield from _variants(f"{path}.{name}", union, shown)


def _variants(path: str, union: str, shown: dict[type[Block], str]) -> Iterator[str]:
    """What kinds share, each table once, then each kind's own fields."""
    kinds = kinds_of(union)
    first = kinds[0]
    if first in shown:
        yield f"One block per kind of {union}, with the fields of `{shown[first]}`.\n"
        return
    shown[first] = path
    yield f"One block per kind of {union}; a field of another kind is an error that names it.\n"
    shared = _shared_bases(kinds)
    for base in shared:
        named = [f"`{_kind_name(kind)}`" for kind in kinds if issubclass(kind, base)]
        whose = "every kind" if len(named) == len(kinds) else ", ".join(named)
        yield f"#### Fields of {whose}\n"
        fields = _shared_fields(base)
        yield _table(base, fields)
        for name, field in fields.items():
            for inner in _blocks_in(field.annotation):
                yield f"##### `{path}.{name}`\n"
                yield from _block(f"{path}.{name}", inner, shown)
    for kind in kinds:
        yield from _kind(kind, [base for base in shared if issubclass(kind, base)])


def _kind(kind: type[Block], bases: Sequence[type[Block]]) -> Iterator[str]:
    fields = fields_of(kind)
    elsewhere = {"kind"}
    for base in bases:
        elsewhere |= set(_declared_by(base))
    own = {name: field for name, field in fields.items() if name not in elsewhere}
    yield f"#### `kind: {_kind_name(kind)}`\n"
    yield f"{_sentence(kind).strip()} {_texts(kind)['kind']}\n"
    if own:
        yield _table(kind, own)
    if _has_engine(kind):
        yield "Also the fields of [engines](#engines).\n"


def fields_of(kind: type[Block]) -> dict[str, FieldInfo]:
    """All fields of a block in order, but for those of the engine in it."""
    engine = _declared_by(EngineSpec) if _has_engine(kind) else {}
    fields = kind.model_fields
    return {name: field for name, field in fields.items() if name not in engine}


def _has_engine(kind: type[Block]) -> bool:
    return issubclass(kind, EngineSpec) and kind is not EngineSpec


def _declared_by(kind: type[Block]) -> dict[str, FieldInfo]:
    """The fields that the class itself declares, without those of its bases."""
    declared = inspect.get_annotations(kind)
    return {name: field for name, field in kind.model_fields.items() if name in declared}


def _shared_bases(kinds: Sequence[type[Block]]) -> list[type[Block]]:
    """Bases of the kinds that declare fields, those of most kinds first."""
    children: dict[type[Block], int] = {}
    for kind in kinds:
        for base in kind.__mro__[1:]:
            is_shared = issubclass(base, Block) and base is not EngineSpec
            if is_shared and _shared_fields(base):
                children[base] = children.get(base, 0) + 1
    return sorted(children, key=lambda base: -children[base])


def _shared_fields(base: type[Block]) -> dict[str, FieldInfo]:
    """What a base of several kinds declares; each kind says its own `kind`."""
    return {name: field for name, field in _declared_by(base).items() if name != "kind"}


def kinds_of(union: str) -> tuple[type[Block], ...]:
    """The blocks of a discriminated union."""
    return get_args(get_args(UNIONS[union])[0])


def _union_of(annotation: Any) -> str | None:
    found = set(_blocks_in(annotation))
    for name in UNIONS:
        if found & set(kinds_of(name)):
            return name
    return None


def _kind_name(kind: type[Block]) -> str:
    return str(kind.model_fields["kind"].default)


def _table(kind: type[Block], fields: dict[str, FieldInfo]) -> str:
    texts = _texts(kind)
    lines = [HEADER]
    for name, field in fields.items():
        cells = (f"`{name}`", in_words(field), _default(field), role_of(field), texts[name])
        line = " | ".join(cell.replace("|", "\\|") for cell in cells)
        lines.append(f"| {line} |")
    return "\n".join(lines) + "\n"


def _sentence(kind: type[Block]) -> str:
    return " ".join((inspect.getdoc(kind) or "").split()) + "\n"


def _texts(kind: type[Block]) -> dict[str, str]:
    return {name: " ".join(text.split()) for name, text in field_texts(kind).items()}


def _default(field: FieldInfo) -> str:
    """A default as YAML would have it; of a block only what it changes."""
    value = field.default
    if value is PydanticUndefined:
        return ""
    if isinstance(value, Block):
        if "kind" in type(value).model_fields:
            return f"`{_kind_name(type(value))}`"
        value = value.model_dump(exclude_defaults=True)
        if not value:
            return "that of each field"
    return "`" + json.dumps(value).replace('"', "") + "`"


def in_words(field: FieldInfo) -> str:
    """The type of a field: `whole number from 1, or null`."""
    return _words(field.annotation, field.metadata)


def _words(kind: Any, metadata: Sequence[Any] = ()) -> str:
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _words(parts[0], [*_constraints(parts[1:]), *metadata])
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in parts)
    if _is_block(kind) or (origin and _union_of(kind) and origin is not list):
        union = _union_of(kind)
        plain = f"a {union}" if union else "block"
        return f"{plain}, or null" if types.NoneType in parts else plain
    if origin in (Union, types.UnionType):
        return ", or ".join(_words(part, metadata) for part in parts)
    if origin is list:
        return f"list of {_item(parts[0])}{_size(metadata)}"
    if origin is dict:
        return "map"
    if kind is types.NoneType:
        return "null"
    named = _named(metadata)
    return named or f"{WORDS[kind]}{_bounds(metadata)}"


def _item(kind: Any) -> str:
    words = _words(kind)
    return f"({words})" if "list" in words else words


def _constraints(metadata: Sequence[Any]) -> list[Any]:
    """What pydantic keeps of Annotated[..., Field(...)]."""
    found: list[Any] = []
    for item in metadata:
        found += item.metadata if isinstance(item, FieldInfo) else [item]
    return found


def _bound(metadata: Sequence[Any], name: str) -> Any:
    for item in metadata:
        bound = getattr(item, name, None)
        if bound is not None:
            return f"{bound:,}"
    return None


def _bounds(metadata: Sequence[Any]) -> str:
    texts = []
    for name, text in (("ge", " from"), ("gt", " above"), ("le", " to"), ("lt", ", below")):
        bound = _bound(metadata, name)
        if bound is not None:
            texts.append(f"{text} {bound}")
    return "".join(texts)


def _size(metadata: Sequence[Any]) -> str:
    least, most = _bound(metadata, "min_length"), _bound(metadata, "max_length")
    if least is None:
        return ""
    return f", {least} of them" if least == most else f", at least {least}"


def _named(metadata: Sequence[Any]) -> str | None:
    """Texts of one form: a name, or that of an environment variable."""
    pattern = _pattern(metadata)
    if pattern is None:
        return None
    if pattern == _pattern(_constraints(get_args(Name)[1:])):
        return "name of letters, digits, `.`, `_` and `-`"
    assert pattern == _pattern(_constraints(get_args(EnvironmentVariable)[1:])), pattern
    return "name of an environment variable"


def _pattern(metadata: Sequence[Any]) -> str | None:
    for item in metadata:
        pattern = getattr(item, "pattern", None)
        if pattern is not None:
            return pattern
    return None


def _is_block(kind: Any) -> bool:
    return inspect.isclass(kind) and issubclass(kind, Block)


def _blocks_in(annotation: Any) -> list[type[Block]]:
    """Blocks that an annotation names, in order."""
    if _is_block(annotation):
        return [annotation]
    found: list[type[Block]] = []
    for part in get_args(annotation):
        found += _blocks_in(part)
    return found


def main() -> None:
    """Write it."""
    TARGET.write_text(document(), encoding="utf-8")


if __name__ == "__main__":
    main()
