"""A job file on disk -> JobSpec. Sources: defaults < file < `--set`; relative paths become
absolute.

Relative paths mean: beside the job file, or, when given by `--set`, in the current directory.
Whether files and folders exist is the business of engine/check.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from glob import glob
from pathlib import Path
from typing import Any, Literal, TypeVar

from engine.errors import SpecError
from engine.job.spec import (
    Block,
    CurateJudgeSpec,
    DecontaminateSpec,
    JobSpec,
    JudgeSpec,
    LiveTeacherSpec,
    LoadtestSpec,
    PromptLeaksSpec,
    ServeSpec,
    VllmTeacherSpec,
    identity,
    placement,
)
from engine.job.yamlfile import Document, FieldPath, dump_yaml, read_document
from engine.store.hub import hub_data
from engine.store.paths import Folder

_LocalTeacher = TypeVar("_LocalTeacher", VllmTeacherSpec, LiveTeacherSpec)
_Leaks = TypeVar("_Leaks", DecontaminateSpec, PromptLeaksSpec)
_Judge = TypeVar("_Judge", JudgeSpec, CurateJudgeSpec)


def load_job(path: Path, sets: Sequence[str] = ()) -> JobSpec:
    """The job of a YAML file, with `--set` values such as `train.epochs=1`; SpecError lists every
    problem, one per line."""
    path = Path(path)
    document = read_job(path, sets)
    beside = path.absolute().parent
    job = document.build(JobSpec)

    def base(field_path: FieldPath) -> Path:
        place = document.place(field_path)
        return Path.cwd() if place.startswith("--set ") else beside

    return with_absolute_paths(job, base)


def read_job(path: Path, sets: Sequence[str] = ()) -> Document:
    """The fields of a job file with `--set` values in their places: where each one was written."""
    document = read_document(path)
    for setting in sets:
        _apply_set(document, setting)
    return document


def job_text(path: Path, sets: Sequence[str] = ()) -> str:
    """The job file as it is or, with overrides, as YAML that holds them: what another machine can
    be given. Paths stay as they were written."""
    document = read_job(path, sets)
    if not sets:
        return path.read_text(encoding="utf-8-sig")
    return dump_yaml(document.data)


class ServeOnly(Block):
    """What of a job a model without one needs to be served."""

    device: Literal["gpu", "cpu"] = placement("gpu")
    """Where it runs."""
    serve: ServeSpec = placement(ServeSpec())
    """How."""


def load_serve(sets: Sequence[str]) -> ServeOnly:
    """`--set serve.port=8001` and the like without a job file; SpecError lists every problem."""
    document = Document(Path("--set"))
    for setting in sets:
        _apply_set(document, setting)
    only = document.build(ServeOnly)
    return only.model_copy(update={"serve": _with_absolute_files(only.serve)})


class LoadtestOnly(Block):
    """What of a job the test of somebody's server needs."""

    seed: int = identity(0, ge=0, lt=2**31)
    """Of all that is drawn."""
    loadtest: LoadtestSpec = identity(LoadtestSpec())
    """Which load."""


def load_loadtest(sets: Sequence[str]) -> LoadtestOnly:
    """`--set loadtest.rates=[2.0]` and the like without a job file; SpecError lists every
    problem."""
    document = Document(Path("--set"))
    for setting in sets:
        _apply_set(document, setting)
    return document.build(LoadtestOnly)


def load_run(folder: Folder) -> JobSpec:
    """The job of a run folder, as it was run. SpecError where the folder is none, or was
    renamed."""
    path = folder / "job.yaml"
    if not path.exists():
        raise SpecError(
            f"{folder} is no run folder: it has no job.yaml; give the folder of one job, such as"
            " runs/<job>"
        )
    check_owner(folder, folder.name)
    document = read_document(path)
    return document.build(JobSpec)


def check_owner(folder: Folder, name: str) -> None:
    """SpecError if `folder` belongs to a job of another name, or was written in an older format; a
    folder without job.yaml belongs to nobody."""
    path = folder / "job.yaml"
    if not path.exists():
        return
    data = read_document(path).data
    owner = data.get("name")
    train = data.get("train")
    if owner != name:
        raise SpecError(
            f"{folder} is the run folder of job '{owner}' (see {path}), not of '{name}'; rename it,"
            " or use another --runs"
        )
    # dump_job writes a block; before that, losses had no fields of their own.
    loss = train.get("loss") if isinstance(train, dict) else None
    if isinstance(loss, str):
        raise SpecError(
            f"{folder} was written by an older version, whose job files had another format; move it"
            " away or give the job another name, and run it again"
        )


def dump_job(job: JobSpec) -> str:
    """The whole job, defaults included, as YAML that `load_job` reads back to an equal JobSpec."""
    data = job.model_dump(mode="json")
    return dump_yaml(data)


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
            step = _step(here, part)
            path = (*path, step)
            if isinstance(here, dict) and here.get(part) is None:
                here[part] = {}
                document.places[path] = f"--set {setting}"
            elif path == ("train", "loss") and isinstance(here[part], str):
                here[part] = {"kind": here[part]}  # `loss: jsd` is short for it
            here = here[step]
        step = _step(here, last)
        path = (*path, step)
        # What is replaced was written elsewhere, and what was in it is gone.
        for old in list(document.places):
            if old[: len(path)] == path:
                del document.places[old]
        here[step] = document.read_value(text, path, lambda line: f"--set {setting}")
    except (LookupError, TypeError, ValueError):
        raise SpecError(
            f"--set {setting}: {name} is no field; list items go by number, as in"
            " generate.teachers.0.name"
        ) from None


