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
    """teacher -> rows wanted of each prompt file: training prompts `samples` times (of a pilot the
    first `limit` of all files), validation prompts once.

    InputError where `route: by` has no teacher for a prompt.
    """
    wanted: dict[str, list[Wanted]] = {teacher.name: [] for teacher in spec.teachers}
    trained = 0  # prompts so far
    for file in files:
        table = _read(file, spec)
        ids = table["prompt_id"].to_numpy()
        splits = np.asarray(table["split"])
        is_validation = splits == "validation"
        is_asked = is_validation | within_limit(spec.limit, is_validation, trained)
        trained += int((~is_validation).sum())
        for teacher, share in _shares(spec, table, ids, seed, file):
            mine = share[is_asked[share]]
            most = spec.sampling_of(teacher).samples
            times = np.where(is_validation[mine], 1, most)
            rows = np.repeat(mine, times)
            first_places = np.cumsum(times) - times
            places = np.arange(len(rows))
            samples = places - np.repeat(first_places, times)
            teachers_rows = Wanted(rows, ids[rows], samples)
            wanted[teacher.name].append(teachers_rows)
    return wanted


def within_limit(limit: int | None, is_validation: np.ndarray, before: int = 0) -> np.ndarray:
    """Which rows (n,) of a file are among the first `limit` training prompts, `before` of which are
    in earlier files."""
    if limit is None:
        return np.ones(len(is_validation), bool)
    place = before + np.cumsum(~is_validation)
    return ~is_validation & (place <= limit)


def all_rows(files: Sequence[Folder]) -> list[Wanted]:
    """Every row of every prompt file, once."""
    wanted = []
    for file in files:
        (table,) = read_tables([file], columns=["prompt_id"])
        ids = table["prompt_id"].to_numpy()
        rows = np.arange(len(ids))
        first_samples = np.zeros(len(ids), int)
        wanted.append(Wanted(rows, ids, first_samples))
    return wanted


def count_prompts(wanted: Mapping[str, Sequence[Wanted]]) -> int:
    """Prompts of all files; every prompt is some teacher's, and may be several teachers'."""
    prompts = 0
    for of_teachers in zip(*wanted.values(), strict=True):
        rows = np.concatenate([one.row for one in of_teachers])
        different = np.unique(rows)
        prompts += len(different)
    return prompts


def _read(file: Folder, spec: GenerateSpec) -> pa.Table:
    columns = ["prompt_id", "split"]
    if spec.route == "by":
        routed_by = spec.route_by if spec.route_by in _COLUMNS else "meta"
        if routed_by not in columns:
            columns.append(routed_by)
    (table,) = read_tables([file], columns=columns)
    return table


def _shares(
    spec: GenerateSpec,
    table: pa.Table,
    ids: np.ndarray,
    seed: int,
    file: Folder,
) -> Iterator[tuple[TeacherSpec, np.ndarray]]:
    """Each teacher with its rows of the table."""
    if spec.route == "all":
        owner = None
    elif spec.route == "split":
        weights = [teacher.weight for teacher in spec.teachers]
        edges = np.cumsum(weights)
        seeds = [derive_seed(seed, "route", int(prompt_id)) for prompt_id in ids]
        draws = np.array(seeds) / 2**31 * edges[-1]
        owner = np.searchsorted(edges, draws, side="right")
    else:
        values = _values(spec, table)
        owner = _owners(spec, values, file)
    every_row = np.arange(len(ids))
    for number, teacher in enumerate(spec.teachers):
        mine = every_row
        if owner is not None:
            mine = np.flatnonzero(owner == number)
        yield teacher, mine


def _values(spec: GenerateSpec, table: pa.Table) -> list[str]:
    if spec.route_by in _COLUMNS:
        return table[spec.route_by].to_pylist()
    values: list[str] = []
    for text in table["meta"].to_pylist():
        meta: Mapping[str, Any] = json.loads(text)
        value = meta.get(spec.route_by)
        values.append(str(value))
    return values


def _owners(spec: GenerateSpec, values: Sequence[str], file: Folder) -> np.ndarray:
    owner: dict[str, int] = {}
    rest = None  # the first teacher without `routes`
    for number, teacher in enumerate(spec.teachers):
        for value in teacher.routes:
            owner[value] = number
        if rest is None and not teacher.routes:
            rest = number
    lost: list[str] = []
    if rest is None:
        lost = sorted(set(values) - owner.keys())
    if lost:
        raise InputError(
            f"generate.route_by={spec.route_by}: no teacher takes {lost[:5]} ({file.name}); add"
            " them to the `routes` of a teacher, or"
            " leave one teacher without `routes`: it takes the rest"
        )
    numbers = [owner.get(value, rest) for value in values]
    return np.array(numbers, int)
