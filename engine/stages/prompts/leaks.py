"""Which training prompts hold test data: the job's files of it, and its own validation prompts."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.backends.processes import Spread
from engine.curation.contamination import Covered, Found, Index, is_contaminated
from engine.job.spec import PromptsSpec
from engine.rows.sources.held_out import held_out_texts
from engine.stages.prompts.dialogue import columns_of_text
from engine.stages.prompts.staged import Staged, texts_in
from engine.store.paths import Folder

FIELD = "prompts.decontaminate.against"
VALIDATION = "validation"


class Validation(NamedTuple):
    """Row numbers of validation prompts, and of each its group: what repeats itself there, such as
    the turns of a dialogue, is rare all the same."""

    rows: np.ndarray
    groups: np.ndarray


class Leaks(NamedTuple):
    """L rows that hold test data: row numbers, the names of the sets, the places of the items
    (file:line), the share of the item's rare runs; and the items' own rows, where they are
    prompts."""

    rows: np.ndarray
    names: list[str]
    places: list[str]
    coverage: np.ndarray
    twin_rows: np.ndarray | None = None


def texts_of_files(spec: PromptsSpec, most_rows: int | None = None) -> dict[str, list[str | None]]:
    """The job's files of test data, a text per line. InputError for one without readable text."""
    if spec.decontaminate is None:
        return {}
    against = spec.decontaminate.against
    return held_out_texts(FIELD, against, columns_of_text(spec), most_rows=most_rows)


def leaks_of_files(
    staged: Staged, spec: PromptsSpec, is_training_N: np.ndarray, spread: Spread
) -> Leaks:
    """Training prompts that hold an item of the job's files."""
    assert spec.decontaminate is not None
    index = Index.of(texts_of_files(spec))
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
    validation: Validation,
    is_training_N: np.ndarray,
    at_least: float,
    spread: Spread,
) -> Leaks:
    """Training prompts that hold a validation prompt."""
    index = _index_of_prompts(staged, validation)
    if index is None:
        return _none()
    found = _look_up(staged, index, spread)
    rows = np.flatnonzero(is_contaminated(found, at_least) & is_training_N)
    twin_rows = validation.rows[found.item_N[rows]]
    return _by_prompts(rows, found.coverage_N[rows], twin_rows)


def twins_left(
    staged: Staged,
    validation: Validation,
    is_training_N: np.ndarray,
    at_least: float,
    spread: Spread,
) -> Leaks:
    """Validation prompts that a training prompt holds, each with the one that has most of it.

    What is rare depends on what is left, so it is asked again until nothing is found.
    """
    parts = [_none()]
    while True:
        index = _index_of_prompts(staged, validation)
        if index is None:
            break
        items = len(validation.rows)
        covered = _cover(staged, index, items, is_training_N, at_least, spread)
        is_held = covered.text_I >= 0
        if not is_held.any():
            break
        coverage = covered.coverage_I[is_held]
        parts.append(_by_prompts(validation.rows[is_held], coverage, covered.text_I[is_held]))
        validation = Validation(validation.rows[~is_held], validation.groups[~is_held])
    rows = np.concatenate([part.rows for part in parts])
    coverage = np.concatenate([part.coverage for part in parts])
    twin_rows = np.concatenate([part.twin_rows for part in parts])
    return _by_prompts(rows, coverage, twin_rows)


def _by_prompts(rows: np.ndarray, coverage: np.ndarray, twin_rows: np.ndarray) -> Leaks:
    names = [VALIDATION] * len(rows)
    return Leaks(rows, names, names, coverage, twin_rows)


def _none() -> Leaks:
    nothing = np.zeros(0, np.int64)
    return _by_prompts(nothing, np.zeros(0, np.float32), nothing)


def _index_of_prompts(staged: Staged, items: Validation) -> Index | None:
    """Of these prompts; None where none has a word."""
    is_item_N = np.zeros(len(staged), bool)
    is_item_N[items.rows] = True
    texts: list[str | None] = []
    for found in staged.texts_of(is_item_N):
        texts += found.to_pylist()
    if not any(any(map(str.isalnum, text or "")) for text in texts):
        return None
    return Index.of({VALIDATION: texts}, {VALIDATION: items.groups.tolist()})


def _look_up(staged: Staged, index: Index, spread: Spread) -> Found:
    """What the index says of all prompts."""
    parts = list(spread(partial(look_up_file, index), staged.paths))
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    return Found(*columns)


def _cover(
    staged: Staged,
    index: Index,
    items: int,
    is_asked_N: np.ndarray,
    at_least: float,
    spread: Spread,
) -> Covered:
    """Which of the rows that are asked has most of each item."""
    coverage_I = np.zeros(items, np.float32)
    text_I = np.full(items, -1)
    files = spread(partial(cover_in_file, index, at_least), staged.orders(is_asked_N))
    for start, found in zip(staged.starts[:-1], files, strict=True):
        is_more = found.coverage_I > coverage_I
        coverage_I[is_more] = found.coverage_I[is_more]
        text_I[is_more] = found.text_I[is_more] + start
    return Covered(coverage_I, text_I)


def cover_in_file(index: Index, at_least: float, order: tuple[Folder, np.ndarray]) -> Covered:
    """The same of the prompts of one file."""
    path, is_asked = order
    nothing = pa.scalar(None, pa.string())
    texts = pc.call_function("if_else", [pa.array(is_asked), texts_in(path), nothing])
    return index.covered(texts, at_least)


def look_up_file(index: Index, path: Folder) -> Found:
    """What an index says of the prompts of one file."""
    return index.look_up(texts_in(path))