def _step(block: Any, part: str) -> str | int:
    """A part of a field's name as the block takes it: the items of a list go by number."""
    return int(part) if isinstance(block, list) else part


def with_absolute_paths(
    job: JobSpec, base: Callable[[FieldPath], Path] = lambda path: Path.cwd()
) -> JobSpec:
    """The job with files and model folders as absolute paths; `base` says from where the relative
    ones of a field start.

    Workers have another current directory. The name of an API model is no path, and of a fake
    teacher neither.
    """
    prompts: dict[str, Any] = {}
    for name in ("train", "validation"):
        files = getattr(job.prompts, name)
        prompts[name] = _files(files, ("prompts", name), base)
    if leaks := job.prompts.decontaminate:
        prompts["decontaminate"] = _with_absolute_tests(leaks, ("prompts", "decontaminate"), base)
    train: dict[str, Any] = {}
    for name in ("student", "tokenizer"):
        model = getattr(job.train, name)
        train[name] = _model(model, ("train", name), base)
    if live := job.train.teacher:
        train["teacher"] = _with_absolute_model(live, ("train", "teacher"), base)
    teachers = []
    for number, teacher in enumerate(job.generate.teachers):
        if isinstance(teacher, VllmTeacherSpec):
            teacher = _with_absolute_model(teacher, ("generate", "teachers", number), base)
        teachers.append(teacher)
    curate: dict[str, Any] = {}
    if leaks := job.curate.decontaminate:
        curate["decontaminate"] = _with_absolute_tests(leaks, ("curate", "decontaminate"), base)
    if grader := job.curate.judge:
        curate["judge"] = _with_absolute_rubric(grader, ("curate", "judge"), base)
    evaluate: dict[str, Any] = {}
    evaluate["lm_eval"] = _files(job.evaluate.lm_eval, ("evaluate", "lm_eval"), base)
    if job.evaluate.judge:
        evaluate["judge"] = _with_absolute_rubric(job.evaluate.judge, ("evaluate", "judge"), base)
    loadtest: dict[str, Any] = {}
    if trace := job.loadtest.trace:
        path = _absolute(trace.path, base(("loadtest", "trace", "path")))
        loadtest["trace"] = trace.model_copy(update={"path": path})
    return job.model_copy(
        update={
            "loadtest": job.loadtest.model_copy(update=loadtest),
            "serve": _with_absolute_files(job.serve, base),
            "prompts": job.prompts.model_copy(update=prompts),
            "train": job.train.model_copy(update=train),
            "generate": job.generate.model_copy(update={"teachers": teachers}),
            "curate": job.curate.model_copy(update=curate),
            "evaluate": job.evaluate.model_copy(update=evaluate),
        }
    )


def _with_absolute_model(
    teacher: _LocalTeacher, path: FieldPath, base: Callable[[FieldPath], Path]
) -> _LocalTeacher:
    """Likewise of a teacher whose weights are here."""
    model = _model(teacher.model, (*path, "model"), base)
    return teacher.model_copy(update={"model": model})


def _with_absolute_tests(
    leaks: _Leaks, path: FieldPath, base: Callable[[FieldPath], Path]
) -> _Leaks:
    """Likewise of a block `decontaminate`: its files of test data."""
    against = _files(leaks.against, (*path, "against"), base)
    return leaks.model_copy(update={"against": against})


def _with_absolute_rubric(
    judge: _Judge, path: FieldPath, base: Callable[[FieldPath], Path]
) -> _Judge:
    """Likewise of a block `judge`: its rubric, and its weights where they are here."""
    changes: dict[str, Any] = {"rubric": _absolute(judge.rubric, base((*path, "rubric")))}
    if isinstance(judge.teacher, VllmTeacherSpec):
        changes["teacher"] = _with_absolute_model(judge.teacher, (*path, "teacher"), base)
    return judge.model_copy(update=changes)


def _with_absolute_files(
    spec: ServeSpec, base: Callable[[FieldPath], Path] = lambda path: Path.cwd()
) -> ServeSpec:
    """Likewise of the block `serve`."""
    changes: dict[str, Any] = {}
    for name in ("tls_cert", "tls_key", "api_keys_file"):
        if value := getattr(spec, name):
            changes[name] = _absolute(value, base(("serve", name)))
    adapters = {}
    for name, folder in spec.adapters.items():
        adapters[name] = _absolute(folder, base(("serve", "adapters", name)))
    return spec.model_copy(update=changes | {"adapters": adapters})


def _files(
    value: str | list[str] | None, path: FieldPath, base: Callable[[FieldPath], Path]
) -> str | list[str] | None:
    if isinstance(value, list):
        files: list[str] = []
        for number, item in enumerate(value):
            folder = base((*path, number))
            files += _matching(_absolute(item, folder))
        return files
    if not value:
        return value
    return _absolute(value, base(path))


def _matching(path: str) -> list[str]:
    """The files that a pattern such as data/bench/*.jsonl stands for, in order; what is no pattern,
    or matches nothing, stays as it is."""
    if "*" not in path or hub_data(path):
        return [path]
    return sorted(glob(path)) or [path]


def _model(value: str | None, path: FieldPath, base: Callable[[FieldPath], Path]) -> str | None:
    """A model is a path if it exists or looks like one; otherwise it is a hub name and stays."""
    if not value:
        return value
    folder = _absolute(value, base(path))
    looks_like_one = value.startswith(("./", "../", "/", "~"))
    if looks_like_one or os.path.exists(folder):
        return folder
    return value


def _absolute(value: str, base: Path) -> str:
    if hub_data(value):
        return value
    expanded = os.path.expanduser(value)
    return os.path.normpath(base / expanded)
