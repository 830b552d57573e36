"""Which prompts are nearly the same: candidates by band keys, each verified by its words.

Keys lie in files, a band is worked on at a time, and words are read again of candidates alone, so
that neither texts nor keys of all prompts are in memory at once.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from engine.backends.processes import Spread
from engine.curation.minhash import BANDS, band_keys
from engine.curation.near_duplicates import candidate_pairs, jaccards, united
from engine.curation.shingles import concatenated, each_once, shingles_of
from engine.rows.tables import read_tables, write_parquet
from engine.stages.prompts.staged import Staged, texts_in
from engine.store.paths import Folder


class Pairs(NamedTuple):
    """Rows that are nearly the same: numbers `rows_P2` (lower, higher) and their similarity."""

    rows_P2: np.ndarray
    jaccard_P: np.ndarray

    def where(self, is_wanted_P: np.ndarray) -> Pairs:
        """Some of them."""
        rows = self.rows_P2[is_wanted_P]
        jaccard = self.jaccard_P[is_wanted_P]
        return Pairs(rows, jaccard)


NO_PAIRS = Pairs(np.zeros((0, 2), np.int64), np.zeros(0))


def pairs_of(
    staged: Staged,
    dialogues_N: np.ndarray | None,
    at_least: float,
    spread: Spread,
) -> Pairs:
    """All pairs of a Jaccard of `at_least`; rows of one dialogue are none, since the history of one
    turn is that of the next."""
    keys = list(spread(write_keys, staged.paths))
    by_band = []
    for band in range(BANDS):
        found = _pairs_in_band(keys, band)
        by_band.append(found)
    candidates = united(by_band)
    if dialogues_N is not None:
        dialogues = dialogues_N[candidates]
        is_foreign = dialogues[:, 0] != dialogues[:, 1]
        candidates = candidates[is_foreign]
    jaccard = _verified(staged, candidates)
    pairs = Pairs(candidates, jaccard)
    return pairs.where(jaccard >= at_least)


def write_keys(path: Folder) -> Folder:
    """The band keys of a file's prompts, in a file beside it."""
    texts = texts_in(path)
    shingles = shingles_of(texts)
    keys = band_keys(shingles)
    columns = {}
    for band in range(BANDS):
        columns[_name(band)] = keys[:, band]
    target = path.with_name(f"keys-{path.name}")
    write_parquet(pa.table(columns), target)
    return target


def _name(band: int) -> str:
    return f"band{band}"


def _pairs_in_band(paths: list[Folder], band: int) -> np.ndarray:
    """Candidates by the keys of one band."""
    columns = []
    for table in read_tables(paths, [_name(band)]):
        column = table.column(0)
        columns.append(column.to_numpy())
    keys_N = np.concatenate(columns)
    rank_N = np.arange(len(keys_N))
    return candidate_pairs(keys_N, rank_N)


def _verified(staged: Staged, pairs_P2: np.ndarray) -> np.ndarray:
    """The exact similarity of each pair (P,)."""
    rows = each_once(pairs_P2)
    is_candidate = np.zeros(len(staged), bool)
    is_candidate[rows] = True
    parts = []
    for texts in staged.texts_of(is_candidate):
        parts.append(shingles_of(texts))
    among_candidates = np.searchsorted(rows, pairs_P2)
    return jaccards(among_candidates, concatenated(parts))
