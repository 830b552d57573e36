"""Which training prompts hold test data: the job's files of it, and its own validation prompts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from engine.backends.spread import Spread
from engine.curation.contamination import Found, Index, is_contaminated
from engine.job.spec import PromptsSpec
from engine.rows.sources.held_out import held_out_texts
from engine.stages.prompts.dialogue import columns_of_text
from engine.stages.prompts.staged import Staged, texts_in
from engine.store.paths import Folder

FIELD = "prompts.decontaminate.against"
VALIDATION = "validation"


class Leaks(NamedTuple):
    """L rows that hold test data: row numbers, the names of the sets, the places of the items
    (file:line), the share of the item's rare runs; and the items' own rows, where they are
    prompts."""

    rows: np.ndarray
    names: list[str]
    places: list[str]
    coverage: np.ndarray
    twin_rows: np.ndarray | None = None


def index_of_files(spec: PromptsSpec) -> Index:
    """The job's files of test data. InputError for one without readable text."""
    assert spec.decontaminate is not None
    texts = held_out_texts(FIELD, spec.decontaminate.against, columns_of_text(spec))
    return Index.of(texts)


def leaks_of_files(
    staged: Staged, spec: PromptsSpec, is_training_N: np.ndarray, spread: Spread
) -> Leaks:
    """Training prompts that hold an item of the job's files."""
    assert spec.decontaminate is not None
    index = index_of_files(spec)
    found = _look_up(staged, index, spread)
    is_leak = is_contaminated(found, spec.decontaminate.coverage) & is_training_N
    rows = np.flatnonzero(is_leak)
    names = []
    places = []
    for item in found.item_N[rows].tolist():
        name, number = index.place(item)
        names.append(name)
        places.append(f"{name}:{number + 1}")
    return Leaks(rows, names, places, found.coverage_N[rows])


def leaks_of_validation(
    staged: Staged,
    validation: np.ndarray,
    is_training_N: np.ndarray,
    at_least: float,
    spread: Spread,
) -> Leaks:
    """Training prompts that hold a validation prompt; `validation` are row numbers."""
    index = _index_of_prompts(staged, validation)
    if index is None:
        return _none()
    found = _look_up(staged, index, spread)
    rows = np.flatnonzero(is_contaminated(found, at_least) & is_training_N)
    twin_rows = validation[found.item_N[rows]]
    names = [VALIDATION] * len(rows)
    return Leaks(rows, names, names, found.coverage_N[rows], twin_rows)


def twins_left(
    staged: Staged,
    validation: np.ndarray,
    is_training_N: np.ndarray,
    at_least: float,
    spread: Spread,
) -> Leaks:
    """Validation prompts that a training prompt holds, each with the one that has most of it.

    What a training prompt has most of is one validation prompt, which may hide others, and what is
    rare depends on what is left: so it is asked again until nothing is found.
    """
    parts = [_none()]
    while True:
        held = leaks_of_validation(staged, validation, is_training_N, at_least, spread)
        if not len(held.rows):
            return _joined(parts)
        assert held.twin_rows is not None
        order = np.lexsort((held.rows, -held.coverage, held.twin_rows))
        items, first = np.unique(held.twin_rows[order], return_index=True)
        best = order[first]
        places = [VALIDATION] * len(items)
        parts.append(Leaks(items, places, places, held.coverage[best], held.rows[best]))
        validation = np.setdiff1d(validation, items)


def _joined(parts: Sequence[Leaks]) -> Leaks:
    rows = np.concatenate([part.rows for part in parts])
    coverage = np.concatenate([part.coverage for part in parts])
    twin_rows = np.concatenate([part.twin_rows for part in parts])
    names = [VALIDATION] * len(rows)
    return Leaks(rows, names, names, coverage, twin_rows)


def _none() -> Leaks:
    nothing = np.zeros(0, np.int64)
    return Leaks(nothing, [], [], np.zeros(0, np.float32), nothing)


def _index_of_prompts(staged: Staged, rows: np.ndarray) -> Index | None:
    """Of these rows; None where none has a word."""
    is_item_N = np.zeros(len(staged), bool)
    is_item_N[rows] = True
    texts: list[str | None] = []
    for found in staged.texts_of(is_item_N):
        texts += found.to_pylist()
    if not any(any(map(str.isalnum, text or "")) for text in texts):
        return None
    return Index.of({VALIDATION: texts})


def _look_up(staged: Staged, index: Index, spread: Spread) -> Found:
    """What the index says of all prompts."""
    parts = list(spread(partial(look_up_file, index), staged.paths))
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    return Found(*columns)


def look_up_file(index: Index, path: Folder) -> Found:
    """What an index says of the prompts of one file."""
    return index.look_up(texts_in(path))
