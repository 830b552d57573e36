"""Which rows are near twins of which, exactly: candidates by shared keys, each verified.

Four steps, of which each sees only what it needs, so that each can be a task of its own:
`candidate_pairs` one band's column of keys, `jaccards` the shingles of candidates, `twins` and
`clusters` pairs of row numbers. None depends on the order of rows, only on their rank.

    N   rows        P   pairs of rows, as row numbers (lower, higher)
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from engine.curation.shingles import Hashes


class Twins(NamedTuple):
    """Rows that go: `rows` (D,) int64, ascending; the row that stays for each, `twin_of` (D,)
    int64; their similarity, `jaccard` (D,) float64."""

    rows: np.ndarray
    twin_of: np.ndarray
    jaccard: np.ndarray


def candidate_pairs(keys_N: np.ndarray, rank_N: np.ndarray) -> np.ndarray:
    """Pairs of rows with the same key in one band, (P, 2) int64, each once.

    Every pair of up to 32 rows that share a key; of more rows each with the eight that rank best
    and the eight that rank next before it, so that the pairs of a bucket grow with its rows. Unite
    the pairs of all bands by `united`.
    """
    raise NotImplementedError


def united(pairs: list[np.ndarray]) -> np.ndarray:
    """The pairs of all bands, (P, 2) int64, each once, sorted."""
    raise NotImplementedError


def jaccards(pairs_P2: np.ndarray, shingles: Hashes) -> np.ndarray:
    """The exact similarity of each pair, (P,) float64: shared shingles / all shingles of both; 0
    where neither has any. Row numbers are those of `shingles`."""
    raise NotImplementedError


def twins(
    pairs_P2: np.ndarray, jaccards_P: np.ndarray, rank_N: np.ndarray, at_least: float
) -> Twins:
    """Who goes: in the order of rank, lowest first, a row goes if a row that stays is its twin, that
    is, a pair of them has a Jaccard of `at_least` or more. So no row goes for one that goes itself:
    of a chain A ~ B ~ C in which A and C are no twins, A and C stay.

    `rank_N` (N,) integers, each once; equal ranks go by row number.
    """
    raise NotImplementedError


def clusters(pairs_P2: np.ndarray, count: int) -> np.ndarray:
    """Connected components of `count` rows, (N,) int64: each row's is named by its lowest row
    number. For reports and splits; what goes is said by `twins`."""
    raise NotImplementedError
