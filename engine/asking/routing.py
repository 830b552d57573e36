"""Which teacher answers which prompt: all of them, a weighted draw, or a field of the prompt. Pure:
the same wherever it runs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from engine.errors import InputError
from engine.job.spec import GenerateSpec, TeacherSpec
from engine.rows.ids import derive_seed
from engine.rows.tables import read_tables
from engine.store.paths import Folder

_COLUMNS = ("task", "source", "split")


@dataclass(frozen=True)
class Wanted:
    """The rows of one prompt file that one teacher answers: row (n,), prompt_id (n,), sample_index
    (n,)."""

    row: np.ndarray
    prompt_id: np.ndarray
    sample_index: np.ndarray


def wanted_rows(spec: GenerateSpec, files: Sequence[Folder], seed: int) -> dict[str, list[Wanted]]:
    """teacher -> rows wanted of each prompt file: training prompts `samples` times, validation
    prompts once.

    InputError where `route: by` has no teacher for a prompt.
    """
    wanted: dict[str, list[Wanted]] = {teacher.name: [] for teacher in spec.teachers}
    for file in files:
        table = _read(file, spec)
        ids, validation = table["prompt_id"].to_numpy(), np.asarray(table["split"]) == "validation"
        for teacher, mine in _shares(spec, table, ids, seed, file):
            times = np.where(validation[mine], 1, spec.sampling_of(teacher).samples)
            rows = np.repeat(mine, times)
            samples = np.arange(len(rows)) - np.repeat(np.cumsum(times) - times, times)
            wanted[teacher.name].append(Wanted(rows, ids[rows], samples))
    return wanted


def count_prompts(wanted: Mapping[str, Sequence[Wanted]]) -> int:
    """Prompts of all files; every prompt is some teacher's, and may be several teachers'."""
    return sum(
        len(np.unique(np.concatenate([rows.row for rows in of_teachers])))
        for of_teachers in zip(*wanted.values(), strict=True)
    )


def _read(file: Folder, spec: GenerateSpec) -> pa.Table:
    extra = [] if spec.route != "by" else [spec.route_by if spec.route_by in _COLUMNS else "meta"]
    (table,) = read_tables([file], columns=list(dict.fromkeys(["prompt_id", "split", *extra])))
    return table


def _shares(
    spec: GenerateSpec, table: pa.Table, ids: np.ndarray, seed: int, file: Folder
) -> Iterator[tuple[TeacherSpec, np.ndarray]]:
    """Each teacher with its rows of the table."""
    if spec.route == "all":
        owner = None
    elif spec.route == "split":
        edges = np.cumsum([teacher.weight for teacher in spec.teachers])
        draws = (
            np.array([derive_seed(seed, "route", int(prompt_id)) for prompt_id in ids])
            / 2**31
            * edges[-1]
        )
        owner = np.searchsorted(edges, draws, side="right")
    else:
        owner = _owners(spec, _values(spec, table), file)
    for number, teacher in enumerate(spec.teachers):
        yield teacher, np.arange(len(ids)) if owner is None else np.flatnonzero(owner == number)


def _values(spec: GenerateSpec, table: pa.Table) -> list[str]:
    if spec.route_by in _COLUMNS:
        return table[spec.route_by].to_pylist()
    metas: list[Mapping[str, Any]] = [json.loads(meta) for meta in table["meta"].to_pylist()]
    return [str(meta.get(spec.route_by)) for meta in metas]


def _owners(spec: GenerateSpec, values: Sequence[str], file: Folder) -> np.ndarray:
    owner = {
        value: number for number, teacher in enumerate(spec.teachers) for value in teacher.routes
    }
    rest = next(
        (number for number, teacher in enumerate(spec.teachers) if not teacher.routes), None
    )
    if rest is None and (lost := sorted(set(values) - owner.keys())):
        raise InputError(
            f"generate.route_by={spec.route_by}: no teacher takes {lost[:5]} ({file.name}); add"
            " them to the `routes` of a teacher, or"
            " leave one teacher without `routes`: it takes the rest"
        )
    return np.array([owner.get(value, rest) for value in values], int)
