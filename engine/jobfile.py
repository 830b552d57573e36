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
from engine.spec import JobSpec
from engine.storage import Folder
from engine.yamlfile import Document, FieldPath, dump_yaml, read_document


def load_job(path: Path, sets: Sequence[str] = ()) -> JobSpec:
    """The job of a YAML file, with `--set` values such as `train.epochs=1`; SpecError lists every problem, one per line."""
    document = read_document(Path(path))
    for setting in sets:
        _apply_set(document, setting)
    return _with_absolute_paths(document.build(JobSpec), document)


def load_run(folder: Folder) -> JobSpec:
    """The job of a run folder, as it was run. SpecError where the folder is none, or was renamed."""
    if not (folder / "job.yaml").exists():
        raise SpecError(f"{folder} is no run folder: it has no job.yaml; give the folder of one job, such as runs/<job>")
    check_owner(folder, folder.name)
    return read_document(folder / "job.yaml").build(JobSpec)


def check_owner(folder: Folder, name: str) -> None:
    """SpecError if `folder` belongs to a job of another name; a folder without job.yaml belongs to nobody."""
    path = folder / "job.yaml"
    if path.exists() and (owner := read_document(path).data.get("name")) != name:
        raise SpecError(f"{folder} is the run folder of job '{owner}' (see {path}), not of '{name}'; rename it, or use another --runs")


def dump_job(job: JobSpec) -> str:
    """The whole job, defaults included, as YAML that `load_job` reads back to an equal JobSpec."""
    return dump_yaml(job.model_dump(mode="json"))


def _apply_set(document: Document, setting: str) -> None:
    """Put the value of `train.epochs=1` or `generate.teachers.0.replicas=2` into the document; missing blocks are opened."""
    name, equals, text = setting.partition("=")
    if not equals:
        raise SpecError(f"--set {setting}: write field=value, such as --set train.epochs=1")
    here: Any = document.data
    path: FieldPath = ()
    *blocks, last = name.split(".")
    try:
        for part in blocks:
            path = (*path, int(part) if isinstance(here, list) else part)
            if isinstance(here, dict) and here.get(part) is None:
                here[part] = {}
                document.places[path] = f"--set {setting}"
            here = here[path[-1]]
        path = (*path, int(last) if isinstance(here, list) else last)
        document.places = {old: place for old, place in document.places.items() if old[: len(path)] != path}
        here[path[-1]] = document.read_value(text, path, lambda line: f"--set {setting}")
    except (LookupError, TypeError, ValueError):
        raise SpecError(f"--set {setting}: {name} is no field; list items go by number, as in generate.teachers.0.name") from None


def _with_absolute_paths(job: JobSpec, document: Document) -> JobSpec:
    """The name of an API model is no path, and of a fake teacher neither."""
    prompts = {name: _files(getattr(job.prompts, name), ("prompts", name), document) for name in ("train", "validation")}
    train = {name: _model(getattr(job.train, name), ("train", name), document) for name in ("student", "tokenizer")}
    teachers = [
        teacher.model_copy(update={"model": _model(teacher.model, ("generate", "teachers", number, "model"), document)})
        if teacher.kind == "vllm" else teacher
        for number, teacher in enumerate(job.generate.teachers)
    ]
    return job.model_copy(update={
        "prompts": job.prompts.model_copy(update=prompts),
        "train": job.train.model_copy(update=train),
        "generate": job.generate.model_copy(update={"teachers": teachers}),
    })


def _files(value: str | list[str] | None, path: FieldPath, document: Document) -> str | list[str] | None:
    if isinstance(value, list):
        return [_absolute(item, (*path, number), document) for number, item in enumerate(value)]
    return _absolute(value, path, document) if value else value


def _model(value: str | None, path: FieldPath, document: Document) -> str | None:
    """A model is a path if it exists or looks like one; otherwise it is a hub name and stays."""
    folder = _absolute(value or "", path, document)
    return folder if value and (value.startswith(("./", "../", "/", "~")) or os.path.exists(folder)) else value


def _absolute(value: str, path: FieldPath, document: Document) -> str:
    base = Path.cwd() if document.place(path).startswith("--set ") else document.file.absolute().parent
    return os.path.normpath(base / os.path.expanduser(value))
