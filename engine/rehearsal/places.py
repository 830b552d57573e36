"""Where in the job file something is wrong: the field that an error names, and its line."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from engine.job.field_errors import FieldPath, dotted
from engine.job.yamlfile import Document

# Fields of the job that a stage reads, the likeliest first.
_BLOCKS = {
    "prompts": ("prompts",),
    "generate": ("generate",),
    "curate": ("curate", "generate"),
    "train": ("train", "generate"),
    "evaluate": ("evaluate", "generate"),
    "loadtest": ("loadtest", "serve"),
    "report": ("report",),
}
_NAMED = re.compile(r"\b(?:prompts|generate|curate|train|evaluate|serve|loadtest)(?:\.\w+)+")
_ENDINGS = ("jsonl", "json", "csv", "tsv", "parquet", "py", "yaml")
_COMMON = {"name", "kind", "model", "id"}  # words of any sentence


def placed(text: str, document: Document | None, stage: str = "") -> str:
    """The text with the line of the field that it is about in front, and the field's name where it
    does not say it; of several lines each by itself, where they name fields."""
    if document is None:
        return text
    if not stage:
        lines = [_placed_line(line, document) for line in text.splitlines()]
        return "\n".join(lines)
    path = _named_in(text, document) or _meant_in(text, document, stage)
    place = document.place(path)
    if dotted(path) in text:
        return f"{place}: {text}"
    return f"{place}: {dotted(path)}: {text}"


def _placed_line(line: str, document: Document) -> str:
    path = _named_in(line, document)
    return f"{document.place(path)}: {line}" if path else line


def _named_in(text: str, document: Document) -> FieldPath:
    """The first field that the text names, and that is written in the file, at least its block."""
    for found in _NAMED.finditer(text):
        path = _path_of(found[0], document.data)
        if len(path) > 1:
            return path
    blocks = [path for path in document.places if len(path) == 1]
    for found in _NAMED.finditer(text):
        block = (found[0].partition(".")[0],)
        if block in blocks and not _is_file(found[0]):
            return block
    return ()


def _is_file(name: str) -> bool:
    *_, ending = name.split(".")
    return ending in _ENDINGS


def _path_of(name: str, data: Any) -> FieldPath:
    """As much of a dotted name as is written in the file."""
    path: FieldPath = ()
    for part in name.split("."):
        step: str | int = part
        if isinstance(data, list) and part.isdigit():
            step = int(part)
        try:
            data = data[step]
        except (LookupError, TypeError):
            break
        path = (*path, step)
    return path


def _meant_in(text: str, document: Document, stage: str) -> FieldPath:
    """The written field of the stage's blocks whose last name stands first in a text that names
    none by its whole name, as libraries' do not; else the block."""
    blocks = _BLOCKS.get(stage, ())
    best: tuple[int, FieldPath] | None = None
    for block in blocks:
        for path in _fields_in(document.data.get(block), (block,)):
            name = str(path[-1])
            found = re.search(rf"\b{re.escape(name)}\b", text)
            if name in _COMMON or found is None:
                continue
            if best is None or found.start() < best[0]:
                best = (found.start(), path)
        if best:
            return best[1]
    return (blocks[0],) if blocks else ()


def _fields_in(data: Any, path: FieldPath) -> Iterator[FieldPath]:
    items: Iterator[tuple[Any, Any]] = iter(())
    if isinstance(data, Mapping):
        items = iter(data.items())
    elif isinstance(data, list):
        items = iter(enumerate(data))
    for step, value in items:
        here = (*path, step)
        if isinstance(step, str):
            yield here
        yield from _fields_in(value, here)
