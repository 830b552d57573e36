"""Where the data of an lm-eval task lie: files of this machine, since nothing is fetched while a
model is scored.

Relative paths start in the folder of the task file that the job names, which is where the harness
works.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from engine.backends.lm_eval_tasks import (
    Settings,
    TaskFileError,
    functions_in,
    read_suite,
)

BUILDERS = ("json", "parquet", "csv", "text", "arrow")  # of `datasets`, that read files


def data_files(settings: Settings, folder: Path) -> dict[str | None, list[Path]]:
    """Files by the split that they make; None: those of a folder, whose splits `datasets` tells by
    their names. TaskFileError for data that are not here."""
    for field in ("class", "custom_dataset"):
        if field in settings:
            raise TaskFileError(
                f"{field}: its data are made by Python, so nobody can tell when they change; write"
                " them to a file, and give dataset_path: json and dataset_kwargs: {data_files: …}"
            )
    source = settings.get("dataset_path")
    if not isinstance(source, str):
        raise TaskFileError(
            "dataset_path is missing; give dataset_path: json (or parquet, csv) and"
            " dataset_kwargs: {data_files: {test: FILE}}"
        )
    if source not in BUILDERS:
        return {None: _files_of_folder(source, folder)}
    kwargs = settings.get("dataset_kwargs") or {}
    named = kwargs.get("data_files")
    if not named:
        raise TaskFileError(
            f"dataset_path: {source} names no file; give dataset_kwargs: {{data_files: {{test:"
            " FILE}}"
        )
    base = folder / str(kwargs.get("data_dir") or "")
    splits = named if isinstance(named, dict) else {"train": named}
    return {split: list(_named(value, base)) for split, value in splits.items()}


def _files_of_folder(source: str, folder: Path) -> list[Path]:
    place = folder / source
    if not place.is_dir():
        raise TaskFileError(
            f"dataset_path: {source} is neither a folder here nor one of {', '.join(BUILDERS)};"
            " lm-eval runs offline here, so write that data set to a file and give dataset_path:"
            " json and dataset_kwargs: {data_files: {test: FILE}}"
        )
    files = sorted(path for path in place.rglob("*") if path.is_file())
    if not files:
        raise TaskFileError(f"dataset_path: the folder {place} is empty")
    return files


def _named(value: Any, base: Path) -> Iterator[Path]:
    for name in value if isinstance(value, list) else [value]:
        text = str(name)
        if "://" in text:
            raise TaskFileError(
                f"data_files: {text} is an address, and nothing is fetched here; download it, and"
                " name the file"
            )
        found = sorted(glob.glob(os.path.join(base, text), recursive=True))
        if not found:
            raise TaskFileError(
                f"data_files: there is no {base / text}; relative paths start in the folder of the"
                " task file that the job names"
            )
        yield from map(Path, found)


def files_read(task_files: Iterable[str]) -> list[str]:
    """All files that decide the results of these task files: they, what they include, their
    members, Python and data. Of one that cannot be read, itself."""
    found: list[str] = []
    for name in task_files:
        for path in _files_of(Path(name)):
            if str(path) not in found:
                found.append(str(path))
    return found


def _files_of(path: Path) -> Iterator[Path]:
    yield path
    try:
        suite = read_suite(path)
    except TaskFileError:
        return
    yield from suite.files
    for task in suite.tasks:
        for function in functions_in(task.settings):
            if function.module is not None:
                yield function.module
        try:
            splits = data_files(task.settings, path.parent)
        except TaskFileError:
            continue
        for files in splits.values():
            yield from files
