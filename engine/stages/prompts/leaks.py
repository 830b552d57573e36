"""Which training prompts hold test data: the job's files of it, and its own validation prompts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.backends.processes import Spread
from engine.curation.contamination import Covered, Found, Index, is_contaminated
from engine.job.spec import PromptsSpec
from engine.stages.prompts.reading import texts_of_files
from engine.stages.prompts.staged import Staged, texts_in
from engine.store.paths import Folder

VALIDATION = "validation"


class Validation(NamedTuple):
    """Row numbers of validation prompts, and of each its group: what repeats itself there, such as
    the turns of a dialogue, is rare all the same."""

    rows: np.ndarray
    groups: np.ndarray

    def where(self, is_wanted: np.ndarray) -> Validation:
        """Some of them."""
        return Validation(self.rows[is_wanted], self.groups[is_wanted])


class Leaks(NamedTuple):
    """L rows that hold test data: row numbers, the names of the sets, the places of the items
    (file:line), the share of the item's rare runs; and the items' own rows, where they are
    prompts."""

    rows: np.ndarray
    names: list[str]
    places: list[str]
    coverage: np.ndarray
    twin_rows: np.ndarray | None = None


@dataclass(frozen=True)
class Training:
    """Training prompts, and how much of an item makes a leak."""

    staged: Staged
    is_training_N: np.ndarray
    at_least: float
    spread: Spread

    def with_files(self, spec: PromptsSpec) -> Leaks:
        """Those that hold an item of the job's files."""
        texts = texts_of_files(spec)
        index = Index.of(texts)
        rows, items, coverage = self._look_up(index)
        names = []
        places = []
        for item in items.tolist():
            name, number = index.place(item)
            names.append(name)
            places.append(f"{name}:{number + 1}")
        return Leaks(rows, names, places, coverage)

    def with_prompts(self, validation: Validation) -> Leaks:
        """Those that hold a validation prompt."""
        index = _index_of_prompts(self.staged, validation)
        if index is None:
            return _leaks([])
        rows, items, coverage = self._look_up(index)
        return _leaks([(rows, coverage, validation.rows[items])])

    def twins_of(self, validation: Validation) -> Leaks:
        """Validation prompts that a training prompt holds, each with the one that has most of it.

        What is rare depends on what is left, so it is asked again until nothing is found.
        """
        found = []
        while index := _index_of_prompts(self.staged, validation):
            covered = self._cover(index, len(validation.rows))
            is_held = covered.text_I >= 0
            if not is_held.any():
                break
            held = validation.where(is_held)
            coverage = covered.coverage_I[is_held]
            texts = covered.text_I[is_held]
            found.append((held.rows, coverage, texts))
            validation = validation.where(~is_held)
        return _leaks(found)

    def _look_up(self, index: Index) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows that hold an item, the item and its coverage."""
        work = partial(look_up_file, index)
        parts = list(self.spread(work, self.staged.paths))
        columns = []
        for column in zip(*parts, strict=True):
            columns.append(np.concatenate(column))
        found = Found(*columns)
        is_leak_N = is_contaminated(found, self.at_least)
        rows = np.flatnonzero(is_leak_N & self.is_training_N)
        return rows, found.item_N[rows], found.coverage_N[rows]

    def _cover(self, index: Index, items: int) -> Covered:
        """Which training prompt has most of each item."""
        coverage_I = np.zeros(items, np.float32)
        text_I = np.full(items, -1)
        work = partial(cover_in_file, index, self.at_least)
        orders = self.staged.orders(self.is_training_N)
        files = self.spread(work, orders)
        for start, found in zip(self.staged.starts, files, strict=False):
            is_more = found.coverage_I > coverage_I
            coverage_I[is_more] = found.coverage_I[is_more]
            text_I[is_more] = found.text_I[is_more] + start
        return Covered(coverage_I, text_I)


def look_up_file(index: Index, path: Folder) -> Found:
    """What an index says of the prompts of one file."""
    texts = texts_in(path)
    return index.look_up(texts)


def cover_in_file(index: Index, at_least: float, order: tuple[Folder, np.ndarray]) -> Covered:
    """Which prompts of one file have most of each item, of those that are asked."""
    path, is_asked = order
    nothing = pa.scalar(None, pa.string())
    asked = pa.array(is_asked)
    texts = pc.call_function("if_else", [asked, texts_in(path), nothing])
    return index.covered(texts, at_least)


def _leaks(parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Leaks:
    """Of rows, coverage and rows of their twins."""
    none = np.zeros(0, np.int64)
    columns = []
    for column in zip((none, none, none), *parts, strict=True):
        columns.append(np.concatenate(column))
    rows, coverage, twin_rows = columns
    names = [VALIDATION] * len(rows)
    return Leaks(rows, names, names, coverage, twin_rows)


def _index_of_prompts(staged: Staged, items: Validation) -> Index | None:
    """Of these prompts; None where none has a word."""
    is_item_N = np.zeros(len(staged), bool)
    is_item_N[items.rows] = True
    texts: list[str] = []
    for found in staged.texts_of(is_item_N):
        texts += found.to_pylist()
    if not any(any(map(str.isalnum, text)) for text in texts):
        return None
    groups = items.groups.tolist()
    return Index.of({VALIDATION: texts}, {VALIDATION: groups})
