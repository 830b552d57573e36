"""A job file on disk -> JobSpec. Sources: defaults < file < `--set`; relative paths become absolute.

Relative paths mean: beside the job file, or, when given by `--set`, in the current directory. Whether files and folders
exist is preflight's business.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.errors import SpecError
from engine.spec import API_KINDS, JobSpec
from engine.yamlfile import Document, FieldPath, dotted, dump_yaml, read_document


def load_job(path: Path, sets: Sequence[str] = ()) -> JobSpec:
    """The job of a YAML file, with `--set` values such as `train.epochs=1`; SpecError lists every problem, one per line."""
    document = read_document(Path(path))
    for setting in sets:
        _apply_set(document, setting)
    _resolve_paths(document)
    return document.build(JobSpec)


def dump_job(job: JobSpec) -> str:
    """The whole job, defaults included, as YAML that `load_job` reads back to an equal JobSpec."""
    return dump_yaml(job.model_dump(mode="json"))


def _apply_set(document: Document, setting: str) -> None:
    name, equals, text = setting.partition("=")
    if not equals or not all(name.split(".")):
        raise SpecError(f"--set {setting}: write field=value, such as --set train.epochs=1")
    path: FieldPath = ()
    here: Any = document.data
    *blocks, last = name.split(".")
    for part in blocks:
        key = _key(here, part, path, setting)
        path = (*path, key)
        if isinstance(here, dict) and here.get(key) is None:
            here[key] = {}
            document.places[path] = f"--set {setting}"
        here = here[key]
    key = _key(here, last, path, setting)
    path = (*path, key)
    for old in [old for old in document.places if old[: len(path)] == path]:
        del document.places[old]
    here[key] = document.read_value(text, path, lambda line: f"--set {setting}")


def _key(here: Any, part: str, around: FieldPath, setting: str) -> str | int:
    """`part` of a dotted name as a key of `here`: a field of a block or an index of a list."""
    if isinstance(here, dict):
        return part
    if not isinstance(here, list):
        raise SpecError(f"--set {setting}: {dotted(around)} is a plain value; it has no field {part}")
    if not part.isdecimal() or int(part) >= len(here):
        raise SpecError(f"--set {setting}: {dotted(around)} is a list of {len(here)}; give an index from 0 to {len(here) - 1}")
    return int(part)


def _resolve_paths(document: Document) -> None:
    """Make the paths among the job's fields absolute; fields of a wrong type are left for validation to report."""
    prompts, train, generate = (_block(document.data.get(name)) for name in ("prompts", "train", "generate"))
    for name in ("train", "validation"):
        value = prompts.get(name)
        if isinstance(value, str):
            prompts[name] = _absolute(document, ("prompts", name), value)
        elif isinstance(value, list):
            prompts[name] = [
                _absolute(document, ("prompts", name, number), item) if isinstance(item, str) else item
                for number, item in enumerate(value)
            ]
    for name in ("student", "tokenizer"):
        _resolve_model(document, train, ("train", name))
    teachers = generate.get("teachers")
    for number, teacher in enumerate(teachers if isinstance(teachers, list) else []):
        if isinstance(teacher, dict) and teacher.get("kind") not in (*API_KINDS, "fake"):
            _resolve_model(document, teacher, ("generate", "teachers", number, "model"))


def _resolve_model(document: Document, block: dict[str, Any], path: FieldPath) -> None:
    """A model is a path if it exists or looks like one; otherwise it is a hub name and stays."""
    value = block.get(str(path[-1]))
    if isinstance(value, str) and value:
        absolute = _absolute(document, path, value)
        if value.startswith(("./", "../", "/", "~")) or os.path.exists(absolute):
            block[str(path[-1])] = absolute


def _absolute(document: Document, path: FieldPath, value: str) -> str:
    base = Path.cwd() if document.place(path).startswith("--set ") else document.file.absolute().parent
    return os.path.normpath(base / os.path.expanduser(value)) if value else value


def _block(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
