"""What is wrong with task files of lm-eval, before anything runs: said without importing the
harness, which takes seconds.

Names that only the harness can tell (fields, metrics, filters) are read from its source where it is
installed. What Python in a task file does shows when it runs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from engine.backends.library_names import (
    argument_strings,
    fields_of,
    keyword_strings,
    nearest_names,
    package_folder,
)
from engine.backends.lm_eval_data import data_files
from engine.backends.lm_eval_tasks import Settings, Task, TaskFileError, read_suite

INSTALL = "pip install 'distill-engine[lm-eval]'"
_OWN_FIELDS = ("tag", "group", "task_list")  # of a file; the harness takes them out of a task
_TEMPLATES = ("doc_to_text", "doc_to_target", "doc_to_choice", "description", "gen_prefix")
_SPLITS = ("training_split", "validation_split", "test_split", "fewshot_split")
_NEEDED = {
    "generate_until": ("doc_to_text", "doc_to_target"),
    "multiple_choice": ("doc_to_text", "doc_to_target", "doc_to_choice"),
    "loglikelihood": ("doc_to_text", "doc_to_target"),
    "loglikelihood_rolling": ("doc_to_target",),
}


def is_installed() -> bool:
    """Whether lm-eval can be imported here."""
    return package_folder("lm_eval") is not None


def installation_problem(files: Sequence[str]) -> str | None:
    """A sentence where task files are given and lm-eval is not installed."""
    if not files or is_installed():
        return None
    return (
        f"evaluate.lm_eval names {len(files)} task files, and lm-eval is not installed here;"
        f" {INSTALL}, or take evaluate.lm_eval out"
    )


def file_problems(files: Sequence[str]) -> Iterator[str]:
    """Everything that is wrong with the task files, a sentence each."""
    owners: dict[str, str] = {}
    for number, name in enumerate(files):
        path = Path(name)
        field = f"evaluate.lm_eval.{number}: {path}"
        try:
            suite = read_suite(path)
        except TaskFileError as error:
            yield f"{field}: {error}"
            continue
        if not suite.tasks:
            yield f"{field}: the group has no members; give `task: [NAMES]`"
        for task in suite.tasks:
            for problem in _task_problems(task, path.parent):
                yield f"{field}: task {task.name}: {problem}"
            if task.name in owners:
                yield (
                    f"{field}: task {task.name} is in {owners[task.name]} too; rename one, or name"
                    " one of the files alone"
                )
            owners.setdefault(task.name, name)


def _task_problems(task: Task, folder: Path) -> Iterator[str]:
    settings = task.settings
    kind = settings.get("output_type", "generate_until")
    if kind not in _NEEDED:
        known = nearest_names(str(kind), list(_NEEDED))
        yield f"output_type: there is no {kind}; {known}"
    for field in _NEEDED.get(kind, ()):
        if field not in settings:
            yield f"{field} is missing; an output_type of {kind} needs it"
    if settings.get("unsafe_code"):
        yield "unsafe_code: it would run code that a model wrote on this machine; leave it out"
    for field in ("doc_to_image", "doc_to_audio"):
        if field in settings:
            yield f"{field}: models are asked with text alone; leave it out"
    yield from _unknown_names(settings)
    yield from _template_problems(settings)
    try:
        splits = data_files(settings, folder)
    except TaskFileError as error:
        yield str(error)
        return
    yield from _split_problems(settings, splits)
    yield from _column_problems(settings, splits)


def _unknown_names(settings: Settings) -> Iterator[str]:
    harness = package_folder("lm_eval")
    if harness is None:
        return
    fields = fields_of(harness / "config/task.py", "TaskConfig") + list(_OWN_FIELDS)
    for field in settings:
        if field not in fields:
            yield f"lm-eval knows no field {field}; {nearest_names(field, fields)}"
    metrics = keyword_strings(harness / "api/metrics.py", "metric")
    for metric in _dicts(settings.get("metric_list")):
        name = metric.get("metric")
        is_own = not isinstance(name, str) or "process_results" in settings
        if metric.get("hf_evaluate"):
            yield f"metric_list: {name} would be fetched from a hub; {_one_of(metrics)}"
        elif not is_own and name not in metrics:
            yield f"metric_list: there is no metric {name}; {nearest_names(name, metrics)}"
    filters: list[str] = []
    for file in sorted((harness / "filters").glob("*.py")):
        filters += argument_strings(file, "register_filter")
    for chain in _dicts(settings.get("filter_list")):
        for step in _dicts(chain.get("filter")):
            name = step.get("function")
            if isinstance(name, str) and name not in filters:
                yield f"filter_list: there is no filter {name}; {nearest_names(name, filters)}"


def _one_of(names: Sequence[str]) -> str:
    return f"leave hf_evaluate out, and take one of {', '.join(sorted(names))}"


def _dicts(values: Any) -> list[dict[str, Any]]:
    if not isinstance(values, list):
        return []
    return [value for value in values if isinstance(value, dict)]


def _template_problems(settings: Settings) -> Iterator[str]:
    import jinja2  # here, as below: most jobs name no task file and need not wait for it

    for field in _TEMPLATES:
        template = settings.get(field)
        if not isinstance(template, str):
            continue
        try:
            jinja2.Environment().parse(template)
        except jinja2.TemplateSyntaxError as error:
            yield f"{field}: it is no Jinja template: {error.message}"


def _split_problems(settings: Settings, splits: dict[str | None, list[Path]]) -> Iterator[str]:
    if not (settings.get("test_split") or settings.get("validation_split")):
        yield "test_split is missing: the split of the data that is asked"
    if None in splits:
        return  # the names of a folder's files tell its splits
    for field in _SPLITS:
        split = settings.get(field)
        if split and split not in splits:
            there = ", ".join(map(str, splits))
            yield f"{field}: the data have no split {split}; data_files names {there}"


def _column_problems(settings: Settings, splits: dict[str | None, list[Path]]) -> Iterator[str]:
    """Columns that templates name and the data lack, where their first row can be looked at and no
    Python changes it."""
    split = settings.get("test_split") or settings.get("validation_split")
    files = splits.get(split, [])
    if not files or "process_docs" in settings:
        return
    for file in files:
        if not file.stat().st_size:
            yield f"data_files: {file} is empty"
    columns = _columns(files[0], settings["dataset_path"])
    if columns is None:
        return
    for field in _TEMPLATES:
        for name in sorted(_variables(settings.get(field)) - columns):
            there = ", ".join(sorted(columns))
            yield f"{field}: {files[0]} has no column {name}; it has {there}"


def _columns(file: Path, builder: str) -> set[str] | None:
    """None where they are not plain to see."""
    try:
        if builder == "parquet":
            return set(pq.read_schema(file).names)
        if builder == "json" and file.suffix in (".jsonl", ".ndjson"):
            with file.open(encoding="utf-8") as lines:
                first = json.loads(lines.readline())
            return set(first) if isinstance(first, dict) else None
    except (OSError, ValueError):  # Arrow's errors of files are both
        return None
    return None


def _variables(template: Any) -> set[str]:
    if not isinstance(template, str):
        return set()
    import jinja2.meta

    environment = jinja2.Environment()
    try:
        tree = environment.parse(template)
    except jinja2.TemplateSyntaxError:
        return set()
    return jinja2.meta.find_undeclared_variables(tree) - set(environment.globals)
