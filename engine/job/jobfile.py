"""A job file on disk -> JobSpec. Sources: defaults < file < `--set`; relative paths become
absolute.

Relative paths mean: beside the job file, or, when given by `--set`, in the current directory.
Whether files and folders exist is preflight's business.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from engine.errors import SpecError
from engine.job.spec import JobSpec
from engine.job.yamlfile import Document, FieldPath, dump_yaml, read_document
from engine.store.paths import Folder


def load_job(path: Path, sets: Sequence[str] = ()) -> JobSpec:
    """The job of a YAML file, with `--set` values such as `train.epochs=1`; SpecError lists every
    problem, one per line."""
    document = read_document(Path(path))
    for setting in sets:
        _apply_set(document, setting)
    beside = document.file.absolute().parent
    return with_absolute_paths(
        document.build(JobSpec),
        lambda path: Path.cwd() if document.place(path).startswith("--set ") else beside,
    )


def load_run(folder: Folder) -> JobSpec:
    """The job of a run folder, as it was run. SpecError where the folder is none, or was
    renamed."""
    if not (folder / "job.yaml").exists():
        raise SpecError(
            f"{folder} is no run folder: it has no job.yaml; give the folder of one job, such as"
            " runs/<job>"
        )
    check_owner(folder, folder.name)
    return read_document(folder / "job.yaml").build(JobSpec)


def check_owner(folder: Folder, name: str) -> None:
    """SpecError if `folder` belongs to a job of another name; a folder without job.yaml belongs to
    nobody."""
    path = folder / "job.yaml"
    if path.exists() and (owner := read_document(path).data.get("name")) != name:
        raise SpecError(
            f"{folder} is the run folder of job '{owner}' (see {path}), not of '{name}'; rename it,"
            " or use another --runs"
        )


def dump_job(job: JobSpec) -> str:
    """The whole job, defaults included, as YAML that `load_job` reads back to an equal JobSpec."""
    return dump_yaml(job.model_dump(mode="json"))


def _apply_set(document: Document, setting: str) -> None:
    """Put the value of `train.epochs=1` or `generate.teachers.0.replicas=2` into the document;
    missing blocks are opened."""
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
        document.places = {
            old: place for old, place in document.places.items() if old[: len(path)] != path
        }
        here[path[-1]] = document.read_value(text, path, lambda line: f"--set {setting}")
    except (LookupError, TypeError, ValueError):
        raise SpecError(
            f"--set {setting}: {name} is no field; list items go by number, as in"
            " generate.teachers.0.name"
        ) from None


def with_absolute_paths(
    job: JobSpec, base: Callable[[FieldPath], Path] = lambda path: Path.cwd()
) -> JobSpec:
    """The job with files and model folders as absolute paths; `base` says from where the relative
    ones of a field start.

    Workers have another current directory. The name of an API model is no path, and of a fake
    teacher neither.
    """
    prompts = {
        name: _files(getattr(job.prompts, name), ("prompts", name), base)
        for name in ("train", "validation")
    }
    train: dict[str, Any] = {
        name: _model(getattr(job.train, name), ("train", name), base)
        for name in ("student", "tokenizer")
    }
    if live := job.train.teacher:
        train["teacher"] = live.model_copy(
            update={"model": _model(live.model, ("train", "teacher", "model"), base)}
        )
    teachers = [
        teacher.model_copy(
            update={"model": _model(teacher.model, ("generate", "teachers", number, "model"), base)}
        )
        if teacher.kind == "vllm"
        else teacher
        for number, teacher in enumerate(job.generate.teachers)
    ]
    return job.model_copy(
        update={
            "prompts": job.prompts.model_copy(update=prompts),
            "train": job.train.model_copy(update=train),
            "generate": job.generate.model_copy(update={"teachers": teachers}),
        }
    )


def _files(
    value: str | list[str] | None, path: FieldPath, base: Callable[[FieldPath], Path]
) -> str | list[str] | None:
    if isinstance(value, list):
        return [_absolute(item, base((*path, number))) for number, item in enumerate(value)]
    return _absolute(value, base(path)) if value else value


def _model(value: str | None, path: FieldPath, base: Callable[[FieldPath], Path]) -> str | None:
    """A model is a path if it exists or looks like one; otherwise it is a hub name and stays."""
    folder = _absolute(value or "", base(path))
    return (
        folder
        if value and (value.startswith(("./", "../", "/", "~")) or os.path.exists(folder))
        else value
    )


def _absolute(value: str, base: Path) -> str:
    return os.path.normpath(base / os.path.expanduser(value))
