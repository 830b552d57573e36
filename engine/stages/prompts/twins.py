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
from engine.curation.shingles import Hashes, shingles_of
from engine.rows.tables import read_tables, write_parquet
from engine.stages.prompts.staged import Staged, texts_in
from engine.store.paths import Folder


class Pairs(NamedTuple):
    """Rows that are nearly the same: numbers `rows_P2` (lower, higher) and their similarity."""

    rows_P2: np.ndarray
    jaccard_P: np.ndarray

    def where(self, is_wanted_P: np.ndarray) -> Pairs:
        return Pairs(self.rows_P2[is_wanted_P], self.jaccard_P[is_wanted_P])


def pairs_of(
    staged: Staged, dialogues_N: np.ndarray | None, at_least: float, spread: Spread
) -> Pairs:
    """All pairs of a Jaccard of `at_least`; rows of one dialogue are none, since the history of one
    turn is that of the next."""
    keys = list(spread(write_keys, staged.paths))
    pairs = united([_pairs_in_band(keys, band) for band in range(BANDS)])
    if dialogues_N is not None:
        is_foreign = dialogues_N[pairs[:, 0]] != dialogues_N[pairs[:, 1]]
        pairs = pairs[is_foreign]
    similar = _verified(staged, pairs)
    return Pairs(pairs, similar).where(similar >= at_least)


def write_keys(path: Folder) -> Folder:
    """The band keys of a file's prompts, in a file beside it."""
    keys = band_keys(shingles_of(texts_in(path)))
    columns = {_band(number): keys[:, number] for number in range(BANDS)}
    target = path.with_name(f"keys-{path.name}")
    write_parquet(pa.table(columns), target)
    return target


def _band(number: int) -> str:
    return f"band{number}"


def _pairs_in_band(paths: list[Folder], band: int) -> np.ndarray:
    columns = []
    for table in read_tables(paths, [_band(band)]):
        columns.append(table.column(0).to_numpy())
    keys_N = np.concatenate(columns)
    rank_N = np.arange(len(keys_N))
    return candidate_pairs(keys_N, rank_N)


def _verified(staged: Staged, pairs_P2: np.ndarray) -> np.ndarray:
    """The exact similarity of each pair (P,)."""
    rows = np.unique(pairs_P2)
    is_candidate = np.zeros(len(staged), bool)
    is_candidate[rows] = True
    shingles = _joined([shingles_of(texts) for texts in staged.texts_of(is_candidate)])
    return jaccards(np.searchsorted(rows, pairs_P2), shingles)


def _joined(parts: list[Hashes]) -> Hashes:
    """Those of all parts, in order."""
    counts = [np.diff(part.starts) for part in parts]
    starts = np.cumsum(np.concatenate([[0], *counts]), dtype=np.int64)
    values = np.concatenate([np.zeros(0, np.uint64), *[part.values for part in parts]])
    return Hashes(starts, values)
